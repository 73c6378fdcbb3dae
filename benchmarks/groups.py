"""A run's metrics by gender, race and age band, for docs/RESULTS.md: from its report, without any example's name.

`python -m benchmarks.results` puts the file into the page, at `<!-- table: NAME -->`.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agegender_jax.errors import UserError
from agegender_jax.splits import marked
from agegender_jax.text import Table
from benchmarks import bench_rows

EXAMPLES = """examples:
  agegender report runs/pretrained
  python -m benchmarks.groups runs/pretrained --json docs/results/groups.json
"""
TARGET = "groups"
_METADATA = ("run", "dataset", "synthetic", "protocol", "age_groups", "versions", "hardware")
_METRICS = {"gender": ("accuracy", 100, "%"), "age_group": ("accuracy", 100, "%"), "age": ("mae", 1, "years")}
_KEPT = ("gender", "race", "age_band", "n", "clusters")
_WAYS = ("gender", "race", "age_band", "gender x race x age_band")


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command."""
    parser = bench_rows.parser("benchmarks.groups", __doc__, EXAMPLES)
    parser.add_argument("run", type=Path, metavar="RUN", help="the run's directory, with its report")
    parser.add_argument("--json", type=Path, metavar="FILE", help="new file: write the groups there")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    given = build_parser().parse_args(arguments)

    def work() -> None:
        result = keep(given.run)
        print(markdown(result))
        bench_rows.write_json(given.json, result)

    return bench_rows.guarded(work, given.json)


def keep(run: Path) -> dict[str, Any]:
    """Reads what the page needs of a run's `report/report.json`.

    Raises:
      UserError: there is no report, or one without groups.
    """
    path = run / "report" / "report.json"
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        test = report["test"]
        result = {"target": TARGET, **{name: report[name] for name in _METADATA}}
        result |= {name: test[name] for name in ("n", "clusters", "least", "least_clusters", "worst", "gap")}
        result["groups"] = {
            target: [{name: row[name] for name in (*_KEPT, _METRICS[target][0])} for row in rows]
            for target, rows in test["groups"].items()
            if target in _METRICS
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} holds no groups ({error!r}); write it with `agegender report {run}`.") from error
    return result


def markdown(result: Mapping[str, Any]) -> str:
    """Returns tables of the worst groups, and of each metric by gender, race and age band."""
    synthetic = " Synthetic: not about people." if result["synthetic"] else ""
    lines = [
        f"{result['run']}: {result['dataset']}, protocol {marked(result['protocol'])}, test part of {result['n']:,} "
        f"examples in {result['clusters']:,} clusters.{synthetic} A worst group has at least {result['least']} "
        f"examples in {result['least_clusters']} clusters.",
        "",
    ]
    header = ("metric", "by", "worst group", "n", "value", "95 % interval", "gap to the best", "95 % interval")
    cells = []
    shown = {target: metric for target, metric in _METRICS.items() if target in result["groups"]}
    for target, (metric, factor, unit) in shown.items():
        for way in _WAYS:
            if worst := result["worst"][target].get(way):
                value, low, high = (_number(worst[key], factor) for key in ("value", "low", "high"))
                gap = result["gap"][target][way]
                gap, least, most = (_number(gap[key], factor) for key in ("value", "low", "high"))
                name = ", ".join(worst[key] for key in ("gender", "race", "age_band") if worst[key])
                title = f"{target.replace('_', ' ')} {metric}, {unit}"
                by = (title, way.replace("_", " "), name, f"{worst['n']:,}")
                cells.append((*by, value, f"{low} to {high}", gap, f"{least} to {most}"))
    lines.append(bench_rows.markdown_table(Table(header, cells)))
    for target, (metric, factor, unit) in shown.items():
        lines += ["", *_crossed(result, target, metric, factor, unit)]
    return "\n".join(lines)


def _crossed(result: Mapping[str, Any], target: str, metric: str, factor: float, unit: str) -> list[str]:
    crossed = [row for row in result["groups"][target] if row["gender"] and row["race"] and row["age_band"]]
    bands = sorted({row["age_band"] for row in crossed}, key=lambda band: int(band.split("-")[0]))
    cells = {(row["gender"], row["race"], row["age_band"]): row for row in crossed}
    title = f"{target.replace('_', ' ').capitalize()} {metric}, {unit} (n); "
    rows = [
        (
            f"{gender}, {race}",
            *(_cell(cells.get((gender, race, band)), metric, factor, result["least"]) for band in bands),
        )
        for gender, race in dict.fromkeys((row["gender"], row["race"]) for row in crossed)
    ]
    table = bench_rows.markdown_table(Table(("", *bands), rows))
    return [f"{title}fewer than {result['least']} examples in brackets:", "", table]


def _cell(row: Mapping[str, Any] | None, metric: str, factor: float, least: int) -> str:
    if row is None:
        return ""
    text = f"{_number(row[metric]['value'], factor)} ({row['n']})"
    return text if row["n"] >= least else f"[{text}]"


def _number(value: float | None, factor: float) -> str:
    return "-" if value is None else f"{factor * value:.1f}" if factor > 1 else f"{value:.2f}"


if __name__ == "__main__":
    sys.exit(main())
