"""Metrics against scikit-learn and against arithmetic."""

import math

import numpy as np
import pytest
from sklearn import metrics as sk

from agegender_jax import metrics

CLASSES = 5


@pytest.fixture
def drawn() -> tuple[np.ndarray, np.ndarray]:
    """Labels and predictions of 300 examples; class 3 never occurs among the labels but is predicted."""
    rng = np.random.default_rng(7)
    labels = rng.choice([0, 1, 2, 4], 300, p=[0.5, 0.3, 0.15, 0.05]).astype(np.int32)
    predictions = np.where(rng.random(300) < 0.6, labels, rng.integers(0, CLASSES, 300)).astype(np.int32)
    assert (predictions == 3).any()
    return labels, predictions


def test_confusion_matrix_matches_scikit_learn(drawn: tuple[np.ndarray, np.ndarray]) -> None:
    confusion = metrics.confusion_matrix(*drawn, CLASSES)
    np.testing.assert_array_equal(confusion, sk.confusion_matrix(*drawn, labels=range(CLASSES)))
    assert confusion.dtype == np.int64


def test_confusion_matrix_of_small_integers_does_not_overflow() -> None:
    labels = np.full(3, 23, np.int8)  # 23 * 24 + 23 is beyond int8
    assert metrics.confusion_matrix(labels, labels, 24)[23, 23] == 3


def test_accuracies_match_scikit_learn(drawn: tuple[np.ndarray, np.ndarray]) -> None:
    confusion = metrics.confusion_matrix(*drawn, CLASSES)
    assert metrics.accuracy(confusion) == pytest.approx(sk.accuracy_score(*drawn), abs=1e-12)
    with pytest.warns(UserWarning, match="y_pred contains classes not in y_true"):
        expected = sk.balanced_accuracy_score(*drawn)
    assert metrics.balanced_accuracy(confusion) == pytest.approx(expected, abs=1e-12)


def test_one_off_accuracy_counts_neighbouring_classes(drawn: tuple[np.ndarray, np.ndarray]) -> None:
    labels, predictions = drawn
    expected = sum(abs(int(a) - int(b)) <= 1 for a, b in zip(labels, predictions, strict=True)) / len(labels)
    assert metrics.one_off_accuracy(metrics.confusion_matrix(*drawn, CLASSES)) == pytest.approx(expected, abs=1e-12)


def test_mean_absolute_error_matches_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 117, 200).astype(np.float32)
    predictions = rng.uniform(0, 100, 200).astype(np.float32)
    expected = sk.mean_absolute_error(labels.astype(np.float64), predictions.astype(np.float64))
    assert metrics.mean_absolute_error(labels, predictions) == pytest.approx(expected, rel=1e-12)


def test_mean_absolute_error_of_unsigned_integers_does_not_wrap() -> None:
    assert metrics.mean_absolute_error(np.array([5], np.uint8), np.array([3], np.uint8)) == 2.0


def test_cumulative_score_includes_its_limit() -> None:
    labels, predictions = np.array([20.0, 20.0, 20.0, 20.0]), np.array([15.0, 25.0, 25.5, 20.0])
    assert metrics.cumulative_score(labels, predictions, 5.0) == 0.75


def test_nothing_to_measure_gives_nan() -> None:
    empty = np.array([], np.int32)
    confusion = metrics.confusion_matrix(empty, empty, 3)
    assert confusion.shape == (3, 3)
    figures = [
        metrics.accuracy(confusion),
        metrics.balanced_accuracy(confusion),
        metrics.one_off_accuracy(confusion),
        metrics.mean_absolute_error(empty, empty),
        metrics.cumulative_score(empty, empty, 5.0),
    ]
    assert all(math.isnan(figure) for figure in figures)
