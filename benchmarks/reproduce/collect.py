"""From complete runs to metrics: what is kept as JSON, and what the tables are made of."""

import argparse
import shlex
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agegender_jax.errors import UserError
from agegender_jax.train.sweep import TrialSpec, summarize
from benchmarks import launch_runs
from benchmarks.reproduce import intervals
from benchmarks.reproduce.paper_table import Line, Target
from benchmarks.reproduce.running import Planned


def collect(target: Target, planned: Sequence[Planned], out: Path, command: str) -> dict[str, Any]:
    """Returns all metrics of complete runs, ready for JSON; it says nothing of when or where they were run.

    Args:
      target: which.
      planned: its runs, which are complete.
      out: the folder that they lie in.
      command: that trained them.

    Returns:
      `target`, `command`, `dataset`, `synthetic`, `age_groups`, `versions` and `hardware` (one of each kind that took
      part), `changes` (by system, where its recipe is not the paper's), `rows` (one a system and protocol) and
      `differences` (one a claim and protocol).

    Raises:
      UserError: runs are of different data, or a summary is damaged.
    """
    rows: list[dict[str, Any]] = []
    places: dict[tuple[str, str], list[Path]] = {}
    summaries: list[Mapping[str, Any]] = []
    for one in planned:
        of_member = {member.name: _summary(out / one.system.name / member.name) for member in one.members}
        if len({summary["data_sha256"] for summary in of_member.values()}) > 1:
            raise UserError(f"{out / one.system.name}: its runs are not all of the same data; choose another --out.")
        sweep = summarize(one.members, of_member)
        for protocol, metrics in sweep["protocols"].items():
            members = [member for member in one.members if member.protocol == protocol]
            place = [out / one.system.name / member.name for member in members]
            for line in one.system.lines:
                places[line.key, protocol] = place
            rows.append(_row(one, protocol, members, of_member, metrics, place))
        summaries += of_member.values()
    return {
        "target": target.name,
        "command": command,
        "dataset": summaries[0]["dataset"],
        "synthetic": any(summary["synthetic"] for summary in summaries),
        "age_groups": sorted({summary["age_groups"] for summary in summaries}),
        "versions": _versions(summaries),
        "hardware": sorted({launch_runs.hardware(summary["hardware"]) for summary in summaries}),
        "changes": {one.system.name: list(one.changes) for one in planned},
        "rows": rows,
        "differences": _differences(target, rows, places),
    }


def _summary(workdir: Path) -> Mapping[str, Any]:
    try:
        return launch_runs.read(workdir).summary
    except (OSError, ValueError) as error:
        raise UserError(f"{workdir / 'summary.json'} cannot be read ({error}); restore the file.") from error


def _versions(summaries: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    merged: dict[str, dict[str, None]] = {}
    for summary in summaries:
        for package, version in summary["versions"].items():
            merged.setdefault(package, {})[version] = None
    return {package: list(versions) for package, versions in merged.items()}


def _row(
    one: Planned,
    protocol: str,
    members: Sequence[TrialSpec],
    summaries: Mapping[str, Mapping[str, Any]],
    metrics: Mapping[str, Any],
    place: Sequence[Path],
) -> dict[str, Any]:
    mine = [summaries[member.name] for member in members]
    speeds = [summary["images_per_second"] for summary in mine if summary["images_per_second"]]
    wanted = sorted({name for line in one.system.lines for name in line.metrics.values()})
    test = {name: metrics["test"][name] for name in wanted if name in metrics["test"]}
    return {
        "system": one.system.name,
        "protocol": protocol,
        "leaky": any(summary["leaky"] for summary in mine),
        "folds": len({member.fold for member in members}),
        "repeats": len({member.repeat for member in members}),
        "image_size": one.recipe.dataset.image_size,
        "epochs": one.recipe.train.epochs,
        "train_examples": round(statistics.mean(summary["train_examples"] for summary in mine)),
        "test_examples": round(statistics.mean(summary["test"]["n"] for summary in mine)),
        "parameters": mine[0]["parameters"],
        "images_per_second": statistics.median(speeds) if speeds else None,
        "minutes": statistics.mean(summary["seconds"] for summary in mine) / 60,
        "test": {name: metric | intervals.interval(place, name) for name, metric in test.items()},
        "baseline": {name: metrics["baseline"][name]["mean"] for name in wanted if name in metrics["baseline"]},
    }


def _differences(
    target: Target, rows: Sequence[Mapping[str, Any]], places: Mapping[tuple[str, str], Sequence[Path]]
) -> list[dict[str, Any]]:
    """Of every claim whose lines were both trained, by protocol."""
    systems = {line.key: system.name for system in target.systems for line in system.lines}
    by_name = {(row["system"], row["protocol"]): row for row in rows}
    differences = []
    for protocol in dict.fromkeys(row["protocol"] for row in rows):
        for claim in target.claims:
            lines = [target.line(key) for key in (claim.a, claim.b)]
            names = [line.metrics[claim.column] for line in lines]
            trained = [by_name.get((systems[line.key], protocol)) for line in lines]
            metrics = [row["test"].get(name, {}) if row else {} for row, name in zip(trained, names, strict=True)]
            if any(metric.get("mean") is None for metric in metrics):
                continue
            a, b = lines
            differences.append(
                {
                    "a": claim.a,
                    "b": claim.b,
                    "column": claim.column,
                    "protocol": protocol,
                    "published": published(a, b, claim.column),
                    **intervals.judge(
                        [places[line.key, protocol] for line in lines],
                        names,
                        [_by_repeat(metric, row["folds"]) for metric, row in zip(metrics, trained, strict=True) if row],
                    ),
                }
            )
    intervals.settle(differences)
    return differences


def _by_repeat(metric: Mapping[str, Any], folds: int) -> list[float]:
    """The mean over folds of each repeat that has all of them, or, of none that has, the mean of all runs."""
    values = list(metric["values"].values())  # one repeat after another, as `command.expand_trials` has them
    repeats = [values[start : start + folds] for start in range(0, len(values), folds)]
    return [statistics.mean(repeat) for repeat in repeats if None not in repeat] or [metric["mean"]]


def published(a: Line, b: Line, column: str) -> float | None:
    """The difference that the papers report, a less b, or None."""
    one, other = a.published.get(column), b.published.get(column)
    return one - other if isinstance(one, float) and isinstance(other, float) else None


def command_of(arguments: argparse.Namespace) -> str:
    """The command as it can be run again elsewhere: folders of this machine are left out."""
    words = ["python", "-m", "benchmarks.reproduce", arguments.target]
    words += ["--cpu"] if arguments.cpu else []
    words += ["--smoke"] if arguments.smoke else []
    for name in ("size", "epochs", "repeats"):
        value = getattr(arguments, name)
        if value is not None and not (name == "repeats" and value == 1):
            words += [f"--{name}", f"{value:g}"]
    words += ["--protocol", arguments.protocol] if arguments.protocol else []
    words += ["--nets", *arguments.nets] if arguments.nets else []
    words += ["--manual_dir", "DIR"] if arguments.manual_dir else []
    return shlex.join(words)
