"""What a preparation of recordings kept, left out and noticed."""

import collections
import dataclasses
import math
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tfds_builders.voice_age_gender.listing import Listing

_CLASSES_LISTED = 60
_NAMED = 5  # of a kind, in one line


@dataclasses.dataclass
class Report:
    """Grows by a few bytes a recording: the first half of each digest is kept, to find identical files.

    Attributes:
      title: of the dataset, with its configuration.
      source: the archive or the folder that was read.
      listing: what was found there; its `rejected` goes on counting while recordings are read.
      classes: recordings of each class; "" is the class of those whose gender is unknown.
      speakers: the known speakers of each class.
      without_speaker: recordings whose speaker is unknown.
      genders: recordings by gender.
      youngest: age, in years; infinite where no age is known.
      oldest: likewise.
      seconds: duration of all together.
      rates: recordings by sample rate.
      first: the label that each content came with first.
      again: how often it came after that, where it did.
      conflicts: contents that came with several labels.
    """

    title: str
    source: Path
    listing: Listing
    classes: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    speakers: dict[str, set[int]] = dataclasses.field(default_factory=lambda: collections.defaultdict(set))
    without_speaker: int = 0
    genders: collections.Counter[int] = dataclasses.field(default_factory=collections.Counter)
    youngest: float = math.inf
    oldest: float = -math.inf
    seconds: float = 0.0
    rates: collections.Counter[int] = dataclasses.field(default_factory=collections.Counter)
    first: dict[bytes, str] = dataclasses.field(default_factory=dict)
    again: collections.Counter[bytes] = dataclasses.field(default_factory=collections.Counter)
    conflicts: set[bytes] = dataclasses.field(default_factory=set)

    def add(self, example: Mapping[str, Any]) -> None:
        """Counts an example that is kept; its content is not looked at."""
        name, age = example["class_name"], example["age"]
        self.classes[name] += 1
        self.genders[example["gender"]] += 1
        self.seconds += example["seconds"]
        self.rates[example["sample_rate"]] += 1
        if example["subject"] == -1:
            self.without_speaker += 1
        else:
            self.speakers[name].add(example["subject"])
        if not math.isnan(age):
            self.youngest, self.oldest = min(self.youngest, age), max(self.oldest, age)
        digest, label = bytes.fromhex(example["sha256"])[:16], sys.intern(f"{example['gender']} {age}")
        if digest not in self.first:
            self.first[digest] = label
            return
        self.again[digest] += 1
        if label != self.first[digest]:
            self.conflicts.add(digest)

    def counts(self) -> dict[str, Any]:
        """The figures of the report, by name."""
        return {
            "kept": self.classes.total(),
            "rejected": len(self.listing.rejected),
            "unlisted": self.listing.unlisted,
            "male": self.genders[0],
            "female": self.genders[1],
            "classes": len(self.classes.keys() - {""}),
            "speakers": len(set().union(*self.speakers.values())),
            "without_speaker": self.without_speaker,
            "youngest": self.youngest if math.isfinite(self.youngest) else -1,
            "oldest": self.oldest if math.isfinite(self.oldest) else -1,
            "seconds": round(self.seconds, 3),
            "identical_groups": len(self.again),
            "identical_files": len(self.again) + self.again.total(),
            "conflicting_groups": len(self.conflicts),
        }

    def __str__(self) -> str:
        """The report as lines of text."""
        count, rejected = self.counts(), self.listing.rejected
        rates = _some(f"{rate} Hz ({files})" for rate, files in self.rates.most_common())
        ages = f"ages {count['youngest']:g} to {count['oldest']:g}" if count["oldest"] >= 0 else "ages unknown"
        lines = [
            f"{self.title}, from {self.source}:",
            f"  kept     {count['kept']} recordings: {count['male']} male, {count['female']} female, {ages}; "
            f"{count['seconds']:.0f} s in all, {rates}",
            f"  speakers {count['speakers']}",
            f"  rejected {len(rejected)} of {self.listing.looked_at}",
            *(f"             {line}" for line in rejected.lines()),
            f"  {count['classes']} classes",
            *(f"             {line}" for line in self._class_lines()),
        ]
        if self.without_speaker:
            lines.append(
                f"  the speakers of {self.without_speaker} recordings are unknown: results of a random split are an "
                "upper bound, because a speaker may be on both sides of it"
            )
        for what, few in (("file", self._lonely()), ("speaker", self._of_one_speaker())):
            if few:
                lines.append(f"  {len(few)} classes have one {what} only: {_some(few)}")
        for name, spellings in sorted(self.listing.spellings.items()):
            if len(spellings) > 1:
                lines.append(f"  {name} is spelled in {len(spellings)} ways, taken as one class: {_some(spellings)}")
        lines.append(
            f"  {count['identical_groups']} groups of identical files ({count['identical_files']} files), "
            f"{count['conflicting_groups']} of them in conflict: with different ages or genders"
        )
        if self.listing.unlisted:
            lines.append(f"  {self.listing.unlisted} recordings that no row of the CSV file names were left out")
        if others := self.listing.others:
            ranked = sorted(others.items(), key=lambda item: (-item[1], item[0]))
            found = _some(f"{number} {suffix or 'without suffix'}" for suffix, number in ranked)
            lines.append(f"  {others.total()} files that are no recordings by name were left out: {found}")
        return "\n".join(lines)

    def _lonely(self) -> list[str]:
        return sorted(name for name, files in self.classes.items() if name and files == 1)

    def _of_one_speaker(self) -> list[str]:
        return sorted(name for name, speakers in self.speakers.items() if name and len(speakers) == 1)

    def _class_lines(self) -> list[str]:
        names = sorted(name for name in self.classes if name)
        lines = [
            f"{name:12} {_plural(self.classes[name], 'file')}"
            + (f", {_plural(len(self.speakers[name]), 'speaker')}" if name in self.speakers else "")
            for name in names[:_CLASSES_LISTED]
        ]
        return lines + ([f"and {len(names) - _CLASSES_LISTED} more"] if len(names) > _CLASSES_LISTED else [])


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _some(texts: Iterable[str]) -> str:
    texts = list(texts) if not isinstance(texts, set) else sorted(texts)
    more = [f"and {len(texts) - _NAMED} more"] if len(texts) > _NAMED else []
    return ", ".join([*texts[:_NAMED], *more])
