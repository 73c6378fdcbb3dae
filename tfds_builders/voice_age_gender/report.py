"""Counts of a preparation of recordings."""

import collections
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tfds_builders.report import Report
from tfds_builders.voice_age_gender.listing import Listing

_CLASSES_LISTED = 60
_LISTED = 5  # values in one line


class VoiceReport(Report):
    """Counts recordings by class, speaker and sample rate; `listing` holds the files of the source."""

    def __init__(self, title: str, source: Path, listing: Listing) -> None:
        super().__init__(title, source, "with different ages or genders", rejected=listing.rejected)
        self.listing = listing
        self.classes: collections.Counter[str] = collections.Counter()  # "" where the gender is unknown
        self.speakers: dict[str, set[int]] = collections.defaultdict(set)  # the known ones, by class
        self.without_speaker = 0
        self.genders: collections.Counter[int] = collections.Counter()
        self.ages: set[float] = set()  # the known ones, in years
        self.seconds = 0.0
        self.rates: collections.Counter[int] = collections.Counter()

    def add(self, example: Mapping[str, Any]) -> None:
        """Counts an example that is kept."""
        self.keep(example["sha256"], f"{example['gender']} {example['age']}")
        name = example["class_name"]
        self.classes[name] += 1
        self.genders[example["gender"]] += 1
        self.seconds += example["seconds"]
        self.rates[example["sample_rate"]] += 1
        if example["subject"] == -1:
            self.without_speaker += 1
        else:
            self.speakers[name].add(example["subject"])
        if not math.isnan(example["age"]):
            self.ages.add(example["age"])

    def counts(self) -> dict[str, Any]:
        return super().counts() | {
            "unlisted": self.listing.unlisted,
            "male": self.genders[0],
            "female": self.genders[1],
            "classes": len(self.classes.keys() - {""}),
            "speakers": len(set().union(*self.speakers.values())),
            "without_speaker": self.without_speaker,
            "youngest": min(self.ages, default=-1),
            "oldest": max(self.ages, default=-1),
            "seconds": round(self.seconds, 3),
        }

    def lines(self) -> list[str]:
        counts, listing = self.counts(), self.listing
        rates = _first(f"{rate} Hz ({files})" for rate, files in self.rates.most_common())
        ages = f"ages {counts['youngest']:g} to {counts['oldest']:g}" if self.ages else "ages unknown"
        lines = [
            f"kept {self.kept} of {listing.total} recordings: {counts['male']} male, {counts['female']} female, "
            f"{ages}; {counts['seconds']:.0f} s in all, {rates}",
            f"speakers {counts['speakers']}",
            f"{counts['classes']} classes",
            *(f"  {line}" for line in self._class_lines()),
        ]
        if self.without_speaker:
            lines.append(
                f"the speakers of {self.without_speaker} recordings are unknown: results of a random split are an "
                "upper bound, because a speaker may be on both sides of it"
            )
        one_file = sorted(name for name, files in self.classes.items() if name and files == 1)
        one_speaker = sorted(name for name, speakers in self.speakers.items() if name and len(speakers) == 1)
        for what, names in (("file", one_file), ("speaker", one_speaker)):
            if names:
                lines.append(f"{len(names)} classes have one {what} only: {_first(names)}")
        for name, spellings in sorted(listing.spellings.items()):
            if len(spellings) > 1:
                lines.append(f"{name} is spelled in {len(spellings)} ways, taken as one class: {_first(spellings)}")
        if listing.unlisted:
            lines.append(f"{listing.unlisted} recordings that no row of the CSV file names were left out")
        if others := listing.others:
            ranked = sorted(others.items(), key=lambda item: (-item[1], item[0]))
            suffixes = _first(f"{number} {suffix or 'without suffix'}" for suffix, number in ranked)
            lines.append(f"files left out, whose names are not those of recordings: {suffixes}")
        return lines

    def _class_lines(self) -> list[str]:
        names = sorted(name for name in self.classes if name)
        lines = []
        for name in names[:_CLASSES_LISTED]:
            speakers = f", speakers: {len(self.speakers[name])}" if name in self.speakers else ""
            lines.append(f"{name:12} files: {self.classes[name]}{speakers}")
        return lines + ([f"and {len(names) - _CLASSES_LISTED} more"] if len(names) > _CLASSES_LISTED else [])


def _first(values: Iterable[str]) -> str:
    listed = sorted(values) if isinstance(values, set) else list(values)
    more = f" and {len(listed) - _LISTED} more" if len(listed) > _LISTED else ""
    return ", ".join(listed[:_LISTED]) + more
