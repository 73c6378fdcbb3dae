"""What the commands share: options, checks before and writing after. Imports nothing heavy until a command runs."""

import argparse
import contextlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from agegender_jax import atomic
from agegender_jax.errors import UserError, quiet_libraries
from agegender_jax.labels import DISCLAIMER

_LEFT_OUT = "__MACOSX"  # folders that archives of macOS bring, with files that are none

SPLITS = ("train", "val", "validation", "test", "all")


def add(commands: Any, name: str, text: str, description: str, examples: str) -> argparse.ArgumentParser:
    """Adds a command to what `ArgumentParser.add_subparsers` returned; `text` is its line in the list of all."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=text, description=description, epilog=examples, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    return parser


def add_run(parser: argparse.ArgumentParser, **options: Any) -> None:
    """Adds the argument RUN; `options` are those of `add_argument`."""
    parser.add_argument("run", type=to_path, metavar="RUN", help="a run's directory, launch.py's --workdir", **options)


def add_part(parser: argparse.ArgumentParser, default: str | None = None) -> None:
    """Adds `--split`."""
    parser.add_argument("--split", choices=SPLITS, type=_part_name, default=default, help=f"[{default or 'test'}]")


def add_data(parser: argparse.ArgumentParser, manual_dir: str = "where the run's data lie now") -> None:
    """Adds `--manual_dir`, whose help is given, and `--data_dir`."""
    parser.add_argument("--manual_dir", type=to_path, metavar="DIR", help=manual_dir)
    parser.add_argument("--data_dir", type=to_path, metavar="DIR", help="where prepared data lie [as in the run]")


def add_json(parser: argparse.ArgumentParser) -> None:
    """Adds `--json`; see `check_new` and `write_json`."""
    parser.add_argument("--json", type=to_path, metavar="FILE", help="new file: also write the result there")


def to_path(text: str) -> Path:
    """Converts an argument to a path; a leading `~` is the user's home, also where the shell leaves it."""
    return Path(text).expanduser()


def at_least(least: int) -> Any:
    """Returns a type of option: whole numbers from `least` on."""

    def whole(text: str) -> int:
        if not text.isdecimal() or not least <= int(text) < 2**31:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least} on")
        return int(text)

    return whole


def number(least: float, most: float, *, within: bool = False) -> Callable[[str], float]:
    """Returns a type of option: numbers between two, these included unless it must lie `within`."""

    def convert(text: str) -> float:
        with contextlib.suppress(ValueError):
            value = float(text)
            if least < value < most or (not within and value in (least, most)):
                return value
        between = f"above {least:g} and below {most:g}" if within else f"from {least:g} to {most:g}"
        raise argparse.ArgumentTypeError(f"{text!r} is not a number {between}")

    return convert


def prepare() -> None:
    """Quiets libraries and caches what JAX compiles; called before JAX is used."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    from agegender_jax.compilation import cache_compilations

    quiet_libraries()
    cache_compilations()


def _part_name(name: str) -> str:
    return "validation" if name == "val" else name


def title(result: Mapping[str, Any]) -> str:
    """Returns a line on what metrics are of."""
    from agegender_jax.splits import marked

    split = f", split {result['split_sha256'][:16]}" if result["split_sha256"] else ""
    synthetic = f" ({DISCLAIMER})" if result["synthetic"] else ""
    return (
        f"{result['run']}: {result['dataset']}{synthetic}, protocol {marked(result['protocol'], result['leaky'])}, "
        f"age groups {result['age_groups']}{split}"
    )


def walk(paths: Iterable[str]) -> Iterator[str]:
    """Yields the files, and those of the folders: sorted by name, a folder's own before those of the folders in it.

    What is no file, or no readable folder, is yielded as it is, so that whoever reads it names it.
    """
    for top in paths:
        waiting, count = [top], 0
        while waiting:
            path = waiting.pop()
            try:
                with os.scandir(path) as entries:
                    listed = sorted((entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries)
            except (OSError, ValueError):  # mostly, it is a file
                yield path
                count += 1
                continue
            listed = [entry for entry in listed if not entry[0].startswith(".") and entry[0] != _LEFT_OUT]
            for name, is_folder in listed:
                if not is_folder:
                    yield os.path.join(path, name)
                    count += 1
            waiting += [os.path.join(path, name) for name, is_folder in reversed(listed) if is_folder]
        if not count:
            yield top


def check_new(path: Path | None, option: str) -> None:
    """Refuses, before minutes of work, a file that could not be written after them or that is there already."""
    if path is None:
        return
    if not os.path.isdir(path.parent):
        raise UserError(f"{path.parent} is no folder; make it, or choose another {option}.")
    if os.path.lexists(path):
        raise UserError(f"{path} is there already, and nothing is overwritten; choose another {option}.")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise UserError(f"{path.parent}: nothing may be written there; choose another {option}.")


def write_json(path: Path | None, result: dict[str, Any]) -> None:
    """Writes a result to `--json`, whole or not at all; NaN becomes null."""
    from agegender_jax.run import without_nan

    if path is None:
        return
    check_new(path, "--json")  # again: much may have happened since
    try:
        atomic.write_text(path, json.dumps(without_nan(result), indent=1, allow_nan=False))
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); choose another --json.") from error
