"""Writes docs/RESULTS.md: the prose of docs/results/RESULTS.md.in, with the tables of the JSON files beside it.

In the prose a line `<!-- table: NAME -->` stands for docs/results/NAME.json, which `--json` of `benchmarks.reproduce`,
`benchmarks.groups`, `benchmarks.coverage` or one that gives rows wrote, `<!-- cannot -->` for the list of what cannot
be reproduced, and `<!-- contents -->` for links to the sections.
"""

import argparse
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from agegender_jax import atomic
from agegender_jax.errors import UserError
from agegender_jax.text import Table
from benchmarks import bench_rows, groups
from benchmarks.pipe_rpc import ROOT
from benchmarks.reproduce import tables
from benchmarks.reproduce.papers import TARGETS

EXAMPLES = """examples:
  python -m benchmarks.reproduce table2 --cpu --repeats 2 --manual_dir DIR --json docs/results/table2.json
  python -m benchmarks.results
  python -m benchmarks.results --check
"""
PAGE = "RESULTS.md"
_MARKER = re.compile(r"<!-- (?:table: (?P<name>\w+)|(?P<cannot>cannot)) -->")
_CONTENTS = "<!-- contents -->"
_WRITTEN = "<!-- Written by `python -m benchmarks.results` from docs/results/: change that, not this page. -->\n"


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command."""
    parser = bench_rows.parser("benchmarks.results", __doc__, EXAMPLES)
    parser.add_argument(
        "--check", action="store_true", help="write nothing; fail where the page is not what it would be"
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    given = build_parser().parse_args(arguments)
    return bench_rows.guarded(lambda: update(ROOT / "docs", check=given.check))


def update(docs: Path, *, check: bool = False) -> None:
    """Writes the page of a folder, or checks it.

    Args:
      docs: holds `RESULTS.md`, and `results/` with the prose and the JSON files.
      check: write nothing.

    Raises:
      UserError: a file is missing, damaged or in no place of the prose; or the page is not what it should be.
    """
    page, text = docs / PAGE, fill(docs / "results")
    try:
        if not check:
            atomic.write_text(page, text)
        elif page.read_text(encoding="utf-8") != text:
            raise UserError(f"{page} is not what docs/results/ gives; run `python -m benchmarks.results`.")
    except OSError as error:
        raise UserError(f"{page}: {error.strerror}; check the folder.") from error


def fill(folder: Path) -> str:
    """The page.

    Args:
      folder: holds the prose and the JSON files.

    Raises:
      UserError: see `update`.
    """
    path = folder / f"{PAGE}.in"
    try:
        prose = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); restore the file.") from error
    used = [match["name"] for match in _MARKER.finditer(prose) if match["name"]]
    kept = {file.stem: file for file in sorted(folder.glob("*.json"))}
    for name in used:
        if name not in kept:
            raise UserError(f"{path} wants {folder / name}.json, which is not there; make it, or remove the line.")
    for name, file in kept.items():
        if used.count(name) != 1:
            raise UserError(
                f"{path} has `<!-- table: {name} -->` {used.count(name)} times for {file}; it must be once."
            )
    page = _MARKER.sub(lambda match: _table(kept[match["name"]]) if match["name"] else cannot(), prose)
    return _WRITTEN + page.replace(_CONTENTS, contents(page))


def contents(page: str) -> str:
    """Links to the sections of a page, a list of Markdown with anchors as GitHub makes them.

    >>> contents("# Title\\n\\n## One, two\\n\\ntext\\n\\n### Below\\n\\n## Three")
    '- [One, two](#one-two)\\n- [Three](#three)'
    """
    titles = re.findall(r"^## (.+)$", re.sub(r"^```.*?^```", "", page, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    anchors = [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles]
    if len(set(anchors)) < len(anchors):
        raise UserError("Links could not tell two sections of the page apart by their titles; rename one.")
    return "\n".join(f"- [{title}](#{anchor})" for title, anchor in zip(titles, anchors, strict=True))


def _covered(result: Mapping[str, Any]) -> str:
    """What `benchmarks.coverage` wrote."""
    header = (
        "95 % intervals that hold the truth",
        "by cluster",
        "naive",
        "mean width, by cluster",
        "tests without one",
    )
    cells = []
    for row in result["rows"]:
        clustered, naive, none = (f"{100 * row[name]:.1f} %" for name in ("clustered", "naive", "none"))
        cells.append((row["name"], clustered, naive, f"{row['width']:.3g}", none))
    table = bench_rows.markdown_table(Table(header, cells))
    return f"{result['tests']:,} simulated tests a row, {result['draws']:,} draws in each.\n\n{table}"


_TABLES: Mapping[str, Callable[[Any], str]] = {
    groups.TARGET: groups.markdown,
    "coverage": _covered,
    "rows": bench_rows.markdown,
}


def _table(path: Path) -> str:
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}); restore the file.") from error
    target = "rows" if isinstance(result, list) else result.get("target") if isinstance(result, dict) else None
    if target is None:
        raise UserError(f"{path} is no file of a benchmark's --json; remove it from there.")
    if target not in TARGETS and target not in _TABLES:
        known = ", ".join((*TARGETS, *(name for name in _TABLES if name != "rows")))
        raise UserError(f"{path} is of {target!r}, which is no target; choose from: {known}.")
    try:
        return _TABLES[target](result) if target in _TABLES else tables.markdown(TARGETS[target], result)
    except (KeyError, TypeError, ValueError, StopIteration) as error:
        raise UserError(f"{path} is damaged ({type(error).__name__}: {error}); restore the file.") from error


def cannot() -> str:
    """What cannot be reproduced, as a list by paper."""
    lines = []
    for target in TARGETS.values():
        source = target.source[0].upper() + target.source[1:]
        lines += [f"- {source}:", *(f"  - {sentence}" for sentence in target.cannot)]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
