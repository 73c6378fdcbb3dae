"""Metrics of classes and of years: what each is (`Metric`) and how it is computed from NumPy arrays.

Metrics are computed on the host, from the predictions of all examples whose label is known, not as means over batches.
Empty input gives NaN, never zero.

Each function takes weights of the examples, `[..., n]`, and then returns an array `[...]`: an example of weight 2
counts as two, one of weight 0 as absent, so a bootstrap calls the same function with how often each example was
sampled. All equal scikit-learn's, whose import takes longer than a validation, and which takes one sample at a time.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np

Unit = Literal["share", "years", "nats", "count", "score"]
"""`share` of 1, `years`, `nats` (natural logarithms), `count` of examples, or a `score` without a unit."""


@dataclasses.dataclass(frozen=True)
class Metric:
    """What a metric is, all that tables, intervals, plots and the choice of a checkpoint need to know of it.

    Attributes:
      name: its key, as in `age/mae`.
      title: its name in reports.
      higher_is_better: None of a bias or a count, where neither more nor less is better: it cannot choose a checkpoint.
      function: called with what the head's `statistics` returns; of weighted examples it returns an array.
      bounds: the least and the largest value that it can have.
      correct: of a metric that is the share of the predictions that are correct: which are, bool `[n]`, from
        predictions and labels. Of such metrics exact binomial intervals and McNemar's test are known.
      averages_classes: whether it is a mean over classes, which says nothing of examples of a single class.
      compared: whether two runs are compared by it; not where it says again what another metric says.
    """

    name: str
    title: str
    unit: Unit
    higher_is_better: bool | None
    function: Callable[..., Any]
    bounds: tuple[float, float] = (0.0, 1.0)
    correct: Callable[[Mapping[str, np.ndarray], np.ndarray], np.ndarray] | None = None
    averages_classes: bool = False
    compared: bool = True

    def clip(self, low: float, high: float) -> tuple[float, float]:
        """Returns an interval cut off at the metric's bounds.

        >>> MAE.clip(-0.5, 9.5), ACCURACY.clip(0.75, 1.125)
        ((0.0, 9.5), (0.75, 1.0))
        """
        return max(low, self.bounds[0]), min(high, self.bounds[1])

    def metadata(self) -> dict[str, Any]:
        """Returns what files keep of a metric, as JSON values: an infinite bound is None.

        >>> MAE.metadata()
        {'title': 'mean absolute error', 'unit': 'years', 'bounds': [0.0, None], 'higher_is_better': False}
        """
        bounds = [bound if math.isfinite(bound) else None for bound in self.bounds]
        return {"title": self.title, "unit": self.unit, "bounds": bounds, "higher_is_better": self.higher_is_better}


def confusion_matrix(
    labels: np.ndarray, predictions: np.ndarray, classes: int, weights: np.ndarray | None = None
) -> np.ndarray:
    """Counts examples, `[K, K]` int64: row = label, column = prediction; with weights float64 `[..., K, K]`.

    >>> confusion_matrix(np.array([0, 0, 1]), np.array([0, 1, 1]), 2).tolist()
    [[1, 1], [0, 1]]
    >>> confusion_matrix(np.array([0, 0, 1]), np.array([0, 1, 1]), 2, np.array([[2, 0, 1]])).tolist()
    [[[2.0, 0.0], [0.0, 1.0]]]
    """
    cells = labels.astype(np.int64) * classes + predictions.astype(np.int64)
    if weights is None:
        return np.bincount(cells, minlength=classes * classes).reshape(classes, classes)
    order = np.argsort(cells, kind="stable")
    present, starts = np.unique(cells[order], return_index=True)
    sums = np.zeros((*weights.shape[:-1], classes * classes))
    if len(present):
        sums[..., present] = np.add.reduceat(weights[..., order], starts, axis=-1, dtype=np.float64)
    return sums.reshape(*weights.shape[:-1], classes, classes)


def accuracy(confusion: np.ndarray) -> Any:
    """Returns the share of examples on the diagonal."""
    return _plain(_ratio(np.trace(confusion, axis1=-2, axis2=-1), confusion.sum((-2, -1))))


def balanced_accuracy(confusion: np.ndarray) -> Any:
    """Returns the mean recall over the classes that occur among the labels.

    >>> balanced_accuracy(np.array([[3, 1], [0, 2]]))
    0.875
    """
    right, support, _ = _totals(confusion)
    return _class_mean(_ratio(right, support), support > 0)


def precision(confusion: np.ndarray) -> Any:
    """Returns the macro precision: its mean over the classes that occur among labels or predictions, else 0.

    >>> precision(np.array([[3, 1, 0], [0, 2, 0], [0, 0, 0]]))
    0.8333333333333333
    """
    right, support, predicted = _totals(confusion)
    return _class_mean(_ratio(right, predicted), support + predicted > 0)


def recall(confusion: np.ndarray) -> Any:
    """Returns the macro recall: its mean over the classes that occur among labels or predictions, else 0.

    >>> recall(np.array([[3, 1, 0], [0, 1, 1], [0, 0, 0]]))
    0.4166666666666667
    """
    right, support, predicted = _totals(confusion)
    return _class_mean(_ratio(right, support), support + predicted > 0)


def f1(confusion: np.ndarray) -> Any:
    """Returns the macro F1: the mean over the classes that occur of the harmonic mean of precision and recall.

    >>> f1(np.array([[3, 1], [1, 3]]))
    0.75
    """
    right, support, predicted = _totals(confusion)
    return _class_mean(_ratio(2 * right, support + predicted), support + predicted > 0)


def one_off_accuracy(confusion: np.ndarray) -> Any:
    """Returns the share of examples within one class of the label ("1-off" of the Adience protocol).

    >>> one_off_accuracy(np.array([[1, 1, 2], [0, 1, 0], [0, 0, 1]]))
    0.6666666666666666
    """
    near = sum(np.trace(confusion, offset, axis1=-2, axis2=-1) for offset in (-1, 0, 1))
    return _plain(_ratio(near, confusion.sum((-2, -1))))


def mean_absolute_error(labels: np.ndarray, predictions: np.ndarray, weights: np.ndarray | None = None) -> Any:
    """Returns the mean |prediction - label|, in the labels' unit."""
    return mean(np.abs(_errors(labels, predictions)), weights)


def median_absolute_error(labels: np.ndarray, predictions: np.ndarray, weights: np.ndarray | None = None) -> Any:
    """Returns the median of |prediction - label|, in the labels' unit; between two, their mean.

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
    """Returns the mean of prediction - label, in the labels' unit: positive where predictions are too high.

    >>> bias(np.array([20, 60]), np.array([24, 58]))
    1.0
    """
    return mean(_errors(labels, predictions), weights)


def cumulative_score(
    labels: np.ndarray, predictions: np.ndarray, within: float, weights: np.ndarray | None = None
) -> Any:
    """Returns CS@k, the share of examples whose absolute error is at most `within` (Geng, Zhou & Smith-Miles 2007)."""
    return mean((np.abs(_errors(labels, predictions)) <= within).astype(np.float64), weights)


def mean(values: np.ndarray, weights: np.ndarray | None = None) -> Any:
    """Returns the mean of float `[n]`.

    >>> mean(np.array([1.0, 2.0]), np.array([[1, 1], [0, 2]])).tolist()
    [1.5, 2.0]
    """
    if weights is None:
        return _plain(_ratio(values.sum(), np.asarray(len(values))))
    return _plain(_ratio(weights @ values, weights.sum(-1)))


def _totals(confusion: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns by class, `[..., K]`: correct predictions, labels, predictions."""
    return np.diagonal(confusion, axis1=-2, axis2=-1), confusion.sum(-1), confusion.sum(-2)


def _class_mean(values: np.ndarray, chosen: np.ndarray) -> Any:
    """Returns the mean over the chosen classes; a value that nothing defines counts as 0."""
    return _plain(_ratio(np.where(chosen, np.nan_to_num(values), 0).sum(-1), chosen.sum(-1)))


def _errors(labels: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    return predictions.astype(np.float64) - labels


def _ratio(numerator: Any, denominator: np.ndarray) -> np.ndarray:
    nothing = np.full(np.shape(denominator), np.nan)
    return np.divide(numerator, denominator, out=nothing, where=np.asarray(denominator) > 0)


def _plain(values: np.ndarray) -> Any:
    """Returns a float where there is one value."""
    return values if np.ndim(values) else float(values)


def _counted(confusion: np.ndarray) -> Any:
    count = confusion.sum((-2, -1))
    return count if np.ndim(count) else int(count)


def _same(predictions: Mapping[str, np.ndarray], labels: np.ndarray) -> np.ndarray:
    return predictions["class"] == labels


def _near(predictions: Mapping[str, np.ndarray], labels: np.ndarray) -> np.ndarray:
    return np.abs(predictions["class"].astype(np.int64) - labels) <= 1


def _count_years(labels: np.ndarray, _: np.ndarray, weights: np.ndarray | None) -> Any:
    return len(labels) if weights is None else weights.sum(-1)


_POSITIVE = (0.0, math.inf)

ACCURACY = Metric("accuracy", "accuracy", "share", True, accuracy, correct=_same)
BALANCED_ACCURACY = Metric(
    "balanced_accuracy", "balanced accuracy", "share", True, balanced_accuracy, averages_classes=True
)
PRECISION = Metric("precision", "macro precision", "share", True, precision, averages_classes=True)
RECALL = Metric("recall", "macro recall", "share", True, recall, averages_classes=True, compared=False)
"""The balanced accuracy again, but for classes that only predictions have."""
F1 = Metric("f1", "macro F1", "share", True, f1, averages_classes=True)
ONE_OFF = Metric("one_off", "within one group", "share", True, one_off_accuracy, correct=_near)
CLASS_COUNT = Metric("n", "examples", "count", None, _counted, _POSITIVE)

MAE = Metric("mae", "mean absolute error", "years", False, mean_absolute_error, _POSITIVE)
MEDIAN_ERROR = Metric("median_error", "median absolute error", "years", False, median_absolute_error, _POSITIVE)
BIAS = Metric("bias", "mean signed error", "years", None, bias, (-math.inf, math.inf))
YEARS_COUNT = Metric("n", "examples", "count", None, _count_years, _POSITIVE)

NLL = Metric("nll", "negative log-likelihood", "nats", False, mean, _POSITIVE)
BRIER = Metric("brier", "Brier score", "score", False, mean, (0.0, 2.0))
ECE = Metric("ece", "expected calibration error", "share", False, mean)
SHARE = Metric("share", "share", "share", None, mean, correct=lambda holds, _: holds["holds"])
"""The share of examples for which something holds."""
GAP = Metric("gap", "gap to the best group", "score", False, mean, (-math.inf, math.inf))
"""The difference of a metric between two groups, in its unit."""


def within_years(most: int) -> Metric:
    """Returns the metric CS@k, the share of ages that are off by at most `most` years."""

    def function(labels: np.ndarray, years: np.ndarray, weights: np.ndarray | None) -> Any:
        return cumulative_score(labels, years, most, weights)

    def correct(predictions: Mapping[str, np.ndarray], labels: np.ndarray) -> np.ndarray:
        return np.abs(_errors(labels, predictions["years"])) <= most

    title = f"within {most} years" if most > 1 else "within 1 year"
    return Metric(f"cs{most}", title, "share", True, function, correct=correct)


CS5 = within_years(5)

CLASS_METRICS = (ACCURACY, BALANCED_ACCURACY, PRECISION, RECALL, F1, CLASS_COUNT)
"""Of mutually exclusive classes; called with the confusion matrix."""

ORDERED_CLASS_METRICS = (*CLASS_METRICS, ONE_OFF)
"""Likewise, of classes that have an order."""

YEARS_METRICS = (MAE, MEDIAN_ERROR, CS5, BIAS, YEARS_COUNT)
"""Of ages; called with labels and predictions in years, and weights or None."""
