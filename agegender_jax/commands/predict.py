"""`agegender predict`: what a finished run says of anybody's pictures or recordings."""

import argparse
import contextlib
import csv
import importlib.util
import json
import math
import os
import sys
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from agegender_jax.commands.common import add, at_least, check_new, prepare, to_path, walk
from agegender_jax.errors import UserError
from agegender_jax.labels import DISCLAIMER
from agegender_jax.progress import progress_bar
from agegender_jax.text import csv_cell, encodable, printable
from tfds_builders.faces import MARGIN, MIN_SIZE

EXAMPLES = """examples:
  agegender predict runs/cpu face.jpg
  agegender predict runs/cpu album --detect --out faces.csv
  find . -name '*.jpg' | agegender predict runs/cpu --list - --out answers.parquet
"""

_ROWS_OF = {  # what a row is: one of them, and several
    "answer": ("{} answer", "{} answers"),
    "without a face": ("{} picture without a face", "{} pictures without a face"),
    "error": ("{} error", "{} errors"),
}
_ROWS = 16_384  # that Parquet keeps together, and this process in memory

Table = Mapping[str, np.ndarray]
"""See `Answers.columns`."""

Writer = tuple[Callable[[Table], None], Callable[[], None]]
"""What adds rows to a file, and what ends it."""


def add_parser(commands: Any) -> None:
    """Adds the command; it sets `function`, which takes the arguments and returns an exit code."""
    parser = add(
        commands,
        "predict",
        "answer for pictures or recordings with a finished run",
        "Writes what a finished run says of files: a row a file, in their order, with a probability for each class and "
        "an interval for each age; with --detect a row a face. Pictures are JPEG, PNG, WebP, BMP or TIFF, recordings "
        "wav, flac, ogg or mp3. What cannot be used is a row with its reason in the column `error`. Folders are walked "
        "in the order of names; what is hidden there is left out. Any number of files needs no more memory than a few "
        "batches (with --detect of up to 32 faces a picture) and, for each core, one file of at most 64 MiB and its "
        "picture of at most 64 million pixels. Exits with 0 where anything was answered, with 2 where nothing was. "
        "Answers are perceived age and gender as the annotators of the run's data saw them: not fit for age checks, "
        "for telling who somebody is, or for decisions about people.",
        EXAMPLES,
    )
    parser.add_argument("run", type=to_path, metavar="RUN", help="the run's directory (the --workdir of launch.py)")
    parser.add_argument("paths", nargs="*", metavar="PATH", help="files, and folders of them")
    parser.add_argument("--list", metavar="FILE", help="a file with a path a line; - is the standard input")
    parser.add_argument(
        "--out",
        type=to_path,
        metavar="FILE",
        help="new file: *.csv, *.jsonl (an object a line), *.json (an array of them) or *.parquet [CSV, here]",
    )
    parser.add_argument(
        "--level", type=_number(0, 1, within=True), default=0.9, help="of the ages' central interval [0.9]"
    )
    parser.add_argument(
        "--abstain_below",
        type=_number(0, 1),
        default=0.0,
        metavar="P",
        help="leave out classes less probable than this [0]",
    )
    parser.add_argument(
        "--abstain_wider",
        type=_number(0, math.inf, within=True),
        default=math.inf,
        metavar="YEARS",
        help="leave out ages whose interval is wider than this [no limit]",
    )
    parser.add_argument(
        "--min_bytes",
        type=at_least(0),
        default=0,
        metavar="N",
        help="smaller files are bad; 5000 is a filter of faces once published [0]",
    )
    detection = parser.add_mutually_exclusive_group()
    detection.add_argument(
        "--detect",
        action="store_true",
        default=None,
        help="search pictures for faces (a Haar cascade), and answer for each, the 32 largest of a picture [as the "
        "run's data were prepared]",
    )
    detection.add_argument(
        "--no_detect", action="store_false", dest="detect", default=None, help="take pictures as they are"
    )
    parser.add_argument(
        "--margin",
        type=_number(0, 2),
        metavar="SHARE",
        help="added around a detected face, as a share of its box, which is about as large as UTKFace's crops are "
        f"[{MARGIN:g}]",
    )
    parser.add_argument("--min_size", type=at_least(1), metavar="PIXELS", help=f"of a detected face [{MIN_SIZE}]")
    parser.set_defaults(function=_predict)


def _predict(arguments: argparse.Namespace) -> int:
    if not arguments.paths and arguments.list is None:
        raise UserError("There is nothing to answer for; name files or folders, or a --list of them.")
    _check_out(arguments.out)
    prepare()
    from agegender_jax.predictor import WITHOUT_FACE, Detection, Predictor

    predictor = Predictor.load(arguments.run)
    wanted = {name: getattr(arguments, name) for name in ("margin", "min_size") if getattr(arguments, name) is not None}
    detect: Detection | bool = False
    learned_from_faces = predictor.model.detection is not None
    if arguments.detect or (arguments.detect is None and learned_from_faces):
        detect = Detection(**wanted)
    elif wanted:
        raise UserError(f"--{next(iter(wanted))} is of detected faces, and none are detected; add --detect.")
    if detect and arguments.detect is None:
        print("The run learned from detected faces, so faces are detected; --no_detect leaves that.", file=sys.stderr)
    shown = sys.stderr.isatty()
    total = sum(1 for _ in walk(arguments.paths)) if shown and arguments.list is None else None
    bar = progress_bar(total, unit="files")
    taken = done = 0
    found: Counter[str] = Counter()

    def paths() -> Iterator[str]:
        nonlocal taken
        for path in _paths(arguments):
            taken += 1
            yield path

    try:
        with bar, _writing(arguments.out) as write:
            for answers in predictor.stream(
                paths(),
                level=arguments.level,
                abstain_below=arguments.abstain_below,
                abstain_wider=arguments.abstain_wider,
                detect=detect,
                min_bytes=arguments.min_bytes,
            ):
                write(answers.columns())
                without = answers.error.count(WITHOUT_FACE)
                errors = len(answers) - answers.answered - without
                found.update({"answer": answers.answered, "without a face": without, "error": errors})
                before, done = done, min(done + predictor.batch_size, taken)
                bar.update(done - before)
            if not found.total():
                raise UserError(f"{arguments.list}: names no file; put a path a line there.")
    except BrokenPipeError:  # whoever read the answers has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        left = f"{arguments.out} was not written" if arguments.out else "the answers are not complete"
        print(f"agegender: interrupted; files answered for: {done}; {left}.", file=sys.stderr)
        return 130
    where = f" in {arguments.out}" if arguments.out else ""
    print(f"{_counted(found)}{where}.", file=sys.stderr)
    if predictor.model.summary["synthetic"]:
        print(f"The run learned from examples that were {DISCLAIMER}.", file=sys.stderr)
    return 0 if found["answer"] else UserError.exit_code


def _counted(found: Mapping[str, int]) -> str:
    """Rows by what they are, as text; answers are always named."""
    parts = [
        _ROWS_OF[name][found[name] != 1].format(found[name]) for name in _ROWS_OF if found[name] or name == "answer"
    ]
    return ", ".join(parts) + (" (see the column `error`)" if len(parts) > 1 else "")


def _paths(arguments: argparse.Namespace) -> Iterator[str]:
    yield from walk(arguments.paths)
    if arguments.list is not None:
        here = arguments.list == "-"  # not `sys.stdin`, which refuses names that are no UTF-8
        try:
            with open(
                0 if here else arguments.list,
                encoding="utf-8",
                errors="surrogateescape",
                newline="\n",
                closefd=not here,
            ) as file:
                yield from walk(_lines(file))
        except OSError as error:
            raise UserError(
                f"{arguments.list}: cannot be read ({error.strerror}); check the path of --list."
            ) from error


def _lines(file: TextIO) -> Iterator[str]:
    for line in file:
        if path := line.rstrip("\n").removesuffix("\r"):
            yield path


def _check_out(out: Path | None) -> None:
    """Refuses, before hours of work, a file that could not be written after them or that is there already."""
    if out is None:
        return
    if out.suffix not in (".csv", ".json", ".jsonl", ".parquet"):
        raise UserError(f"{out}: this kind of file is not written; name it *.csv, *.jsonl, *.json or *.parquet.")
    check_new(out, "--out")
    if out.suffix == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise UserError(f"{out}: writing Parquet needs pyarrow, which is not installed; `pip install pyarrow`, or CSV.")


@contextlib.contextmanager
def _writing(out: Path | None) -> Iterator[Callable[[Table], None]]:
    """Gives a function that adds rows; in the end, and not before, the file has its name.

    What fails between is not the file's fault: of the system's errors only those of writing become a sentence here.
    """
    where = str(out or "the standard output")
    if out is None:
        yield _blamed(where, _csv(sys.stdout)[0])
        with _blame(where):
            sys.stdout.flush()
        return
    temporary = out.with_name(f".{out.name}.{uuid.uuid4().hex}.part")
    with _blame(where):
        file = _begun(temporary, out.suffix)
    write, end = {".csv": _csv, ".json": _json, ".jsonl": _json_lines, ".parquet": _parquet}[out.suffix](file)
    try:
        yield _blamed(where, write)
        with _blame(where):
            end()
            file.close()
            _check_out(out)  # again: much may have happened since
            os.replace(temporary, out)
    finally:
        with contextlib.suppress(Exception):  # after a failure: what was begun is ended, and thrown away
            end()
        with contextlib.suppress(Exception):
            file.close()
        temporary.unlink(missing_ok=True)


def _begun(path: Path, suffix: str) -> Any:
    """A new file, for bytes or for text as the kind of table wants it."""
    if suffix == ".parquet":
        return open(path, "xb")
    return open(path, "x", encoding="utf-8", newline="")


@contextlib.contextmanager
def _blame(where: str) -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise UserError(f"{where}: cannot be written ({error.strerror or error}); choose another --out.") from error


def _blamed(where: str, write: Callable[[Table], None]) -> Callable[[Table], None]:
    def blamed(table: Table) -> None:
        with _blame(where):
            write(table)

    return blamed


def _csv(file: TextIO) -> Writer:
    writer = csv.writer(file)  # lines end as RFC 4180 has it, and whatever a name holds is quoted
    begun = False

    def safe(value: str) -> str:
        found = csv_cell(value, file.encoding)
        return printable(found) if file.isatty() else found

    def write(table: Table) -> None:
        nonlocal begun
        if not begun:
            writer.writerow(map(safe, table))
            begun = True
        writer.writerows(zip(*(_plain(column, safe) for column in table.values()), strict=True))

    return write, file.flush


def _json_lines(file: TextIO) -> Writer:
    def write(table: Table) -> None:
        for line in _objects(table):
            file.write(line + "\n")

    return write, file.flush


def _json(file: TextIO) -> Writer:
    before = "["

    def write(table: Table) -> None:
        nonlocal before
        for line in _objects(table):
            file.write(f"{before}\n{line}")
            before = ","

    def end() -> None:
        file.write("[]\n" if before == "[" else "\n]\n")

    return write, end


def _objects(table: Table) -> Iterator[str]:
    """Each row as a JSON object in a line."""
    columns = [_plain(column, encodable) for column in table.values()]
    for row in zip(*columns, strict=True):
        yield json.dumps(dict(zip(table, row, strict=True)), ensure_ascii=False)


def _parquet(file: Any) -> Writer:
    import pyarrow
    from pyarrow import parquet

    waiting: list[Any] = []
    writer: Any = None

    def flush() -> None:
        nonlocal writer
        if waiting:
            if writer is None:
                writer = parquet.ParquetWriter(file, waiting[0].schema)
            writer.write_table(pyarrow.concat_tables(waiting).combine_chunks())
            waiting.clear()

    def write(table: Table) -> None:
        columns = {}
        for name, column in table.items():
            if column.dtype == object:
                columns[encodable(name)] = pyarrow.array(_plain(column, encodable), pyarrow.string())
            else:
                columns[name] = pyarrow.array(column, mask=np.isnan(column) | (column.dtype.kind == "i") & (column < 0))
        waiting.append(pyarrow.table(columns))
        if sum(map(len, waiting)) >= _ROWS:
            flush()

    def end() -> None:
        flush()
        if writer is not None:
            writer.close()

    return write, end


def _plain(column: np.ndarray, written: Callable[[str], str]) -> list[Any]:
    """A column of `Answers.columns` as values that text files know, None where there is none."""
    if column.dtype == object:
        return [None if value is None else written(value) for value in column.tolist()]
    if column.dtype.kind == "i":
        return [None if value < 0 else value for value in column.tolist()]
    # As float32 writes them: few digits that read back as the same number.
    return [None if number == "nan" else float(number) for number in column.astype(str).tolist()]


def _number(least: float, most: float, *, within: bool = False) -> Callable[[str], float]:
    """A type of option: numbers between two, which are numbers of that kind unless it must lie `within`."""

    def number(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not (least < value < most if within else least <= value <= most):
            between = f"above {least:g} and below {most:g}" if within else f"from {least:g} to {most:g}"
            raise argparse.ArgumentTypeError(f"{text!r} is no number {between}")
        return value

    return number
