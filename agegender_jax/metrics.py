"""Metrics on NumPy arrays, one row an example; rows without a label have been left out by the caller.

They are computed once, on the host, from every example's answer: no batch means, no dropped tails, and the same
figure on any number of devices. Empty input gives NaN, never zero.
"""

import numpy as np


def confusion_matrix(labels: np.ndarray, predictions: np.ndarray, classes: int) -> np.ndarray:
    """Counts, `[classes, classes]` int64: row = label, column = prediction.

    >>> confusion_matrix(np.array([0, 0, 1]), np.array([0, 1, 1]), 2).tolist()
    [[1, 1], [0, 1]]
    """
    cells = labels.astype(np.int64) * classes + predictions.astype(np.int64)
    return np.bincount(cells, minlength=classes * classes).reshape(classes, classes)


def accuracy(confusion: np.ndarray) -> float:
    """Share of examples on the diagonal."""
    return _ratio(int(np.trace(confusion)), int(confusion.sum()))


def balanced_accuracy(confusion: np.ndarray) -> float:
    """Mean recall over the classes that occur among the labels.

    >>> balanced_accuracy(np.array([[3, 1], [0, 2]]))
    0.875
    """
    support = confusion.sum(1)
    present = support > 0
    return float(np.mean(np.diag(confusion)[present] / support[present])) if present.any() else float("nan")


def one_off_accuracy(confusion: np.ndarray) -> float:
    """Share of examples within one class of the label, for ordered classes ("1-off" of the Adience protocol).

    >>> one_off_accuracy(np.array([[1, 1, 2], [0, 1, 0], [0, 0, 1]]))
    0.6666666666666666
    """
    classes = np.arange(len(confusion))
    near = np.abs(classes[:, None] - classes[None, :]) <= 1
    return _ratio(int(confusion[near].sum()), int(confusion.sum()))


def mean_absolute_error(labels: np.ndarray, predictions: np.ndarray) -> float:
    """Mean |prediction - label|, in the labels' unit."""
    return _ratio(float(np.abs(predictions.astype(np.float64) - labels).sum()), len(labels))


def cumulative_score(labels: np.ndarray, predictions: np.ndarray, within: float) -> float:
    """CS@k: share of examples whose absolute error is at most `within`."""
    return _ratio(int(np.count_nonzero(np.abs(predictions.astype(np.float64) - labels) <= within)), len(labels))


def _ratio(numerator: float, denominator: float) -> float:
    return float(numerator / denominator) if denominator else float("nan")
