"""What every benchmark prints and writes: rows measured in paired windows, and shared options."""

import argparse
import dataclasses
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from agegender_jax import atomic
from agegender_jax.errors import UserError
from agegender_jax.text import Table, plain

LEAST_WINDOWS = 5
INTERRUPTED = 130  # the exit code of a command that Ctrl-C or SIGTERM ended
_QUIET = 0.3  # load of each core from which on a warning is printed
_SETTLE_SECONDS = 0.1  # after a turn, some threads of a pool still spin for a while


@dataclasses.dataclass(frozen=True)
class Row:
    """One measurement.

    Attributes:
      name: what was measured.
      ours: median over the windows, in `unit`.
      peer: the same of what it is compared with; None where there is nothing.
      ratio_median: of the windows' own ratios, ours / peer; None where there is no peer.
      ratio_min: the smallest of them.
      ratio_max: the largest.
      unit: of `ours` and `peer`.
      versions: of what took part, by package.
      hardware: the device and the processor.
    """

    name: str
    ours: float
    peer: float | None
    ratio_median: float | None
    ratio_min: float | None
    ratio_max: float | None
    unit: str
    versions: Mapping[str, str]
    hardware: str


def make_row(
    name: str, ours: Sequence[float], peer: Sequence[float] | None, unit: str, about: Mapping[str, Any]
) -> Row:
    """Returns the row of some windows; with a peer, `ours[i]` and `peer[i]` were measured one right after the other.

    Args:
      name: what was measured.
      ours: a number a window.
      peer: the same, or None.
      unit: of the numbers.
      about: `versions` and `hardware`.

    >>> row = make_row("x", [2.0, 6.0, 3.0], [1.0, 2.0, 3.0], "images/s", {"versions": {}, "hardware": "none"})
    >>> row.ours, row.peer, row.ratio_median, row.ratio_min, row.ratio_max
    (3.0, 2.0, 2.0, 1.0, 3.0)
    """
    ratios = None if peer is None else [a / b for a, b in zip(ours, peer, strict=True)]
    return Row(
        name,
        statistics.median(ours),
        statistics.median(peer) if peer is not None else None,
        statistics.median(ratios) if ratios else None,
        min(ratios) if ratios else None,
        max(ratios) if ratios else None,
        unit,
        about["versions"],
        about["hardware"],
    )


def paired(
    ours: Callable[[], float], peer: Callable[[], float] | None, windows: int
) -> tuple[list[float], list[float] | None]:
    """Measures both, in turns: who begins changes from window to window, so that a drift hits both.

    Args:
      ours: measures once, and returns the number.
      peer: the same, or None.
      windows: how often.
    """
    if peer is None:
        return [ours() for _ in range(windows)], None
    measured: dict[Callable[[], float], list[float]] = {ours: [], peer: []}
    for window in range(windows):
        for measure in (ours, peer) if window % 2 == 0 else (peer, ours):
            time.sleep(_SETTLE_SECONDS)
            measured[measure].append(measure())
    return measured[ours], measured[peer]


def _table(rows: Sequence[Row], empty: str) -> Table:
    cells = []
    for row in rows:
        peer = empty if row.peer is None else _number(row.peer)
        ratio = empty if row.ratio_median is None else f"{row.ratio_median:.3f}"
        spread = "" if row.ratio_min is None else f"{row.ratio_min:.3f} to {row.ratio_max:.3f}"
        cells.append((row.name, _number(row.ours), peer, ratio, spread, row.unit))
    return Table(("", "ours", "peer", "ratio, median", "of the windows", "unit"), cells)


def table(rows: Sequence[Row]) -> str:
    """Returns the rows as text, and below them what they were measured on."""
    lines = [plain(_table(rows, "-"))]
    for hardware in dict.fromkeys(row.hardware for row in rows):
        merged: dict[str, dict[str, None]] = {}
        for row in rows:
            for package, version in row.versions.items() if row.hardware == hardware else ():
                merged.setdefault(package, {})[version] = None
        versions = ", ".join(f"{package} {' / '.join(versions)}" for package, versions in merged.items())
        lines.append(f"{hardware}; {versions}")
    return "\n".join(lines)


def markdown(kept: Sequence[Mapping[str, Any]]) -> str:
    """Returns the rows of a file of `--json` as a table for the page of results."""
    rows = [Row(**row) for row in kept]
    lines = [markdown_table(_table(rows, ""))]
    for about in dict.fromkeys((row.hardware, tuple(row.versions.items())) for row in rows):
        lines += ["", f"{about[0]}; {', '.join(f'{package} {version}' for package, version in about[1])}."]
    return "\n".join(lines)


def markdown_table(table: Table) -> str:
    """Returns a table in Markdown.

    >>> print(markdown_table(Table(("", "n"), [("male", "9")])))
    |  | n |
    | --- | --- |
    | male | 9 |
    """
    lines = [table.header, ["---"] * len(table.header), *table.rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _number(value: float) -> str:
    """Formats with four digits, or all before the point, and no exponent where it can be read without."""
    if value and not 1e-3 <= abs(value) < 1e7:
        return f"{value:.2e}"
    before = len(str(int(abs(value)))) if abs(value) >= 1 else 0
    return f"{value:,.{max(0, 4 - before)}f}"


def parser(program: str, text: str | None, examples: str) -> argparse.ArgumentParser:
    """Returns the parser of a benchmark's command; `--help` keeps the lines of its text and of its examples."""
    return argparse.ArgumentParser(
        prog=program, description=text, epilog=examples, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def add_options(parser: argparse.ArgumentParser, *, windows: int | None = 7) -> None:
    """Adds `--json`, `--smoke` and, where `windows` is its default, `--windows`."""
    if windows:
        parser.add_argument(
            "--windows", type=at_least(LEAST_WINDOWS), default=windows, help=f"measured windows [{windows}]"
        )
    parser.add_argument("--json", type=Path, metavar="FILE", help="new file: write the rows there, too")
    parser.add_argument("--smoke", action="store_true", help="tiny, only to see that it runs: its numbers mean nothing")


def at_least(least: int) -> Callable[[str], int]:
    """Returns the type of an option that is a whole number from `least` on."""

    def whole(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number from {least} on")
        return int(text)

    return whole


def check_json(path: Path | None) -> None:
    """Refuses, before anything is measured, a file that is there or that could not be written.

    Raises:
      UserError: so it is.
    """
    if path is None:
        return
    if os.path.lexists(path):
        raise UserError(f"{path} is there already, and nothing is overwritten; choose another --json.")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise UserError(f"{path.parent} is no folder that may be written to; choose another --json.")


def write_json(path: Path | None, result: Any) -> None:
    """Writes a result as JSON where a file is named: whole, or not at all."""
    if path is None:
        return
    check_json(path)  # again: it may have appeared since
    try:
        atomic.write_text(path, json.dumps(result, indent=1, allow_nan=False) + "\n")
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); choose another --json.") from error


def guarded(work: Callable[[], object], json_path: Path | None = None) -> int:
    """Runs the work of a command, and returns its exit code: what the user can mend is printed as a sentence."""
    try:
        check_json(json_path)
        work()
    except UserError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


def run(measure: Callable[[argparse.Namespace], Sequence[Row]], arguments: argparse.Namespace) -> int:
    """Runs a benchmark as a command: prints its rows, writes them to `--json`, and returns the exit code."""

    def work() -> None:
        if _load() > _QUIET * (os.cpu_count() or 1):
            say(
                f"Others use this machine (load {_load():.1f}): frameworks suffer from that unequally; repeat in quiet."
            )
        rows = measure(arguments)
        print(table(rows))
        write_json(arguments.json, [dataclasses.asdict(row) for row in rows])

    return guarded(work, arguments.json)


def _load() -> float:
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0


def say(text: str) -> None:
    """Prints the progress."""
    print(text, file=sys.stderr, flush=True)
