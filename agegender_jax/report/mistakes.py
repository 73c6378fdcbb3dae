"""The predictions with the largest errors, the wrong ones with the highest confidence, and those of under-18s."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from agegender_jax.evaluate.calibration import interval
from agegender_jax.evaluate.predictions import Predictions
from agegender_jax.evaluate.targets import Target
from agegender_jax.evaluate.uncertainty import ClusterBootstrap, mean_intervals
from agegender_jax.metrics import SHARE
from agegender_jax.models.heads import AgeGroupHead, AgeYearsHead, ClassHead

COUNT = 12  # mistakes of a kind that are listed

WRONG_YEARS = 10.0
"""Error from which on an age is called wrong in the list of confident mistakes."""

LEVEL = 0.9
"""Nominal coverage of the intervals whose width stands for the uncertainty of an age."""

ADULT = 18


def mistakes(predictions: Predictions, count: int = COUNT) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Returns the mistakes to look at, up to `count` of each kind.

    Returns:
      For each target `worst` and `confident`: rows with `key`, `label`, `prediction`, and of classes its `probability`,
      of years the `error` and the `width` of the interval that should hold the label in `LEVEL` of all cases, None
      without a distribution. Classes that are not ordered have no `worst`. Ties are in order of the keys.
    """
    listed = {}
    for name, target in predictions.targets().items():
        if isinstance(target.head, ClassHead):
            listed[name] = _of_classes(target.head, target, predictions.key, count)
        elif isinstance(target.head, AgeYearsHead):
            listed[name] = _of_years(target, predictions.key, count)
    return listed


def _of_classes(head: ClassHead, target: Target, key: np.ndarray, count: int) -> dict[str, list[dict[str, Any]]]:
    predicted, label = target.predictions["class"], target.labels
    probability = target.predictions["probability"][np.arange(len(predicted)), predicted]
    wrong = np.flatnonzero(target.known & (predicted != label))

    def row(i: int) -> dict[str, Any]:
        names = {"label": head.names[label[i]], "prediction": head.names[predicted[i]]}
        return {"key": str(key[i]), **names, "probability": float(probability[i])}

    confident = _first(wrong, key, -probability[wrong])
    off = np.abs(predicted[wrong].astype(int) - label[wrong])
    worst = _first(wrong, key, -off, -probability[wrong]) if head.ordered else []
    return {"worst": [row(i) for i in worst[:count]], "confident": [row(i) for i in confident[:count]]}


def _of_years(target: Target, key: np.ndarray, count: int) -> dict[str, list[dict[str, Any]]]:
    years, label, distribution = target.predictions["years"], target.labels, target.distribution
    error = years.astype(np.float64) - label
    known = np.flatnonzero(target.known)
    width = None
    if distribution is not None and distribution.shape[-1] > 1:
        low, high = interval(distribution, LEVEL)
        width = high - low

    def row(i: int) -> dict[str, Any]:
        numbers = {"label": float(label[i]), "prediction": float(years[i]), "error": float(error[i])}
        return {"key": str(key[i]), **numbers, "width": None if width is None else float(width[i])}

    worst = _first(known, key, -np.abs(error[known]))[:count]
    wrong = known[np.abs(error[known]) >= WRONG_YEARS]
    confident = [] if width is None else _first(wrong, key, width[wrong])[:count]
    return {"worst": [row(i) for i in worst], "confident": [row(i) for i in confident]}


def _first(rows: np.ndarray, key: np.ndarray, *order: np.ndarray) -> list[int]:
    """Returns rows with the least of `order` first, each as long as `rows`; equal ones by their keys."""
    ordered: list[int] = rows[np.lexsort((key[rows], *reversed(order)))].tolist()
    return ordered


def around_18(predictions: Predictions) -> dict[str, Any] | None:
    """Returns how many under-18s (by annotation) are predicted as adults and the other way round.

    An example counts where the whole of its annotated range is on one side. By `age`, a prediction is a number of
    years; by `age_group`, only a group that lies wholly on the other side counts as a mistake.

    Returns:
      `by`: `age` or `age_group`; for `minors` and `adults` the numbers `n` and `mistaken` and their `share`, with the
      95 % interval over clusters: `value`, `low`, `high`. None where no age is predicted.
    """
    by_age = _sides(predictions.targets())
    if by_age is None:
        return None
    by, adult, minor = by_age
    columns = predictions.columns
    result: dict[str, Any] = {"by": by}
    resamples = ClusterBootstrap(columns["cluster"])
    sides = {"minors": (columns["age_high"] < ADULT, adult), "adults": (columns["age_low"] >= ADULT, minor)}
    for name, (of_side, wrong) in sides.items():
        rows = np.flatnonzero(of_side)
        mistaken = wrong[rows].astype(np.float64)
        share = mean_intervals({SHARE: mistaken}, resamples, rows)[SHARE.name]._asdict()
        result[name] = {"n": len(rows), "mistaken": int(mistaken.sum()), "share": share}
    return result


def _sides(targets: Mapping[str, Target]) -> tuple[str, np.ndarray, np.ndarray] | None:
    """Returns a target of age by its name, and which examples it predicts as adults and as minors, bool `[n]`."""
    of_all = {name: target for name, target in targets.items() if target.head.only_gender is None}
    for name, target in of_all.items():
        if isinstance(target.head, AgeYearsHead):
            adult = target.predictions["years"] >= ADULT
            return name, adult, ~adult
    for name, target in of_all.items():
        if isinstance(target.head, AgeGroupHead):
            scheme, group = target.head.scheme, target.predictions["class"]
            return name, np.asarray(scheme.lower)[group] >= ADULT, np.asarray(scheme.upper)[group] <= ADULT
    return None
