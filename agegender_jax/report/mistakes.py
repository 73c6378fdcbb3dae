"""The answers that are furthest off, those that are wrong with the most confidence, and what becomes of under-18s."""

from typing import Any

import numpy as np

from agegender_jax.evaluate.calibration import interval, year_distributions
from agegender_jax.evaluate.predictions import Predictions, Thing
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
      For each thing `worst` and `confident`: rows with `key`, `label`, `answer`, and of classes the `probability` that
      the answer was given, of years the `error` and, from a distribution, the `width` of the interval that should hold
      the label in `LEVEL` of all cases. Classes that are not ordered have no `worst` beyond the most confident. Ties
      are in order of the keys.
    """
    found, years = {}, year_distributions(predictions)
    for name, thing in predictions.things().items():
        if isinstance(thing.head, ClassHead):
            found[name] = _of_classes(thing.head, thing, predictions.key, count)
        else:
            found[name] = _of_years(thing, years.get(name), predictions.key, count)
    return found


def _of_classes(head: ClassHead, thing: Thing, key: np.ndarray, count: int) -> dict[str, list[dict[str, Any]]]:
    answer, label = thing.answers["class"], thing.label
    given = thing.answers["probability"][np.arange(len(answer)), answer]
    wrong = np.flatnonzero(thing.known & (answer != label))

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


def _of_years(
    thing: Thing, distribution: np.ndarray | None, key: np.ndarray, count: int
) -> dict[str, list[dict[str, Any]]]:
    years, label = thing.answers["years"], thing.label
    error = years.astype(np.float64) - label
    known = np.flatnonzero(thing.known)
    width = None if distribution is None else np.subtract(*interval(distribution, LEVEL)[::-1])

    def row(i: int) -> dict[str, Any]:
        found = {"key": str(key[i]), "label": float(label[i]), "answer": float(years[i]), "error": float(error[i])}
        return found if width is None else found | {"width": float(width[i])}

    worst = _first(known, key, -np.abs(error[known]))[:count]
    wrong = known[np.abs(error[known]) >= WRONG_YEARS]
    confident = [] if width is None else _first(wrong, key, width[wrong])[:count]
    return {"worst": [row(i) for i in worst], "confident": [row(i) for i in confident]}


def _first(rows: np.ndarray, key: np.ndarray, *order: np.ndarray) -> list[int]:
    """Rows with the least of `order` first, each as long as `rows`; equal ones by their keys."""
    found: list[int] = rows[np.lexsort((key[rows], *reversed(order)))].tolist()
    return found


def around_18(predictions: Predictions) -> dict[str, Any] | None:
    """How many under-18s (by annotation) are taken for adults and the other way round, or None without an age.

    An example counts where the whole of its annotated range is on one side. By `age`, an answer is a number of years;
    by `age_group`, only a group that lies wholly on the other side counts as a mistake.

    Returns:
      `by`: `age` or `age_group`; for `minors` and `adults` the numbers `n` and `mistaken` and their `share`, with the
      95 % interval over clusters: `value`, `low`, `high`.
    """
    found = _sides(predictions.things())
    if found is None:
        return None
    by, adult, minor = found
    columns = predictions.columns
    resamples = ClusterBootstrap(columns["cluster"])
    sides = {"minors": (columns["age_high"] < ADULT, adult), "adults": (columns["age_low"] >= ADULT, minor)}
    return {"by": by} | {name: _counted(np.flatnonzero(who), wrong, resamples) for name, (who, wrong) in sides.items()}


def _counted(rows: np.ndarray, wrong: np.ndarray, resamples: ClusterBootstrap) -> dict[str, Any]:
    mistaken = wrong[rows].astype(np.float64)
    share = mean_intervals({SHARE: mistaken}, resamples, rows)[SHARE.name]._asdict()
    return {"n": len(rows), "mistaken": int(mistaken.sum()), "share": share}


def _sides(things: dict[str, Thing]) -> tuple[str, np.ndarray, np.ndarray] | None:
    """Which thing says ages, and which examples it takes for adults and which for minors, bool `[n]`."""
    age = things.get("age")
    if age is not None and isinstance(age.head, AgeYearsHead):
        adult = age.answers["years"] >= ADULT
        return "age", adult, ~adult
    group = things.get("age_group")
    if group is not None and isinstance(group.head, AgeGroupHead):
        scheme, answer = group.head.scheme, group.answers["class"]
        lower, upper = np.asarray(scheme.lower)[answer], np.asarray(scheme.upper)[answer]
        return "age_group", lower >= ADULT, upper <= ADULT
    return None
