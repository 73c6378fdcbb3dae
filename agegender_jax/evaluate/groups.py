"""Metrics by perceived gender, race and age band, as annotated: for whom a model works less well.

An example whose attribute is not known belongs to no group of that attribute; it still counts in all others.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from agegender_jax.evaluate.targets import Target
from agegender_jax.evaluate.uncertainty import ClusterBootstrap, draw, interval, intervals, measure_of
from agegender_jax.labels import GENDERS, RACES, UNDEFINED_GENDER, UNKNOWN
from agegender_jax.metrics import GAP

ATTRIBUTES = ("gender", "race", "age_band")

LEAST = 30
"""Examples that a group must have to be called the worst: the interval of fewer is too wide for it."""

LEAST_CLUSTERS = 10
"""Clusters that they must be of: thirty recordings of two speakers say little of a group."""

_BAND = 10


class Group(NamedTuple):
    """Some of the examples: the values of the attributes that they share (None: any), and their rows, int `[m]`."""

    values: dict[str, str | None]
    rows: np.ndarray


def attributes(columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns each example's attributes as text, `[n]`, "" where unknown.

    Ages are in bands of ten years, by `age` or else by the middle of `age_low` and `age_high`.

    >>> columns = attributes({"gender": np.array([1, -1]), "race": np.array([0, 4]), "age": np.array([np.nan, 29]),
    ...                       "age_low": np.array([38.0, 29]), "age_high": np.array([43.0, 29])})
    >>> {name: values.tolist() for name, values in columns.items()}
    {'gender': ['female', ''], 'race': ['White', 'Others'], 'age_band': ['40-49', '20-29']}
    """
    middle = (columns["age_low"].astype(np.float64) + columns["age_high"]) / 2
    age = np.where(np.isnan(columns["age"]), middle, columns["age"])
    start = np.where(np.isnan(age), UNKNOWN, np.nan_to_num(age) // _BAND * _BAND).astype(np.int64)
    return {
        "gender": _named(columns["gender"], (*GENDERS, UNDEFINED_GENDER)),
        "race": _named(columns["race"], RACES),
        "age_band": np.array([f"{low}-{low + _BAND - 1}" if low >= 0 else "" for low in start.tolist()], np.str_),
    }


def groups(columns: Mapping[str, np.ndarray], rows: np.ndarray) -> dict[str, list[Group]]:
    """Groups examples, `rows` int `[m]`, by each attribute alone, and by all that are known of any of them together.

    Returns:
      By `gender`, `race`, `age_band`, and their names with ` x ` between; only where there are groups.
    """
    known = {name: values[rows] for name, values in attributes(columns).items()}
    known = {name: values for name, values in known.items() if (values != "").any()}
    ways = [(name,) for name in known] + ([tuple(known)] if len(known) > 1 else [])
    result = {}
    for way in ways:
        table = np.stack([known[name] for name in way], -1)
        there = np.flatnonzero((table != "").all(-1))
        combinations, of = np.unique(table[there], axis=0, return_inverse=True)
        members = [
            Group(dict.fromkeys(ATTRIBUTES) | dict(zip(way, combination, strict=True)), rows[there[of.ravel() == i]])
            for i, combination in enumerate(combinations.tolist())
        ]
        if members:
            result[" x ".join(way)] = sorted(members, key=_order)
    return result


def group_rows(target: Target, by_way: Mapping[str, list[Group]], resamples: ClusterBootstrap) -> list[dict[str, Any]]:
    """Returns the metrics of every group: its attributes, `n`, `clusters`, and each metric with its interval.

    Means over classes are left out where all labels are of one class, of which there is nothing to balance.
    """
    result = []
    for group in (group for members in by_way.values() for group in members):
        measure = measure_of(target, group.rows)
        if len(np.unique(target.labels[group.rows])) < 2:
            measure = measure._replace(metrics=[each for each in measure.metrics if not each.averages_classes])
        counts = {"n": len(group.rows), "clusters": resamples.clusters(group.rows)}
        values = intervals(measure, resamples, group.rows)
        result.append(group.values | counts | {name: value._asdict() for name, value in values.items()})
    return result


def worst_and_gap(
    target: Target, by_way: Mapping[str, list[Group]], resamples: ClusterBootstrap
) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]]]:
    """Returns the worst group by each way to group, and how far it is behind the best, of those that are large enough.

    That is, of `LEAST` examples in `LEAST_CLUSTERS` clusters. The metric is the target's main one. The interval of the
    gap is what 95 % would be if these two groups had been named before. They were picked as the extremes, so it holds
    the true gap less often, and among many small groups a gap is expected by chance alone.

    Returns:
      The worst: attributes, `metric`, `n`, `clusters`, `value`, `low`, `high`. The gap: `metric`, `value`, `low`,
      `high`, `groups` (how many were compared), and the attributes of `best` and `worst`. Only where two groups are
      large enough.
    """
    metric = target.main_metric.name
    sign = 1 if target.main_metric.higher_is_better else -1
    worst, gap = {}, {}
    for way, members in by_way.items():
        large = [
            group for group in members if len(group.rows) >= LEAST and resamples.clusters(group.rows) >= LEAST_CLUSTERS
        ]
        if len(large) < 2:
            continue
        values = [float(measure_of(target, group.rows).function(None)[metric]) for group in large]
        order = np.argsort(sign * np.asarray(values), kind="stable")
        least, most = large[order[0]], large[order[-1]]
        own = intervals(measure_of(target, least.rows), resamples, least.rows)[metric]
        clusters = [resamples.clusters(group.rows) for group in (least, most)]
        low, high = (draw(measure_of(target, group.rows), resamples, group.rows)[metric] for group in (least, most))
        difference = interval(abs(values[order[-1]] - values[order[0]]), sign * (high - low), min(clusters), GAP)
        worst[way] = least.values | {"metric": metric, "n": len(least.rows), "clusters": clusters[0]} | own._asdict()
        gap[way] = {"metric": metric, "groups": len(large), "best": most.values, "worst": least.values}
        gap[way] |= difference._asdict()
    return worst, gap


def _named(codes: np.ndarray, names: tuple[str, ...]) -> np.ndarray:
    return np.array([names[code] if 0 <= code < len(names) else "" for code in codes.tolist()], np.str_)


def _order(group: Group) -> tuple[int, int, int]:
    gender, race, band = (group.values[name] for name in ATTRIBUTES)
    return (
        (*GENDERS, UNDEFINED_GENDER).index(gender) if gender else -1,
        RACES.index(race) if race else -1,
        int(band.split("-")[0]) if band else -1,
    )
