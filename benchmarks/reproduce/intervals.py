"""How sure a figure and a difference are, from the predictions of runs; without them, from the spread of repeats."""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from agegender_jax.evaluate import uncertainty
from agegender_jax.evaluate.predictions import NAME, Predictions, Thing, read_predictions
from agegender_jax.labels import GENDERS
from benchmarks.reproduce.tables import SURE


def interval(places: Sequence[Path], figure: str) -> list[float] | None:
    """The 95 % interval of the mean of a figure over runs, or None where the predictions of one are missing.

    Of one run it is `uncertainty.interval`'s, of several repeats `uncertainty.difference`'s from nothing: it holds the
    spread of examples and that of repeats. Folds are taken together: the examples of all are drawn from.

    Args:
      places: directories of complete runs of one system and protocol.
      figure: as in a summary, such as `gender/accuracy`.
    """
    thing, name = _part(figure)
    found = _measured(tuple(places), thing)
    if found is None or name not in found.drawn:
        return None
    values = found.values[name]
    if len(values) == 1:
        of_one = uncertainty.interval(values[0], found.drawn[name], found.clusters)
        return _limits(of_one.low, of_one.high)
    of_several = uncertainty.difference([0.0], values, found.drawn[name], found.clusters)
    return _limits(of_several.low, of_several.high)


def judge(
    places: Sequence[Sequence[Path]], figures: Sequence[str], values: Sequence[Sequence[float | None]]
) -> dict[str, Any]:
    """Whether one system differs from another.

    Args:
      places: of each, the directories of its runs.
      figures: of each, the figure that is compared.
      values: of each, that figure of every run.

    Returns:
      `interval`, the 95 % interval of the first less the second, and `p` of no difference, or None; `by`, what tells:
      `predictions`, `repeats` or None; and `clear`, of `repeats` whether no value of one lies within the values of the
      other, otherwise None: see `settle`.
    """
    (thing, one), (other_thing, other) = map(_part, figures)
    first, second = _measured(tuple(places[0]), thing), _measured(tuple(places[1]), other_thing)
    if first and second and np.array_equal(first.keys, second.keys) and one in first.drawn and other in second.drawn:
        drawn = first.drawn[one] - second.drawn[other]
        found = uncertainty.difference(second.values[other], first.values[one], drawn, first.clusters)
        if math.isfinite(found.p):
            limits = _limits(found.low, found.high)
            return {"interval": limits, "p": found.p, "by": "predictions", "clear": None}
    a, b = ([value for value in runs if value is not None] for runs in values)
    if min(len(a), len(b)) < 2:
        return {"interval": None, "p": None, "by": None, "clear": None}
    return {"interval": None, "p": None, "by": "repeats", "clear": min(a) > max(b) or min(b) > max(a)}


def settle(differences: Sequence[dict[str, Any]]) -> None:
    """Decides `clear` of those that predictions tell of: as many are looked at, after Holm's correction."""
    found = [difference for difference in differences if difference["p"] is not None]
    for difference, p in zip(found, uncertainty.holm([difference["p"] for difference in found]), strict=True):
        difference["clear"] = p < SURE


def _limits(low: float, high: float) -> list[float] | None:
    return [low, high] if math.isfinite(low) and math.isfinite(high) else None


@dataclasses.dataclass(frozen=True)
class _Measured:
    """A thing's figures over repeats: `values` of each, and `drawn`, their mean in every draw of clusters."""

    keys: np.ndarray
    clusters: int
    values: Mapping[str, list[float]]
    drawn: Mapping[str, np.ndarray]


def _part(figure: str) -> tuple[str, str]:
    """A summary's figure as a thing and its figure; a routed system's things are its gender and its three ways."""
    name, _, metric = figure.partition("/")
    if name != "routed":
        return name, metric
    way, _, metric = metric.partition("_")
    return f"routed_{way}", metric


@functools.cache
def _measured(places: tuple[Path, ...], name: str) -> _Measured | None:
    if not all((place / NAME).exists() for place in places):
        return None
    repeats: dict[int, list[Predictions]] = {}
    for place in places:
        found = read_predictions(place / NAME).of("test")
        repeats.setdefault(found.facts["recipe"]["seed"], []).append(found)
    tables = [_together(folds, name) for folds in repeats.values()]
    keys, cluster, first = tables[0]
    if not all(np.array_equal(keys, other) for other, _, _ in tables):
        return None
    resamples = uncertainty.Resamples(cluster)
    rows = np.flatnonzero(first.known)
    figures = [uncertainty.figures_of(thing, rows) for _, _, thing in tables]
    values = [made(None) for made in figures]
    drawn = [uncertainty.draw(made, resamples, rows) for made in figures]
    return _Measured(
        keys[rows],
        resamples.clusters(rows),
        {metric: [float(found[metric]) for found in values] for metric in values[0]},
        {metric: np.mean([found[metric] for found in drawn], axis=0) for metric in drawn[0]},
    )


def _together(folds: Sequence[Predictions], name: str) -> tuple[np.ndarray, np.ndarray, Thing]:
    """Keys, clusters and a thing of all folds, in the order of keys."""
    things = [_thing(fold, name) for fold in folds]
    keys = np.concatenate([fold.key for fold in folds])
    order = np.argsort(keys)
    answers = {
        answer: np.concatenate([thing.answers[answer] for thing in things])[order] for answer in things[0].answers
    }
    label = np.concatenate([thing.label for thing in things])[order]
    cluster = np.concatenate([fold.columns["cluster"] for fold in folds])[order]
    return keys[order], cluster, Thing(things[0].head, answers, label)


def _thing(predictions: Predictions, name: str) -> Thing:
    """A thing, or one of a routed system by another way than the predicted gender."""
    things = predictions.things()
    if not name.startswith("routed_"):
        return things[name]
    way = name.removeprefix("routed_")
    if way == "gender":
        return things["gender"]
    age = things["age_group"]
    if way == "predicted":
        return age
    said = predictions.heads["routed"].answers(predictions.distributions["routed"])
    if way == "soft":
        return age._replace(answers={answer: said[f"soft_{answer}"] for answer in age.answers})
    gender = things["gender"].label
    label = np.where(gender >= 0, age.label, -1)  # without a gender nobody can be routed by it
    answers = {}
    for answer in age.answers:
        first, second = (said[f"{one}_{answer}"] for one in GENDERS)
        of_first = (gender == 0).reshape(-1, *[1] * (first.ndim - 1))
        answers[answer] = np.where(of_first, first, second)
    return age._replace(answers=answers, label=label)
