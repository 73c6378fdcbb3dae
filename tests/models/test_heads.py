"""Losses, answers and metrics of the heads against scikit-learn, NumPy and arithmetic."""

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
    DECODINGS,
    GENDERS_AND_UNDEFINED,
    AgeGroupHead,
    AgeYearsHead,
    ClassNameHead,
    GenderHead,
    Head,
    expectation,
    median,
    mode,
    rank,
)
from agegender_jax.models.losses import LOSSES

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


def test_cross_entropy_matches_scikit_learn() -> None:
    loss, weight = _loss(_group_head(), LOGITS, GROUPS)
    assert loss.shape == weight.shape == (40,)
    assert loss.dtype == weight.dtype == jnp.float32
    expected = sk.log_loss(GROUPS, softmax(LOGITS.astype(np.float64), -1), labels=range(8))
    assert float((loss * weight).sum() / weight.sum()) == pytest.approx(expected, rel=1e-5)


def test_class_weights_match_scikit_learns_sample_weights() -> None:
    groups = np.minimum(GROUPS, 6)  # class 7 does not occur
    by_class = class_weights(groups, 8)
    loss, weight = _loss(_group_head(class_weights=by_class), LOGITS, groups)
    expected = sk.log_loss(
        groups, softmax(LOGITS.astype(np.float64), -1), labels=range(8), sample_weight=by_class[groups]
    )
    assert float((loss * weight).sum() / weight.sum()) == pytest.approx(expected, rel=1e-5)
    assert float(weight.sum()) == pytest.approx(40.0, rel=1e-5)  # the mean weight is 1


def test_extreme_logits_give_a_finite_loss() -> None:
    loss, _ = _loss(GenderHead(), np.array([[1e4, -1e4], [1e4, -1e4]], np.float32), np.array([0, 1]))
    np.testing.assert_allclose(loss, [0.0, 2e4])


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
    np.testing.assert_allclose(gradient[known], _gradient(head, LOGITS[known], label[known]), rtol=1e-5, atol=1e-8)


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


def test_class_answers_and_metrics_match_scikit_learn() -> None:
    head = _group_head()
    distribution = _distribution(head, LOGITS)
    np.testing.assert_allclose(distribution, softmax(LOGITS.astype(np.float64), -1), rtol=1e-4)
    answers = head.decode(distribution)
    assert (answers["class"].dtype, answers["probability"].dtype) == (np.int32, np.float32)
    label = GROUPS.copy()
    label[:10] = UNKNOWN
    truth, predicted = label[10:], LOGITS[10:].argmax(-1)
    assert set(predicted) <= set(truth)  # else scikit-learn warns
    figures = head.measure(answers, label)
    assert figures == {
        "accuracy": pytest.approx(sk.accuracy_score(truth, predicted)),
        "balanced_accuracy": pytest.approx(sk.balanced_accuracy_score(truth, predicted)),
        "precision": pytest.approx(sk.precision_score(truth, predicted, average="macro", zero_division=0)),
        "recall": pytest.approx(sk.recall_score(truth, predicted, average="macro", zero_division=0)),
        "f1": pytest.approx(sk.f1_score(truth, predicted, average="macro", zero_division=0)),
        "one_off": pytest.approx(np.mean(np.abs(truth - predicted) <= 1)),
        "n": 30,
    }
    np.testing.assert_array_equal(
        head.confusion(answers, label), sk.confusion_matrix(truth, predicted, labels=range(8))
    )


def test_gender_is_not_ordered() -> None:
    head = GenderHead()
    assert (head.size, head.names) == (2, ("male", "female"))
    answers = head.decode(np.array([[0.8, 0.2], [0.3, 0.7], [0.6, 0.4]], np.float32))
    figures = head.measure(answers, np.array([0, 0, UNKNOWN]))
    # Of two males one is right: precision 1 and recall 1/2; nobody is female, who one was said to be.
    averages = {"precision": 1 / 2, "recall": 1 / 4, "f1": pytest.approx(2 / 3 / 2)}
    assert figures == {"accuracy": 0.5, "balanced_accuracy": 0.5, **averages, "n": 2}


def test_metrics_of_nothing_known_are_nan() -> None:
    figures = _group_head().measure(_group_head().decode(softmax(LOGITS, -1)), np.full(40, UNKNOWN, np.int32))
    assert figures.pop("n") == 0
    assert all(math.isnan(figure) for figure in figures.values())
    years = AgeYearsHead().measure(AgeYearsHead().decode(softmax(YEARS_LOGITS, -1)), np.full(7, np.nan, np.float32))
    assert years.pop("n") == 0
    assert all(math.isnan(figure) for figure in years.values())


def test_constant_class_is_the_commonest_of_the_known() -> None:
    train = np.array([UNKNOWN] * 9 + [2, 2, 5, 2, 0], np.int32)
    name, answers = _group_head().baseline(train)
    assert name == "always 8-12"
    assert answers["class"].tolist() == [2]
    np.testing.assert_allclose(answers["probability"], [[0.2, 0, 0.6, 0, 0, 0.2, 0, 0]], rtol=1e-6)


def test_constant_age_is_the_median_of_the_known() -> None:
    name, answers = AgeYearsHead().baseline(np.array([1, np.nan, 90, 26, 31, np.nan], np.float32))
    assert name == "always 28.5 years"
    assert {key: value.tolist() for key, value in answers.items()} == {"years": [28.5]}


def test_constants_without_a_single_label_do_not_fail() -> None:
    _, answers = _group_head().baseline(np.full(3, UNKNOWN, np.int32))
    assert answers["probability"].tolist() == [[0.0] * 8]
    _, years = AgeYearsHead().baseline(np.full(3, np.nan, np.float32))
    assert np.isnan(years["years"]).all()


AGES = np.array([0.0, 25.0, 24.6, 100.0, 116.0, np.nan, 61.0], np.float32)


def test_cross_entropy_of_age_is_that_of_the_year() -> None:
    loss, weight = _loss(AgeYearsHead(), YEARS_LOGITS, AGES)
    year = [0, 25, 25, 100, 100, 0, 61]
    expected = -log_softmax(YEARS_LOGITS.astype(np.float64), -1)[range(7), year]
    assert weight.tolist() == [1, 1, 1, 1, 1, 0, 1]
    np.testing.assert_allclose(np.asarray(loss)[AGES == AGES], expected[AGES == AGES], rtol=1e-5)
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
    expected = _gradient(head, logits[known], AGES[known])
    np.testing.assert_allclose(gradient[known], expected, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("loss_name", LOSSES)
def test_every_age_loss_has_its_layer_and_answers_in_years(loss_name: str) -> None:
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


def test_regression_begins_in_the_middle_and_never_answers_below_zero() -> None:
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
    np.testing.assert_allclose(weighted, np.where(np.isnan(AGES), 0, weight * by_year[year]), rtol=1e-6)
    if loss_name == "corn":  # as many questions as an example is asked
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
    asked = np.minimum(GROUPS + 1, 7) if loss_name == "corn" else 1
    np.testing.assert_allclose(weight, (GROUPS + 1) * asked)
    older = 1 / (1 + np.exp(-logits.astype(np.float64)))
    older = np.cumprod(older, -1) if loss_name == "corn" else older
    answers = head.decode(_distribution(head, logits))
    assert answers["class"].tolist() == (older > 0.5).sum(-1).tolist()  # as published
    assert answers["class"].dtype == np.int32
    assert answers["probability"].shape == (40, 8)
    assert head.confusion(answers, GROUPS).shape == (8, 8)
    assert head.baseline(np.array([7, 7, 0, 3, 1], np.int32))[1]["class"].tolist() == [7]  # still the commonest


def test_smoothed_labels_match_scipy() -> None:
    loss, _ = _loss(_group_head(label_smoothing=0.2), LOGITS, GROUPS)
    log_probability = log_softmax(LOGITS.astype(np.float64), -1)
    expected = -0.8 * log_probability[range(40), GROUPS] - 0.2 * log_probability.mean(-1)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    years, _ = _loss(AgeYearsHead(label_smoothing=0.2), YEARS_LOGITS[:1], np.array([25.0]))
    log_probability = log_softmax(YEARS_LOGITS[0].astype(np.float64))
    assert float(years[0]) == pytest.approx(-0.8 * log_probability[25] - 0.2 * log_probability.mean(), rel=1e-5)


def test_smoothed_labels_are_refused_where_there_are_none() -> None:
    with pytest.raises(UserError, match=r"heads\.age\.label_smoothing=0\.1 is not for the loss 'dldl'"):
        AgeYearsHead(loss_name="dldl", label_smoothing=0.1)
    with pytest.raises(UserError, match=r"heads\.age_group\.label_smoothing=0\.1 is not for the loss 'corn'"):
        _group_head(loss_name="corn", label_smoothing=0.1)


def test_expectation_by_arithmetic() -> None:
    probability = np.zeros((2, 101), np.float32)
    probability[0, [10, 20, 60]] = 0.5, 0.25, 0.25
    probability[1, 100] = 1
    assert expectation(probability).tolist() == [25.0, 100.0]  # 5 + 5 + 15
    assert expectation(probability).dtype == np.float32


def test_median_by_arithmetic() -> None:
    probability = np.zeros((4, 101), np.float32)
    probability[0, [10, 20, 60]] = 0.25, 0.5, 0.25  # half of year 20's mass is below: its centre
    probability[1, [30, 31]] = 0.5, 0.5  # the border between the two
    probability[2, [3, 40]] = 0.25, 0.75  # a third into [39.5, 40.5]
    probability[3, 0] = 1
    np.testing.assert_allclose(median(probability), [20.0, 30.5, 39.5 + 1 / 3, 0.0], rtol=1e-6, atol=1e-6)
    assert median(probability).dtype == np.float32


def test_median_matches_a_brute_force_quantile() -> None:
    probability = softmax(RNG.normal(scale=3.0, size=(20, 101)), -1)
    parts = 2000  # every year cut into equal parts that share its mass
    edges = np.arange(101 * parts) / parts - 0.5
    for row, got in zip(probability, median(probability), strict=True):
        cumulative = np.cumsum(np.repeat(row / parts, parts))
        assert got == pytest.approx(edges[np.searchsorted(cumulative, 0.5)], abs=2 / parts)


def test_median_does_not_mind_that_float32_sums_to_almost_one() -> None:
    probability = softmax(YEARS_LOGITS, -1)
    np.testing.assert_allclose(median(probability * np.float32(1.001)), median(probability), atol=1e-3)


@pytest.mark.parametrize("decoding", DECODINGS)
def test_age_answers_and_metrics(decoding: str) -> None:
    head = AgeYearsHead(decoding=decoding)
    distribution = _distribution(head, YEARS_LOGITS)
    answers = head.decode(distribution)
    decode = {"median": median, "expectation": expectation, "mode": mode, "rank": rank}[decoding]
    np.testing.assert_array_equal(answers["years"], decode(distribution))
    np.testing.assert_array_equal(answers["median"], median(distribution))
    np.testing.assert_array_equal(answers["expectation"], expectation(distribution))
    assert not np.array_equal(answers["median"], answers["expectation"])

    known = ~np.isnan(AGES)
    years = answers["years"].astype(np.float64)[known]
    assert head.measure(answers, AGES) == {
        "mae": pytest.approx(sk.mean_absolute_error(AGES[known], years)),
        "median_error": pytest.approx(sk.median_absolute_error(AGES[known], years)),
        "bias": pytest.approx(np.mean(years - AGES[known]), abs=1e-5),
        "cs5": pytest.approx(np.mean(np.abs(years - AGES[known]) <= 5)),
        "n": 6,
    }


def test_metrics_keep_ages_over_a_hundred() -> None:
    answers = {"years": np.array([100.0], np.float32)}
    assert AgeYearsHead().measure(answers, np.array([116.0], np.float32))["mae"] == 16.0  # only the loss clips
