"""Trains several runs of one recipe: protocols, folds and repeats, each in a folder of its own.

Every run is resumed or skipped by itself, so the same command resumes a sweep that was stopped.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from agegender_jax import atomic
from agegender_jax.distributed import from_primary, is_primary, log_primary, primary_first
from agegender_jax.errors import Preempted, Refused, UserError
from agegender_jax.evaluate import uncertainty
from agegender_jax.evaluate.summary_text import PUBLISHED, PUBLISHED_FOLDS, identities
from agegender_jax.labels import DISCLAIMER
from agegender_jax.run import Run
from agegender_jax.splits import marked
from agegender_jax.text import by_row, duration, plain
from agegender_jax.train.loop import preemption, train_recipe
from agegender_jax.train.setup import check_recipe


@dataclass(frozen=True)
class TrialSpec:
    """One run of a sweep; `name` is its folder."""

    name: str
    protocol: str
    fold: int
    repeat: int
    recipe: ConfigDict


def run_sweep(
    members: Sequence[TrialSpec], workdir: Path, *, manual_dir: Path | None, data_dir: Path, progress: bool = True
) -> dict[str, Any]:
    """Trains the runs that are not complete yet, and makes one table of all.

    A protocol that the data do not allow is left out, with the reason under the table.

    Args:
      members: from `command.expand_trials`.
      workdir: each run's folder is made in it, and `sweep.json` when all are complete.
      manual_dir: where the downloaded data lie, or None.
      data_dir: where prepared datasets and caches lie.
      progress: whether to draw progress bars.

    Returns:
      The content of `sweep.json`; see `summarize`.

    Raises:
      UserError: as `loop.train_recipe`; the directory holds something else; every protocol is refused.
    """
    with primary_first():
        path = _start(workdir, members)
    summaries: dict[str, dict[str, Any]] = {}
    refused: dict[str, str] = {}
    with preemption() as stop:
        for number, member in enumerate(members, start=1):
            if member.protocol in refused:
                continue
            if stop.is_set():
                raise Preempted(
                    f"Stopped by SIGTERM before run {number} of {len(members)}; the same command goes on there."
                )
            directory = workdir / member.name
            done = from_primary((directory / "summary.json").exists())
            log_primary(f"--- run {number} of {len(members)}: {member.name}{' is complete' if done else ''}")
            if done:
                summary = Run.load(directory).summary()
                assert summary is not None
                summaries[member.name] = summary
                continue
            try:
                summaries[member.name] = train_recipe(
                    member.recipe, directory, manual_dir=manual_dir, data_dir=data_dir, progress=progress
                ).to_dict()
            except Refused as error:
                refused[member.protocol] = str(error)
                log_primary(f"{marked(member.protocol)} is refused: {error}")
    if not summaries:
        raise UserError(" ".join(refused.values()))
    if len({summary["data_sha256"] for summary in summaries.values()}) > 1:
        raise UserError(
            f"The runs in {workdir} are not all of the same data, so they cannot be put into one table; choose another "
            "--workdir, or remove the runs of other data."
        )
    result = summarize(members, summaries) | {"refused": refused}
    try:
        if is_primary():
            atomic.write_text(path, json.dumps(result, indent=1, allow_nan=False))
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); free some space and run it again.") from error
    log_primary(report(result))
    return result


def _start(workdir: Path, members: Sequence[TrialSpec]) -> Path:
    """Returns the path of the table, which exists once all runs are complete; refuses runs of other recipes."""
    if (workdir / "split.json").exists():
        raise UserError(f"{workdir} holds a single run; choose another --workdir for several.")
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        for member in members:
            directory = workdir / member.name
            if (directory / "split.json").exists():
                Run.start(directory, check_recipe(member.recipe, directory))
        path = workdir / "sweep.json"
        path.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{workdir}: cannot be written ({error.strerror}); choose another --workdir.") from error
    return path


def summarize(members: Sequence[TrialSpec], summaries: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Computes mean and spread of the test metrics of complete runs.

    `protocols` holds for each protocol, for `test` and `baseline`, and for each metric: `mean` over all runs; `folds`,
    the standard deviation over folds of the mean over repeats; `repeats`, that over repeats of the mean over folds
    (both n - 1 in the denominator, None for one, or where a run lacks the metric); `interval`, the 95 % interval of the
    mean over repeats where nothing else varies (None otherwise: folds learn from each other's examples, see
    `uncertainty.Spread`); `runs`, the number of runs that have it; and `values` by run.
    """
    complete = [member for member in members if member.name in summaries]
    trials = {p: [m for m in complete if m.protocol == p] for p in dict.fromkeys(m.protocol for m in complete)}
    first = next(iter(summaries.values()))

    def of(protocol: str, key: str) -> list[Any]:
        return [summaries[member.name][key] for member in trials[protocol]]

    return {
        **{key: first[key] for key in ("metrics", "dataset", "age_groups", "data_sha256", "versions", "hardware")},
        "synthetic": any(summary["synthetic"] for summary in summaries.values()),
        "train_examples": {protocol: float(np.mean(of(protocol, "train_examples"))) for protocol in trials},
        "leaky": [protocol for protocol in trials if any(of(protocol, "leaky"))],
        "same_splits": len({summary["split_sha256"] for summary in summaries.values()})
        < len({(member.protocol, member.fold) for member in complete}),
        "identities": {protocol: sorted(set(map(identities, of(protocol, "subjects")))) for protocol in trials},
        "folds": sorted({member.fold for member in members}),
        "repeats": len({member.repeat for member in members}),
        "runs": list(summaries),
        "seconds": sum(summary["seconds"] for summary in summaries.values()),
        "protocols": {
            protocol: {
                kind: _spreads(runs, {run.name: summaries[run.name][kind] for run in runs}, first["metrics"])
                for kind in ("test", "baseline")
            }
            for protocol, runs in trials.items()
        },
    }


def _spreads(
    runs: Sequence[TrialSpec],
    measured: Mapping[str, Mapping[str, float | None]],
    metrics: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    folds, repeats = sorted({run.fold for run in runs}), sorted({run.repeat for run in runs})
    result = {}
    for name in dict.fromkeys(name for values in measured.values() for name in values if name in metrics):
        if metrics[name]["unit"] == "count":
            continue
        values = {run: of_run.get(name) for run, of_run in measured.items()}
        table = np.full((len(folds), len(repeats)), np.nan)
        for run in runs:
            value = values[run.name]
            table[folds.index(run.fold), repeats.index(run.repeat)] = np.nan if value is None else value
        known = np.isfinite(table)
        whole = bool(known.all())  # a metric that some fold has no example for has no spread over folds
        result[name] = {
            "mean": float(table[known].mean()) if known.any() else None,
            "folds": float(table.mean(1).std(ddof=1)) if len(folds) > 1 and whole else None,
            "repeats": float(table.mean(0).std(ddof=1)) if len(repeats) > 1 and whole else None,
            "interval": _interval(metrics[name]["bounds"], table[0]) if len(folds) == 1 and whole else None,
            "runs": int(known.sum()),
            "values": values,
        }
    return result


def _interval(bounds: Sequence[float | None], values: np.ndarray) -> list[float] | None:
    if len(values) < 2 or not np.ptp(values):
        return None
    spread = uncertainty.spread(values.tolist())
    low, high = bounds
    return [
        spread.low if low is None else max(spread.low, low),
        spread.high if high is None else min(spread.high, high),
    ]


def report(result: Mapping[str, Any]) -> str:
    """Formats a sweep as text: one row a metric, one column a protocol, beside published results and the baseline."""
    by_folds, by_repeats = len(result["folds"]) > 1, result["repeats"] > 1
    spread = "folds" if by_folds else "repeats"
    protocols = result["protocols"]
    titles = {name: marked(name, name in result["leaky"]) for name in protocols}
    columns: dict[str, dict[str, str]] = {}
    for protocol, measured in protocols.items():
        test = measured["test"]
        columns[titles[protocol]] = {name: _cell(values, spread) for name, values in test.items()}
        if by_folds and by_repeats:
            deviations = {name: values["repeats"] for name, values in test.items() if values["repeats"] is not None}
            columns[f"{protocol}, repeats"] = {name: f"± {value:.4f}" for name, value in deviations.items()}
    if {"paper", "disjoint"} <= set(protocols) and not result["same_splits"]:
        paper, disjoint = (
            {name: values["mean"] for name, values in protocols[key]["test"].items() if values["mean"] is not None}
            for key in ("paper", "disjoint")
        )
        columns["paper - disjoint"] = {
            name: f"{paper[name] - disjoint[name]:+.4f}" for name in paper if name in disjoint
        }
    for protocol, measured in protocols.items():
        title = "baseline" if len(protocols) == 1 else f"baseline, {protocol}"
        columns[title] = {name: _cell(values, spread) for name, values in measured["baseline"].items()}
    published = PUBLISHED.get(result["dataset"], {}) if _as_published(result) else {}
    for source, metrics in published.items():
        columns[source] = {name: f"{mean:.3f} ± {deviation:.3f}" for name, (mean, deviation) in metrics.items()}
    keys = list(dict.fromkeys(key for column in columns.values() for key in column))
    synthetic = f" ({DISCLAIMER})" if result["synthetic"] else ""
    over = [f"{len(result['folds'])} folds"] if by_folds else []
    over += [f"{result['repeats']} repeats"] if by_repeats else []
    statistics = f": mean ± standard deviation over {' and '.join(over)}" if over else ""
    lines = [
        f"{result['dataset']}{synthetic}, age groups {result['age_groups']}, test metrics of {len(result['runs'])} "
        f"runs in {duration(result['seconds'])}{statistics}",
        plain(by_row(columns, keys)),
        "baseline: the same prediction for every example, chosen on the training labels",
    ]
    if any(values["interval"] for measured in protocols.values() for values in measured["test"].values()):
        lines.append("[95 % interval of the mean over repeats, on these test examples]: other examples are not in it")
    counts = [f"{titles[name]} {count:,.0f}" for name, count in result["train_examples"].items()]
    lines.append(f"Training examples: {', '.join(counts)}")
    if len(protocols) > 1 and result["same_splits"]:
        lines.append("Both protocols gave the same split, because no subjects are identified: no leak can be measured")
    for protocol, sentences in result["identities"].items():
        lines += [f"{titles[protocol]}: {sentence}" for sentence in sentences]
    if result["synthetic"] and published:
        lines.append("Published results are of photographs and cannot be compared with those of synthetic images")
    if result["leaky"]:
        lines.append("Leaky: test subjects may be in the training set; the metrics do not hold for new people")
    lines += [f"{marked(protocol)}: refused. {reason}" for protocol, reason in result["refused"].items()]
    return "\n".join(lines)


def _as_published(result: Mapping[str, Any]) -> bool:
    """Returns whether folds and age groups are those of the published results."""
    disjoint = "disjoint" in result["protocols"]
    return disjoint and len(result["folds"]) == PUBLISHED_FOLDS and result["age_groups"] == "levi_hassner"


def _cell(values: Mapping[str, Any], spread: str) -> str:
    if values["mean"] is None:
        return ""
    missing = len(values["values"]) - values["runs"]
    text = f"{values['mean']:.4f}" + ("" if values[spread] is None else f" ± {values[spread]:.4f}")
    text += "" if values["interval"] is None else " [{:.4f}, {:.4f}]".format(*values["interval"])
    return f"{text} ({missing} runs without)" if missing else text
