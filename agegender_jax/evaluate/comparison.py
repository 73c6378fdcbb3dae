"""Whether two runs differ, on the same examples; each may be a study of several repeats."""

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
from agegender_jax.evaluate.uncertainty import ClusterBootstrap, Discordant, difference, draw, holm, mcnemar, metrics_of
from agegender_jax.labels import DISCLAIMER
from agegender_jax.metrics import Metric
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
    """Reads the predictions of a run, or of a study's runs: its folds side by side, once for each repeat.

    Args:
      path: a run's directory, or a study's, which holds `study.json`.
      part: of the predictions to keep.

    Raises:
      UserError: there are none, they are damaged, or the study is of several protocols or not complete.
    """
    if not (path / "study.json").exists():
        if not (path / "recipe.json").exists() and any(path.glob("*/recipe.json")):
            raise UserError(
                f"{path} is no run, and no complete study: it holds runs and no study.json; run its launch.py command "
                "again to finish it, or give the folder of one run."
            )
        return ComparedRun(path.resolve().name, [_part(path, part)])
    try:
        names = list(map(str, json.loads((path / "study.json").read_text(encoding="utf-8"))["runs"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path / 'study.json'} is damaged ({error}); run its launch.py command again.") from error
    repeats: dict[int, list[Predictions]] = {}
    for name in names:
        found = _part(path / Path(name).name, part)
        repeats.setdefault(found.metadata["recipe"]["seed"], []).append(found)
    protocols = sorted({run.metadata["protocol"] for runs in repeats.values() for run in runs})
    if len(protocols) != 1:
        raise UserError(
            f"{path} holds runs of {len(protocols)} protocols ({', '.join(protocols)}), whose tests are not the same; "
            "compare the folders of its runs."
        )
    return ComparedRun(path.resolve().name, [concat_folds(runs) for _, runs in sorted(repeats.items())])


def compare(first: ComparedRun, second: ComparedRun, *, draws: int = 1000, seed: int = 0) -> dict[str, Any]:
    """Returns every metric that both have (`Metric.compared`), and its difference with an interval and p.

    Interval and p are of paired draws of clusters, see `uncertainty.difference`; of several repeats they also hold
    their spread. As many figures are looked at, `p_holm` is adjusted for all of them (Holm 1979). Of shares of right
    answers of two single runs there is McNemar's mid-p besides, which asks for independent examples: it is of the first
    example of each cluster.

    Returns:
      `runs` (names), `repeats` (numbers), of the examples `dataset`, `drawn`, `protocol`, `part`, `n`, `clusters`;
      `metrics` by `target/metric`: `first`, `second`, `value` (second less first), `low`, `high`, `p`, `p_holm`, and
      where there is McNemar's test `only_first`, `only_second` and `p_mcnemar`; and `sentences` by target.

    Raises:
      UserError: they are not of the same examples and labels, or have nothing in common.
    """
    columns = _aligned(first, second)
    sides = [[predictions.targets() for predictions in side.repeats] for side in (first, second)]
    names = [name for name in sides[0][0] if all(name in targets for side in sides for targets in side)]
    if not names:
        said = [", ".join(side[0]) for side in sides]
        raise UserError(f"{first.name} says {said[0]} and {second.name} {said[1]}: there is nothing to compare.")
    resamples = ClusterBootstrap(columns["cluster"], draws=draws, seed=seed)
    figures: dict[str, dict[str, Any]] = {}
    for name in names:
        targets = [[repeat[name] for repeat in side] for side in sides]
        if not all(_same(targets[0][0].labels, target.labels) for side in targets for target in side):
            raise UserError(
                f"{first.name} and {second.name} label the same examples in two ways, by {name}; compare runs of one "
                "labelling and one scheme of age groups."
            )
        figures |= {f"{name}/{figure}": found for figure, found in _differences(targets, resamples).items()}
    for found, p in zip(figures.values(), holm([found["p"] for found in figures.values()]), strict=True):
        found["p_holm"] = p
    about, count = first.repeats[0], len(columns["cluster"])
    return {
        "runs": [first.name, second.name],
        "repeats": [len(first.repeats), len(second.repeats)],
        **{name: about.metadata[name] for name in ("dataset", "synthetic", "protocol")},
        "leaky": any(run.metadata["leaky"] for side in (first, second) for run in side.repeats),
        "part": str(about.part[0]) if count else "",
        "n": count,
        "clusters": resamples.clusters(np.arange(count)),
        "metrics": figures,
        "sentences": {name: _sentence(name, figures) for name in names},
    }


def text(result: Mapping[str, Any]) -> str:
    """A comparison for people: a table, and a sentence a target."""
    figures = result["metrics"]
    runs = [f"{i}: {name}" for i, name in enumerate(result["runs"], start=1)]
    columns = {
        runs[0]: {name: f"{found['first']:.4f}" for name, found in figures.items()},
        runs[1]: {name: f"{found['second']:.4f}" for name, found in figures.items()},
        "2 - 1": {name: f"{found['value']:+.4f}" for name, found in figures.items()},
        "95 % interval": {name: _interval(found) for name, found in figures.items()},
        "p": {name: _p(found["p"]) for name, found in figures.items()},
        "p (Holm)": {name: _p(found["p_holm"]) for name, found in figures.items()},
    }
    if tested := {name: _p(found["p_mcnemar"]) for name, found in figures.items() if "p_mcnemar" in found}:
        columns["p (McNemar)"] = tested
    drawn = f" ({DISCLAIMER})" if result["synthetic"] else ""
    clusters = f" in {result['clusters']} clusters" if result["clusters"] < result["n"] else ""
    repeats = [f"{name} the mean of {n}" for name, n in zip(result["runs"], result["repeats"], strict=True) if n > 1]
    lines = [
        f"{result['dataset']}{drawn}, protocol {marked(result['protocol'], result['leaky'])}, part {result['part']}: "
        f"{result['n']} examples{clusters}" + (f"; {' and '.join(repeats)} repeats" if repeats else ""),
        plain(by_row(columns)),
        f"{len(figures)} figures are compared: p (Holm) allows for that many, p alone does not.",
        "Intervals and p are of paired draws of these examples"
        + (", by clusters" if clusters else "")
        + (" and of the repeats." if repeats else ", for these two trainings."),
        *_single(result),
        *([_about_mcnemar(result)] if tested else []),
        *result["sentences"].values(),
    ]
    return "\n".join(lines)


def _part(directory: Path, part: str) -> Predictions:
    """A part of a run's predictions, in the order of keys."""
    if not (directory / NAME).exists():
        Run.load(directory).require_summary()  # raises where this is no run, or not a complete one
    found = read_predictions(directory / NAME).of(part)
    if not len(found):
        raise UserError(f"{directory / NAME} has no example of the part {part}; choose another --split.")
    return found.rows(np.argsort(found.key))


def concat_folds(runs: Sequence[Predictions]) -> Predictions:
    """The folds of one repeat as one table, in the order of keys.

    Raises:
      UserError: they have other heads than each other, or share examples.
    """
    first = runs[0]
    if any(run.heads.keys() != first.heads.keys() for run in runs):
        raise UserError(f"{first.metadata['run']} and its folds have other heads than each other; compare single runs.")

    def together(name: str) -> dict[str, np.ndarray]:
        return {key: np.concatenate([getattr(run, name)[key] for run in runs]) for key in getattr(first, name)}

    whole = dataclasses.replace(
        first,
        key=np.concatenate([run.key for run in runs]),
        part=np.concatenate([run.part for run in runs]),
        columns=together("columns"),
        labels=together("labels"),
        distributions=together("distributions"),
    )
    if len(np.unique(whole.key)) < len(whole):
        raise UserError(
            f"{first.metadata['run']} and its folds share examples of the part {first.part[0]}; compare the part test."
        )
    return whole.rows(np.argsort(whole.key))


def _aligned(first: ComparedRun, second: ComparedRun) -> Mapping[str, np.ndarray]:
    """The columns of the examples, which all have in common."""
    reference = first.repeats[0]
    for side in (first, second):
        for other in side.repeats:
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
    """The figures of one target, `targets[side][repeat]`."""
    rows = np.flatnonzero(targets[0][0].known)
    clusters = resamples.clusters(rows)
    made = [[metrics_of(target, rows) for target in side] for side in targets]
    values = [[measured.function(None) for measured in side] for side in made]
    drawn = [[draw(measured, resamples, rows) for measured in side] for side in made]
    compared = [
        metric
        for metric in made[0][0].metrics
        if metric.compared and all(metric.name in each for side in drawn for each in side)
    ]
    single = all(len(side) == 1 for side in targets)
    alone = resamples.first(rows)
    result = {}
    for metric in compared:
        name = metric.name
        first, second = ([float(found[name]) for found in side] for side in values)
        means = [np.mean([found[name] for found in side], axis=0) for side in drawn]
        found: dict[str, Any] = {"first": float(np.mean(first)), "second": float(np.mean(second))}
        found |= difference(first, second, means[1] - means[0], clusters)._asdict()
        if single and (test := _mcnemar(metric, targets[0][0], targets[1][0], alone)):
            found |= {"only_first": test.only_first, "only_second": test.only_second, "p_mcnemar": test.p}
        result[name] = found
    return result


def _mcnemar(metric: Metric, first: Target, second: Target, rows: np.ndarray) -> Discordant | None:
    """Returns the test of a share of correct predictions, None of other metrics."""
    if metric.correct is None:
        return None
    label = first.labels[rows]
    correct = [
        metric.correct({name: values[rows] for name, values in target.predictions.items()}, label)
        for target in (first, second)
    ]
    return mcnemar(*correct)


def _sentence(name: str, figures: Mapping[str, Mapping[str, Any]]) -> str:
    own = {key.split("/")[1]: found for key, found in figures.items() if key.split("/")[0] == name}
    sure = [f"{figure} ({found['value']:+.4f})" for figure, found in own.items() if found["p_holm"] < _SURE]
    if sure:
        return f"{name}: they differ in {', '.join(sure)} (p below {_SURE:g} after Holm's correction)."
    if all(math.isnan(found["p"]) for found in own.values()):
        return f"{name}: too few independent examples to say whether they differ."
    return f"{name}: no figure differs beyond chance, which does not show that they are equal."


def _single(result: Mapping[str, Any]) -> list[str]:
    """Says which side's own spread nobody knows, where the other's is in the interval."""
    alone = [name for name, count in zip(result["runs"], result["repeats"], strict=True) if count == 1]
    if len(alone) != 1:
        return []
    return [
        f"{alone[0]} is a single training, whose own spread over seeds is not known and not in the interval: p is too "
        "small."
    ]


def _about_mcnemar(result: Mapping[str, Any]) -> str:
    said = "p (McNemar) is its mid-p for shares of right answers"
    if result["clusters"] < result["n"]:
        said += f", of the first example of each of {result['clusters']} clusters alone, for it asks for independence"
    return f"{said}."


def _interval(found: Mapping[str, float]) -> str:
    return "-" if math.isnan(found["low"]) else f"{found['low']:+.4f} to {found['high']:+.4f}"


def _p(value: float) -> str:
    return "-" if math.isnan(value) else "< 0.0001" if value < 0.0001 else f"{value:.4f}"
