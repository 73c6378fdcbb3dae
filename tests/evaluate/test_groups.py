"""Metrics by group on a table small enough to count."""

import numpy as np
import pytest

from agegender_jax.evaluate.groups import LEAST, LEAST_CLUSTERS, attributes, group_rows, groups, worst_and_gap
from agegender_jax.evaluate.targets import Target
from agegender_jax.evaluate.uncertainty import ClusterBootstrap
from agegender_jax.labels import GENDERS, RACES
from agegender_jax.models.heads import AgeYearsHead, ClassNameHead

NAN = float("nan")


def _columns(gender: list[int], race: list[int], age: list[float]) -> dict[str, np.ndarray]:
    ages = np.array(age, np.float32)
    return {
        "gender": np.array(gender, np.int32),
        "race": np.array(race, np.int32),
        "age": ages,
        "age_low": ages,
        "age_high": ages,
    }


def test_attributes_have_the_names_of_the_labels() -> None:
    result = attributes(_columns([0, 1, 2, -1], [0, 4, -1, 2], [9.9, 10, NAN, 116]))
    assert result["gender"].tolist() == [*GENDERS, "undefined", ""]
    assert result["race"].tolist() == [RACES[0], RACES[4], "", RACES[2]]
    assert result["age_band"].tolist() == ["0-9", "10-19", "", "110-119"]


def test_an_age_is_the_middle_of_its_range_where_none_is_exact() -> None:
    columns = _columns([0, 0], [0, 0], [NAN, 21])
    columns |= {"age_low": np.array([38, 60], np.float32), "age_high": np.array([43, 100], np.float32)}
    assert attributes(columns)["age_band"].tolist() == ["40-49", "20-29"]


def test_groups_are_of_one_attribute_and_of_all() -> None:
    columns = _columns([0, 1, 1, -1, 0], [0, 0, 3, 3, 0], [25, 5, 25, 105, NAN])
    result = groups(columns, np.array([0, 1, 2, 3]))  # the last row is not asked for
    members = {
        way: [([value for value in group.values.values() if value], group.rows.tolist()) for group in members]
        for way, members in result.items()
    }
    assert members == {
        "gender": [(["male"], [0]), (["female"], [1, 2])],
        "race": [(["White"], [0, 1]), (["Indian"], [2, 3])],
        "age_band": [(["0-9"], [1]), (["20-29"], [0, 2]), (["100-109"], [3])],  # in the order of ages
        "gender x race x age_band": [
            (["male", "White", "20-29"], [0]),
            (["female", "White", "0-9"], [1]),
            (["female", "Indian", "20-29"], [2]),
        ],
    }


def test_an_attribute_that_nobody_has_makes_no_group() -> None:
    result = groups(_columns([0, 1], [-1, -1], [NAN, NAN]), np.arange(2))
    assert list(result) == ["gender"]
    assert groups(_columns([-1], [-1], [NAN]), np.arange(1)) == {}


@pytest.fixture
def years() -> tuple[Target, dict[str, np.ndarray]]:
    """Errors of 40 men: 2 years, of 40 women: 4 and -4, of 10 of unknown gender: 50; two examples a cluster."""
    errors = np.concatenate([np.full(40, 2.0), np.tile([4.0, -4.0], 20), np.full(10, 50.0)])
    label = np.full(90, 30, np.float32)
    columns = _columns([0] * 40 + [1] * 40 + [-1] * 10, [0] * 60 + [1] * 30, label.tolist())
    columns["cluster"] = np.arange(90) // 2
    return Target(AgeYearsHead(), {"years": label + errors}, label), columns


def test_every_group_has_its_counts_and_metrics(years: tuple[Target, dict[str, np.ndarray]]) -> None:
    target, columns = years
    rows = group_rows(target, groups(columns, np.arange(90)), ClusterBootstrap(columns["cluster"]))
    assert [(row["gender"], row["race"], row["age_band"], row["n"], row["clusters"]) for row in rows] == [
        ("male", None, None, 40, 20),
        ("female", None, None, 40, 20),
        (None, "White", None, 60, 30),
        (None, "Black", None, 30, 15),
        (None, None, "30-39", 90, 45),
        ("male", "White", "30-39", 40, 20),
        ("female", "White", "30-39", 20, 10),
        ("female", "Black", "30-39", 20, 10),
    ]
    assert [row["mae"]["value"] for row in rows[:2]] == [2, 4]
    assert [row["bias"]["value"] for row in rows[:2]] == [2, 0]
    white = rows[2]["mae"]
    assert white["value"] == pytest.approx((40 * 2 + 20 * 4) / 60)
    assert 2 < white["low"] < white["value"] < white["high"] < 4


def test_the_worst_group_and_the_gap(years: tuple[Target, dict[str, np.ndarray]]) -> None:
    target, columns = years
    worst, gap = worst_and_gap(target, groups(columns, np.arange(90)), ClusterBootstrap(columns["cluster"]))
    assert set(worst) == set(gap) == {"gender", "race"}  # of one age band, and of one crossing with 30, there is no gap
    assert (worst["gender"]["gender"], worst["gender"]["metric"], worst["gender"]["n"]) == ("female", "mae", 40)
    assert worst["gender"]["value"] == 4
    assert (gap["gender"]["value"], gap["gender"]["best"]["gender"], gap["gender"]["groups"]) == (2, "male", 2)
    race = gap["race"]
    black, white = (20 * 4 + 10 * 50) / 30, (40 * 2 + 20 * 4) / 60
    assert race["value"] == pytest.approx(black - white)
    assert 4 < race["low"] < race["value"] < race["high"] < 30


@pytest.mark.parametrize(
    ("count", "people", "compared"),
    [(LEAST - 1, LEAST - 1, 2), (LEAST, LEAST, 3), (60, LEAST_CLUSTERS - 1, 2), (60, LEAST_CLUSTERS, 3)],
)
def test_a_group_of_few_examples_or_people_is_never_the_worst(count: int, people: int, compared: int) -> None:
    correct = np.array([True] * 60 + [False] * count)
    label = np.zeros(len(correct), np.int32)
    target = Target(ClassNameHead(("a", "b")), {"class": (~correct).astype(np.int32)}, label)
    columns = _columns([0] * len(correct), [0] * 30 + [1] * 30 + [2] * count, [NAN] * len(correct))
    cluster = np.concatenate([np.arange(60), 60 + np.arange(count) % people])
    worst, gap = worst_and_gap(target, groups(columns, np.arange(len(correct))), ClusterBootstrap(cluster))
    assert worst["race"]["value"] == (1.0 if compared == 2 else 0.0)
    assert gap["race"]["groups"] == compared


def test_one_class_has_no_means_over_classes() -> None:
    label = np.array([0, 0, 0, 1], np.int32)
    target = Target(ClassNameHead(("a", "b")), {"class": np.array([0, 1, 0, 1], np.int32)}, label)
    columns = _columns([0, 0, 1, 1], [-1] * 4, [NAN] * 4)
    men, women = group_rows(target, groups(columns, np.arange(4)), ClusterBootstrap(np.arange(4)))
    assert {"accuracy"} == men.keys() - {"gender", "race", "age_band", "n", "clusters"}
    assert {"accuracy", "balanced_accuracy", "f1"} < women.keys()
