"""Losses, predictions and metrics of the heads against scikit-learn, NumPy and arithmetic."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy.special import log_softmax, softmax
from sklearn import metrics as sk

from agegender_jax.errors import UserError
from agegender_jax.labels import AGE_GROUPS, UNKNOWN, class_weights
from agegender_jax.models.heads import (
    GENDERS_AND_UNDEFINED,
    AgeGroupHead,
    AgeYearsHead,
    ClassNameHead,
    GenderHead,
    Head,
)
from agegender_jax.models.heads.decoding import DECODINGS, expectation, median
from agegender_jax.models.losses import LOSSES
from tests.arrays import assert_close

RNG = np.random.default_rng(12)
LOGITS = RNG.normal(scale=2.0, size=(40, 8)).astype(np.float32)
GROUPS = RNG.integers(0, 8, 40).astype(np.int32)
YEARS_LOGITS = RNG.normal(scale=2.0, size=(7, 101)).astype(np.float32)


def _group_head(**options: object) -> AgeGroupHead:
    return AgeGroupHead(scheme=AGE_GROUPS["nearest"], **options)


def _loss(head: Head, logits: np.ndarray, label: np.ndarray) -> tuple[jax.Array, jax.Array]:
    return jax.jit(head.loss)(logits, label)


def _distribution(head: Head, logits: np.ndarray) -> np.ndarray:
    return np.asarray(jax.jit(head.distribution)(logits))


def _gradient(head: Head, logits: np.ndarray, label: np.ndarray) -> np.ndarray:
    def total(logits: jax.Array) -> jax.Array:
        loss, weight = head.loss(logits, jnp.asarray(label))
        return (loss * weight).sum() / weight.sum()

    return np.asarray(jax.jit(jax.grad(total))(logits))


@pytest.mark.parametrize("weighted", [False, True])
def test_cross_entropy_and_class_weights_match_scikit_learn(weighted: bool) -> None:
    groups = np.minimum(GROUPS, 6)  # class 7 does not occur
    by_class = class_weights(groups, 8) if weighted else None
    loss, weight = _loss(_group_head(class_weights=by_class), LOGITS, groups)
    assert loss.shape == weight.shape == (40,)
    assert loss.dtype == weight.dtype == jnp.float32
    probability, by_example = softmax(LOGITS.astype(np.float64), -1), by_class[groups] if weighted else None
    expected = sk.log_loss(groups, probability, labels=range(8), sample_weight=by_example)
    assert float((loss * weight).sum() / weight.sum()) == pytest.approx(expected, rel=1e-5)
    assert float(weight.sum()) == pytest.approx(40.0, rel=1e-5)  # the mean weight is 1


@pytest.mark.parametrize("weighted", [False, True])
def test_unknown_class_has_no_weight_and_no_gradient(weighted: bool) -> None:
    head = _group_head(class_weights=np.arange(1, 9, dtype=np.float32) if weighted else None)
    label = GROUPS.copy()
    label[::4] = UNKNOWN
    loss, weight = _loss(head, LOGITS, label)
    assert np.isfinite(loss).all()
    np.testing.assert_array_equal(np.asarray(weight) == 0, label == UNKNOWN)
    gradient = _gradient(head, LOGITS, label)
    known = label != UNKNOWN
    assert (gradient[~known] == 0).all()
    assert_close(gradient[known], _gradient(head, LOGITS[known], label[known]))


def test_columns_are_each_heads_own_label() -> None:
    examples = {
        "gender": np.array([1, UNKNOWN, 2]),
        "age": np.array([30.0, np.nan, np.nan], np.float32),
        "age_low": np.array([30.0, np.nan, 4.0], np.float32),
        "age_high": np.array([30.0, np.nan, 6.0], np.float32),
        "class_name": np.array(["b", "", "a"]),
    }
    assert GenderHead().column(examples).tolist() == [1, UNKNOWN, UNKNOWN]
    assert GenderHead(names=GENDERS_AND_UNDEFINED).column(examples).tolist() == [1, UNKNOWN, 2]
    assert _group_head().column(examples).tolist() == [4, UNKNOWN, 1]  # 25-32, 4-6
    assert ClassNameHead(("a", "b")).column(examples).tolist() == [1, UNKNOWN, 0]
    np.testing.assert_array_equal(AgeYearsHead().column(examples), examples["age"])


def test_class_predictions_and_metrics_match_scikit_learn() -> None:
    head = _group_head()
    distribution = _distribution(head, LOGITS)
    assert_close(distribution, softmax(LOGITS.astype(np.float64), -1))
    predictions = head.decode(distribution)
    assert (predictions["class"].dtype, predictions["probability"].dtype) == (np.int32, np.float32)
    label = GROUPS.copy()
    label[:10] = UNKNOWN
    truth, predicted = label[10:], LOGITS[10:].argmax(-1)
    assert set(predicted) <= set(truth)  # else scikit-learn warns
    metrics = head.measure(predictions, label)
    assert metrics == {
        "accuracy": pytest.approx(sk.accuracy_score(truth, predicted)),
        "balanced_accuracy": pytest.approx(sk.balanced_accuracy_score(truth, predicted)),
        "precision": pytest.approx(sk.precision_score(truth, predicted, average="macro", zero_division=0)),
        "recall": pytest.approx(sk.recall_score(truth, predicted, average="macro", zero_division=0)),
        "f1": pytest.approx(sk.f1_score(truth, predicted, average="macro", zero_division=0)),
        "one_off": pytest.approx(np.mean(np.abs(truth - predicted) <= 1)),
        "n": 30,
    }
    np.testing.assert_array_equal(
        head.confusion(predictions, label), sk.confusion_matrix(truth, predicted, labels=range(8))
    )


def test_gender_is_not_ordered() -> None:
    head = GenderHead()
    assert (head.size, head.names) == (2, ("male", "female"))
    predictions = head.decode(np.array([[0.8, 0.2], [0.3, 0.7], [0.6, 0.4]], np.float32))
    metrics = head.measure(predictions, np.array([0, 0, UNKNOWN]))
    # Of two males one is right: precision 1 and recall 1/2; nobody is female, as which one was predicted.
    averages = {"precision": 1 / 2, "recall": 1 / 4, "f1": pytest.approx(2 / 3 / 2)}
    assert metrics == {"accuracy": 0.5, "balanced_accuracy": 0.5, **averages, "n": 2}


@pytest.mark.parametrize(
    ("head", "logits", "label"),
    [
        (_group_head(), LOGITS, np.full(40, UNKNOWN, np.int32)),
        (AgeYearsHead(), YEARS_LOGITS, np.full(7, np.nan, np.float32)),
    ],
)
def test_nothing_known_has_no_metrics_and_no_baseline(head: Head, logits: np.ndarray, label: np.ndarray) -> None:
    metrics = head.measure(head.decode(softmax(logits, -1)), label)
    assert metrics.pop("n") == 0
    assert all(map(math.isnan, metrics.values()))
    _, baseline = head.baseline(label)
    assert not np.nan_to_num(baseline["probability" if "probability" in baseline else "years"]).any()


def test_baseline_is_the_commonest_class_and_the_median_age_of_the_known() -> None:
    name, predictions = _group_head().baseline(np.array([UNKNOWN] * 9 + [2, 2, 5, 2, 0], np.int32))
    assert name == "always 8-12"
    assert predictions["class"].tolist() == [2]
    assert_close(predictions["probability"], [[0.2, 0, 0.6, 0, 0, 0.2, 0, 0]])
    name, predictions = AgeYearsHead().baseline(np.array([1, np.nan, 90, 26, 31, np.nan], np.float32))
    assert name == "always 28.5 years"
    assert {key: value.tolist() for key, value in predictions.items()} == {"years": [28.5]}


AGES = np.array([0.0, 25.0, 24.6, 100.0, 116.0, np.nan, 61.0], np.float32)


def test_cross_entropy_of_age_is_that_of_the_year() -> None:
    loss, weight = _loss(AgeYearsHead(), YEARS_LOGITS, AGES)
    expected = -log_softmax(YEARS_LOGITS.astype(np.float64), -1)[range(7), [0, 25, 25, 100, 100, 0, 61]]
    assert weight.tolist() == [1, 1, 1, 1, 1, 0, 1]
    assert_close(loss[AGES == AGES], expected[AGES == AGES])
    assert loss.dtype == weight.dtype == jnp.float32


@pytest.mark.parametrize("spread", [0.5, 2.0])
def test_dldl_is_cross_entropy_against_a_gaussian(spread: float) -> None:
    loss, weight = _loss(AgeYearsHead(loss_name="dldl", spread=spread), YEARS_LOGITS, AGES)
    for row, age in enumerate(np.minimum(AGES.astype(np.float64), 100.0)):
        if np.isnan(age):
            assert float(weight[row]) == 0
            continue
        target = np.exp(-((np.arange(101) - age) ** 2) / (2 * spread**2))
        target /= target.sum()
        expected = -(target * log_softmax(YEARS_LOGITS[row].astype(np.float64))).sum()
        assert float(loss[row]) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("loss_name", LOSSES)
def test_unknown_age_has_no_gradient_and_poisons_no_other(loss_name: str) -> None:
    head = AgeYearsHead(loss_name=loss_name, class_weights=np.linspace(0.5, 1.5, 101, dtype=np.float32))
    logits = YEARS_LOGITS[:, : head.size]
    gradient = _gradient(head, logits, AGES)
    known = ~np.isnan(AGES)
    assert np.isfinite(gradient).all()
    assert (gradient[~known] == 0).all()
    assert_close(gradient[known], _gradient(head, logits[known], AGES[known]))


@pytest.mark.parametrize("loss_name", LOSSES)
def test_every_age_loss_has_its_layer_and_predicts_years(loss_name: str) -> None:
    head = AgeYearsHead(loss_name=loss_name)
    assert head.size == {"l1": 1, "huber": 1, "coral": 100, "corn": 100}.get(loss_name, 101)
    logits = nnx.eval_shape(lambda: head.layer(5, rngs=nnx.Rngs(0))(jnp.zeros((7, 5))))
    assert (logits.shape, logits.dtype) == ((7, head.size), jnp.float32)
    distribution = _distribution(head, YEARS_LOGITS[:, : head.size] / 4)
    assert distribution.shape == (7, 1 if loss_name in ("l1", "huber") else 101)
    for decoding in DECODINGS:
        years = dataclasses.replace(head, decoding=decoding).decode(distribution)["years"]
        assert (years.shape, years.dtype) == ((7,), np.float32)
        assert ((years >= 0) & (years <= 100)).all()


def test_regression_begins_in_the_middle_and_never_predicts_below_zero() -> None:
    head = AgeYearsHead(loss_name="l1")
    views = _distribution(head, np.array([[0.0], [-3.0], [1.0]], np.float32))
    assert head.decode(views)["years"].tolist() == [50.0, 0.0, 75.0]
    assert head.decode((views[:1] + views[2:]) / 2)["years"].tolist() == [62.5]  # the mean of two views' years
    assert set(head.decode(views)) == {"years"}


@pytest.mark.parametrize("loss_name", LOSSES)
def test_year_weights_multiply_the_weight_of_the_example(loss_name: str) -> None:
    by_year = RNG.uniform(0.5, 2, 101).astype(np.float32)
    head = AgeYearsHead(loss_name=loss_name)
    logits = YEARS_LOGITS[:, : head.size]
    loss, weight = _loss(head, logits, AGES)
    same_loss, weighted = _loss(dataclasses.replace(head, class_weights=by_year), logits, AGES)
    np.testing.assert_array_equal(loss, same_loss)
    year = np.array([0, 25, 25, 100, 100, 0, 61])
    assert_close(weighted, np.where(np.isnan(AGES), 0, weight * by_year[year]))
    if loss_name == "corn":  # the number of its terms
        assert weight.tolist() == [1, 26, 26, 100, 100, 0, 62]


def test_ages_are_counted_by_their_year() -> None:
    head = AgeYearsHead()
    assert head.classes(AGES).tolist() == [0, 25, 25, 100, 100, UNKNOWN, 61]
    weights = class_weights(head.classes(AGES), head.class_count)
    assert weights[[0, 25, 61, 100, 50]].tolist() == pytest.approx([1.5, 0.75, 1.5, 0.75, 0.0])  # 6 ages, 4 years


@pytest.mark.parametrize("loss_name", ["coral", "corn"])
def test_age_groups_may_be_ordinal(loss_name: str) -> None:
    head = _group_head(loss_name=loss_name, class_weights=np.arange(1, 9, dtype=np.float32))
    assert (head.size, head.class_count) == (7, 8)
    logits = LOGITS[:, :7]
    _, weight = _loss(head, logits, GROUPS)
    terms = np.minimum(GROUPS + 1, 7) if loss_name == "corn" else 1
    assert_close(weight, (GROUPS + 1) * terms)
    older = 1 / (1 + np.exp(-logits.astype(np.float64)))
    older = np.cumprod(older, -1) if loss_name == "corn" else older
    predictions = head.decode(_distribution(head, logits))
    assert predictions["class"].tolist() == (older > 0.5).sum(-1).tolist()  # as published
    assert predictions["class"].dtype == np.int32
    assert predictions["probability"].shape == (40, 8)
    assert head.confusion(predictions, GROUPS).shape == (8, 8)
    assert head.baseline(np.array([7, 7, 0, 3, 1], np.int32))[1]["class"].tolist() == [7]  # still the commonest


def test_smoothed_labels_match_scipy() -> None:
    loss, _ = _loss(_group_head(label_smoothing=0.2), LOGITS, GROUPS)
    log_probability = log_softmax(LOGITS.astype(np.float64), -1)
    expected = -0.8 * log_probability[range(40), GROUPS] - 0.2 * log_probability.mean(-1)
    assert_close(loss, expected)
    years, _ = _loss(AgeYearsHead(label_smoothing=0.2), YEARS_LOGITS[:1], np.array([25.0]))
    log_probability = log_softmax(YEARS_LOGITS[0].astype(np.float64))
    assert float(years[0]) == pytest.approx(-0.8 * log_probability[25] - 0.2 * log_probability.mean(), rel=1e-5)


def test_smoothed_labels_are_refused_where_there_are_none() -> None:
    with pytest.raises(UserError, match=r"config\.heads\.age\.label_smoothing=0\.1"):
        AgeYearsHead(loss_name="dldl", label_smoothing=0.1)
    with pytest.raises(UserError, match=r"config\.heads\.age_group\.label_smoothing=0\.1"):
        _group_head(loss_name="corn", label_smoothing=0.1)


def test_median_by_arithmetic() -> None:
    probability = np.zeros((4, 101), np.float32)
    probability[0, [10, 20, 60]] = 0.25, 0.5, 0.25  # half of year 20's mass is below: its centre
    probability[1, [30, 31]] = 0.5, 0.5  # the border between the two
    probability[2, [3, 40]] = 0.25, 0.75  # a third into [39.5, 40.5]
    probability[3, 0] = 1
    assert expectation(probability).tolist() == [27.5, 30.5, 30.75, 0.0]
    assert_close(median(probability), [20.0, 30.5, 39.5 + 1 / 3, 0.0])
    assert median(probability).dtype == np.float32


def test_median_matches_a_brute_force_quantile() -> None:
    probability = softmax(RNG.normal(scale=3.0, size=(20, 101)), -1)
    cuts = 2000  # every year cut into equal pieces that share its mass
    edges = np.arange(101 * cuts) / cuts - 0.5
    for row, got in zip(probability, median(probability), strict=True):
        cumulative = np.cumsum(np.repeat(row / cuts, cuts))
        assert got == pytest.approx(edges[np.searchsorted(cumulative, 0.5)], abs=2 / cuts)


def test_median_does_not_mind_that_float32_sums_to_almost_one() -> None:
    probability = softmax(YEARS_LOGITS, -1)
    assert_close(median(probability * np.float32(1.001)), median(probability))


@pytest.mark.parametrize("decoding", DECODINGS)
def test_age_predictions_and_metrics(decoding: str) -> None:
    head = AgeYearsHead(decoding=decoding)
    distribution = _distribution(head, YEARS_LOGITS)
    predictions = head.decode(distribution)
    np.testing.assert_array_equal(predictions["years"], DECODINGS[decoding](distribution))
    np.testing.assert_array_equal(predictions["median"], median(distribution))
    np.testing.assert_array_equal(predictions["expectation"], expectation(distribution))
    assert not np.array_equal(predictions["median"], predictions["expectation"])

    known = ~np.isnan(AGES)
    years = predictions["years"].astype(np.float64)[known]
    assert head.measure(predictions, AGES) == {
        "mae": pytest.approx(sk.mean_absolute_error(AGES[known], years)),
        "median_error": pytest.approx(sk.median_absolute_error(AGES[known], years)),
        "bias": pytest.approx(np.mean(years - AGES[known]), abs=1e-5),
        "cs5": pytest.approx(np.mean(np.abs(years - AGES[known]) <= 5)),
        "n": 6,
    }


def test_metrics_keep_ages_over_a_hundred() -> None:
    predictions = {"years": np.array([100.0], np.float32)}
    assert AgeYearsHead().measure(predictions, np.array([116.0], np.float32))["mae"] == 16.0  # only the loss clips
