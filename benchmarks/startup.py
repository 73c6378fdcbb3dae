"""From the command to the first step, with nothing compiled yet and with the compiled program in its cache.

Runs `launch.py` on prepared and decoded data (by default synthetic) again and again, each time in a new directory.
Measured are the run's own `first_step_seconds`, which end with the first dispatch, and the seconds of the whole
command, which trains one dispatch and evaluates the test part after it. There is no peer.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import bench_rows, launch_runs
from benchmarks.bench_rows import Row, make_row, say

EXAMPLES = """examples:
  python -m benchmarks.startup
  python -m benchmarks.startup --config configs/utkface_small.py:cpu --manual_dir DIR --data_dir DATA --json start.json
"""


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command."""
    parser = bench_rows.parser("benchmarks.startup", __doc__, EXAMPLES)
    launch_runs.add_options(parser, "configs/quickstart.py")
    parser.add_argument("--repeats", type=bench_rows.at_least(1), default=5, help="starts of each kind [5]")
    bench_rows.add_options(parser, windows=None)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    return bench_rows.run(measure, build_parser().parse_args(arguments))


def measure(arguments: argparse.Namespace) -> list[Row]:
    """The rows: first step and whole command, each cold and cached."""
    if arguments.smoke:
        arguments.set += ["dataset.synthetic=160", "dataset.image_size=32", "train.steps_per_dispatch=2"]
        arguments.repeats = 1
    with launch_runs.folder(arguments) as folder:
        say("preparing the data, and filling the cache ...")
        _start(arguments, folder / "prepare", folder / "kept")
        runs = {
            "cold": [_start(arguments, folder / f"cold{i}", folder / f"new{i}") for i in range(arguments.repeats)],
            "cached": [_start(arguments, folder / f"cached{i}", folder / "kept") for i in range(arguments.repeats)],
        }
    result = []
    for kind, finished in runs.items():
        name = f"{Path(arguments.config).name}, {kind}"
        about = launch_runs.about(finished[0])
        first = [run.summary["first_step_seconds"] for run in finished]
        result.append(make_row(f"{name}: first step", first, None, "s", about))
        result.append(make_row(f"{name}: whole command", [run.seconds for run in finished], None, "s", about))
    return result


def _start(arguments: argparse.Namespace, workdir: Path, cache: Path) -> launch_runs.Finished:
    command = launch_runs.command(arguments, workdir, ["train.epochs=1e-6"])  # one dispatch
    finished = launch_runs.run(command, workdir, JAX_COMPILATION_CACHE_DIR=str(cache))
    say(f"{workdir.name}: first step after {finished.summary['first_step_seconds']:.1f} s")
    return finished


if __name__ == "__main__":
    sys.exit(main())
