"""The analysis of synthetic predictions, against scikit-learn and arithmetic."""

import itertools
import json
import time
from typing import Any

import numpy as np
import pytest
from scipy.special import softmax
from sklearn import metrics as sk

from agegender_jax import recipe as recipes
from agegender_jax.errors import UserError
from agegender_jax.evaluate.analysis import analyse
from agegender_jax.evaluate.predictions import Predictions
from agegender_jax.evaluate.uncertainty import of_predictions
from agegender_jax.labels import AGE_GROUPS, AgeGroups
from agegender_jax.metrics import Metric, mean
from agegender_jax.models.heads import AgeGroupHead, Head, build_heads
from agegender_jax.recipe_options import model_options
from agegender_jax.report.mistakes import mistakes
from agegender_jax.run import without_nan


def synthetic(n: int, seed: int = 0, **options: float) -> Predictions:
    """Predictions of synthetic people, a third of them of the part validation, two images of each; too sure by half."""
    recipe = recipes.base()
    for name, weight in options.items():
        recipe.heads[name].weight = weight
    heads = build_heads(model_options(recipe).heads)
    rng = np.random.default_rng(seed)
    age = rng.integers(0, 90, n).astype(np.float32)
    columns = {
        "age": age,
        "age_low": age,
        "age_high": age,
        "gender": rng.integers(0, 2, n).astype(np.int32),
        "race": rng.integers(0, 5, n).astype(np.int32),
        "cluster": np.arange(n) // 2,
    }
    columns["gender"][:5] = -1
    labels = {name: head.column(columns) for name, head in heads.items()}
    centre = age + rng.normal(0, 8, n)
    years = softmax(-((np.arange(101) - centre[:, None]) ** 2) / (2 * 4**2), -1)
    gender = softmax(3 * rng.normal(0, 1, (n, 2)) + 3 * np.eye(2)[columns["gender"].clip(0)], -1)
    groups = np.stack([years[:, AGE_GROUPS["nearest"].assign(np.arange(101)) == k].sum(-1) for k in range(8)], -1)
    distributions = {"gender": gender, "age_group": groups, "age": years}
    return Predictions(
        key=np.array([f"{i:05}" for i in range(n)]),
        part=np.where(np.arange(n) % 3, "test", "validation"),
        columns=columns,
        labels=labels,
        distributions={name: distributions[name].astype(np.float32) for name in heads},
        heads=heads,
        metadata={"run": "synthetic"},
    )


@pytest.fixture(scope="module")
def predictions() -> Predictions:
    return synthetic(900)


@pytest.fixture(scope="module")
def result(predictions: Predictions) -> dict[str, Any]:
    return analyse(predictions, draws=200)


def test_it_is_plain_values(result: dict[str, Any]) -> None:
    again = json.loads(json.dumps(without_nan(result), allow_nan=False))
    assert again.keys() == result.keys()
    assert (result["part"], result["n"], result["least"], result["least_clusters"]) == ("test", 600, 30, 10)
    assert result["draws"] == 200
    assert result["clusters"] == 450
    assert result["known"] == {"gender": 597, "age_group": 600, "age": 600}  # of five unknown, three are tested


def test_metrics_are_the_heads(predictions: Predictions, result: dict[str, Any]) -> None:
    expected = {name: value for name, value in predictions.of("test").metrics().items() if name.split("/")[-1] != "n"}
    assert {name: each["value"] for name, each in result["metrics"].items()} == pytest.approx(expected)
    for each in result["metrics"].values():
        assert each["low"] < each["value"] < each["high"]


def test_confusion_is_scikit_learns(predictions: Predictions, result: dict[str, Any]) -> None:
    target = predictions.of("test").targets()["age_group"]
    expected = sk.confusion_matrix(target.labels, target.predictions["class"], labels=range(8))
    assert result["confusion"]["age_group"] == {"names": list(target.head.names), "counts": expected.tolist()}
    assert set(result["confusion"]) == {"gender", "age_group"}


def test_calibration_of_classes(predictions: Predictions, result: dict[str, Any]) -> None:
    target = predictions.of("test").targets()["gender"]
    label, probability = target.labels[target.known], target.predictions["probability"][target.known].astype(float)
    own = result["calibration"]["gender"]
    assert own["nll"] == pytest.approx(sk.log_loss(label, probability / probability.sum(-1, keepdims=True)), rel=1e-6)
    assert own["brier"] == pytest.approx(2 * sk.brier_score_loss(label, probability[:, 1]), rel=1e-6)
    assert own["intervals"]["nll"]["low"] < own["nll"] < own["intervals"]["nll"]["high"]
    assert len(own["reliability"]) == 15
    assert own["temperature"] > 1.2  # it was too sure
    assert own["after"]["ece"] < own["ece"]
    assert own["after"]["nll"] < own["nll"]


def test_the_temperature_is_the_validation_parts(predictions: Predictions, result: dict[str, Any]) -> None:
    alone = analyse(predictions.of("test"), draws=2)
    assert alone["calibration"]["gender"]["temperature"] is None
    assert alone["calibration"]["gender"]["after"] is alone["calibration"]["age"]["after"] is None
    assert alone["calibration"]["gender"]["ece"] == result["calibration"]["gender"]["ece"]
    of_test = predictions.part == "test"
    shuffled = {name: np.where(of_test, label[::-1], label) for name, label in predictions.labels.items()}
    other = analyse(Predictions(**{**vars(predictions), "labels": shuffled}), draws=2)
    assert other["calibration"]["age"]["temperature"] == result["calibration"]["age"]["temperature"]


def test_intervals_of_ages_cover_more_after_it(result: dict[str, Any]) -> None:
    own = result["calibration"]["age"]
    assert own["temperature"] == pytest.approx(8**2 / 4**2, rel=0.3)  # a normal distribution's variance is as T
    for before, after in zip(own["coverage"], own["after"]["coverage"], strict=True):
        assert before["value"] < before["level"] - 0.1
        assert after["value"] == pytest.approx(after["level"], abs=0.07)
        assert after["mean_width"] > 1.5 * before["mean_width"]
        assert before["low"] <= before["value"] <= before["high"]
    # What a normal distribution with a deviation of 4 says it holds: 0.6745 of it on either side.
    assert own["coverage"][0]["mean_width"] == pytest.approx(2 * 0.6745 * 4, rel=0.1)


def test_abstaining_helps(predictions: Predictions, result: dict[str, Any]) -> None:
    rows = result["selective"]["gender"]
    assert [row["coverage"] for row in rows] == [1.0, 0.95, 0.9, 0.8, 0.7, 0.5]
    assert rows[0]["value"] == result["metrics"]["gender/accuracy"]["value"]
    assert rows[-1]["value"] > rows[0]["value"] + 0.02
    target = predictions.of("test").targets()["gender"]
    sure = target.known & (target.predictions["probability"].max(-1) >= rows[-1]["threshold"])
    assert rows[-1]["n"] == sure.sum() == 299
    assert rows[-1]["value"] == (target.predictions["class"] == target.labels)[sure].mean()
    ages = result["selective"]["age"]
    assert {row["metric"] for row in ages} == {"mae"}
    assert ages[0]["value"] == result["metrics"]["age/mae"]["value"]
    assert all(more["threshold"] >= less["threshold"] for more, less in itertools.pairwise(ages))  # widths


def test_bias_by_age(predictions: Predictions, result: dict[str, Any]) -> None:
    target = predictions.of("test").targets()["age"]
    rows = result["bias_by_age"]["age"]
    assert [row["age_band"] for row in rows] == [f"{low}-{low + 9}" for low in range(0, 90, 10)]
    first = target.labels < 10
    assert rows[0]["n"] == first.sum()
    assert rows[0]["bias"]["value"] == pytest.approx((target.predictions["years"] - target.labels)[first].mean())
    assert rows[0]["mae"]["low"] < rows[0]["mae"]["value"] < rows[0]["mae"]["high"]


def test_cumulative_score(predictions: Predictions, result: dict[str, Any]) -> None:
    target = predictions.of("test").targets()["age"]
    rows = result["cumulative_score"]["age"]
    assert [row["years"] for row in rows] == [1, 2, 3, 5, 7, 10, 15]
    off = np.abs(target.predictions["years"] - target.labels)
    for row in rows:
        assert row["value"] == pytest.approx(np.sum(off <= row["years"]) / len(off))
        assert row["low"] <= row["value"] <= row["high"]
    assert rows[3]["value"] == result["metrics"]["age/cs5"]["value"]


def test_a_regression_has_no_calibration() -> None:
    whole = synthetic(60, gender=0.0, age_group=0.0)
    recipe = recipes.base()
    recipe.heads.age.loss = "l1"
    mean = {"age": (whole.distributions["age"] @ np.arange(101, dtype=np.float32))[:, None]}
    heads = {"age": build_heads(model_options(recipe).heads)["age"]}
    result = analyse(Predictions(**{**vars(whole), "heads": heads, "distributions": mean}), draws=10)
    assert result["calibration"] == result["selective"] == result["confusion"] == {}
    assert result["metrics"]["age/mae"]["value"] < 12


class Waves(Head):
    """A kind of head of its own: a direction in degrees, of which a turn and none are the same."""

    name = "waves"
    size = 1
    weight = 1.0
    metrics = (Metric("off", "degrees off", "score", False, mean, (0, 180)), Metric("n", "n", "count", None, mean))
    build = column = loss = distribution = baseline = text = predicted = class_count = None

    def decode(self, distribution: np.ndarray) -> dict[str, np.ndarray]:
        return {"degrees": distribution[:, 0]}

    def known(self, label: np.ndarray) -> np.ndarray:
        return ~np.isnan(label)

    def statistics(self, predictions: Any, label: np.ndarray, weights: np.ndarray | None = None) -> tuple:
        known = self.known(label)
        off = np.abs((predictions["degrees"] - label + 180) % 360 - 180)[known]
        return off, None if weights is None else weights[..., known]


def test_a_head_of_another_kind_has_intervals_and_no_analysis() -> None:
    whole = synthetic(300, age_group=0.0)
    rng = np.random.default_rng(0)
    label = rng.uniform(0, 360, 300).astype(np.float32)
    label[:10] = np.nan
    degrees = (label + rng.normal(0, 40, 300)).astype(np.float32)[:, None]
    both: Any = {
        **vars(whole),
        "heads": {**whole.heads, "waves": Waves()},
        "labels": {**whole.labels, "waves": label},
        "distributions": {**whole.distributions, "waves": np.nan_to_num(degrees)},
    }
    predictions = Predictions(**both)
    low, high = of_predictions(predictions)["waves/off"]
    assert low < predictions.metrics()["waves/off"] < high
    result = analyse(predictions, draws=50)
    assert low < result["metrics"]["waves/off"]["value"] < high
    assert result["groups"]["waves"][0]["off"]["value"] > 0
    assert "waves" not in result["calibration"]
    assert set(mistakes(predictions)) == {"gender", "age"}


def test_a_tempered_ordinal_head_predicts_another_class() -> None:
    """Class 1 is the median of (.30, .25, .45); squared that is (.25, .18, .57), whose median is class 2."""
    head = AgeGroupHead(scheme=AgeGroups("three", ("a", "b", "c"), (0, 20, 40), (20, 40, 120), ""), loss_name="coral")
    whole = synthetic(120)
    probability = np.tile(np.array([0.3, 0.25, 0.45], np.float32), (120, 1))
    changes: Any = {
        "heads": {"age_group": head},
        "labels": {"age_group": np.full(120, 2, np.int32)},
        "distributions": {"age_group": probability},
    }
    own = analyse(Predictions(**{**vars(whole), **changes}), draws=5)["calibration"]["age_group"]
    (before,), (after,) = own["reliability"], own["after"]["reliability"]
    assert own["temperature"] < 0.5
    assert (before["accuracy"], before["confidence"]) == (0.0, pytest.approx(0.25))
    assert after["accuracy"] == 1.0


def test_a_part_that_is_not_there_is_refused(predictions: Predictions) -> None:
    with pytest.raises(UserError, match="train"):
        analyse(predictions, part="train")


def test_nothing_known_is_no_error(predictions: Predictions) -> None:
    unknown = {name: np.full_like(label, -1) for name, label in predictions.labels.items()}
    unknown["age"][:] = np.nan
    result = analyse(Predictions(**{**vars(predictions), "labels": unknown}), draws=5)
    assert result["known"] == {"gender": 0, "age_group": 0, "age": 0}
    assert np.isnan(result["metrics"]["gender/accuracy"]["value"])
    json.dumps(without_nan(result), allow_nan=False)


@pytest.mark.slow
def test_a_test_part_of_utkfaces_size_takes_seconds() -> None:
    whole = synthetic(4289 * 3 // 2)
    start = time.perf_counter()
    analyse(whole)
    assert time.perf_counter() - start < 30
