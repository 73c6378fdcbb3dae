"""A run's figures by gender, race and age band, for docs/RESULTS.md: from its report, without any example's name.

`python -m benchmarks.results` puts the file into the page, at `<!-- table: NAME -->`.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agegender_jax import atomic
from agegender_jax.errors import UserError
from agegender_jax.splits import marked
from benchmarks import bench_rows

EXAMPLES = """examples:
  agegender report runs/pretrained
  python -m benchmarks.groups runs/pretrained --json docs/results/groups.json
"""
TARGET = "groups"
_FACTS = ("run", "dataset", "synthetic", "protocol", "age_groups", "versions", "hardware")
_FIGURES = {"gender": ("accuracy", 100, "%"), "age_group": ("accuracy", 100, "%"), "age": ("mae", 1, "years")}
_KEPT = ("gender", "race", "age_band", "n", "clusters")
_WAYS = ("gender", "race", "age_band", "gender x race x age_band")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = bench_rows.parser("benchmarks.groups", __doc__, EXAMPLES)
    parser.add_argument("run", type=Path, metavar="RUN", help="the run's directory, with its report")
    parser.add_argument("--json", type=Path, metavar="FILE", help="new file: write the groups there")
    given = parser.parse_args(arguments)
    try:
        bench_rows.check_json(given.json)
        result = keep(given.run)
        print(markdown(result))
        if given.json is not None:
            atomic.write_text(given.json, json.dumps(result, indent=1, allow_nan=False))
    except UserError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


def keep(run: Path) -> dict[str, Any]:
    """What the page needs of a run's `report/report.json`.

    Raises:
      UserError: there is no report, or one without groups.
    """
    path = run / "report" / "report.json"
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        test = report["test"]
        result = {"target": TARGET, **{name: report[name] for name in _FACTS}}
        result |= {name: test[name] for name in ("n", "clusters", "least", "least_clusters", "worst", "gap")}
        result["groups"] = {
            thing: [{name: row[name] for name in (*_KEPT, _FIGURES[thing][0])} for row in found]
            for thing, found in test["groups"].items()
            if thing in _FIGURES
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} holds no groups ({error!r}); write it with `agegender report {run}`.") from error
    return result


def markdown(result: Mapping[str, Any]) -> str:
    """The worst groups, and each figure by gender, race and age band."""
    drawn = " Drawn: they say nothing about people." if result["synthetic"] else ""
    lines = [
        f"{result['run']}: {result['dataset']}, protocol {marked(result['protocol'])}, test part of {result['n']:,} "
        f"examples in {result['clusters']:,} clusters.{drawn} A worst group has at least {result['least']} examples in "
        f"{result['least_clusters']} clusters.",
        "",
        "| figure | by | worst group | n | value | 95 % interval | gap to the best | 95 % interval |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    shown = {thing: figure for thing, figure in _FIGURES.items() if thing in result["groups"]}
    for thing, (figure, factor, unit) in shown.items():
        for way in _WAYS:
            if worst := result["worst"][thing].get(way):
                value, low, high = (_number(worst[key], factor) for key in ("value", "low", "high"))
                gap = result["gap"][thing][way]
                gap, least, most = (_number(gap[key], factor) for key in ("value", "low", "high"))
                name = ", ".join(worst[key] for key in ("gender", "race", "age_band") if worst[key])
                lines.append(
                    f"| {thing.replace('_', ' ')} {figure}, {unit} | {way.replace('_', ' ')} | {name} | {worst['n']:,} "
                    f"| {value} | {low} to {high} | {gap} | {least} to {most} |"
                )
    for thing, (figure, factor, unit) in shown.items():
        lines += ["", *_crossed(result, thing, figure, factor, unit)]
    return "\n".join(lines)


def _crossed(result: Mapping[str, Any], thing: str, figure: str, factor: float, unit: str) -> list[str]:
    crossed = [row for row in result["groups"][thing] if row["gender"] and row["race"] and row["age_band"]]
    bands = sorted({row["age_band"] for row in crossed}, key=lambda band: int(band.split("-")[0]))
    cells = {(row["gender"], row["race"], row["age_band"]): row for row in crossed}
    lines = [
        f"{thing.replace('_', ' ').capitalize()} {figure}, {unit} (n); fewer than {result['least']} examples in "
        "brackets:",
        "",
        f"| | {' | '.join(bands)} |",
        f"| --- |{' --- |' * len(bands)}",
    ]
    for gender, race in dict.fromkeys((row["gender"], row["race"]) for row in crossed):
        texts = [_cell(cells.get((gender, race, band)), figure, factor, result["least"]) for band in bands]
        lines.append(f"| {gender}, {race} | {' | '.join(texts)} |")
    return lines


def _cell(row: Mapping[str, Any] | None, figure: str, factor: float, least: int) -> str:
    if row is None:
        return ""
    text = f"{_number(row[figure]['value'], factor)} ({row['n']})"
    return text if row["n"] >= least else f"[{text}]"


def _number(value: float | None, factor: float) -> str:
    return "-" if value is None else f"{factor * value:.1f}" if factor > 1 else f"{value:.2f}"


if __name__ == "__main__":
    sys.exit(main())
