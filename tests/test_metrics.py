"""Metrics against scikit-learn and against arithmetic."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from sklearn import metrics as sk

from agegender_jax import metrics

CLASSES = 5

MACRO: dict[str, Callable] = {
    "precision": lambda *args, **options: sk.precision_score(*args, average="macro", zero_division=0, **options),
    "recall": lambda *args, **options: sk.recall_score(*args, average="macro", zero_division=0, **options),
    "f1": lambda *args, **options: sk.f1_score(*args, average="macro", zero_division=0, **options),
}
YEARS: dict[str, Callable] = {
    "mean_absolute_error": sk.mean_absolute_error,
    "median_absolute_error": sk.median_absolute_error,
    "bias": lambda labels, predicted, sample_weight=None: np.average(predicted - labels, weights=sample_weight),
}


@pytest.fixture
def classes() -> tuple[np.ndarray, np.ndarray]:
    """Labels and predictions of 300 examples; class 3 never occurs among the labels but is predicted."""
    rng = np.random.default_rng(7)
    labels = rng.choice([0, 1, 2, 4], 300, p=[0.5, 0.3, 0.15, 0.05]).astype(np.int32)
    predictions = np.where(rng.random(300) < 0.6, labels, rng.integers(0, CLASSES, 300)).astype(np.int32)
    assert (predictions == 3).any()
    return labels, predictions


@pytest.fixture
def ages() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.integers(0, 117, 200).astype(np.float32), rng.uniform(0, 100, 200).astype(np.float32)


@pytest.fixture
def weights() -> np.ndarray:
    """Of 300 examples, six times: positive, or how often a bootstrap drew each."""
    rng = np.random.default_rng(1)
    counted = rng.multinomial(300, np.full(300, 1 / 300), 3)
    return np.concatenate([rng.uniform(0.1, 3, (3, 300)), counted])


def test_confusion_matrix_matches_scikit_learn(classes: tuple[np.ndarray, np.ndarray], weights: np.ndarray) -> None:
    confusion = metrics.confusion_matrix(*classes, CLASSES)
    np.testing.assert_array_equal(confusion, sk.confusion_matrix(*classes, labels=range(CLASSES)))
    assert confusion.dtype == np.int64
    weighted = metrics.confusion_matrix(*classes, CLASSES, weights)
    for row, values in zip(weights, weighted, strict=True):
        expected = sk.confusion_matrix(*classes, labels=range(CLASSES), sample_weight=row)
        np.testing.assert_allclose(values, expected, rtol=1e-12)
    np.testing.assert_array_equal(metrics.confusion_matrix(*classes, CLASSES, weights[4]), weighted[4])


def test_confusion_matrix_of_small_integers_does_not_overflow() -> None:
    labels = np.full(3, 23, np.int8)  # 23 * 24 + 23 is beyond int8
    assert metrics.confusion_matrix(labels, labels, 24)[23, 23] == 3


def test_accuracies_match_scikit_learn(classes: tuple[np.ndarray, np.ndarray]) -> None:
    confusion = metrics.confusion_matrix(*classes, CLASSES)
    assert metrics.accuracy(confusion) == pytest.approx(sk.accuracy_score(*classes), abs=1e-12)
    with pytest.warns(UserWarning, match="y_pred contains classes not in y_true"):
        expected = sk.balanced_accuracy_score(*classes)
    assert metrics.balanced_accuracy(confusion) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", MACRO)
def test_means_over_classes_match_scikit_learn(classes: tuple[np.ndarray, np.ndarray], name: str) -> None:
    values = getattr(metrics, name)(metrics.confusion_matrix(*classes, CLASSES + 3))  # classes that nobody has seen
    assert values == pytest.approx(MACRO[name](*classes), abs=1e-12)


@pytest.mark.filterwarnings("ignore:y_pred contains classes")
@pytest.mark.parametrize("name", [*MACRO, "accuracy", "balanced_accuracy"])
def test_weights_of_examples_match_scikit_learn(
    classes: tuple[np.ndarray, np.ndarray], weights: np.ndarray, name: str
) -> None:
    reference = MACRO.get(name) or getattr(sk, f"{name}_score")
    values = getattr(metrics, name)(metrics.confusion_matrix(*classes, CLASSES, weights))
    assert values.shape == (6,)
    expected = [reference(*classes, sample_weight=row) for row in weights[:3]]
    # An example of weight 0 is absent; to scikit-learn its class still occurs, so it is given the examples themselves.
    expected += [reference(*(np.repeat(each, row.astype(int)) for each in classes)) for row in weights[3:]]
    np.testing.assert_allclose(values, expected, atol=1e-12)


def test_a_class_of_which_no_example_was_drawn_does_not_count() -> None:
    labels, predicted = np.array([0, 1, 2]), np.array([0, 1, 0])
    confusion = metrics.confusion_matrix(labels, predicted, 3, np.array([[1.0, 1, 0], [1, 1, 1]]))
    np.testing.assert_allclose(metrics.f1(confusion), [1, (2 / 3 + 1 + 0) / 3])
    np.testing.assert_allclose(metrics.balanced_accuracy(confusion), [1, 2 / 3])


def test_one_off_accuracy_counts_neighbouring_classes(
    classes: tuple[np.ndarray, np.ndarray], weights: np.ndarray
) -> None:
    labels, predictions = classes
    near = [abs(int(a) - int(b)) <= 1 for a, b in zip(labels, predictions, strict=True)]
    assert metrics.one_off_accuracy(metrics.confusion_matrix(*classes, CLASSES)) == pytest.approx(sum(near) / len(near))
    values = metrics.one_off_accuracy(metrics.confusion_matrix(*classes, CLASSES, weights))
    np.testing.assert_allclose(values, [np.average(near, weights=row) for row in weights])


@pytest.mark.parametrize("name", YEARS)
def test_metrics_of_years_match_scikit_learn(
    ages: tuple[np.ndarray, np.ndarray], weights: np.ndarray, name: str
) -> None:
    exact = [each.astype(np.float64) for each in ages]
    assert getattr(metrics, name)(*ages) == pytest.approx(YEARS[name](*exact), rel=1e-12)
    own = weights[:, :200]
    values = getattr(metrics, name)(*ages, own)
    np.testing.assert_allclose(values, [YEARS[name](*exact, sample_weight=row) for row in own], rtol=1e-12)
    repeated = [np.repeat(each, own[4].astype(int)) for each in exact]
    assert values[4] == pytest.approx(YEARS[name](*repeated), rel=1e-12)


def test_mean_absolute_error_of_unsigned_integers_does_not_wrap() -> None:
    assert metrics.mean_absolute_error(np.array([5], np.uint8), np.array([3], np.uint8)) == 2.0


def test_cumulative_score_includes_its_limit() -> None:
    labels, predictions = np.array([20.0, 20.0, 20.0, 20.0]), np.array([15.0, 25.0, 25.5, 20.0])
    assert metrics.cumulative_score(labels, predictions, 5.0) == 0.75
    assert metrics.cumulative_score(labels, predictions, 5.0, np.array([1.0, 0, 2, 1])) == 0.5


@pytest.mark.parametrize("weights", [None, np.zeros(0), np.zeros((2, 0))])
def test_nothing_to_measure_gives_nan(weights: Any) -> None:
    empty = np.array([], np.int32)
    confusion = metrics.confusion_matrix(empty, empty, 3, weights)
    shape = () if weights is None else weights.shape[:-1]
    assert confusion.shape == (*shape, 3, 3)
    of_classes = (*MACRO, "accuracy", "balanced_accuracy", "one_off_accuracy")
    results = [getattr(metrics, name)(confusion) for name in of_classes]
    results += [getattr(metrics, name)(empty, empty, weights) for name in YEARS]
    results.append(metrics.cumulative_score(empty, empty, 5.0, weights))
    assert all(np.shape(figure) == shape and np.isnan(figure).all() for figure in results)
