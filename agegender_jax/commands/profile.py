"""The command `agegender profile`: a short training under the profiler."""

import argparse
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agegender_jax.errors import UserError, quiet_libraries
from agegender_jax.flags import read_recipe
from agegender_jax.text import Table, plain

EXAMPLES = """examples:
  agegender profile configs/quickstart.py
  agegender profile configs/utkface_small.py:cpu --manual_dir DIR --dispatches 10 --out profiles/small
  agegender profile configs/voice_small.py:synthetic --set train.batch_size=64
"""
_SHORT = 5
"""Dispatches, unless more or fewer are asked for: traces of many steps are slow to open."""


def add_parser(commands: Any) -> None:
    """Adds `profile`; it sets `function`, which takes the arguments and returns an exit code.

    Args:
      commands: what `ArgumentParser.add_subparsers` returned.
    """
    parser = commands.add_parser(
        "profile",
        help="measure where the time of a training goes",
        description="Trains a recipe for a few dispatches (calls of the device, config.train.steps_per_dispatch steps "
        "each), evaluates and saves once, and prints where the time went. The first dispatch is left out of the trace, "
        "which TensorBoard's profile plugin and https://ui.perfetto.dev show. The run itself is deleted.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", metavar="CONFIG", help="recipe, FILE.py or FILE.py:ARGUMENT")
    parser.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="changes of the recipe, as --config.KEY=VALUE",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("profile"), metavar="DIR", help="folder, new or empty [profile]"
    )
    parser.add_argument("--dispatches", type=_several, default=_SHORT, help=f"at least 2 [{_SHORT}]")
    parser.add_argument(
        "--manual_dir", type=lambda text: Path(text).expanduser(), metavar="DIR", help="where the downloaded data lie"
    )
    parser.add_argument(
        "--data_dir", type=Path, metavar="DIR", help="where prepared data lie [TFDS_DATA_DIR or ~/tensorflow_datasets]"
    )
    parser.set_defaults(function=command)


def command(arguments: argparse.Namespace) -> int:
    """Runs `profile`."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    from agegender_jax.compilation import cache_compilations
    from agegender_jax.data.source import default_data_dir
    from agegender_jax.train.loop import train_recipe

    quiet_libraries()
    cache_compilations()
    recipe = read_recipe(arguments.config, arguments.set)
    out: Path = arguments.out.expanduser()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} exists and is not an empty directory; choose another --out.")
    data_dir = (arguments.data_dir or default_data_dir()).expanduser()
    recipe.evaluate.report = False
    options = {"manual_dir": arguments.manual_dir, "data_dir": data_dir, "dispatches": arguments.dispatches}
    with tempfile.TemporaryDirectory() as folder:
        summary = train_recipe(recipe, Path(folder) / "run", trace=out, **options)
    print(time_table(summary.seconds_of))
    traced = summary.steps // recipe.train.steps_per_dispatch - 1
    path = next(out.rglob("perfetto_trace.json.gz"), out)
    print(f"{path}: the trace of {traced} dispatch{'es' if traced > 1 else ''}.")
    print(f"Open it in https://ui.perfetto.dev, or {out} in TensorBoard, if that has its profile plugin.")
    return 0


def time_table(seconds: Mapping[str, float]) -> str:
    """Formats `Summary.seconds_of` in seconds and shares of the total.

    >>> print(time_table({"step": 3.0, "idle": 1.0}))
           seconds    share
    step      3.00   75.0 %
    idle      1.00   25.0 %
    total     4.00  100.0 %
    """
    total = sum(seconds.values())
    rows = [*seconds.items(), ("total", total)]
    cells = [(name, f"{spent:.2f}", f"{100 * spent / total:.1f} %") for name, spent in rows]
    return plain(Table(("", "seconds", "share"), cells))


def _several(text: str) -> int:
    if not text.isdecimal() or not 2 <= int(text) <= 10_000:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 2 to 10,000")
    return int(text)
