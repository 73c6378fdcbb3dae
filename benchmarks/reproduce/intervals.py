"""How sure a figure and a difference are, from the predictions of runs; without them, from the spread of repeats."""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from agegender_jax.errors import UserError
from agegender_jax.evaluate import uncertainty
from agegender_jax.evaluate.comparison import concat_folds
from agegender_jax.evaluate.predictions import NAME, Predictions, read_predictions
from agegender_jax.metrics import Metric
from benchmarks.reproduce.tables import SURE


def interval(places: Sequence[Path], figure: str) -> dict[str, Any]:
    """A figure of the examples of all folds together, meant over repeats, and its 95 % interval.

    Of one run it is `uncertainty.interval`'s, of several repeats `uncertainty.difference`'s from nothing: it holds the
    spread of examples and that of repeats.

    Args:
      places: directories of complete runs of one system and protocol.
      figure: as in a summary, such as `gender/accuracy`.

    Returns:
      `interval`, and `pooled`, the figure that it is of; both None where the predictions of a run are missing, or the
      figure has no interval.
    """
    head, _, name = figure.partition("/")
    found = _measured(tuple(places), head)
    low = high = math.nan
    if found is not None and name in found.drawn:
        values = found.values[name]
        if len(values) == 1:
            _, low, high = uncertainty.interval(values[0], found.drawn[name], found.clusters, found.metrics[name])
        else:
            _, low, high, _ = uncertainty.difference([0.0], values, found.drawn[name], found.clusters)
            low, high = found.metrics[name].clip(low, high)
    if found is None or not math.isfinite(low):
        return {"interval": None, "pooled": None}
    return {"interval": [low, high], "pooled": float(np.mean(found.values[name]))}


def judge(
    places: Sequence[Sequence[Path]], figures: Sequence[str], values: Sequence[Sequence[float]]
) -> dict[str, Any]:
    """How far one system is ahead of another, and how sure that is.

    Args:
      places: of each, the directories of its runs.
      figures: of each, the figure that is compared.
      values: of each, that figure by repeat, a mean over folds.

    Returns:
      `difference`, the first less the second; `interval` of 95 % and `p` of no difference, or None; `by`, what tells:
      `predictions` (paired draws of the examples of all folds together), `repeats` (Welch's t over them) or None; and
      `clear`, which `settle` decides.
    """
    one, other = (figure.partition("/") for figure in figures)
    first, second = (_measured(tuple(place), of[0]) for place, of in zip(places, (one, other), strict=True))
    by, found = "repeats", uncertainty.difference(values[1], values[0])
    if (
        first
        and second
        and np.array_equal(first.keys, second.keys)
        and one[2] in first.drawn
        and other[2] in second.drawn
    ):
        drawn = first.drawn[one[2]] - second.drawn[other[2]]
        clusters = min(first.clusters, second.clusters)
        paired = uncertainty.difference(second.values[other[2]], first.values[one[2]], drawn, clusters)
        if math.isfinite(paired.p):
            by, found = "predictions", paired
    sure = math.isfinite(found.p)
    return {
        "difference": found.value,
        "interval": [found.low, found.high] if sure else None,
        "p": found.p if sure else None,
        "by": by if sure else None,
        "clear": None,
    }


def settle(differences: Sequence[dict[str, Any]]) -> None:
    """Decides `clear` of those that have a p: as many are looked at, after Holm's correction."""
    found = [difference for difference in differences if difference["p"] is not None]
    for difference, p in zip(found, uncertainty.holm([difference["p"] for difference in found]), strict=True):
        difference["clear"] = p < SURE


@dataclasses.dataclass(frozen=True)
class _Measured:
    """A head's figures over repeats: `values` of each, and `drawn`, their mean in every draw of clusters."""

    keys: np.ndarray
    clusters: int
    metrics: Mapping[str, Metric]
    values: Mapping[str, list[float]]
    drawn: Mapping[str, np.ndarray]


@functools.cache
def _measured(places: tuple[Path, ...], head: str) -> _Measured | None:
    if not all((place / NAME).exists() for place in places):
        return None
    repeats: dict[int, list[Predictions]] = {}
    for place in places:
        found = read_predictions(place / NAME).of("test")
        repeats.setdefault(found.metadata["recipe"]["seed"], []).append(found)
    try:
        tables = [concat_folds(folds) for folds in repeats.values()]
    except UserError:  # folds whose tests overlap are no table of one test
        return None
    first = tables[0]
    if not all(head in table.heads and np.array_equal(first.key, table.key) for table in tables):
        return None
    resamples = uncertainty.ClusterBootstrap(first.columns["cluster"])
    things = [table.by_head()[head] for table in tables]
    rows = np.flatnonzero(things[0].known)
    figures = [uncertainty.metrics_of(thing, rows) for thing in things]
    values = [made.function(None) for made in figures]
    drawn = [uncertainty.draw(made, resamples, rows) for made in figures]
    return _Measured(
        first.key,
        resamples.clusters(rows),
        {metric.name: metric for metric in figures[0].metrics},
        {metric: [float(found[metric]) for found in values] for metric in drawn[0]},
        {metric: np.mean([found[metric] for found in drawn], axis=0) for metric in drawn[0]},
    )
