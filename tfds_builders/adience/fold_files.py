"""Adience's five fold files: the face in each image, its annotations and its fold."""

import collections
import csv
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tfds_builders.archive import DataError, read_text
from tfds_builders.labels import MAX_AGE
from tfds_builders.report import Rejected

FILES = tuple(f"fold_{fold}_data.txt" for fold in range(5))  # names of the five files, in the order of the folds
COLUMNS = (
    *("user_id", "original_image", "face_id", "age", "gender", "x", "y", "dx", "dy"),
    *("tilt_ang", "fiducial_yaw_angle", "fiducial_score"),
)
"""The columns as published; the first five are needed."""

GROUPS = ((0, 2), (4, 6), (8, 12), (15, 20), (25, 32), (38, 43), (48, 53), (60, 100))
"""The eight age groups, in years. The scheme `levi_hassner` uses the rows whose label is exactly one of them."""

PUBLISHED_AGE = (4316, 3101, 3339, 2975, 3693)  # rows with one of GROUPS (Levi and Hassner 2015)
PUBLISHED_GENDER = (4007, 3624, 3191, 3318, 3463)  # rows annotated m or f (likewise)
GENDERS = {"m": 0, "f": 1, "u": 2, "": -1}  # stored gender by annotation
_NEEDED = COLUMNS[:5]
_RANGE = re.compile(r"\(\s*(\d{1,3})\s*,\s*(\d{1,3})\s*\)", re.ASCII)
_NUMBER = re.compile(r"\d{1,3}(\.\d{1,3})?", re.ASCII)
_UNSAFE = re.compile(r"[/\\:\x00-\x1f\x7f]|\.\.")  # in a file name could lead out of its folder
_SOURCE = "the five files are at https://talhassner.github.io/home/projects/Adience/Adience-data.html"


class Row(NamedTuple):
    """One line of a fold file."""

    user: str  # user_id, of Flickr
    image: str  # original_image, the photograph
    subject: int  # face_id, the person
    age_label: str  # age, verbatim
    gender: int  # one of GENDERS' values
    fold: int  # 0 to 4

    @property
    def key(self) -> str:
        """Returns `USER/FACE.IMAGE`: one face in one photograph."""
        return f"{self.user}/{self.subject}.{self.image}"


def parse_age(label: str) -> tuple[float, float] | None:
    """Parses an age label as (low, high) in years, both the same for a single number; None where it is unknown.

    Nothing is corrected: reversed ranges, such as (25, 23), stay as they are.

    >>> parse_age("(25, 32)"), parse_age("35"), parse_age("(25, 23)"), parse_age("None")
    ((25.0, 32.0), (35.0, 35.0), (25.0, 23.0), None)

    Raises:
      DataError: the label has another form, or an age above `MAX_AGE`.
    """
    if label in ("None", ""):
        return None
    if match := _RANGE.fullmatch(label):
        low, high = float(match[1]), float(match[2])
    elif _NUMBER.fullmatch(label):
        low = high = float(label)
    else:
        raise DataError(f"the age label {label!r} is neither a range such as (25, 32), nor a number, nor None.")
    if max(low, high) > MAX_AGE:
        raise DataError(f"the age label {label!r} is above {MAX_AGE} years.")
    return low, high


def read_fold_files(folder: Path, rejected: Rejected) -> list[Row]:
    """Reads the five fold files of a folder, repeated rows included.

    UTF-8 with or without a byte-order mark, any line ends, fields separated by tabs, commas or semicolons; columns are
    recognised by their names, in any order, and others are ignored. Rows that cannot be used are added to `rejected`.

    Raises:
      DataError: a file is missing, empty, too large or not UTF-8, or lacks a column.
    """
    return [row for fold, name in enumerate(FILES) for row in _read(Path(folder, name), fold, rejected)]


def without_repeats(rows: Sequence[Row], rejected: Rejected) -> list[Row]:
    """Returns the first row of each face in a photograph; repetitions that differ from it are added to `rejected`."""
    first: dict[str, Row] = {}
    for row in rows:
        known = first.setdefault(row.key, row)
        if row.fold != known.fold:
            rejected.add(row.key, "rows that repeat a face of another fold")
        elif row != known:
            rejected.add(row.key, "rows that repeat a face with other labels")
    return list(first.values())


def row_counts(rows: Sequence[Row]) -> dict[str, Any]:
    """Returns counts of all rows, repeats included: JSON values by name."""
    folds = range(len(FILES))
    times = collections.Counter(row.key for row in rows)
    ages = [parse_age(row.age_label) for row in rows]
    odd = collections.Counter(
        row.age_label for row, age in zip(rows, ages, strict=True) if age is not None and age not in GROUPS
    )
    undefined = [row for row in rows if row.gender == GENDERS["u"]]

    def in_two_folds(pairs: set[tuple[Any, int]]) -> int:
        return sum(count > 1 for count in collections.Counter(name for name, _ in pairs).values())

    def per_fold(chosen: Sequence[Row]) -> list[int]:
        return [sum(row.fold == fold for row in chosen) for fold in folds]

    return {
        "rows": len(rows),
        "rows_per_fold": per_fold(rows),
        "faces": len(times),
        "repeated_rows": len(rows) - len(times),
        "repeated_faces": sum(count > 1 for count in times.values()),
        "subjects": len({row.subject for row in rows}),
        "subjects_in_two_folds": in_two_folds({(row.subject, row.fold) for row in rows}),
        "users": len({row.user for row in rows}),
        "users_in_two_folds": in_two_folds({(row.user, row.fold) for row in rows}),
        "levi_hassner_age": per_fold([row for row, age in zip(rows, ages, strict=True) if age in GROUPS]),
        "levi_hassner_gender": per_fold([row for row in rows if row.gender in (GENDERS["m"], GENDERS["f"])]),
        "age_unknown": sum(age is None for age in ages),
        "gender_unknown": sum(row.gender == GENDERS[""] for row in rows),
        "gender_u": len(undefined),
        "gender_u_infants": sum(parse_age(row.age_label) == GROUPS[0] for row in undefined),
        "odd_age_labels": dict(odd.most_common()),
    }


def _read(path: Path, fold: int, rejected: Rejected) -> Iterator[Row]:
    lines = re.split(r"\r\n|\r|\n", read_text(path))
    separator = max("\t,;", key=lines[0].count)
    try:
        header = [name.lower() for name in _fields(lines[0], separator)]
    except DataError:
        header = []
    if absent := [name for name in _NEEDED if name not in header]:
        raise DataError(
            f"{path}, line 1: there is no column {absent[0]!r}; the first line names the columns, "
            f"{', '.join(_NEEDED)} among them, separated by tabs ({_SOURCE})."
        )
    at = [header.index(name) for name in _NEEDED]
    if not any(line.strip() for line in lines[1:]):
        raise DataError(f"{path}: there is no row below the names of the columns; {_SOURCE}.")
    for number, line in enumerate(lines[1:], 2):
        if not line.strip():
            continue
        try:
            fields = _fields(line, separator)
            if len(fields) < len(header):
                raise DataError("rows with too few fields")
            if any(fields[len(header) :]):
                raise DataError("rows with too many fields")
            yield _row([fields[column] for column in at], fold)
        except DataError as error:
            rejected.add(f"{path.name}, line {number}", str(error))


def _row(fields: list[str], fold: int) -> Row:
    """Returns the row of these five fields; a DataError holds a reason that rows may share."""
    user, image, subject, age_label, gender = fields
    if not user or not image:
        raise DataError("rows without a user_id or an original_image")
    if _UNSAFE.search(user) or _UNSAFE.search(image) or user == ".":
        raise DataError("rows whose user_id or original_image is not a plain file name")
    if not re.fullmatch(r"\d{1,18}", subject, re.ASCII):
        raise DataError("rows whose face_id is not a whole number")
    if gender.lower() not in GENDERS:
        raise DataError("rows whose gender is not f, m, u or empty")
    try:
        parse_age(age_label)
    except DataError as error:
        raise DataError("rows whose age label cannot be read") from error
    return Row(user, image, int(subject), age_label, GENDERS[gender.lower()], fold)


def _fields(line: str, separator: str) -> list[str]:
    if separator == ",":  # a range has a comma of its own, which is not always quoted
        line = re.sub(rf'"?({_RANGE.pattern})"?', r'"\1"', line)
    try:
        return [field.strip() for field in next(csv.reader([line], delimiter=separator), [])]
    except csv.Error as error:
        raise DataError("rows that cannot be split into fields") from error
