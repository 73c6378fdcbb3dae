"""Several runs of one recipe side by side: protocols, folds and repeats, each run in a folder of its own.

Every run is resumed or skipped by itself, so the same command goes on wherever a study was stopped.
"""

import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from agegender_jax import atomic
from agegender_jax.distributed import PreemptionNotice, is_primary, log_primary, primary_first
from agegender_jax.errors import Preempted, Refused, UserError
from agegender_jax.evaluate import uncertainty
from agegender_jax.evaluate.report import PUBLISHED, PUBLISHED_FOLDS, identities
from agegender_jax.labels import DISCLAIMER
from agegender_jax.run import Run
from agegender_jax.splits import marked
from agegender_jax.text import by_row, duration, plain
from agegender_jax.train.loop import preemption, train_recipe
from agegender_jax.train.setup import check_recipe


@dataclass(frozen=True)
class TrialSpec:
    """One run of a study: `name` is its folder, the rest what it is a run of."""

    name: str
    protocol: str
    fold: int
    repeat: int
    recipe: ConfigDict


def run_sweep(
    members: Sequence[TrialSpec], workdir: Path, *, manual_dir: Path | None, data_dir: Path, progress: bool = True
) -> dict[str, Any]:
    """Trains the runs that are not complete yet, and puts all of them into one table.

    A protocol that the data cannot honour is left out, with the reason under the table.

    Args:
      members: from `command.expand_trials`.
      workdir: each run's folder is made in it, and `study.json` when all are complete.
      manual_dir: where the downloaded data lie, or None.
      data_dir: where prepared datasets and caches lie.
      progress: whether to draw progress bars.

    Returns:
      What `study.json` holds; see `summarize`.

    Raises:
      UserError: as `loop.train_recipe`; the directory holds something else; every protocol is refused.
    """
    with preemption() as stop:
        return _train_all(members, workdir, stop, manual_dir, data_dir, progress)


def _train_all(
    members: Sequence[TrialSpec],
    workdir: Path,
    stop: threading.Event | PreemptionNotice,
    manual_dir: Path | None,
    data_dir: Path,
    progress: bool,
) -> dict[str, Any]:
    with primary_first():
        path = _start(workdir, members)
    summaries: dict[str, dict[str, Any]] = {}
    refused: dict[str, str] = {}
    for number, member in enumerate(members, start=1):
        if member.protocol in refused:
            continue
        if stop.is_set():
            raise Preempted(
                f"Stopped by SIGTERM before run {number} of {len(members)}; the same command goes on there."
            )
        directory = workdir / member.name
        done = (directory / "summary.json").exists()
        log_primary(f"--- run {number} of {len(members)}: {member.name}{' is complete' if done else ''}")
        if done:
            summary = Run.load(directory).summary()
            assert summary is not None
        else:
            try:
                trained = train_recipe(
                    member.recipe, directory, manual_dir=manual_dir, data_dir=data_dir, progress=progress
                )
                summary = trained.to_dict()
            except Refused as error:
                refused[member.protocol] = str(error)
                log_primary(f"{marked(member.protocol)} is refused: {error}")
                with primary_first():
                    _forget(directory)
                continue
        summaries[member.name] = summary
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
    """The path of the table, which is not there until all runs are complete; refuses what other recipes left."""
    if (workdir / "split.json").exists():
        raise UserError(f"{workdir} holds a single run; choose another --workdir for several.")
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        for member in members:
            directory = workdir / member.name
            if (directory / "split.json").exists():
                Run.start(directory, check_recipe(member.recipe, directory))
        path = workdir / "study.json"
        path.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{workdir}: cannot be written ({error.strerror}); choose another --workdir.") from error
    return path


def _forget(directory: Path) -> None:
    """Removes what a refused run leaves: nothing was learned in it."""
    for name in ("recipe.json", ".lock"):
        (directory / name).unlink(missing_ok=True)
    if directory.exists() and not any(directory.iterdir()):
        directory.rmdir()


def summarize(members: Sequence[TrialSpec], summaries: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Mean and spread of the test figures of complete runs.

    `protocols` holds, for each protocol and each figure: `mean` over all runs; `folds`, the standard deviation over
    folds of the mean over repeats; `repeats`, that over repeats of the mean over folds (both n - 1 in the denominator,
    None for one, or where some run lacks the figure); `interval`, the 95 % interval of the mean over repeats, where
    nothing but repeats varies (None otherwise: folds learn from each other's examples, see `uncertainty.Spread`);
    `runs`, how many have it; and `values` by run. `baseline` holds the same of the best constant guess.
    """
    protocols: dict[str, Any] = {}
    first = next(iter(summaries.values()))
    for protocol in dict.fromkeys(member.protocol for member in members):
        runs = [member for member in members if member.protocol == protocol and member.name in summaries]
        if runs:
            protocols[protocol] = {
                kind: _spreads(runs, {run.name: summaries[run.name][kind] for run in runs}, first["metrics"])
                for kind in ("test", "baseline")
            }
    return {
        "metrics": first["metrics"],
        "dataset": first["dataset"],
        "synthetic": any(summary["synthetic"] for summary in summaries.values()),
        "age_groups": first["age_groups"],
        "data_sha256": first["data_sha256"],
        "train_examples": {
            protocol: float(
                np.mean(
                    [
                        summaries[m.name]["train_examples"]
                        for m in members
                        if m.protocol == protocol and m.name in summaries
                    ]
                )
            )
            for protocol in protocols
        },
        "leaky": [
            protocol
            for protocol in protocols
            if any(summaries[m.name]["leaky"] for m in members if m.protocol == protocol and m.name in summaries)
        ],
        "same_splits": len({summary["split_sha256"] for summary in summaries.values()})
        < len({(m.protocol, m.fold) for m in members if m.name in summaries}),
        "identities": {
            protocol: sorted(
                {
                    identities(summaries[m.name]["subjects"])
                    for m in members
                    if m.protocol == protocol and m.name in summaries
                }
            )
            for protocol in protocols
        },
        "folds": sorted({member.fold for member in members}),
        "repeats": len({member.repeat for member in members}),
        "runs": list(summaries),
        "seconds": sum(summary["seconds"] for summary in summaries.values()),
        "protocols": protocols,
        "versions": first["versions"],
        "hardware": first["hardware"],
    }


def _spreads(
    runs: Sequence[TrialSpec],
    figures: Mapping[str, Mapping[str, float | None]],
    metrics: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    folds, repeats = sorted({run.fold for run in runs}), sorted({run.repeat for run in runs})
    result = {}
    for figure in dict.fromkeys(figure for found in figures.values() for figure in found if figure in metrics):
        if metrics[figure]["unit"] == "count":
            continue
        values = {name: found.get(figure) for name, found in figures.items()}
        table = np.full((len(folds), len(repeats)), np.nan)
        for run in runs:
            value = values[run.name]
            table[folds.index(run.fold), repeats.index(run.repeat)] = np.nan if value is None else value
        there = np.isfinite(table)
        whole = bool(there.all())  # a figure that some fold has no example for has no spread over folds
        result[figure] = {
            "mean": float(table[there].mean()) if there.any() else None,
            "folds": float(table.mean(1).std(ddof=1)) if len(folds) > 1 and whole else None,
            "repeats": float(table.mean(0).std(ddof=1)) if len(repeats) > 1 and whole else None,
            "interval": _interval(metrics[figure]["bounds"], table[0]) if len(folds) == 1 and whole else None,
            "runs": int(there.sum()),
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
    """A study as text: one row a figure, one column a protocol, with what the published figures and chance are."""
    by_folds, by_repeats = len(result["folds"]) > 1, result["repeats"] > 1
    spread = "folds" if by_folds else "repeats"
    protocols = result["protocols"]
    titles = {name: marked(name, name in result["leaky"]) for name in protocols}
    columns: dict[str, dict[str, str]] = {}
    for protocol, found in protocols.items():
        columns[titles[protocol]] = {name: _cell(figure, spread) for name, figure in found["test"].items()}
        if by_folds and by_repeats:
            columns[f"{protocol}, repeats"] = {
                name: f"± {figure['repeats']:.4f}"
                for name, figure in found["test"].items()
                if figure["repeats"] is not None
            }
    if {"paper", "disjoint"} <= set(protocols) and not result["same_splits"]:
        leaky, honest = (protocols[name]["test"] for name in ("paper", "disjoint"))
        columns["paper - disjoint"] = {
            name: f"{leaky[name]['mean'] - honest[name]['mean']:+.4f}"
            for name in leaky
            if name in honest and None not in (leaky[name]["mean"], honest[name]["mean"])
        }
    for protocol, found in protocols.items():
        title = "baseline" if len(protocols) == 1 else f"baseline, {protocol}"
        columns[title] = {name: _cell(figure, spread) for name, figure in found["baseline"].items()}
    published = PUBLISHED.get(result["dataset"], {}) if _as_published(result) else {}
    for source, figures in published.items():
        columns[source] = {name: f"{mean:.3f} ± {deviation:.3f}" for name, (mean, deviation) in figures.items()}
    keys = list(dict.fromkeys(key for column in columns.values() for key in column))
    synthetic = f" ({DISCLAIMER})" if result["synthetic"] else ""
    over = [f"{len(result['folds'])} folds"] if by_folds else []
    over += [f"{result['repeats']} repeats"] if by_repeats else []
    over_what = f": mean ± standard deviation over {' and '.join(over)}" if over else ""
    lines = [
        f"{result['dataset']}{synthetic}, age groups {result['age_groups']}, test metrics of {len(result['runs'])} "
        f"runs in {duration(result['seconds'])}{over_what}",
        plain(by_row(columns, keys)),
        "baseline: the same prediction for every example, chosen on the training labels",
    ]
    if any(figure["interval"] for found in protocols.values() for figure in found["test"].values()):
        lines.append("[95 % interval of the mean over repeats, on these test examples]: other examples are not in it")
    counts = [f"{titles[name]} {count:.0f}" for name, count in result["train_examples"].items()]
    lines.append(f"examples to learn from: {', '.join(counts)}")
    if len(protocols) > 1 and result["same_splits"]:
        lines.append("both protocols gave the same split, for nothing tells people apart: no leak can be measured")
    for protocol, sentences in result["identities"].items():
        lines += [f"{titles[protocol]}: {sentence}" for sentence in sentences]
    if result["synthetic"] and published:
        lines.append("the published figures are of photographs and cannot be compared with those of drawings")
    if result["leaky"]:
        lines.append("leaky: whoever is tested on may have been learnt from; no figure for people who are new")
    lines += [f"{marked(protocol)}: refused. {reason}" for protocol, reason in result["refused"].items()]
    return "\n".join(lines)


def _as_published(result: Mapping[str, Any]) -> bool:
    """Whether the study's protocol is that of the published figures."""
    disjoint = "disjoint" in result["protocols"]
    return disjoint and len(result["folds"]) == PUBLISHED_FOLDS and result["age_groups"] == "levi_hassner"


def _cell(figure: Mapping[str, Any], spread: str) -> str:
    if figure["mean"] is None:
        return ""
    missing = len(figure["values"]) - figure["runs"]
    text = f"{figure['mean']:.4f}" + ("" if figure[spread] is None else f" ± {figure[spread]:.4f}")
    text += "" if figure["interval"] is None else " [{:.4f}, {:.4f}]".format(*figure["interval"])
    return f"{text} ({missing} runs without)" if missing else text
