"""`agegender predict`: what a finished run says of anybody's pictures or recordings."""

import argparse
import contextlib
import csv
import importlib.util
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from agegender_jax.commands.common import add, at_least, prepare
from agegender_jax.errors import UserError
from agegender_jax.labels import DISCLAIMER
from tfds_builders.faces import MARGIN, MIN_SIZE

EXAMPLES = """examples:
  agegender predict runs/cpu face.jpg
  agegender predict runs/cpu album --detect --out faces.csv
  find . -name '*.jpg' | agegender predict runs/cpu --list - --out answers.parquet
"""

_ROWS = 16_384  # that Parquet keeps together, and this process in memory
_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what a spreadsheet takes for the beginning of one
_LEFT_OUT = "__MACOSX"  # folders that archives of macOS bring, with files that are none

Table = Mapping[str, np.ndarray]
"""See `Answers.columns`."""


def add_parser(commands: Any) -> None:
    """Adds the command; it sets `function`, which takes the arguments and returns an exit code."""
    parser = add(
        commands,
        "predict",
        "answer for pictures or recordings with a finished run",
        "Writes what a finished run says of files: a row a file, in their order, with a probability for each class and "
        "an interval for each age; with --detect a row a face. What cannot be used is a row with its reason in the "
        "column `error`. Folders are walked in the order of names; what is hidden there is left out. Any number of "
        "files needs no more memory than a few batches and one file of at most 64 MiB a core. Answers are perceived "
        "age and gender as the annotators of the run's data saw them: not fit for age checks, for telling who somebody "
        "is, or for decisions about people.",
        EXAMPLES,
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="the run's directory (the --workdir of launch.py)")
    parser.add_argument("paths", nargs="*", metavar="PATH", help="files, and folders of them")
    parser.add_argument("--list", metavar="FILE", help="a file with a path a line; - is the standard input")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="new file: *.csv, *.json (an object a line) or *.parquet [CSV, here]"
    )
    parser.add_argument("--level", type=_number(0, 1), default=0.9, help="of the ages' central interval [0.9]")
    parser.add_argument(
        "--abstain_below",
        type=_number(0, 1),
        default=0.0,
        metavar="P",
        help="leave out classes less probable than this [0]",
    )
    parser.add_argument(
        "--min_bytes",
        type=at_least(0),
        default=0,
        metavar="N",
        help="smaller files are bad; 5000 is a filter of faces once published [0]",
    )
    parser.add_argument(
        "--detect",
        action=argparse.BooleanOptionalAction,
        help="search pictures for faces (a Haar cascade), and answer for each [as the run's data were prepared]",
    )
    parser.add_argument(
        "--margin",
        type=_number(0, 2),
        default=MARGIN,
        help="added around a detected face, as a share of its box, which is about as large as UTKFace's crops are "
        f"[{MARGIN:g}]",
    )
    parser.add_argument(
        "--min_size", type=at_least(1), default=MIN_SIZE, metavar="PIXELS", help=f"of a detected face [{MIN_SIZE}]"
    )
    parser.set_defaults(function=_predict)


def _predict(arguments: argparse.Namespace) -> int:
    if not arguments.paths and arguments.list is None:
        raise UserError("There is nothing to answer for; name files or folders, or a --list of them.")
    _check_out(arguments.out)
    prepare()
    from tqdm import tqdm

    from agegender_jax.predictor import Detection, Predictor

    predictor = Predictor.load(arguments.run)
    crop = predictor.run.recipe.dataset.crop if arguments.detect is None else arguments.detect
    if crop and arguments.detect is None:
        print("The run learned from detected faces, so faces are detected; --no-detect leaves that.", file=sys.stderr)
    shown = sys.stderr.isatty()
    total = sum(1 for _ in _walk(arguments.paths)) if shown and arguments.list is None else None
    paths = tqdm(_paths(arguments), total=total, unit=" files", disable=not shown, file=sys.stderr)
    rows = answered = 0
    try:
        with _writing(arguments.out) as write:
            for answers in predictor.stream(
                paths,
                level=arguments.level,
                abstain_below=arguments.abstain_below,
                detect=Detection(arguments.margin, arguments.min_size) if crop else None,
                min_bytes=arguments.min_bytes,
            ):
                write(answers.columns())
                rows, answered = rows + len(answers), answered + answers.answered
            if not rows:
                raise UserError(f"{arguments.list}: names no file; put a path a line there.")
    except BrokenPipeError:  # whoever read the answers has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    finally:
        paths.close()
    where = f" in {arguments.out}" if arguments.out else ""
    print(f"{answered} answers and {rows - answered} errors (see the column `error`){where}.", file=sys.stderr)
    if (predictor.run.summary() or {}).get("drawn"):
        print(f"The run learned from examples that were {DISCLAIMER}.", file=sys.stderr)
    return 0 if answered else UserError.exit_code


def _paths(arguments: argparse.Namespace) -> Iterator[str]:
    yield from _walk(arguments.paths)
    if arguments.list == "-":
        yield from _walk(_lines(sys.stdin))
    elif arguments.list is not None:
        try:
            with open(arguments.list, encoding="utf-8", errors="surrogateescape", newline="\n") as file:
                yield from _walk(_lines(file))
        except OSError as error:
            raise UserError(
                f"{arguments.list}: cannot be read ({error.strerror}); check the path of --list."
            ) from error


def _lines(file: TextIO) -> Iterator[str]:
    for line in file:
        if path := line.rstrip("\n").removesuffix("\r"):
            yield path


def _walk(paths: Iterable[str]) -> Iterator[str]:
    """The files, and those of the folders: sorted by name, a folder's own before those of the folders in it.

    What is no file, or cannot be told, is given back as it is, so that whoever reads it says what is wrong.
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


def _check_out(out: Path | None) -> None:
    """Refuses, before hours of work, a file that could not be written after them or that is there already."""
    if out is None:
        return
    if out.suffix not in (".csv", ".json", ".parquet"):
        raise UserError(f"{out}: this kind of file is not written; name it *.csv, *.json or *.parquet.")
    if not out.parent.is_dir():
        raise UserError(f"{out.parent} is no folder; make it, or choose another --out.")
    if os.path.lexists(out):
        raise UserError(f"{out} is there already, and nothing is overwritten; choose another --out.")
    if out.suffix == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise UserError(f"{out}: writing Parquet needs pyarrow, which is not installed; `pip install pyarrow`, or CSV.")


@contextlib.contextmanager
def _writing(out: Path | None) -> Iterator[Callable[[Table], None]]:
    """Gives a function that adds rows; in the end, and not before, the file has its name."""
    if out is None:
        yield _csv(sys.stdout)
        sys.stdout.flush()
        return
    temporary = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        if out.suffix == ".parquet":
            with _parquet(temporary) as write:
                yield write
        else:
            with open(temporary, "w", encoding="utf-8", newline="") as file:
                yield _csv(file) if out.suffix == ".csv" else _json(file)
        _check_out(out)  # again: much may have happened since
        os.replace(temporary, out)
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror or error}); choose another --out.") from error
    finally:
        temporary.unlink(missing_ok=True)


def _csv(file: TextIO) -> Callable[[Table], None]:
    writer = csv.writer(file)  # lines end as RFC 4180 has it, and whatever a name holds is quoted
    begun = False

    def write(table: Table) -> None:
        nonlocal begun
        if not begun:
            writer.writerow(_safe(_text(name, file.encoding)) for name in table)
            begun = True
        columns = [_plain(column, file.encoding) for column in table.values()]
        texts = [column.dtype == object for column in table.values()]
        for row in zip(*columns, strict=True):
            writer.writerow(_safe(cell) if text else cell for cell, text in zip(row, texts, strict=True))

    return write


def _safe(cell: str | None) -> str | None:
    """A text that no spreadsheet takes for a formula."""
    return f"'{cell}" if cell and cell.startswith(_FORMULA) else cell


def _json(file: TextIO) -> Callable[[Table], None]:
    def write(table: Table) -> None:
        columns = [_plain(column, "utf-8") for column in table.values()]
        for row in zip(*columns, strict=True):
            file.write(json.dumps(dict(zip(table, row, strict=True)), ensure_ascii=False) + "\n")

    return write


@contextlib.contextmanager
def _parquet(path: Path) -> Iterator[Callable[[Table], None]]:
    import pyarrow
    from pyarrow import parquet

    waiting: list[Any] = []
    with contextlib.ExitStack() as stack:
        writer: Any = None

        def flush() -> None:
            nonlocal writer
            if waiting:
                if writer is None:
                    writer = stack.enter_context(parquet.ParquetWriter(path, waiting[0].schema))
                writer.write_table(pyarrow.concat_tables(waiting).combine_chunks())
                waiting.clear()

        def write(table: Table) -> None:
            columns = {}
            for name, column in table.items():
                if column.dtype == object:
                    columns[_text(name, "utf-8")] = pyarrow.array(_plain(column, "utf-8"), pyarrow.string())
                else:
                    columns[name] = pyarrow.array(
                        column, mask=np.isnan(column) | (column.dtype.kind == "i") & (column < 0)
                    )
            waiting.append(pyarrow.table(columns))
            if sum(map(len, waiting)) >= _ROWS:
                flush()

        yield write
        flush()


def _plain(column: np.ndarray, encoding: str) -> list[Any]:
    """A column of `Answers.columns` as values that text files know, None where there is none."""
    if column.dtype == object:
        return [None if value is None else _text(value, encoding) for value in column.tolist()]
    if column.dtype.kind == "i":
        return [None if value < 0 else value for value in column.tolist()]
    # As float32 writes them: few digits that read back as the same number.
    return [None if text == "nan" else float(text) for text in column.astype(str).tolist()]


def _text(value: str, encoding: str) -> str:
    """A text that can be written: bytes of a file's name that are no characters become their numbers."""
    return value.encode(encoding, "backslashreplace").decode(encoding)


def _number(least: float, most: float) -> Callable[[str], float]:
    """A type of option: numbers between two."""

    def number(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is no number from {least:g} to {most:g}")
        return value

    return number
