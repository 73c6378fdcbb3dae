"""Whether two runs differ, on the same examples; each may be a sweep of several repeats."""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from agegender_jax.errors import UserError
from agegender_jax.evaluate.predictions import NAME, Predictions, read_predictions
from agegender_jax.evaluate.targets import Target
from agegender_jax.evaluate.uncertainty import ClusterBootstrap, difference, draw, holm, mcnemar, measure_of
from agegender_jax.labels import DISCLAIMER
from agegender_jax.run import Run
from agegender_jax.splits import marked
from agegender_jax.text import by_row, plain

_SURE = 0.05


@dataclasses.dataclass(frozen=True)
class ComparedRun:
    """What is compared: `name`, and the predictions of each repeat, of which a single run is one."""

    name: str
    repeats: Sequence[Predictions]


def load(path: Path, part: str) -> ComparedRun:
    """Reads the predictions for a part, of a run or of a sweep's runs: its folds side by side, once for each repeat.

    The directory of a sweep holds `sweep.json`.

    Raises:
      UserError: there are none, they are damaged, or the sweep is of several protocols or not complete.
    """
    name, sweep = path.resolve().name, path / "sweep.json"
    if not sweep.exists():
        if not (path / "recipe.json").exists() and any(path.glob("*/recipe.json")):
            raise UserError(
                f"{path} is no run, and no complete sweep: it holds runs and no sweep.json; run its launch.py command "
                "again to finish it, or give the folder of one run."
            )
        return ComparedRun(name, [_part(path, part)])
    try:
        names = list(map(str, json.loads(sweep.read_text(encoding="utf-8"))["runs"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{sweep} is damaged ({error}); run its launch.py command again.") from error
    repeats: dict[int, list[Predictions]] = {}
    for run in names:
        predictions = _part(path / Path(run).name, part)
        repeats.setdefault(predictions.metadata["recipe"]["seed"], []).append(predictions)
    protocols = sorted({run.metadata["protocol"] for runs in repeats.values() for run in runs})
    if len(protocols) != 1:
        raise UserError(
            f"{path} holds runs of {len(protocols)} protocols ({', '.join(protocols)}), whose tests are not the same; "
            "compare the folders of its runs."
        )
    return ComparedRun(name, [concat_folds(runs) for _, runs in sorted(repeats.items())])


def compare(first: ComparedRun, second: ComparedRun, *, draws: int = 1000, seed: int = 0) -> dict[str, Any]:
    """Returns every metric that both have (`Metric.compared`), and its difference with an interval and p.

    Interval and p are of paired resamples of clusters, see `uncertainty.difference`; of several repeats they also hold
    their spread. `p_holm` is adjusted for the number of metrics (Holm 1979). Of shares of correct predictions of two
    single runs there is McNemar's mid-p besides, which asks for independent examples: it is of the first example of
    each cluster.

    Returns:
      `runs` (names), `repeats` (numbers), of the examples `dataset`, `synthetic`, `protocol`, `leaky`, `part`, `n` and
      `clusters`;
      `metrics` by `target/metric`: `first`, `second`, `value` (second less first), `low`, `high`, `p`, `p_holm`, and
      where there is McNemar's test `only_first`, `only_second` and `p_mcnemar`; and `sentences` by target.

    Raises:
      UserError: they are not of the same examples and labels, or have nothing in common.
    """
    columns = _aligned(first, second)
    sides = [[predictions.targets() for predictions in side.repeats] for side in (first, second)]
    names = [name for name in sides[0][0] if all(name in targets for side in sides for targets in side)]
    if not names:
        one, other = (", ".join(side[0]) for side in sides)
        raise UserError(f"{first.name} predicts {one} and {second.name} {other}: there is nothing to compare.")
    resamples = ClusterBootstrap(columns["cluster"], draws=draws, seed=seed)
    by_target: dict[str, dict[str, dict[str, Any]]] = {}
    for name in names:
        targets = [[repeat[name] for repeat in side] for side in sides]
        label = targets[0][0].labels
        if not all(_same(label, target.labels) for side in targets for target in side):
            raise UserError(
                f"{first.name} and {second.name} label the same examples in two ways, by {name}; compare runs of one "
                "labelling and one scheme of age groups."
            )
        by_target[name] = _differences(targets, resamples)
    metrics = {f"{name}/{metric}": values for name, own in by_target.items() for metric, values in own.items()}
    for values, p in zip(metrics.values(), holm([values["p"] for values in metrics.values()]), strict=True):
        values["p_holm"] = p
    about, count = first.repeats[0], len(columns["cluster"])
    return {
        "runs": [first.name, second.name],
        "repeats": [len(first.repeats), len(second.repeats)],
        **{name: about.metadata[name] for name in ("dataset", "synthetic", "protocol")},
        "leaky": any(run.metadata["leaky"] for side in (first, second) for run in side.repeats),
        "part": str(about.part[0]) if count else "",
        "n": count,
        "clusters": resamples.clusters(np.arange(count)),
        "metrics": metrics,
        "sentences": {name: _sentence(name, own) for name, own in by_target.items()},
    }


def text(result: Mapping[str, Any]) -> str:
    """Returns a comparison as text: a table, and a sentence a target."""
    metrics, runs = result["metrics"], result["runs"]
    columns = {
        f"1: {runs[0]}": {name: f"{values['first']:.4f}" for name, values in metrics.items()},
        f"2: {runs[1]}": {name: f"{values['second']:.4f}" for name, values in metrics.items()},
        "2 - 1": {name: f"{values['value']:+.4f}" for name, values in metrics.items()},
        "95 % interval": {
            name: "-" if math.isnan(values["low"]) else f"{values['low']:+.4f} to {values['high']:+.4f}"
            for name, values in metrics.items()
        },
        "p": {name: _p(values["p"]) for name, values in metrics.items()},
        "p (Holm)": {name: _p(values["p_holm"]) for name, values in metrics.items()},
    }
    synthetic = f" ({DISCLAIMER})" if result["synthetic"] else ""
    clusters = f" in {result['clusters']} clusters" if result["clusters"] < result["n"] else ""
    counts = dict(zip(runs, result["repeats"], strict=True))
    repeats = " and ".join(f"{name} the mean of {count}" for name, count in counts.items() if count > 1)
    about = "Intervals and p are of paired resamples of these examples"
    about += ", by clusters" * bool(clusters) + (" and of the repeats." if repeats else ", for these two trainings.")
    notes = [f"{len(metrics)} metrics are compared: p (Holm) allows for that many, p alone does not.", about]
    single = [name for name, count in counts.items() if count == 1]
    if repeats and single:
        notes.append(
            f"{single[0]} is a single training: its spread over seeds is not in the interval, so p is too small."
        )
    if tested := {name: _p(values["p_mcnemar"]) for name, values in metrics.items() if "p_mcnemar" in values}:
        columns["p (McNemar)"] = tested
        alone = f", of the first example of each of {result['clusters']} clusters" if clusters else ""
        notes.append(f"p (McNemar) is its mid-p for shares of correct predictions{alone}.")
    protocol = marked(result["protocol"], result["leaky"])
    title = f"{result['dataset']}{synthetic}, protocol {protocol}, part {result['part']}: {result['n']} examples"
    title += clusters + (f"; {repeats} repeats" if repeats else "")
    return "\n".join([title, plain(by_row(columns)), *notes, *result["sentences"].values()])


def _part(directory: Path, part: str) -> Predictions:
    """Reads a part of a run's predictions, in the order of keys."""
    if not (directory / NAME).exists():
        Run.load(directory).require_summary()  # raises where this is no run, or not a complete one
    predictions = read_predictions(directory / NAME).of(part)
    if not len(predictions):
        raise UserError(f"{directory / NAME} has no example of the part {part}; choose another --split.")
    return predictions.rows(np.argsort(predictions.key))


def concat_folds(runs: Sequence[Predictions]) -> Predictions:
    """Returns the folds of one repeat as one table, in the order of keys.

    Raises:
      UserError: they have other heads than each other, or share examples.
    """
    first = runs[0]
    if any(run.heads.keys() != first.heads.keys() for run in runs):
        raise UserError(f"{first.metadata['run']} and its folds have other heads than each other; compare single runs.")
    changes: dict[str, Any] = {name: np.concatenate([getattr(run, name) for run in runs]) for name in ("key", "part")}
    for name in ("columns", "labels", "distributions"):
        changes[name] = {key: np.concatenate([getattr(run, name)[key] for run in runs]) for key in getattr(first, name)}
    whole = dataclasses.replace(first, **changes)
    if len(np.unique(whole.key)) < len(whole):
        raise UserError(
            f"{first.metadata['run']} and its folds share examples of the part {first.part[0]}; compare the part test."
        )
    return whole.rows(np.argsort(whole.key))


def _aligned(first: ComparedRun, second: ComparedRun) -> Mapping[str, np.ndarray]:
    """Returns the columns of the examples, which all have in common."""
    reference = first.repeats[0]
    for other in (*first.repeats, *second.repeats):
        if not np.array_equal(reference.key, other.key):
            shared = len(np.intersect1d(reference.key, other.key))
            raise UserError(
                f"{first.name} and {other.metadata['run']} are not measured on the same examples ({len(reference)} "
                f"and {len(other)}, {shared} of them shared); compare runs of one split."
            )
    return reference.columns


def _same(label: np.ndarray, other: np.ndarray) -> bool:
    return label.dtype.kind == other.dtype.kind and np.array_equal(label, other, equal_nan=label.dtype.kind == "f")


def _differences(targets: Sequence[Sequence[Target]], resamples: ClusterBootstrap) -> dict[str, dict[str, Any]]:
    """Returns the compared metrics of one target, `targets[side][repeat]`, by name."""
    rows = np.flatnonzero(targets[0][0].known)
    clusters, alone = resamples.clusters(rows), resamples.first(rows)
    measures = [[measure_of(target, rows) for target in side] for side in targets]
    values = [[measure.function(None) for measure in side] for side in measures]
    samples = [[draw(measure, resamples, rows) for measure in side] for side in measures]
    single = all(len(side) == 1 for side in targets)
    result = {}
    for metric in measures[0][0].metrics:
        name = metric.name
        if not metric.compared or not all(name in repeat for side in samples for repeat in side):
            continue
        first, second = ([float(repeat[name]) for repeat in side] for side in values)
        means = [np.mean([repeat[name] for repeat in side], axis=0) for side in samples]
        result[name] = {"first": float(np.mean(first)), "second": float(np.mean(second))}
        result[name] |= difference(first, second, means[1] - means[0], clusters)._asdict()
        if single and metric.correct is not None:
            only = (side[0].rows(alone) for side in targets)
            test = mcnemar(*(metric.correct(target.predictions, target.labels) for target in only))
            result[name] |= {"only_first": test.only_first, "only_second": test.only_second, "p_mcnemar": test.p}
    return result


def _sentence(name: str, metrics: Mapping[str, Mapping[str, Any]]) -> str:
    sure = [f"{metric} ({values['value']:+.4f})" for metric, values in metrics.items() if values["p_holm"] < _SURE]
    if sure:
        return f"{name}: they differ in {', '.join(sure)} (p below {_SURE:g} after Holm's correction)."
    if all(math.isnan(values["p"]) for values in metrics.values()):
        return f"{name}: too few independent examples to decide whether they differ."
    return f"{name}: no metric differs beyond chance, which does not show that they are equal."


def _p(value: float) -> str:
    if math.isnan(value):
        return "-"
    return "< 0.0001" if value < 0.0001 else f"{value:.4f}"
