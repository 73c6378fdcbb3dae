"""What a builder kept and rejected: printed after preparation, and stored in the dataset's metadata."""

import collections
import dataclasses
import math
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

from tfds_builders.archive import DataError
from tfds_builders.faces import NO_FACE, cropper

_LISTED = 5  # names that are listed for each reason


@dataclasses.dataclass
class Rejected:
    """Files or rows that are left out, with reasons.

    >>> rejected = Rejected()
    >>> rejected.add("a.wav", "empty")
    >>> print(*rejected.lines(), sep=chr(10))
    1: empty
      'a.wav'
    """

    counts: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)  # by reason
    names: dict[str, list[str]] = dataclasses.field(default_factory=dict)  # the first few by reason

    def add(self, name: str, reason: str) -> None:
        """Counts a file under a reason that several files may share."""
        self.counts[reason] += 1
        names = self.names.setdefault(reason, [])
        if len(names) < _LISTED:
            names.append(name)

    def __len__(self) -> int:
        return self.counts.total()

    def check(self, source: object, total: int, max_bad: float) -> None:
        """Raises a DataError where every file is rejected, or more than the share `max_bad` (0 to 1) of `total` files.

        The message names `source`, the share, the commonest reason and an example file.
        """
        if len(self) >= total:
            raise DataError(f"{source}: holds no usable file ({'; '.join(self.lines()[:2]) or 'it is empty'}).")
        if len(self) <= max_bad * total:
            return
        reason, count = self.counts.most_common(1)[0]
        raise DataError(
            f"{source}: {len(self)} of {total} files were rejected, more than the share max_bad={max_bad:g}; "
            f"{count}: {reason}, for example {self.names[reason][0]!r}; repair or remove them, or raise max_bad."
        )

    def lines(self) -> list[str]:
        """Returns lines of text: each reason with its count, and the first names below it."""
        lines = []
        for reason, count in self.counts.most_common():
            names = self.names[reason]
            lines += [f"{count}: {reason}", *(f"  {name!r}" for name in names)]
            lines += [f"  and {count - len(names)} more"] if count > len(names) else []
        return lines


def check_max_bad(value: object) -> None:
    """Raises a DataError where a builder's option `max_bad` is not a number from 0 to 1."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise DataError(f"max_bad is {value!r}; choose a share from 0 to 1.")


@dataclasses.dataclass
class Duplicates:
    """Files of identical content. A few bytes are kept of each file: half of its SHA-256 and its label.

    >>> duplicates = Duplicates()
    >>> for digest, label in (("aa", "male 20"), ("aa", "male 30"), ("bb", "male 20")):
    ...     duplicates.add(digest, label)
    >>> duplicates.counts()
    {'identical_groups': 1, 'identical_files': 2, 'conflicting_groups': 1}
    """

    _labels: dict[bytes, Hashable] = dataclasses.field(default_factory=dict)  # of the first file of each content
    _repeats: collections.Counter[bytes] = dataclasses.field(default_factory=collections.Counter)
    _conflicts: set[bytes] = dataclasses.field(default_factory=set)

    def add(self, sha256: str, label: Hashable) -> None:
        """Counts a file by the hash of its content; files of one content with different labels are in conflict."""
        digest = bytes.fromhex(sha256)[:16]
        if digest not in self._labels:
            self._labels[digest] = label
            return
        self._repeats[digest] += 1
        if label != self._labels[digest]:
            self._conflicts.add(digest)

    def counts(self) -> dict[str, int]:
        """Returns the numbers of groups, of files in them, and of groups with different labels."""
        return {
            "identical_groups": len(self._repeats),
            "identical_files": len(self._repeats) + self._repeats.total(),
            "conflicting_groups": len(self._conflicts),
        }


@dataclasses.dataclass
class Losses:
    """Counts images without a detected face in each group of people.

    >>> losses = Losses()
    >>> for detected in (True, True, False):
    ...     losses.add({"gender": "female", "age": age_band(27, 27)}, detected)
    >>> print(*losses.lines(), sep=chr(10))
    no face detected in 1 of 3 images (33.3 %)
      gender female: 1 of 3 (33.3 %)
      age 20-29: 1 of 3 (33.3 %)
    """

    # Numbers of images by attribute and group: all, and those without a detected face.
    seen: collections.Counter[tuple[str, str]] = dataclasses.field(default_factory=collections.Counter)
    lost: collections.Counter[tuple[str, str]] = dataclasses.field(default_factory=collections.Counter)

    def add(self, groups: Mapping[str, str], detected: bool) -> None:
        """Counts an image; `groups` are its groups by attribute."""
        for key in (("", ""), *groups.items()):
            self.seen[key] += 1
            self.lost[key] += not detected

    def counts(self) -> dict[str, list[int]]:
        """Returns `[lost, seen]` by group, as JSON values; empty if no image was searched."""
        return {" ".join(key).strip() or "all": [self.lost[key], self.seen[key]] for key in self._sorted()}

    def lines(self) -> list[str]:
        """Returns lines of text; none if no image was searched."""
        lines = []
        for key in self._sorted():
            lost, seen = self.lost[key], self.seen[key]
            what = f"  {' '.join(key)}: {lost} of {seen}" if key[0] else f"{NO_FACE} in {lost} of {seen} images"
            lines.append(f"{what} ({lost / seen:.1%})".replace("%", " %"))
        return lines

    def _sorted(self) -> list[tuple[str, str]]:
        """Returns the keys: the total, then each attribute in the order of its first image, short groups first."""
        attributes = list(dict.fromkeys(attribute for attribute, _ in self.seen))
        return sorted(self.seen, key=lambda key: (attributes.index(key[0]), len(key[1]), key[1]))


def age_band(low: float, high: float) -> str:
    """Returns the ten years that the middle of a range of ages lies in.

    >>> age_band(25, 32), age_band(40, 40), age_band(math.nan, math.nan)
    ('20-29', '40-49', 'unknown')
    """
    middle = (low + high) / 2
    if math.isnan(middle):
        return "unknown"
    begin = int(middle // 10) * 10
    return f"{begin}-{begin + 9}"


@dataclasses.dataclass
class Report:
    """Counts the examples of a dataset while it is prepared; subclasses add their own counts and lines."""

    title: str
    source: Path
    conflict: str = "with different labels"  # what labels in conflict are, as in "1 of them with different ages"
    kept: int = 0
    rejected: Rejected = dataclasses.field(default_factory=Rejected)
    duplicates: Duplicates = dataclasses.field(default_factory=Duplicates)
    losses: Losses = dataclasses.field(default_factory=Losses)

    def keep(self, sha256: str, label: Hashable) -> None:
        """Counts an example with this content and label."""
        self.kept += 1
        self.duplicates.add(sha256, label)

    def counts(self) -> dict[str, Any]:
        """Returns all counts by name, as JSON values."""
        losses = {"without_face": self.losses.counts(), "cropper": cropper()} if self.losses.seen else {}
        return {"kept": self.kept, "rejected": dict(self.rejected.counts), **self.duplicates.counts(), **losses}

    def lines(self) -> list[str]:
        """Returns lines of text on the examples that were kept."""
        return [f"kept {self.kept}"]

    def __str__(self) -> str:
        counts = self.duplicates.counts()
        lines = [
            *self.lines(),
            f"rejected {len(self.rejected)}",
            *(f"  {line}" for line in self.rejected.lines()),
            *self.losses.lines(),
            f"{counts['identical_groups']} groups of identical files ({counts['identical_files']} files), "
            f"{counts['conflicting_groups']} of them {self.conflict}",
        ]
        return "\n".join([f"{self.title}, from {self.source}:", *(f"  {line}" for line in lines)])
