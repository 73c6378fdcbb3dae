"""Counts against arithmetic on paper."""

from collections.abc import Callable

import numpy as np
import pytest

from agegender_jax.describe import statistics

Make = Callable[..., dict[str, np.ndarray]]
NAN = float("nan")


def test_genders_are_counted_and_add_up(columns: Make) -> None:
    counts = statistics.genders(columns(7, gender=[0, 0, 1, 1, 1, 2, -1]))
    assert counts == {"male": 2, "female": 3, "undefined": 1, "unknown": 1}


def test_exact_ages_ranges_and_unknown_ones_are_told_apart(columns: Make) -> None:
    made = columns(
        7,
        age=[10, 20, 20, 50, NAN, NAN, NAN],
        age_low=[10, 20, 20, 50, 25, 25, NAN],
        age_high=[10, 20, 20, 50, 32, 23, NAN],
    )
    found = statistics.ages(made)
    assert (found["exact"], found["ranges"], found["unknown"]) == (4, 2, 1)
    # Of 10, 20, 20, 50: the quartiles lie at places 0.75, 1.5 and 2.25 of 0 to 3.
    assert [found[key] for key in ("min", "q1", "median", "q3", "max")] == [10, 17.5, 20, 27.5, 50]
    assert (found["commonest"], found["commonest_share"]) == (20, 0.5)
    assert found["ranges_by"] == [["25-23", 1], ["25-32", 1]]
    assert "multiples_of_5" not in found  # three ages are no distribution


def test_heaping_counts_whole_ages_of_adults_alone(columns: Make) -> None:
    ages = [*range(20, 40), 40, 40, 40.5, 5, 10, 15]  # of 22 whole ages from 20 on: 20, 25, 30, 35, 40, 40
    found = statistics.ages(columns(len(ages), age=ages))
    assert found["whole"] == 22
    assert found["multiples_of_5"] == pytest.approx(6 / 22)


def test_no_age_at_all(columns: Make) -> None:
    assert statistics.ages(columns(3)) == {"exact": 0, "ranges": 0, "unknown": 3, "ranges_by": []}


def test_age_groups_and_those_without_one(columns: Make) -> None:
    made = columns(5, age=[1, 3, 30, NAN, NAN], age_low=[1, 3, 30, 25, NAN], age_high=[1, 3, 30, 32, NAN])
    found = statistics.age_group_counts(made, ["nearest", "literal", "levi_hassner"])
    # 3 years lie in a gap of `literal`; `levi_hassner` takes the annotated range (25, 32) alone.
    assert {name: (counts["0-2"], counts["25-32"], counts["none"]) for name, counts in found.items()} == {
        "nearest": (2, 2, 1),
        "literal": (1, 2, 2),
        "levi_hassner": (0, 1, 4),
    }
    assert all(sum(counts.values()) == 5 for counts in found.values())


def test_age_groups_by_gender_leaves_out_genders_that_do_not_occur(columns: Make) -> None:
    found = statistics.age_groups_by_gender(columns(4, age=[1, 1, 70, NAN], gender=[0, 1, 1, 1]), "nearest")
    assert list(found) == ["male", "female"]
    assert (found["male"]["0-2"], found["female"]["0-2"], found["female"]["60+"], found["female"]["none"]) == (
        *(1, 1, 1, 1),
    )


def test_races_only_where_any_is_labelled(columns: Make) -> None:
    assert statistics.races(columns(2)) == {}
    assert statistics.races(columns(4, race=[0, 4, 4, -1])) == {
        **{"White": 1, "Black": 0, "Asian": 0, "Indian": 0, "Others": 2, "unknown": 1}
    }


def test_an_unknown_subject_is_nobody(columns: Make) -> None:
    assert statistics.identified(columns(3, subject=[5, 0, -1])).tolist() == [True, True, False]


def test_sizes_of_subjects() -> None:
    found = statistics.sizes(np.array([3, 3, 3, 9, 9, 4, -1]))
    assert found == {"known": 6, "distinct": 3, "min": 1, "median": 2.0, "max": 3, "counts": [3, 2, 1]}
    assert statistics.sizes(np.array([-1, -1])) == {"known": 0, "distinct": 0}


def test_classes_with_fewer_than_three_subjects_cannot_be_split(columns: Make) -> None:
    names = ["male_31"] * 4 + ["female_8"] * 3 + ["male_9"] * 3 + [""]
    found = statistics.classes(columns(11, class_name=names, subject=[1, 2, 3, 3, 4, 5, 5, 6, -1, -1, 7]))
    assert [(each["name"], each["files"], each["subjects"], each["unidentified"]) for each in found] == [
        ("female_8", 3, 2, 0),
        ("male_31", 4, 3, 0),
        ("male_9", 3, 1, 2),
    ]
    assert [each["splittable"] for each in found] == [False, True, True]


def test_folds(columns: Make) -> None:
    made = columns(
        5,
        age=[1, 3, 30, NAN, NAN],
        fold=[0, 0, 1, 1, 1],
        subject=[1, 1, 2, 3, 3],
        group=[8, 8, 8, 9, 9],
        gender=[0, 1, 2, 1, -1],
    )
    first, second = statistics.folds(made, "nearest", ["literal"])
    assert [(each["rows"], each["subjects"], each["groups"], each["gendered"]) for each in (first, second)] == [
        *((2, 1, 1, 2), (3, 2, 2, 1)),
    ]
    assert (first["age_groups"]["0-2"], first["with_group"], second["with_group"]) == (
        2,
        {"literal": 1},
        {"literal": 1},
    )
    assert statistics.in_several(made["subject"], made["fold"]) == 0
    assert statistics.in_several(made["group"], made["fold"]) == 1
    assert statistics.folds(columns(2), "nearest") == []


def test_headers_of_recordings_and_pictures() -> None:
    size = np.array([10, 20, 30])
    found = statistics.headers(
        {"bytes": size, "seconds": np.array([1.0, 3.0, 0.0]), "rate": np.array([8000, 16000, 0])}
    )
    assert found == {
        "bytes": 60,
        "by_rate": [[8000, 1], [16000, 1]],
        "seconds": {"total": 4.0, "min": 1.0, "median": 2.0, "max": 3.0},
        "unreadable": 1,
    }
    found = statistics.headers({"bytes": size, "width": np.array([4, 4, 0]), "height": np.array([5, 5, 0])})
    assert found == {"bytes": 60, "by_size": [["4×5", 2]], "unreadable": 1}
