"""The tables of the papers, trained and measured here, beside the papers' own numbers.

table2: Uraimov & Yoo's five nets on UTKFace, plain and with class weights
router: Imamdin et al.'s age regression, age nets behind a gender net, and one shared net, on UTKFace
voice: Mansour & Abu-Naser's nets on EmoDB, leaky and disjoint side by side, and the small net on EmoDB and RAVDESS
adience: Adience in five folds, leaky and disjoint

Each run is one of `launch.py`, and is resumed: the same command goes on where it was stopped. The table says where its
recipes are not those of the papers. `python -m benchmarks.results` puts the files of `--json` into docs/RESULTS.md.
"""

import argparse
import math
import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import bench_rows
from benchmarks.bench_rows import say
from benchmarks.reproduce.paper_table import Target
from benchmarks.reproduce.papers import TARGETS

EXAMPLES = """examples:
  python -m benchmarks.reproduce table2 --manual_dir DIR --repeats 3                       (a GPU)
  python -m benchmarks.reproduce table2 --manual_dir DIR --cpu --repeats 2 --dry_run       (two cores)
  python -m benchmarks.reproduce voice --manual_dir DIR --cpu --nets small_emodb --repeats 3
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    given = build_parser().parse_args(arguments)
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        code = bench_rows.guarded(lambda: reproduce(TARGETS[given.target], given), given.json)
    finally:
        signal.signal(signal.SIGTERM, before)
    if code == bench_rows.INTERRUPTED:
        say("Interrupted. The same command resumes.")
    return code


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt  # so that the run that is being trained is ended, too


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command."""
    parser = bench_rows.parser("benchmarks.reproduce", __doc__, EXAMPLES)
    whole = bench_rows.at_least(1)
    parser.add_argument("target", choices=TARGETS, help="whose table")
    parser.add_argument("--cpu", action="store_true", help="the recipes for two cores instead of the papers'")
    parser.add_argument("--size", type=bench_rows.at_least(16), metavar="PIXELS", help="of the input [the recipe's]")
    parser.add_argument("--epochs", type=_positive, metavar="E", help="of training [the recipe's]")
    parser.add_argument("--repeats", type=whole, default=1, help="runs of each, with other seeds on the same split [1]")
    parser.add_argument("--nets", nargs="+", default=[], metavar="NET", help="only these [all]")
    parser.add_argument("--protocol", choices=["disjoint", "paper", "both"], help="paper: leaky [the target's]")
    parser.add_argument("--manual_dir", type=Path, metavar="DIR", help="where the downloaded dataset lies")
    parser.add_argument("--data_dir", type=Path, metavar="DIR", help="where prepared data lie [as launch.py's]")
    parser.add_argument("--out", type=Path, metavar="DIR", help="of the runs [runs/reproduce/TARGET]")
    parser.add_argument("--json", type=Path, metavar="FILE", help="new file: write all metrics there, too")
    parser.add_argument("--dry_run", action="store_true", help="only say what would be trained, and about how long")
    parser.add_argument("--smoke", action="store_true", help="tiny, on synthetic data: its numbers mean nothing")
    return parser


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return value


def reproduce(target: Target, given: argparse.Namespace) -> None:
    """Trains what is missing, and prints the table; with `--dry_run`, says what it would do.

    Raises:
      UserError: something that the user can mend.
    """
    from agegender_jax.data.source import default_data_dir  # imports JAX, as the next: not for --help
    from agegender_jax.run import without_nan
    from benchmarks.reproduce import collect, running, tables

    given.protocols = ["paper", "disjoint"] if given.protocol == "both" else [given.protocol] if given.protocol else []
    given.cpu = given.cpu or given.smoke
    planned = running.plan_all(target, given)
    with tempfile.TemporaryDirectory(prefix="benchmark-") as temporary:
        place = Path(temporary) if given.smoke else Path("runs", "reproduce", target.name)
        out = (given.out or place).resolve()
        data_dir = given.data_dir or (Path(temporary, "data") if given.smoke else default_data_dir())
        if given.dry_run:
            print(running.described(planned, out))
            return
        manual_dir = given.manual_dir.resolve() if given.manual_dir and not given.smoke else None
        running.run_sweep(planned, out, manual_dir, data_dir.resolve())
        result = collect.collect(target, planned, out, collect.command_of(given))
    print(tables.text(target, result))
    bench_rows.write_json(given.json, without_nan(result))


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    sys.exit(main())
