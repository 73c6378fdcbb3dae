"""Counts of a dataset's columns (`source.COLUMNS`), and how the protocols would split them. Nothing is read here."""

import collections
import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from agegender_jax import recipe as recipes
from agegender_jax.data.partition import class_names, split_dataset
from agegender_jax.errors import UserError
from agegender_jax.labels import AGE_GROUPS, GENDERS, RACES, UNDEFINED_GENDER, UNKNOWN, age_groups
from agegender_jax.splits import PARTS, PROTOCOLS, Split

Columns = Mapping[str, np.ndarray]

GENDER_NAMES = {**dict(enumerate(GENDERS)), len(GENDERS): UNDEFINED_GENDER, UNKNOWN: "unknown"}

RACE_NAMES = {**dict(enumerate(RACES)), UNKNOWN: "unknown"}

HEAPING_FROM = 20
"""Youngest age, in years, that the share of multiples of five is counted from: infants are no round numbers."""

_HEAPING_AGES = 20  # fewer distinct ages than this are a list of persons, not a distribution


def count(values: np.ndarray, names: Mapping[int, str]) -> dict[str, int]:
    """Returns by name how often each of the values occurs.

    >>> count(np.array([0, 1, 1, -1]), {0: "male", 1: "female", 2: "undefined", -1: "unknown"})
    {'male': 1, 'female': 2, 'undefined': 0, 'unknown': 1}
    """
    return {name: int((values == value).sum()) for value, name in names.items()}


def by_age_group(columns: Columns, scheme: str) -> dict[str, int]:
    """Returns how many examples each age group has, and as `none`, how many have no group."""
    return count(assigned(columns, scheme), {**dict(enumerate(AGE_GROUPS[scheme].names)), UNKNOWN: "none"})


def by_gender(columns: Columns, scheme: str) -> dict[str, dict[str, int]]:
    """Returns the counts of `by_age_group` by gender; genders that do not occur are left out."""
    genders = {name: columns["gender"] == value for value, name in GENDER_NAMES.items()}
    return {name: by_age_group(select(columns, of), scheme) for name, of in genders.items() if of.any()}


def assigned(columns: Columns, scheme: str) -> np.ndarray:
    """Returns the age group of every example, int32 `[n]`."""
    return age_groups(scheme).assign_range(columns["age_low"], columns["age_high"])


def select(columns: Columns, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Returns some rows of the columns, by bool `[n]` or int `[k]`."""
    return {name: column[rows] for name, column in columns.items()}


def exact_ages(columns: Columns) -> np.ndarray:
    """Returns the ages that are annotated as a number, float64 `[k]`, years."""
    return columns["age"][np.isfinite(columns["age"])].astype(np.float64)


def age_ranges(columns: Columns) -> dict[str, int]:
    """Returns how many examples are annotated with each age range, the commonest first."""
    age, low, high = (columns[name] for name in ("age", "age_low", "age_high"))
    ranged = ~np.isfinite(age) & np.isfinite(low) & np.isfinite(high)
    pairs = zip(low[ranged].tolist(), high[ranged].tolist(), strict=True)
    return {f"{first:g}-{last:g}": n for (first, last), n in commonest(pairs).items()}


def heaping(years: np.ndarray) -> tuple[int, float] | None:
    """Returns how many whole ages from `HEAPING_FROM` on there are, and the share of multiples of 5 among them.

    The share is about 20 % where annotators do not round. None where the ages are too few to tell.
    """
    grown = years[(years >= HEAPING_FROM) & (years == np.floor(years))]
    return (len(grown), float((grown % 5 == 0).mean())) if len(np.unique(grown)) >= _HEAPING_AGES else None


def identified(columns: Columns) -> np.ndarray:
    """Returns whether the subject is known, bool `[n]`."""
    return columns["subject"] >= 0


def sizes(values: np.ndarray) -> np.ndarray:
    """Returns how often each of the known values (not negative, int `[n]`) occurs, descending, int64 `[k]`."""
    return np.sort(np.unique(values[values >= 0], return_counts=True)[1])[::-1]


@dataclasses.dataclass(frozen=True)
class ClassCount:
    """A class that a dataset names: its files, its known subjects, and its files without a known subject."""

    name: str
    files: int
    subjects: int
    unidentified: int

    @property
    def splittable(self) -> bool:
        """Whether train, validation and test can each have a subject; a file of an unknown one counts as a subject."""
        return self.subjects + self.unidentified >= len(PARTS)


def classes(columns: Columns) -> list[ClassCount]:
    """Returns the classes that the dataset names."""
    counts = []
    for name in class_names(columns):
        subject = columns["subject"][columns["class_name"] == name]
        known = subject[subject >= 0]
        counts.append(ClassCount(name, len(subject), len(np.unique(known)), len(subject) - len(known)))
    return counts


def folds(columns: Columns) -> dict[int, dict[str, np.ndarray]]:
    """Returns the columns of each fold that the dataset was published with, in order; empty where there are none."""
    fold = columns["fold"]
    return {number: select(columns, fold == number) for number in np.unique(fold[fold >= 0]).tolist()}


def in_several(values: np.ndarray, part: np.ndarray) -> int:
    """Returns how many of the values (int `[n]`) occur in several parts (`part`, int `[n]`); negative ones are unknown.

    >>> in_several(np.array([7, 7, 8, 8, -1, -1]), np.array([0, 1, 2, 2, 0, 1]))
    1
    """
    both = (values >= 0) & (part >= 0)
    pairs = np.unique(np.stack([values[both], part[both]]), axis=1)
    return int((np.unique(pairs[0], return_counts=True)[1] > 1).sum())


def commonest(values: Iterable[Any]) -> dict[Any, int]:
    """Returns how often each value occurs, the commonest first."""
    return dict(sorted(collections.Counter(values).items(), key=lambda item: (-item[1], item[0])))


@dataclasses.dataclass(frozen=True)
class Division:
    """A split of the default recipe under one protocol, or the reason why it is `refused`.

    `folds` is the number of published folds that it is tested on in turn, 0 for a split of its own; `subjects` the
    known ones by part, empty where nobody is identified, and `subjects_in_several` those in several parts.
    """

    protocol: str
    stratify: str
    folds: int
    split: Split | None = None
    refused: str = ""
    subjects: Mapping[str, int] = dataclasses.field(default_factory=dict)
    subjects_in_several: int = 0


def divisions(columns: Columns, scheme: str) -> list[Division]:
    """Returns the default recipe's split under every protocol, and by the published folds where there are any."""
    strata = ["age_group" if np.isfinite(columns["age_low"]).any() else "gender"]
    strata += ["class"] if class_names(columns) else []
    wanted = [(protocol, by, 0) for by in strata for protocol in PROTOCOLS]
    fold = columns["fold"]
    # Rows without a fold, or folds that are not numbered through, cannot be tested on in turn.
    if (fold >= 0).all() and len(np.unique(fold)) == fold.max() + 1 > 1:
        wanted.append(("disjoint", strata[0], int(fold.max()) + 1))
    return [_divide(columns, scheme, *options) for options in wanted]


def _divide(columns: Columns, scheme: str, protocol: str, stratify: str, folds: int) -> Division:
    options = recipes.base().split.to_dict() | {"protocol": protocol, "stratify": stratify, "folds": folds}
    try:
        split = split_dataset(columns, scheme, **options)[0]
    except UserError as error:
        return Division(protocol, stratify, folds, refused=str(error))
    if not identified(columns).any():
        return Division(protocol, stratify, folds, split)
    part = np.empty(len(split.keys), int)
    for index, name in enumerate(PARTS):
        part[getattr(split, name)] = index
    subjects = {name: len(sizes(columns["subject"][getattr(split, name)])) for name in PARTS}
    return Division(protocol, stratify, folds, split, "", subjects, in_several(columns["subject"], part))
