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
from agegender_jax.report.format import bare, interval, spaced
from agegender_jax.splits import marked
from agegender_jax.text import Table
from benchmarks import bench_rows

EXAMPLES = """examples:
  agegender report runs/pretrained
  python -m benchmarks.groups runs/pretrained --json docs/results/groups.json
"""
TARGET = "groups"
_METADATA = ("run", "dataset", "synthetic", "protocol", "age_groups", "versions", "hardware")
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
        mains = {metric["target"]: metric for metric in report["metrics"].values() if metric["main"]}
        result["metrics"] = {name: {key: mains[name][key] for key in ("name", "unit")} for name in test["groups"]}
        result["groups"] = {
            target: [{name: row[name] for name in (*_KEPT, mains[target]["name"])} for row in rows]
            for target, rows in test["groups"].items()
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
    for target, metric in result["metrics"].items():
        unit = metric["unit"]
        for way in _WAYS:
            if worst := result["worst"][target].get(way):
                gap = result["gap"][target][way]
                name = ", ".join(worst[key] for key in ("gender", "race", "age_band") if worst[key])
                by = (_title(target, metric), way.replace("_", " "), name, f"{worst['n']:,}")
                ends = (bare(unit, gap["value"]), interval(unit, gap))
                cells.append((*by, bare(unit, worst["value"]), interval(unit, worst), *ends))
    lines.append(bench_rows.markdown_table(Table(header, cells)))
    for target, metric in result["metrics"].items():
        lines += ["", *_crossed(result, target, metric)]
    return "\n".join(lines)


def _title(target: str, metric: Mapping[str, str]) -> str:
    return f"{spaced(target)} {spaced(metric['name'])}, {'%' if metric['unit'] == 'share' else metric['unit']}"


def _crossed(result: Mapping[str, Any], target: str, metric: Mapping[str, str]) -> list[str]:
    crossed = [row for row in result["groups"][target] if row["gender"] and row["race"] and row["age_band"]]
    bands = sorted({row["age_band"] for row in crossed}, key=lambda band: int(band.split("-")[0]))
    cells: dict[str, dict[str, str]] = {}
    for row in crossed:
        text = f"{bare(metric['unit'], row[metric['name']]['value'])} ({row['n']})"
        of = cells.setdefault(f"{row['gender']}, {row['race']}", {})
        of[row["age_band"]] = text if row["n"] >= result["least"] else f"[{text}]"
    rows = [(name, *(row.get(band, "") for band in bands)) for name, row in cells.items()]
    title = f"{_title(target, metric).capitalize()} (n); fewer than {result['least']} examples in brackets:"
    return [title, "", bench_rows.markdown_table(Table(("", *bands), rows))]


if __name__ == "__main__":
    sys.exit(main())
