"""Mistakes, and predictions of under-18s, by hand."""

import numpy as np
import pytest

from agegender_jax.evaluate.predictions import Predictions
from agegender_jax.labels import AGE_GROUPS
from agegender_jax.models.heads import AgeGroupHead, AgeYearsHead, GenderHead, Head
from agegender_jax.report.mistakes import around_18, mistakes

GROUPS = AgeGroupHead(scheme=AGE_GROUPS["nearest"])


def _predictions(name: str, head: Head, label: list, distribution: np.ndarray, high: list | None = None) -> Predictions:  # type: ignore[type-arg]
    """Predictions of ages from `label` to `high`, or of 30 years where the label is no age."""
    n = len(label)
    low = np.array(label if name == "age" else [30] * n, np.float32)
    columns = {"age": low, "age_low": low, "age_high": low if high is None else np.array(high, np.float32)}
    columns |= {"gender": np.zeros(n, np.int32), "race": np.full(n, -1, np.int32), "cluster": np.arange(n)}
    keys = np.array([f"k{i}" for i in range(n)])
    labels = {name: np.array(label, np.float32 if name == "age" else np.int32)}
    return Predictions(keys, np.full(n, "test"), columns, labels, {name: distribution}, {name: head}, {})


def _peak(year: int, width: int = 0) -> np.ndarray:
    distribution = np.zeros(101, np.float32)
    distribution[year - width : year + width + 1] = 1 / (2 * width + 1)
    return distribution


def test_the_most_confident_mistakes_of_classes_come_first_and_unknown_labels_are_none() -> None:
    distribution = np.array([[0.9, 0.1], [0.3, 0.7], [0.2, 0.8], [0.01, 0.99], [0.0, 1.0]], np.float32)
    rows = mistakes(_predictions("gender", GenderHead(), [0, 0, 0, 1, -1], distribution))["gender"]
    assert [row["key"] for row in rows["confident"]] == ["k2", "k1"]
    first = {"key": "k2", "label": "male", "prediction": "female", "probability": pytest.approx(0.8)}
    assert rows["confident"][0] == first
    assert rows["worst"] == []  # two classes: no mistake is further off than another


def test_the_worst_of_ordered_classes_are_those_furthest_off() -> None:
    distribution = np.full((3, 8), 0.01, np.float32)
    for row, (group, probability) in enumerate([(1, 0.9), (7, 0.4), (5, 0.5)]):
        distribution[row, group] = probability
    rows = mistakes(_predictions("age_group", GROUPS, [0, 0, 0], distribution))["age_group"]
    assert [row["key"] for row in rows["worst"]] == ["k1", "k2", "k0"]
    assert [row["key"] for row in rows["confident"]] == ["k0", "k2", "k1"]


def test_ages_are_worst_by_their_error_and_most_confident_by_their_interval() -> None:
    distribution = np.stack([_peak(60, 20), _peak(45, 1), _peak(33, 0), _peak(20, 5)])
    predictions = _predictions("age", AgeYearsHead(), [20, 30, 30, np.nan], distribution)
    rows = mistakes(predictions)["age"]
    errors = {row["key"]: row["error"] for row in rows["worst"]}
    assert list(errors) == ["k0", "k1", "k2"]
    assert errors == pytest.approx({"k0": 40, "k1": 15, "k2": 3})
    assert [row["key"] for row in rows["confident"]] == ["k1", "k0"]  # k2 is less than 10 years off
    assert rows["confident"][0]["width"] == pytest.approx(0.9 * 3)  # 90 % of an even spread over three years
    assert [row["key"] for row in mistakes(predictions, 1)["age"]["worst"]] == ["k0"]


def test_minors_predicted_as_adults_by_years() -> None:
    """Of four minors two are predicted as 18 or more; the range 15 to 20 is on neither side."""
    distribution = np.stack([_peak(year) for year in (10, 18, 25, 17, 30, 16, 40)])
    low, high = [5, 17, 17, 17, 15, 18, 40], [5, 17, 17, 17, 20, 18, 40]
    sides = around_18(_predictions("age", AgeYearsHead(), low, distribution, high))
    assert (sides["by"], sides["minors"]["n"], sides["minors"]["mistaken"]) == ("age", 4, 2)
    assert (sides["adults"]["n"], sides["adults"]["mistaken"]) == (2, 1)
    assert sides["minors"]["share"]["value"] == 0.5


def test_by_groups_only_one_that_is_wholly_on_the_other_side_is_a_mistake() -> None:
    """`nearest`: 15-20 reaches from 13.5 to 22.5 and is on neither side."""
    predictions = _predictions("age_group", GROUPS, [2, 3, 3, 4, 4], np.eye(8, dtype=np.float32)[[2, 3, 4, 2, 4]])
    predictions.columns["age_low"][:] = predictions.columns["age_high"][:] = [10, 16, 16, 30, 30]
    sides = around_18(predictions)
    assert (sides["by"], sides["minors"]["n"], sides["minors"]["mistaken"]) == ("age_group", 3, 1)
    assert (sides["adults"]["n"], sides["adults"]["mistaken"]) == (2, 1)


def test_no_minor_and_no_age() -> None:
    sides = around_18(_predictions("age", AgeYearsHead(), [40, 50], np.stack([_peak(40), _peak(50)])))
    assert sides["minors"]["n"] == 0
    assert around_18(_predictions("gender", GenderHead(), [0], np.array([[1.0, 0.0]], np.float32))) is None
