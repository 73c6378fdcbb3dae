"""Mistakes and what becomes of under-18s, by hand."""

import numpy as np
import pytest

from agegender_jax.evaluate.predictions import Predictions
from agegender_jax.labels import AGE_GROUPS
from agegender_jax.models.heads import AgeGroupHead, AgeYearsHead, GenderHead
from agegender_jax.report.mistakes import around_18, mistakes


def _predictions(heads: dict, labels: dict, distributions: dict, low: list, high: list) -> Predictions:  # type: ignore[type-arg]
    n = len(low)
    columns = {
        "age": np.where(np.equal(low, high), low, np.nan).astype(np.float32),
        "age_low": np.array(low, np.float32),
        "age_high": np.array(high, np.float32),
        "gender": np.zeros(n, np.int32),
        "race": np.full(n, -1, np.int32),
        "cluster": np.arange(n),
    }
    keys = np.array([f"k{i}" for i in range(n)])
    return Predictions(keys, np.full(n, "test"), columns, labels, distributions, heads, {})


def _peak(year: int, width: int = 0) -> np.ndarray:
    found = np.zeros(101, np.float32)
    found[year - width : year + width + 1] = 1 / (2 * width + 1)
    return found


def test_the_surest_mistakes_of_classes_come_first_and_unknown_labels_are_none() -> None:
    said = np.array([[0.9, 0.1], [0.3, 0.7], [0.2, 0.8], [0.01, 0.99], [0.0, 1.0]], np.float32)
    label = np.array([0, 0, 0, 1, -1], np.int32)
    found = mistakes(_predictions({"gender": GenderHead()}, {"gender": label}, {"gender": said}, [30] * 5, [30] * 5))
    assert [row["key"] for row in found["gender"]["confident"]] == ["k2", "k1"]
    assert found["gender"]["confident"][0] == {
        **{"key": "k2", "label": "male", "answer": "female"},
        "probability": pytest.approx(0.8),
    }
    assert found["gender"]["worst"] == []  # two classes: no mistake is further off than another


def test_the_worst_of_ordered_classes_are_those_furthest_off() -> None:
    head = AgeGroupHead(scheme=AGE_GROUPS["nearest"])
    said = np.full((3, 8), 0.01, np.float32)
    for row, (group, probability) in enumerate([(1, 0.9), (7, 0.4), (5, 0.5)]):
        said[row, group] = probability
    label = np.array([0, 0, 0], np.int32)
    found = mistakes(_predictions({"age_group": head}, {"age_group": label}, {"age_group": said}, [1] * 3, [1] * 3))
    assert [row["key"] for row in found["age_group"]["worst"]] == ["k1", "k2", "k0"]
    assert [row["key"] for row in found["age_group"]["confident"]] == ["k0", "k2", "k1"]


def test_ages_are_worst_by_their_error_and_surest_by_their_interval() -> None:
    said = np.stack([_peak(60, 20), _peak(45, 1), _peak(33, 0), _peak(20, 5)])
    label = np.array([20, 30, 30, np.nan], np.float32)
    predictions = _predictions({"age": AgeYearsHead()}, {"age": label}, {"age": said}, [20] * 4, [20] * 4)
    found = mistakes(predictions)["age"]
    assert [(row["key"], row["error"]) for row in found["worst"]] == [
        *(("k0", pytest.approx(40)), ("k1", pytest.approx(15)), ("k2", pytest.approx(3))),
    ]
    assert [row["key"] for row in found["confident"]] == ["k1", "k0"]  # k2 is less than 10 years off
    assert found["confident"][0]["width"] == pytest.approx(0.9 * 3)  # 90 % of an even spread over three years
    assert [row["key"] for row in mistakes(predictions, 1)["age"]["worst"]] == ["k0"]


def test_minors_taken_for_adults_by_years() -> None:
    """Of four minors two are answered 18 or more; the range 15 to 20 is on neither side."""
    said = np.stack([_peak(year) for year in (10, 18, 25, 17, 30, 16, 40)])
    low, high = [5, 17, 17, 17, 15, 18, 40], [5, 17, 17, 17, 20, 18, 40]
    label = np.array(low, np.float32)
    found = around_18(_predictions({"age": AgeYearsHead()}, {"age": label}, {"age": said}, low, high))
    assert found is not None
    assert (found["by"], found["minors"]["n"], found["minors"]["mistaken"]) == ("age", 4, 2)
    assert (found["adults"]["n"], found["adults"]["mistaken"]) == (2, 1)
    assert found["minors"]["share"]["value"] == 0.5


def test_by_groups_only_one_that_is_wholly_on_the_other_side_is_a_mistake() -> None:
    """`nearest`: 15-20 reaches from 13.5 to 22.5 and is on neither side."""
    head = AgeGroupHead(scheme=AGE_GROUPS["nearest"])
    said = np.eye(8, dtype=np.float32)[[2, 3, 4, 2, 4]]
    low = [10, 16, 16, 30, 30]
    label = head.scheme.assign(np.array(low))
    found = around_18(_predictions({"age_group": head}, {"age_group": label}, {"age_group": said}, low, low))
    assert found is not None
    assert (found["by"], found["minors"]["n"], found["minors"]["mistaken"]) == ("age_group", 3, 1)
    assert (found["adults"]["n"], found["adults"]["mistaken"]) == (2, 1)


def test_no_minor_and_no_age() -> None:
    said = np.stack([_peak(40), _peak(50)])
    found = around_18(
        _predictions({"age": AgeYearsHead()}, {"age": np.array([40, 50.0])}, {"age": said}, [40, 50], [40, 50])
    )
    assert found is not None
    assert found["minors"]["n"] == 0
    gender = np.array([[1.0, 0.0]], np.float32)
    assert (
        around_18(_predictions({"gender": GenderHead()}, {"gender": np.array([0])}, {"gender": gender}, [9], [9]))
        is None
    )
