"""Calibration against scikit-learn, SciPy and arithmetic."""

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss, log_loss

from agegender_jax.evaluate.calibration import (
    TEMPERATURES,
    at_bound,
    brier,
    expected_calibration_error,
    fit_temperature,
    interval,
    kept,
    negative_log_likelihood,
    reliability,
    temper,
)
from agegender_jax.models.heads.decoding import quantile

RNG = np.random.default_rng(5)
YEARS = softmax(RNG.normal(0, 2, (50, 101)).cumsum(-1) / 2, -1).astype(np.float32)


def _labels(probability: np.ndarray) -> np.ndarray:
    """A label for each row, sampled from it."""
    return (RNG.random((len(probability), 1)) > probability.cumsum(-1)).sum(-1).clip(max=probability.shape[-1] - 1)


def test_reliability_is_scikit_learns() -> None:
    confidence = RNG.random(150)
    right = RNG.random(150) < confidence**2
    true, predicted = calibration_curve(right, confidence, n_bins=15, strategy="quantile")
    fitted = reliability(confidence, right)
    np.testing.assert_allclose([each["accuracy"] for each in fitted], true)
    np.testing.assert_allclose([each["confidence"] for each in fitted], predicted)
    assert [each["n"] for each in fitted] == [10] * 15


def test_bins_have_as_many_examples_each_and_ties_stay_together() -> None:
    sizes = [each["n"] for each in reliability(RNG.random(100), np.ones(100, bool))]
    assert (len(sizes), min(sizes), max(sizes)) == (15, 6, 7)
    (only,) = reliability(np.full(9, 0.7), np.arange(9) < 3)
    assert only == {"confidence": pytest.approx(0.7), "accuracy": pytest.approx(1 / 3), "n": 9}
    assert reliability(np.zeros(0), np.zeros(0, bool)) == []


def test_expected_calibration_error_by_hand() -> None:
    confidence = np.array([0.5, 0.7, 0.8, 1.0])
    curve = reliability(confidence, np.array([True, False, True, True]), bins=2)
    assert expected_calibration_error(curve) == pytest.approx((2 * abs(0.5 - 0.6) + 2 * abs(1 - 0.9)) / 4)
    assert np.isnan(expected_calibration_error([]))


def test_scores_are_scikit_learns() -> None:
    probability = softmax(RNG.normal(size=(80, 5)), -1)
    label = _labels(probability)
    expected = log_loss(label, probability, labels=range(5))
    assert negative_log_likelihood(probability, label).mean() == pytest.approx(expected)
    expected = brier_score_loss(label, probability, labels=range(5), scale_by_half=False)
    assert brier(probability, label).mean() == pytest.approx(expected)
    two, label = softmax(RNG.normal(size=(80, 2)), -1), RNG.integers(0, 2, 80)
    assert brier(two, label).mean() == pytest.approx(2 * brier_score_loss(label, two[:, 1]))


def test_a_probability_of_nothing_is_not_infinitely_wrong() -> None:
    probability = np.array([[1.0, 0.0]], np.float32)
    assert negative_log_likelihood(probability, np.array([1])) == pytest.approx(-np.log(2.0**-126))


def test_temper_divides_logits() -> None:
    logits = RNG.normal(size=(20, 4))
    np.testing.assert_allclose(temper(softmax(logits, -1), 2.5), softmax(logits / 2.5, -1), rtol=1e-9)
    np.testing.assert_allclose(temper(YEARS, 1.0).sum(-1), 1, rtol=1e-12)
    np.testing.assert_array_equal(temper(YEARS, 3.0).argmax(-1), YEARS.argmax(-1))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_the_temperature_is_recovered(temperature: float) -> None:
    logits = RNG.normal(0, 2, (20_000, 4))
    label = _labels(softmax(logits, -1))
    overconfident = softmax(logits * temperature, -1).astype(np.float32)
    fitted = fit_temperature(overconfident, label)
    assert fitted == pytest.approx(temperature, rel=0.05)
    tempered = temper(overconfident, fitted)
    for other in (0.9, 1.1):
        worse = temper(overconfident, other * fitted)
        assert negative_log_likelihood(worse, label).mean() > negative_log_likelihood(tempered, label).mean()


def test_a_temperature_at_the_end_of_its_range_is_known_as_such() -> None:
    label = np.zeros(50, np.int32)
    surely_right = np.tile([0.9, 0.1], (50, 1))  # the colder the better
    fitted = fit_temperature(surely_right, label)
    assert fitted == pytest.approx(TEMPERATURES[0], rel=0.01)
    assert at_bound(fitted)
    fitted = fit_temperature(surely_right, 1 - label)  # the hotter the better
    assert at_bound(fitted)
    assert not at_bound(1.0)
    assert fit_temperature(np.zeros((0, 3)), np.zeros(0, np.int32)) is None


def test_quantiles_are_those_of_evenly_spread_years() -> None:
    edges = np.arange(102) - 0.5
    for share in (0.025, 0.5, 0.9):
        below = np.pad(YEARS.astype(np.float64).cumsum(-1), ((0, 0), (1, 0)))
        expected = [np.interp(share, row / row[-1], edges) for row in below]
        np.testing.assert_allclose(quantile(YEARS, share), expected, atol=1e-6)


def test_an_interval_of_one_year_lies_within_it() -> None:
    low, high = interval(np.eye(101)[[0, 30]], 0.5)
    np.testing.assert_allclose(low, [0, 29.75])  # no age is below 0
    np.testing.assert_allclose(high, [0.25, 30.25])


def test_intervals_hold_as_many_ages_as_they_say() -> None:
    probability = np.repeat(softmax(-((np.arange(101) - 40) ** 2) / 200)[None], 20_000, 0)
    label = _labels(probability)
    for level in (0.5, 0.68, 0.95):
        low, high = interval(probability, level)
        assert ((low <= label) & (label <= high)).mean() == pytest.approx(level, abs=0.03)


def test_the_surest_are_kept() -> None:
    chosen = kept(np.array([0.1, 0.9, 0.5, 0.9, 0.2, 0.3, 0.4, 0.6, 0.7, 0.8]), (1.0, 0.95, 0.3, 0.2))
    assert [len(rows) for rows in chosen.values()] == [10, 10, 3, 2]
    assert chosen[0.3].tolist() == [1, 3, 9]
    assert chosen[0.2].tolist() == [1, 3]
