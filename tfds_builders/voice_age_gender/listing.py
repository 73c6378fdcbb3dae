"""Lists what is to be prepared: which files are recordings, and their labels in folders' names or a CSV file."""

import collections
import csv
import dataclasses
import functools
import io
import itertools
import math
import re
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from tfds_builders.archive import MAX_FILE_BYTES, MAX_MEMBERS, TOO_LARGE, DataError, list_members, read_text
from tfds_builders.labels import MAX_AGE
from tfds_builders.report import Rejected
from tfds_builders.sound import is_sound

LABEL_PATTERN = (
    r"(?P<gender>m|f|males?|females?|man|men|woman|women)(?:(?: *[_-] *| +)(?P<age>\d{1,3}))?"  # male, Female-31, f 8
)
"""Names of class folders: a gender, then an age in years or nothing, parted by `_`, `-` or a space."""

COLUMNS = ("path", "gender", "age", "speaker")  # columns that a CSV file must have; recording may follow
_GENDERS = dict.fromkeys(("m", "male", "males", "man", "men"), 0) | dict.fromkeys(
    ("f", "female", "females", "woman", "women"), 1
)
_WRONG, _MISSING = "a wrong label", "no such file"


class Label(NamedTuple):
    """Perceived age and gender of a voice, as annotated."""

    gender: int  # 0 male, 1 female, -1 unknown
    age: float  # years, 0 to MAX_AGE, NaN where unknown

    @property
    def class_name(self) -> str:
        """Returns gender and completed years.

        >>> Label(1, 31.9).class_name, Label(0, math.nan).class_name, Label(-1, 40.0).class_name
        ('female_31', 'male', '')
        """
        if self.gender == -1:
            return ""
        return ("male", "female")[self.gender] + ("" if math.isnan(self.age) else f"_{int(self.age)}")


class Item(NamedTuple):
    """One recording."""

    key: str  # path inside the dataset, without the folders that all recordings share
    label: Label
    speaker: str = ""  # where unknown
    recording: str = ""  # that the file was cut from; "" where unknown


@dataclasses.dataclass(frozen=True)
class Patterns:
    """The regular expressions of a configuration, compiled."""

    label: re.Pattern[str]  # of the whole name of a class folder, ignoring case
    speaker: re.Pattern[str] | None  # searched in a recording's key; None if keys do not name speakers
    recording: re.Pattern[str] | None  # likewise

    @classmethod
    def compiled(cls, label: str, speaker: str, recording: str) -> "Patterns":
        """Compiles the regular expressions, "" to None; raises DataError where one is invalid or lacks its group."""
        names = _compiled("label_pattern", label, re.ASCII | re.IGNORECASE)
        if names is None or "gender" not in names.groupindex:
            raise DataError(f"label_pattern {label!r} has no group (?P<gender>...); add it.")
        return cls(names, _compiled("speaker_pattern", speaker), _compiled("recording_pattern", recording))


@dataclasses.dataclass
class Listing:
    """The content of a source."""

    items: dict[str, Item] = dataclasses.field(default_factory=dict)  # accepted recordings by name in the source
    rejected: Rejected = dataclasses.field(default_factory=Rejected)  # recordings or rows that are left out
    total: int = 0  # recordings, or rows of the CSV file
    others: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)  # other files, by suffix
    unlisted: int = 0  # recordings that no row of the CSV file names
    # Of each class in the names of folders.
    spellings: dict[str, set[str]] = dataclasses.field(default_factory=lambda: collections.defaultdict(set))


def parse_label(folder: str, pattern: re.Pattern[str]) -> Label | None:
    """Parses the name of a class folder; None if it does not match or a value is out of range.

    >>> pattern = Patterns.compiled(LABEL_PATTERN, "", "").label
    >>> parse_label("Female-31", pattern)
    Label(gender=1, age=31.0)
    >>> parse_label("male_121", pattern) is None, parse_label("emodb", pattern) is None
    (True, True)
    """
    match = pattern.fullmatch(folder)
    if match is None:
        return None
    label = _label(match["gender"], match.groupdict().get("age"))
    return None if label is None or label.gender == -1 else label


def list_folders(source: Path, patterns: Patterns) -> Listing:
    """Lists an archive or a folder: of the folders that a recording lies in, the one that matches names its class.

    Raises:
      DataError: the source cannot be read, or holds no recording.
    """
    listing = Listing()
    sizes, top = _recordings(source, listing)
    named = {part for name in sizes for part in name.split("/")[:-1]}
    labels = {part: parse_label(part, patterns.label) for part in named}
    shared = len(list(itertools.takewhile(lambda part: labels[part] is None, top)))
    listing.total += len(sizes)
    for name, size in sizes.items():
        parts = name.split("/")
        folders = [part for part in parts[:-1] if labels[part] is not None]
        candidates = {labels[part] for part in folders}
        aged = [label for label in candidates if label is not None and not math.isnan(label.age)]
        label = aged[0] if aged else next(iter(candidates), None)
        if label is None or len(aged) > 1 or len({each.gender for each in candidates if each is not None}) > 1:
            listing.rejected.add(name, _WRONG)
            continue
        key = "/".join(parts[shared:])
        speaker, recording = _search(patterns.speaker, "speaker", key), _search(patterns.recording, "recording", key)
        item = Item(key, label, speaker, recording)
        if _accept(listing, name, size, item):
            listing.spellings[label.class_name].update(part for part in folders if labels[part] == label)
    return listing


def list_table(source: Path, table: Path, patterns: Patterns) -> Listing:
    """Lists an archive or a folder whose recordings are named and labelled by a CSV file.

    The file has the columns `COLUMNS` and optionally `recording` (else `patterns.recording` is used), separated by
    commas, semicolons or tabs. Paths are relative to its own folder, or to the one that holds the recordings. Empty
    cells are unknown labels.

    Raises:
      DataError: the source or the file cannot be read, or a column is missing.
    """
    listing = Listing()
    sizes, top = _recordings(source, listing, every=True)
    rows = _read_table(table, listing)
    for cut in range(len(top) + 1):  # `a.wav` and `wavs/a.wav` may both mean wavs/a.wav
        for name, size in sizes.items():
            parts = name.split("/")
            path = "/".join(parts[cut:])
            if parts[:cut] != top[:cut] or path not in rows:
                continue
            row = rows.pop(path)
            if row is not None:
                key = "/".join(parts[len(top) :]) if parts[: len(top)] == top else name
                recording = row.recording or _search(patterns.recording, "recording", key)
                _accept(listing, name, size, row._replace(key=key, recording=recording))
            sizes[name] = -1  # taken
    for path, row in rows.items():
        if row is not None:
            listing.rejected.add(path, _MISSING)
    for name, size in sizes.items():
        if size != -1 and is_sound(name):
            listing.unlisted += 1
        elif size != -1:
            listing.others[_suffix(name)] += 1
    return listing


def _recordings(source: Path, listing: Listing, every: bool = False) -> tuple[dict[str, int], list[str]]:
    """Returns the sizes of the recordings (or of every file) by path, and the folders that all recordings share."""
    sizes: dict[str, int] = {}
    shared: list[str] | None = None
    for path, size in list_members(source):
        name = str(PurePosixPath(path))
        if not (every or is_sound(name)):
            listing.others[_suffix(name)] += 1
        elif name in sizes:
            listing.total += 1
            listing.rejected.add(path, "a name that occurs twice")
        else:
            sizes[name] = size
            if is_sound(name):
                folders = name.split("/")[:-1]
                pairs = zip(folders if shared is None else shared, folders, strict=False)
                shared = [one for one, _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)]
    if shared is None:
        others = ", ".join(f"{count} {suffix or 'without suffix'}" for suffix, count in listing.others.most_common(5))
        raise DataError(
            f"{source}: holds no recording, only {others or 'nothing'}; recordings are wav, flac, ogg or mp3 files."
        )
    return sizes, shared


def _suffix(name: str) -> str:
    return PurePosixPath(name).suffix.lower()


def _accept(listing: Listing, name: str, size: int, item: Item) -> bool:
    if size > MAX_FILE_BYTES:
        listing.rejected.add(name, TOO_LARGE)
    elif item.key.encode(errors="ignore").decode() != item.key:
        listing.rejected.add(name, "a name that is not valid Unicode")
    else:
        listing.items[name] = item
        return True
    return False


def _compiled(name: str, text: str, flags: int = 0) -> re.Pattern[str] | None:
    if not text:
        return None
    try:
        pattern = re.compile(text, flags)
    except (re.error, TypeError, ValueError, RecursionError, OverflowError) as error:
        raise DataError(f"{name} {text!r} is not a regular expression ({error}); correct it.") from error
    if not pattern.groups:
        raise DataError(f"{name} {text!r} has no group in parentheses for the value; add one.")
    return pattern


def _search(pattern: re.Pattern[str] | None, group: str, key: str) -> str:
    match = pattern.search(key) if pattern else None
    if match is None:
        return ""
    return sys.intern(match[group if group in match.re.groupindex else 1] or "")


@functools.lru_cache(maxsize=1024)
def _label(gender: str | None, age: str | None) -> Label | None:
    """Returns the label of two values; None if one is invalid. Cached, so that many rows share one object."""
    gender, age = (gender or "").strip().lower(), (age or "").strip()
    try:
        years = float(age.replace(",", ".")) if age else math.nan
    except ValueError:
        return None
    if (gender and gender not in _GENDERS) or (age and not 0 <= years <= MAX_AGE):
        return None
    return Label(_GENDERS.get(gender, -1), years)


def _read_table(table: Path, listing: Listing) -> dict[str, Item | None]:
    """Returns the rows by path; None for a rejected row, whose file must not count as unlisted."""
    items: dict[str, Item | None] = {}
    for number, row in enumerate(_rows(table), start=2):
        listing.total += 1
        if listing.total > MAX_MEMBERS:
            raise DataError(f"{table}: has more than {MAX_MEMBERS} rows; is this the right file?")
        cell = (row.get("path") or "").strip().replace("\\", "/")
        path, label = str(PurePosixPath(cell)), _label(row["gender"], row["age"])
        if None in row or None in row.values():
            listing.rejected.add(f"row {number}", "rows with more or fewer cells than the first row")
        elif not cell:
            listing.rejected.add(f"row {number}", "rows without a path")
        elif path.startswith("/") or ".." in PurePosixPath(path).parts or re.match("[A-Za-z]:", path):
            listing.rejected.add(cell, "a path that leaves its folder")
        elif path in items:
            listing.rejected.add(cell, "a path that occurs twice")
        elif label is None or (label.gender == -1 and math.isnan(label.age)):
            items[path] = None
            listing.rejected.add(cell, _WRONG)
        else:
            speaker, recording = row["speaker"].strip(), row.get("recording", "").strip()
            items[path] = Item(path, label, sys.intern(speaker), sys.intern(recording))
    return items


def _rows(table: Path) -> Iterator[dict[str | Any, str | Any]]:
    text = read_text(table)
    best: list[str] = []
    for delimiter in ",;\t":
        try:
            cells = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
            header = [cell.strip().lower() for cell in next(cells, [])]
            collections.deque(cells, maxlen=0)  # raises if the rest is not readable
        except csv.Error as error:
            raise DataError(f"{table}: is not a CSV file ({error}); save it as CSV in UTF-8.") from error
        best = max(best, header, key=lambda cells: len(set(cells) & set(COLUMNS)))
        if set(COLUMNS) <= set(header):
            if len(set(header)) < len(header):
                raise DataError(f"{table}: two columns have one name, in {', '.join(header)}; rename one.")
            return itertools.islice(csv.DictReader(io.StringIO(text, newline=""), header, delimiter=delimiter), 1, None)
    missing = ", ".join(column for column in COLUMNS if column not in best)
    raise DataError(
        f"{table}: has no column {missing}; the first row must name {', '.join(COLUMNS)}, and may name recording."
    )
