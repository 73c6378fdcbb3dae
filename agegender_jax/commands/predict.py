"""`agegender predict`: predictions of a finished run for images or recordings."""

import argparse
import contextlib
import csv
import importlib.util
import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from agegender_jax import atomic
from agegender_jax.commands.common import add, add_run, at_least, check_new, number, prepare, to_path, walk
from agegender_jax.errors import UserError
from agegender_jax.labels import DISCLAIMER
from agegender_jax.progress import progress_bar
from agegender_jax.text import csv_cell, encodable, printable
from tfds_builders.faces import MARGIN, MIN_SIZE

EXAMPLES = """examples:
  agegender predict runs/cpu face.jpg
  agegender predict runs/cpu album --detect --out faces.csv
  find . -name '*.jpg' | agegender predict runs/cpu --list - --out predictions.parquet
"""

_ROWS = 16_384  # that Parquet keeps together, and this process in memory

Table = Mapping[str, np.ndarray]
"""See `PredictionTable.columns`."""

Writer = tuple[Callable[[Table], None], Callable[[], None]]
"""What adds rows to a file, and what ends it."""


def add_parser(commands: Any) -> None:
    """Adds the command."""
    parser = add(
        commands,
        "predict",
        "predict with a finished run for images or recordings",
        "Writes the predictions of a finished run for files: a row a file, in their order, with a probability for each "
        "class and an interval for each age; with --detect a row a face. Images are JPEG, PNG, WebP, BMP or TIFF, "
        "recordings wav, flac, ogg or mp3. What cannot be used is a row with its reason in the column `error`. Folders "
        "are walked in the order of names; what is hidden there is left out. Any number of files needs no more memory "
        "than a few batches (with --detect of up to 32 faces an image) and, for each core, one file of at most 64 MiB "
        "and its image of at most 64 million pixels. Exits with 0 where anything was predicted, with 2 where nothing "
        "was. Predictions are perceived age and gender as the annotators of the run's data saw them: not fit for age "
        "checks, for telling who somebody is, or for decisions about people.",
        EXAMPLES,
    )
    add_run(parser)
    parser.add_argument("paths", nargs="*", metavar="PATH", help="files, and folders of them")
    parser.add_argument("--list", metavar="FILE", help="a file with a path a line; - is the standard input")
    parser.add_argument(
        "--out",
        type=to_path,
        metavar="FILE",
        help="new file: *.csv, *.jsonl (an object a line), *.json (an array of them) or *.parquet [CSV, here]",
    )
    parser.add_argument(
        "--level", type=number(0, 1, within=True), default=0.9, help="of the ages' central interval [0.9]"
    )
    parser.add_argument(
        "--abstain_below",
        type=number(0, 1),
        default=0.0,
        metavar="P",
        help="leave out classes less probable than this [0]",
    )
    parser.add_argument(
        "--abstain_wider",
        type=number(0, math.inf, within=True),
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
        help="search images for faces (a Haar cascade), and predict for each of the 32 largest [as the run's data were "
        "prepared]",
    )
    detection.add_argument(
        "--no_detect", action="store_false", dest="detect", default=None, help="take images as they are"
    )
    parser.add_argument(
        "--margin",
        type=number(0, 2),
        metavar="SHARE",
        help="added around a detected face, as a share of its box, which is about as large as UTKFace's crops are "
        f"[{MARGIN:g}]",
    )
    parser.add_argument("--min_size", type=at_least(1), metavar="PIXELS", help=f"of a detected face [{MIN_SIZE}]")
    parser.set_defaults(function=_predict)


def _predict(arguments: argparse.Namespace) -> int:
    if not arguments.paths and arguments.list is None:
        raise UserError("No files are given; name files or folders, or a --list of them.")
    _check_out(arguments.out)
    prepare()
    from agegender_jax.predictor import WITHOUT_FACE, Predictor

    predictor = Predictor.load(arguments.run)
    detect = _detection(arguments, learned_from_faces=predictor.model.detection is not None)
    paths = _Counted(_paths(arguments))
    total = None
    if sys.stderr.isatty() and arguments.list is None:
        total = sum(1 for _ in walk(arguments.paths))
    done = predicted = without_face = errors = 0
    try:
        with predictor, progress_bar(total, unit="files") as bar, _writing(arguments.out) as write:
            for table in predictor.stream(
                paths,
                level=arguments.level,
                abstain_below=arguments.abstain_below,
                abstain_wider=arguments.abstain_wider,
                detect=detect,
                min_bytes=arguments.min_bytes,
            ):
                write(table.columns())
                predicted += table.predicted
                without_face += table.error.count(WITHOUT_FACE)
                errors += len(table) - table.predicted - table.error.count(WITHOUT_FACE)
                before, done = done, min(done + predictor.batch_size, paths.count)
                bar.update(done - before)
            if not done:
                raise UserError(f"{arguments.list}: names no file; put a path a line there.")
    except BrokenPipeError:  # whoever read the predictions has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        left = f"{arguments.out} was not written" if arguments.out else "the predictions are not complete"
        print(f"agegender: interrupted after {done} files; {left}.", file=sys.stderr)
        return 130
    counts = {"prediction": predicted, "image without a face": without_face, "error": errors}
    texts = [_plural(count, name) for name, count in counts.items() if count or name == "prediction"]
    where = f" in {arguments.out}" if arguments.out else ""
    print(", ".join(texts) + " (see the column `error`)" * (len(texts) > 1) + f"{where}.", file=sys.stderr)
    if predictor.model.summary["synthetic"]:
        print(f"The run learned from examples that are {DISCLAIMER}.", file=sys.stderr)
    return 0 if predicted else UserError.exit_code


def _detection(arguments: argparse.Namespace, *, learned_from_faces: bool) -> Any:
    from agegender_jax.data.detect import Detection

    options = {name: getattr(arguments, name) for name in ("margin", "min_size")}
    options = {name: value for name, value in options.items() if value is not None}
    if arguments.detect is None and learned_from_faces:
        print("The run learned from detected faces, so faces are detected; --no_detect leaves that.", file=sys.stderr)
    elif not arguments.detect:
        if options:
            raise UserError(f"--{next(iter(options))} is of detected faces, and none are detected; add --detect.")
        return False
    return Detection(**options)


def _plural(count: int, name: str) -> str:
    first, *rest = name.split()
    return " ".join([str(count), first + "s" * (count != 1), *rest])


class _Counted(Iterator[str]):
    """Counts the paths that were taken."""

    def __init__(self, paths: Iterator[str]) -> None:
        self._paths, self.count = paths, 0

    def __next__(self) -> str:
        path = next(self._paths)
        self.count += 1
        return path


def _paths(arguments: argparse.Namespace) -> Iterator[str]:
    yield from walk(arguments.paths)
    if arguments.list is None:
        return
    standard = arguments.list == "-"  # not `sys.stdin`, which refuses names that are no UTF-8
    try:
        with open(
            0 if standard else arguments.list,
            encoding="utf-8",
            errors="surrogateescape",
            newline="\n",
            closefd=not standard,
        ) as file:
            yield from walk(path for line in file if (path := line.rstrip("\n").removesuffix("\r")))
    except OSError as error:
        raise UserError(f"{arguments.list}: cannot be read ({error.strerror}); check the path of --list.") from error


def _check_out(out: Path | None) -> None:
    """Refuses, before hours of work, a file that could not be written after them or that is there already."""
    if out is None:
        return
    if out.suffix not in _WRITERS:
        raise UserError(f"{out}: this kind of file is not written; name it *.csv, *.jsonl, *.json or *.parquet.")
    check_new(out, "--out")
    if out.suffix == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise UserError(f"{out}: writing Parquet needs pyarrow, which is not installed; `pip install pyarrow`, or CSV.")


@contextlib.contextmanager
def _writing(out: Path | None) -> Iterator[Callable[[Table], None]]:
    """Yields a function that adds rows; in the end, and not before, the file has its name.

    What fails between is not the file's fault: of the system's errors only those of writing name it.
    """
    blame = _Blame(str(out or "the standard output"))
    if out is None:
        yield blame(_csv(sys.stdout)[0])
        with blame:
            sys.stdout.flush()
        return
    text: dict[str, Any] = {"mode": "x", "encoding": "utf-8", "newline": ""}
    whole = False
    try:
        with atomic.replacing(out) as temporary:
            with blame:
                file = open(temporary, **({"mode": "xb"} if out.suffix == ".parquet" else text))  # noqa: SIM115
            write, end = _WRITERS[out.suffix](file)
            try:
                yield blame(write)
                with blame:
                    end()
                    file.close()
                _check_out(out)  # again: much may have happened since
            except BaseException:
                for close in (end, file.close):  # the file is thrown away, and what fails now is no news
                    with contextlib.suppress(Exception):
                        close()
                raise
            whole = True
    except OSError:
        with blame if whole else contextlib.nullcontext():  # what gives the file its name
            raise


class _Blame(contextlib.ContextDecorator):
    """Turns errors of writing into a sentence that names the file."""

    def __init__(self, where: str) -> None:
        self._where = where

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, OSError) and not isinstance(error, BrokenPipeError):
            reason = error.strerror or error
            raise UserError(f"{self._where}: cannot be written ({reason}); choose another --out.") from error


def _csv(file: TextIO) -> Writer:
    writer = csv.writer(file)  # lines end as RFC 4180 has it, and whatever a name holds is quoted
    begun = False

    def safe(value: str) -> str:
        cell = csv_cell(value, file.encoding)
        return printable(cell) if file.isatty() else cell

    def write(table: Table) -> None:
        nonlocal begun
        if not begun:
            writer.writerow(map(safe, table))
            begun = True
        writer.writerows(zip(*(_plain(column, safe) for column in table.values()), strict=True))

    return write, file.flush


def _json_lines(file: TextIO) -> Writer:
    return lambda table: file.writelines(f"{line}\n" for line in _objects(table)), file.flush


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
    """Yields each row as a JSON object in a line."""
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
            writer = writer or parquet.ParquetWriter(file, waiting[0].schema)
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


_WRITERS: dict[str, Callable[[Any], Writer]] = {
    ".csv": _csv,
    ".json": _json,
    ".jsonl": _json_lines,
    ".parquet": _parquet,
}


def _plain(column: np.ndarray, written: Callable[[str], str]) -> list[Any]:
    """Returns a column of `PredictionTable.columns` as values that text files know, None where there is none."""
    if column.dtype == object:
        return [None if value is None else written(value) for value in column.tolist()]
    if column.dtype.kind == "i":
        return [None if value < 0 else value for value in column.tolist()]
    # As float32 writes them: few digits that read back as the same number.
    return [None if number == "nan" else float(number) for number in column.astype(str).tolist()]
