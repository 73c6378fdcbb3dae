"""How sure a metric and a difference are, from the predictions of runs; without them, from the spread of repeats."""

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


def interval(places: Sequence[Path], metric: str) -> dict[str, Any]:
    """Returns a metric of the examples of all folds together, averaged over repeats, and its 95 % interval.

    Of one run it is `uncertainty.interval`'s, of several repeats `uncertainty.difference`'s from nothing: it holds the
    spread of examples and that of repeats.

    Args:
      places: directories of complete runs of one system and protocol.
      metric: as in a summary, such as `gender/accuracy`.

    Returns:
      `interval`, and `pooled`, the metric that it is of; both None where the predictions of a run are missing, or the
      metric has no interval.
    """
    head, _, name = metric.partition("/")
    measured = _measured(tuple(places), head)
    low = high = math.nan
    if measured is not None and name in measured.samples:
        values = measured.values[name]
        if len(values) == 1:
            _, low, high = uncertainty.interval(
                values[0], measured.samples[name], measured.clusters, measured.metrics[name]
            )
        else:
            _, low, high, _ = uncertainty.difference([0.0], values, measured.samples[name], measured.clusters)
            low, high = measured.metrics[name].clip(low, high)
    if measured is None or not math.isfinite(low):
        return {"interval": None, "pooled": None}
    return {"interval": [low, high], "pooled": float(np.mean(measured.values[name]))}


def judge(
    places: Sequence[Sequence[Path]], metrics: Sequence[str], values: Sequence[Sequence[float]]
) -> dict[str, Any]:
    """How far one system is ahead of another, and how sure that is.

    Args:
      places: of each, the directories of its runs.
      metrics: of each, the metric that is compared.
      values: of each, that metric by repeat, a mean over folds.

    Returns:
      `difference`, the first less the second; `interval` of 95 % and `p` of no difference, or None; `by`, what tells:
      `predictions` (paired draws of the examples of all folds together), `repeats` (Welch's t over them) or None; and
      `clear`, which `settle` decides.
    """
    one, other = (metric.partition("/") for metric in metrics)
    first, second = (_measured(tuple(place), of[0]) for place, of in zip(places, (one, other), strict=True))
    by, estimate = "repeats", uncertainty.difference(values[1], values[0])
    if (
        first
        and second
        and np.array_equal(first.keys, second.keys)
        and one[2] in first.samples
        and other[2] in second.samples
    ):
        samples = first.samples[one[2]] - second.samples[other[2]]
        clusters = min(first.clusters, second.clusters)
        paired = uncertainty.difference(second.values[other[2]], first.values[one[2]], samples, clusters)
        if math.isfinite(paired.p):
            by, estimate = "predictions", paired
    sure = math.isfinite(estimate.p)
    return {
        "difference": estimate.value,
        "interval": [estimate.low, estimate.high] if sure else None,
        "p": estimate.p if sure else None,
        "by": by if sure else None,
        "clear": None,
    }


def settle(differences: Sequence[dict[str, Any]]) -> None:
    """Decides `clear` of those that have a p: as many are looked at, after Holm's correction."""
    tested = [difference for difference in differences if difference["p"] is not None]
    for difference, p in zip(tested, uncertainty.holm([difference["p"] for difference in tested]), strict=True):
        difference["clear"] = p < SURE


@dataclasses.dataclass(frozen=True)
class _Measured:
    """A head's metrics over repeats: `values` of each, and `samples`, their mean in every resample of clusters."""

    keys: np.ndarray
    clusters: int
    metrics: Mapping[str, Metric]
    values: Mapping[str, list[float]]
    samples: Mapping[str, np.ndarray]


@functools.cache
def _measured(places: tuple[Path, ...], head: str) -> _Measured | None:
    if not all((place / NAME).exists() for place in places):
        return None
    repeats: dict[int, list[Predictions]] = {}
    for place in places:
        predictions = read_predictions(place / NAME).of("test")
        repeats.setdefault(predictions.metadata["recipe"]["seed"], []).append(predictions)
    try:
        tables = [concat_folds(folds) for folds in repeats.values()]
    except UserError:  # folds whose tests overlap are no table of one test
        return None
    first = tables[0]
    if not all(head in table.targets() and np.array_equal(first.key, table.key) for table in tables):
        return None
    resamples = uncertainty.ClusterBootstrap(first.columns["cluster"])
    targets = [table.targets()[head] for table in tables]
    rows = np.flatnonzero(targets[0].known)
    metrics = [uncertainty.measure_of(target, rows) for target in targets]
    values = [made.function(None) for made in metrics]
    samples = [uncertainty.draw(made, resamples, rows) for made in metrics]
    return _Measured(
        first.key,
        resamples.clusters(rows),
        {metric.name: metric for metric in metrics[0].metrics},
        {metric: [float(one[metric]) for one in values] for metric in samples[0]},
        {metric: np.mean([one[metric] for one in samples], axis=0) for metric in samples[0]},
    )
