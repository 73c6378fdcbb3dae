"""Counts against arithmetic on paper, and what the protocols would do."""

from collections.abc import Callable

import numpy as np
import pytest

from agegender_jax.describe import statistics
from agegender_jax.describe.statistics import ClassCount, divisions

Make = Callable[..., dict[str, np.ndarray]]
NAN = float("nan")


def test_exact_ages_and_ranges(columns: Make) -> None:
    values = columns(
        7,
        age=[10, 20, 20, 50, NAN, NAN, NAN],
        age_low=[10, 20, 20, 50, 25, 25, NAN],
        age_high=[10, 20, 20, 50, 32, 23, NAN],
    )
    assert statistics.exact_ages(values).tolist() == [10, 20, 20, 50]
    assert list(statistics.age_ranges(values).items()) == [("25-23", 1), ("25-32", 1)]
    assert statistics.heaping(statistics.exact_ages(values)) is None  # three ages are no distribution


def test_heaping_counts_whole_ages_of_adults_alone() -> None:
    ages = [*range(20, 40), 40, 40, 40.5, 5, 10, 15]  # of 22 whole ages from 20 on: 20, 25, 30, 35, 40, 40
    assert statistics.heaping(np.array(ages)) == (22, pytest.approx(6 / 22))


def test_age_groups_and_those_without_one(columns: Make) -> None:
    age, low, high = [1, 3, 30, NAN, NAN], [1, 3, 30, 25, NAN], [1, 3, 30, 32, NAN]
    values = columns(5, age=age, age_low=low, age_high=high, gender=[0, 1, 1, 1, 1])
    # 3 years lie in a gap of `literal`; `levi_hassner` takes the annotated range (25, 32) alone.
    for scheme, wanted in {"nearest": (2, 2, 1), "literal": (1, 2, 2), "levi_hassner": (0, 1, 4)}.items():
        counts = statistics.by_age_group(values, scheme)
        assert (counts["0-2"], counts["25-32"], counts["none"]) == wanted
        assert sum(counts.values()) == 5
    genders = statistics.by_gender(values, "nearest")
    assert list(genders) == ["male", "female"]
    assert [(of["0-2"], of["25-32"], of["none"]) for of in genders.values()] == [(1, 0, 0), (1, 2, 1)]


def test_sizes_of_subjects() -> None:
    assert statistics.sizes(np.array([3, 3, 3, 9, 9, 4, -1])).tolist() == [3, 2, 1]
    assert statistics.sizes(np.array([-1, -1])).tolist() == []


def test_classes_with_fewer_than_three_subjects_cannot_be_split(columns: Make) -> None:
    names = ["male_31"] * 4 + ["female_8"] * 3 + ["male_9"] * 3 + [""]
    classes = statistics.classes(columns(11, class_name=names, subject=[1, 2, 3, 3, 4, 5, 5, 6, -1, -1, 7]))
    assert classes == [ClassCount("female_8", 3, 2, 0), ClassCount("male_31", 4, 3, 0), ClassCount("male_9", 3, 1, 2)]
    assert [each.splittable for each in classes] == [False, True, True]


def test_folds(columns: Make) -> None:
    subject, group = [1, 1, 2, 3, 3], [8, 8, 8, 9, 9]
    values = columns(5, fold=[0, 0, 1, 1, 1], subject=subject, group=group)
    folds = statistics.folds(values)
    assert {fold: each["subject"].tolist() for fold, each in folds.items()} == {0: [1, 1], 1: [2, 3, 3]}
    assert statistics.in_several(values["subject"], values["fold"]) == 0
    assert statistics.in_several(values["group"], values["fold"]) == 1
    assert statistics.folds(columns(2)) == {}


def test_disjoint_parts_share_nobody_and_the_leaky_ones_do(columns: Make) -> None:
    n = 200
    values = columns(n, age=np.arange(n) % 80, gender=np.arange(n) % 2, subject=np.arange(n) // 4)
    disjoint, paper = divisions(values, "nearest")
    assert (disjoint.protocol, disjoint.stratify, paper.protocol) == ("disjoint", "age_group", "paper")
    assert disjoint.subjects_in_several == 0
    assert sum(disjoint.subjects.values()) == 50
    assert paper.subjects_in_several > 25  # of 50: all four rows of one part have odds of about 0.27
    assert sum(paper.subjects.values()) > 50 + 25


def test_where_nobody_is_identified_subjects_are_not_counted(columns: Make) -> None:
    assert all(each.split and not each.subjects for each in divisions(columns(60, age=range(60)), "nearest"))


def test_published_folds_are_tested_on(columns: Make) -> None:
    n = np.arange(100)
    *_, last = divisions(columns(100, age=n % 60, subject=n // 2, fold=n // 20), "nearest")
    assert last.split is not None
    assert (last.protocol, last.folds, len(last.split.test)) == ("disjoint", 5, 20)


def test_a_split_that_is_refused_is_listed_with_the_reason(columns: Make) -> None:
    """One speaker a class: nobody can be in three parts."""
    n = np.arange(60)
    names = np.where(n % 2, "male_20", "female_30")
    made = divisions(columns(60, class_name=names, gender=n % 2, subject=n % 2), "nearest")
    refused = {(each.protocol, each.stratify): each.refused for each in made if each.split is None}
    assert "male_20 (1)" in refused["disjoint", "class"]
    assert ("paper", "class") not in refused
    assert {each.stratify for each in made} == {"gender", "class"}
    assert all(each.refused for each in divisions(columns(2, age=[1, 2]), "nearest"))  # too few rows
