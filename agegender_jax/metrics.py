"""Metrics on NumPy arrays, one row an example; rows without a label have been left out by the caller.

They are computed once, on the host, from every example's answer: no batch means, no dropped tails, and the same
figure on any number of devices. Empty input gives NaN, never zero.

Each takes weights of the examples, `[..., n]`, and then is an array `[...]`: an example of weight 2 counts as two of
its kind, one of weight 0 as absent, so a bootstrap is the same function with how often each example was drawn. All
equal scikit-learn's, whose import takes longer than a validation, and which takes one draw at a time.
"""

from typing import Any

import numpy as np


def confusion_matrix(
    labels: np.ndarray, predictions: np.ndarray, classes: int, weights: np.ndarray | None = None
) -> np.ndarray:
    """Counts, `[classes, classes]` int64: row = label, column = prediction; with weights float64 `[..., K, K]`.

    >>> confusion_matrix(np.array([0, 0, 1]), np.array([0, 1, 1]), 2).tolist()
    [[1, 1], [0, 1]]
    >>> confusion_matrix(np.array([0, 0, 1]), np.array([0, 1, 1]), 2, np.array([[2, 0, 1]])).tolist()
    [[[2.0, 0.0], [0.0, 1.0]]]
    """
    cells = labels.astype(np.int64) * classes + predictions.astype(np.int64)
    if weights is None:
        return np.bincount(cells, minlength=classes * classes).reshape(classes, classes)
    order = np.argsort(cells, kind="stable")
    found, starts = np.unique(cells[order], return_index=True)
    sums = np.zeros((*weights.shape[:-1], classes * classes))
    if len(found):
        sums[..., found] = np.add.reduceat(weights[..., order], starts, axis=-1, dtype=np.float64)
    return sums.reshape(*weights.shape[:-1], classes, classes)


def accuracy(confusion: np.ndarray) -> Any:
    """Share of examples on the diagonal."""
    return _plain(_ratio(np.trace(confusion, axis1=-2, axis2=-1), confusion.sum((-2, -1))))


def balanced_accuracy(confusion: np.ndarray) -> Any:
    """Mean recall over the classes that occur among the labels.

    >>> balanced_accuracy(np.array([[3, 1], [0, 2]]))
    0.875
    """
    right, support, _ = _totals(confusion)
    return _class_mean(_ratio(right, support), support > 0)


def precision(confusion: np.ndarray) -> Any:
    """Macro precision: its mean over the classes that occur among labels or answers, 0 for one never answered.

    >>> precision(np.array([[3, 1, 0], [0, 2, 0], [0, 0, 0]]))
    0.8333333333333333
    """
    right, support, answered = _totals(confusion)
    return _class_mean(_ratio(right, answered), support + answered > 0)


def recall(confusion: np.ndarray) -> Any:
    """Macro recall: its mean over the classes that occur among labels or answers, 0 for one that no label has.

    >>> recall(np.array([[3, 1, 0], [0, 1, 1], [0, 0, 0]]))
    0.4166666666666667
    """
    right, support, answered = _totals(confusion)
    return _class_mean(_ratio(right, support), support + answered > 0)


def f1(confusion: np.ndarray) -> Any:
    """Macro F1: the mean over the classes that occur of the harmonic mean of precision and recall.

    >>> f1(np.array([[3, 1], [1, 3]]))
    0.75
    """
    right, support, answered = _totals(confusion)
    return _class_mean(_ratio(2 * right, support + answered), support + answered > 0)


def one_off_accuracy(confusion: np.ndarray) -> Any:
    """Share of examples within one class of the label, for ordered classes ("1-off" of the Adience protocol).

    >>> one_off_accuracy(np.array([[1, 1, 2], [0, 1, 0], [0, 0, 1]]))
    0.6666666666666666
    """
    near = sum(np.trace(confusion, offset, axis1=-2, axis2=-1) for offset in (-1, 0, 1))
    return _plain(_ratio(near, confusion.sum((-2, -1))))


def mean_absolute_error(labels: np.ndarray, predictions: np.ndarray, weights: np.ndarray | None = None) -> Any:
    """Mean |prediction - label|, in the labels' unit."""
    return mean(np.abs(_errors(labels, predictions)), weights)


def median_absolute_error(labels: np.ndarray, predictions: np.ndarray, weights: np.ndarray | None = None) -> Any:
    """Median of |prediction - label|, in the labels' unit; between two, their mean.

    >>> median_absolute_error(np.array([20, 20, 20, 20]), np.array([20, 22, 26, 90]))
    4.0
    >>> median_absolute_error(np.array([20, 20, 20]), np.array([20, 22, 26]), np.array([[1, 1, 1], [3, 0, 1]])).tolist()
    [2.0, 0.0]
    """
    errors = np.abs(_errors(labels, predictions))
    if weights is None:
        return float(np.median(errors)) if len(errors) else float("nan")
    order = np.argsort(errors, kind="stable")
    below = np.cumsum(weights[..., order], axis=-1, dtype=np.float64)
    if not len(errors):
        return _plain(np.full(weights.shape[:-1], np.nan))
    half, last = below[..., -1:] / 2, len(errors) - 1
    lower = np.minimum((below < half).sum(-1), last)
    upper = np.minimum((below <= half).sum(-1), last)
    middle = (errors[order][lower] + errors[order][upper]) / 2
    return _plain(np.where(half[..., 0] > 0, middle, np.nan))


def bias(labels: np.ndarray, predictions: np.ndarray, weights: np.ndarray | None = None) -> Any:
    """Mean of prediction - label, in the labels' unit: positive where too much is said.

    >>> bias(np.array([20, 60]), np.array([24, 58]))
    1.0
    """
    return mean(_errors(labels, predictions), weights)


def cumulative_score(
    labels: np.ndarray, predictions: np.ndarray, within: float, weights: np.ndarray | None = None
) -> Any:
    """CS@k: share of examples whose absolute error is at most `within` (Geng, Zhou & Smith-Miles 2007)."""
    return mean((np.abs(_errors(labels, predictions)) <= within).astype(np.float64), weights)


def mean(values: np.ndarray, weights: np.ndarray | None = None) -> Any:
    """Mean of float `[n]`.

    >>> mean(np.array([1.0, 2.0]), np.array([[1, 1], [0, 2]])).tolist()
    [1.5, 2.0]
    """
    if weights is None:
        return _plain(_ratio(values.sum(), np.asarray(len(values))))
    return _plain(_ratio(weights @ values, weights.sum(-1)))


def _totals(confusion: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """By class, `[..., K]`: answered rightly, occurring among the labels, answered."""
    return np.diagonal(confusion, axis1=-2, axis2=-1), confusion.sum(-1), confusion.sum(-2)


def _class_mean(values: np.ndarray, chosen: np.ndarray) -> Any:
    """Mean over the chosen classes; a value that nothing defines counts as 0."""
    return _plain(_ratio(np.where(chosen, np.nan_to_num(values), 0).sum(-1), chosen.sum(-1)))


def _errors(labels: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    return predictions.astype(np.float64) - labels


def _ratio(numerator: Any, denominator: np.ndarray) -> np.ndarray:
    nothing = np.full(np.shape(denominator), np.nan)
    return np.divide(numerator, denominator, out=nothing, where=np.asarray(denominator) > 0)


def _plain(figures: np.ndarray) -> Any:
    """A float where there is one figure."""
    return figures if np.ndim(figures) else float(figures)
