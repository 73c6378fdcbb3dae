"""What a builder kept and rejected: printed after preparation, and stored in the dataset's metadata."""

import collections
import dataclasses
from collections.abc import Hashable
from pathlib import Path
from typing import Any

from tfds_builders.archive import DataError
from tfds_builders.faces import Losses, cropper

_LISTED = 5  # names that are listed for each reason


@dataclasses.dataclass
class Rejected:
    """Files or rows that are left out, with reasons.

    >>> rejected = Rejected()
    >>> rejected.add("a.wav", "empty")
    >>> rejected.add("b.wav", "empty")
    >>> print(*rejected.lines(), sep=chr(10))
    2: empty
      'a.wav'
      'b.wav'

    Attributes:
      counts: number of files by reason.
      names: the first few names by reason.
    """

    counts: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    names: dict[str, list[str]] = dataclasses.field(default_factory=dict)

    def add(self, name: str, reason: str) -> None:
        """Counts a file under a reason that several files may share."""
        self.counts[reason] += 1
        names = self.names.setdefault(reason, [])
        if len(names) < _LISTED:
            names.append(name)

    def __len__(self) -> int:
        return self.counts.total()

    def check(self, source: object, total: int, max_bad: float) -> None:
        """Raises where too large a share is rejected, or every file.

        Args:
          source: path of the files, for the message.
          total: number of files, the rejected ones included.
          max_bad: largest accepted share of rejected files, 0 to 1.

        Raises:
          DataError: names the share, the commonest reason and an example file.
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
        """Counts a file.

        Args:
          sha256: of its content, in hexadecimal.
          label: files of one content with different labels are in conflict.
        """
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
class Report:
    """Counts the examples of a dataset while it is prepared; subclasses add their own counts and lines.

    Attributes:
      title: of the dataset, with its configuration.
      source: the archive or the folder that is read.
      conflict: what labels in conflict are, as in "1 of them with different ages".
      kept: number of examples.
      rejected: files that are left out.
      duplicates: examples of identical content.
      losses: images in which a face was searched for, and whether one was detected, by group.
    """

    title: str
    source: Path
    conflict: str = "with different labels"
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
        """Returns the report as lines of text."""
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
