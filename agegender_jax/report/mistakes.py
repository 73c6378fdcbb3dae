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

COUNT = 12
"""Mistakes of a kind that are listed."""

WRONG_YEARS = 10.0
"""From so many years on an age is called wrong where confidence is looked at."""

LEVEL = 0.9
"""Of the intervals whose width says how sure an age is."""

ADULT = 18


def mistakes(predictions: Predictions, count: int = COUNT) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """The mistakes to look at.

    Args:
      predictions: of the part that is reported.
      count: of each kind, fewer where there are fewer.

    Returns:
      For each target `worst` and `confident`: rows with `key`, `label`, `answer`, and of classes the `probability` that
      the answer was given, of years the `error` and, from a distribution, the `width` of the interval that should hold
      the label in `LEVEL` of all cases. Classes that are not ordered have no `worst` beyond the most confident. Ties
      are in order of the keys.
    """
    listed = {}
    for name, target in predictions.targets().items():
        if isinstance(target.head, ClassHead):
            listed[name] = _of_classes(target.head, target, predictions.key, count)
        elif isinstance(target.head, AgeYearsHead):
            listed[name] = _of_years(target, predictions.key, count)
    return listed


def _of_classes(head: ClassHead, target: Target, key: np.ndarray, count: int) -> dict[str, list[dict[str, Any]]]:
    answer, label = target.predictions["class"], target.labels
    given = target.predictions["probability"][np.arange(len(answer)), answer]
    wrong = np.flatnonzero(target.known & (answer != label))

    def row(i: int) -> dict[str, Any]:
        return {
            "key": str(key[i]),
            "label": head.names[label[i]],
            "answer": head.names[answer[i]],
            "probability": float(given[i]),
        }

    confident = _first(wrong, key, -given[wrong])
    off = np.abs(answer[wrong].astype(int) - label[wrong])
    worst = _first(wrong, key, -off, -given[wrong]) if head.ordered else []
    return {"worst": [row(i) for i in worst[:count]], "confident": [row(i) for i in confident[:count]]}


def _of_years(target: Target, key: np.ndarray, count: int) -> dict[str, list[dict[str, Any]]]:
    years, label = target.predictions["years"], target.labels
    error = years.astype(np.float64) - label
    known = np.flatnonzero(target.known)
    distribution = target.distribution
    width = (
        None
        if distribution is None or distribution.shape[-1] == 1
        else np.subtract(*interval(distribution, LEVEL)[::-1])
    )

    def row(i: int) -> dict[str, Any]:
        entry = {"key": str(key[i]), "label": float(label[i]), "answer": float(years[i]), "error": float(error[i])}
        return entry if width is None else entry | {"width": float(width[i])}

    worst = _first(known, key, -np.abs(error[known]))[:count]
    wrong = known[np.abs(error[known]) >= WRONG_YEARS]
    confident = [] if width is None else _first(wrong, key, width[wrong])[:count]
    return {"worst": [row(i) for i in worst], "confident": [row(i) for i in confident]}


def _first(rows: np.ndarray, key: np.ndarray, *order: np.ndarray) -> list[int]:
    """Rows with the least of `order` first, each as long as `rows`; equal ones by their keys."""
    ordered: list[int] = rows[np.lexsort((key[rows], *reversed(order)))].tolist()
    return ordered


def around_18(predictions: Predictions) -> dict[str, Any] | None:
    """How many under-18s (by annotation) are taken for adults and the other way round, or None without an age.

    An example counts where the whole of its annotated range is on one side. By `age`, an answer is a number of years;
    by `age_group`, only a group that lies wholly on the other side counts as a mistake.

    Returns:
      `by`: `age` or `age_group`; for `minors` and `adults` the numbers `n` and `mistaken` and their `share`, with the
      95 % interval over clusters: `value`, `low`, `high`.
    """
    sides_of = _sides(predictions.targets())
    if sides_of is None:
        return None
    by, adult, minor = sides_of
    columns = predictions.columns
    resamples = ClusterBootstrap(columns["cluster"])
    sides = {"minors": (columns["age_high"] < ADULT, adult), "adults": (columns["age_low"] >= ADULT, minor)}
    return {"by": by} | {name: _counted(np.flatnonzero(who), wrong, resamples) for name, (who, wrong) in sides.items()}


def _counted(rows: np.ndarray, wrong: np.ndarray, resamples: ClusterBootstrap) -> dict[str, Any]:
    mistaken = wrong[rows].astype(np.float64)
    share = mean_intervals({SHARE: mistaken}, resamples, rows)[SHARE.name]._asdict()
    return {"n": len(rows), "mistaken": int(mistaken.sum()), "share": share}


def _sides(targets: Mapping[str, Target]) -> tuple[str, np.ndarray, np.ndarray] | None:
    """Returns a target of age by its name, and which examples it takes for adults and which for minors, bool `[n]`."""
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
