"""Counts of a dataset's columns, as plain dictionaries of JSON values. Nothing here reads or prints."""

import collections
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from agegender_jax.data.partition import class_names, contradictions
from agegender_jax.labels import AGE_GROUPS, GENDERS, RACES, UNDEFINED_GENDER, UNKNOWN, age_groups

Columns = Mapping[str, np.ndarray]

GENDER_NAMES = {**dict(enumerate(GENDERS)), len(GENDERS): UNDEFINED_GENDER, UNKNOWN: "unknown"}
"""Names of the values of the column `gender`."""

HEAPING_FROM = 20
"""Youngest age, in years, that the share of multiples of five is counted from: infants are no round numbers."""

_HEAPING_AGES = 20  # fewer distinct ages than this are a list of persons, not a distribution
_PARTS = 3  # train, validation, test: what a class needs subjects for


def genders(columns: Columns) -> dict[str, int]:
    """Returns how many examples there are of each gender, `GENDER_NAMES` in order."""
    return {name: int((columns["gender"] == value).sum()) for value, name in GENDER_NAMES.items()}


def ages(columns: Columns) -> dict[str, Any]:
    """Returns what is known of the ages.

    Returns:
      `exact`, `ranges` and `unknown` are numbers of examples. Of the exact ages: `min`, `q1`, `median`, `q3`, `max`
      (years, quartiles interpolated linearly), `commonest` and `commonest_share`, and where there are enough different
      ones `whole`, the number of whole ages from `HEAPING_FROM` on, and `multiples_of_5`, their share that is one (20 %
      without heaping). `ranges_by` counts the annotated ranges, the commonest first.
    """
    age, low, high = (np.asarray(columns[name], np.float64) for name in ("age", "age_low", "age_high"))
    exact, ranged = np.isfinite(age), ~np.isfinite(age) & np.isfinite(low) & np.isfinite(high)
    by = collections.Counter(zip(low[ranged].tolist(), high[ranged].tolist(), strict=True))
    statistics: dict[str, Any] = {
        "exact": int(exact.sum()),
        "ranges": int(ranged.sum()),
        "unknown": int((~exact & ~ranged).sum()),
        "ranges_by": [[f"{a:g}-{b:g}", count] for (a, b), count in sorted(by.items(), key=lambda i: (-i[1], i[0]))],
    }
    if exact.any():
        years = age[exact]
        quartiles = np.percentile(years, [0, 25, 50, 75, 100]).tolist()
        statistics |= dict(zip(("min", "q1", "median", "q3", "max"), quartiles, strict=True))
        values, counts = np.unique(years, return_counts=True)
        statistics |= {"commonest": float(values[counts.argmax()]), "commonest_share": float(counts.max() / len(years))}
        grown = years[(years >= HEAPING_FROM) & (years == np.floor(years))]
        if len(np.unique(grown)) >= _HEAPING_AGES:
            statistics |= {"whole": len(grown), "multiples_of_5": float((grown % 5 == 0).mean())}
    return statistics


def grouped(columns: Columns, scheme: str) -> np.ndarray:
    """Returns the age group of every example, int32 `[n]`."""
    return age_groups(scheme).assign_range(columns["age_low"], columns["age_high"])


def age_group_counts(columns: Columns, schemes: Sequence[str]) -> dict[str, dict[str, int]]:
    """Returns by scheme how many examples each group has, and as `none`, how many have no group."""
    counts = {}
    for scheme in schemes:
        group = grouped(columns, scheme)
        counts[scheme] = {
            **{name: int((group == index).sum()) for index, name in enumerate(AGE_GROUPS[scheme].names)},
            "none": int((group == UNKNOWN).sum()),
        }
    return counts


def age_groups_by_gender(columns: Columns, scheme: str) -> dict[str, dict[str, int]]:
    """Returns by gender the counts of `age_group_counts`; genders that do not occur are left out."""
    names, gender = GENDER_NAMES, columns["gender"]
    return {
        names[value]: age_group_counts({k: v[gender == value] for k, v in columns.items()}, [scheme])[scheme]
        for value in names
        if (gender == value).any()
    }


def races(columns: Columns) -> dict[str, int]:
    """Returns how many examples there are of each race; empty where none is labelled."""
    race = columns["race"]
    if (race < 0).all():
        return {}
    return {name: int((race == index).sum()) for index, name in enumerate(RACES)} | {"unknown": int((race < 0).sum())}


def identified(columns: Columns) -> np.ndarray:
    """Returns whether the subject is known, bool `[n]`."""
    return columns["subject"] >= 0


def sizes(values: np.ndarray) -> dict[str, Any]:
    """Returns how many examples each of the known values (not negative, int `[k]`) has.

    Returns:
      `known`, the number of examples, `distinct` values, and of the examples of one value `min`, `median`, `max`, and
      `counts`, descending; the last four only where there are any.
    """
    known = values[values >= 0]
    counts = np.sort(np.unique(known, return_counts=True)[1])[::-1]
    result: dict[str, Any] = {"known": len(known), "distinct": len(counts)}
    if len(counts):
        result |= {"min": int(counts[-1]), "median": float(np.median(counts)), "max": int(counts[0])}
        result["counts"] = counts.tolist()
    return result


def classes(columns: Columns) -> list[dict[str, Any]]:
    """Returns the classes that the dataset names: `name`, `files`, `subjects`, `unidentified` (files), `splittable`.

    A class can be split three ways where it has three subjects, a file without a known subject being one for itself.
    """
    known, result = identified(columns), []
    for name in class_names(columns):
        of = columns["class_name"] == name
        subjects, unidentified = len(np.unique(columns["subject"][of & known])), int((of & ~known).sum())
        result.append(
            {
                "name": name,
                "files": int(of.sum()),
                "subjects": subjects,
                "unidentified": unidentified,
                "splittable": subjects + unidentified >= _PARTS,
            }
        )
    return result


def folds(columns: Columns, scheme: str, schemes: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Returns the folds that the dataset was published with, in order; empty where there are none.

    Each has `fold`, `rows`, `subjects`, `groups`, `genders` (as `genders`), `age_groups` (as `age_group_counts` of
    `scheme`), `gendered`, the rows labelled male or female, and in `with_group`, by scheme of `schemes`, the rows that
    have an age group.
    """
    result = []
    for fold in np.unique(columns["fold"][columns["fold"] >= 0]).tolist():
        of = {name: column[columns["fold"] == fold] for name, column in columns.items()}
        by_gender = genders(of)
        result.append(
            {
                "fold": fold,
                "rows": len(of["fold"]),
                "subjects": sizes(of["subject"])["distinct"],
                "groups": sizes(of["group"])["distinct"],
                "genders": by_gender,
                "age_groups": age_group_counts(of, [scheme])[scheme],
                "gendered": sum(by_gender[name] for name in GENDERS),
                "with_group": {name: int((grouped(of, name) >= 0).sum()) for name in schemes},
            }
        )
    return result


def in_several(values: np.ndarray, parts: np.ndarray) -> int:
    """Returns how many of the values (int `[n]`) occur in several parts (int `[n]`); negative ones are unknown.

    >>> in_several(np.array([7, 7, 8, 8, -1, -1]), np.array([0, 1, 2, 2, 0, 1]))
    1
    """
    both = (values >= 0) & (parts >= 0)
    pairs = np.unique(np.stack([values[both], parts[both]]), axis=1)
    return int((np.unique(pairs[0], return_counts=True)[1] > 1).sum())


def identical(columns: Columns) -> dict[str, int]:
    """Returns counts of identical files and of their contradictions, see `grouping.find_conflicts`."""
    return contradictions(columns)[1]


def headers(columns: Columns) -> dict[str, Any]:
    """Returns what the files are.

    Returns:
      `bytes` in total, and `unreadable`; of images `by_size`, counts by (width, height) as text, of recordings
      `by_rate`, counts by sample rate in Hz, and `seconds`: `total`, `min`, `median`, `max`. The commonest come first.
    """
    result: dict[str, Any] = {"bytes": int(columns["bytes"].sum())}
    if "rate" in columns:
        good = columns["rate"] > 0
        result["by_rate"] = _commonest(columns["rate"][good].tolist())
        if good.any():
            seconds = columns["seconds"][good]
            result["seconds"] = {
                "total": float(seconds.sum()),
                "min": float(seconds.min()),
                "median": float(np.median(seconds)),
                "max": float(seconds.max()),
            }
    else:
        good = columns["width"] > 0
        pairs = zip(columns["width"][good].tolist(), columns["height"][good].tolist(), strict=True)
        result["by_size"] = _commonest([f"{width}×{height}" for width, height in pairs])
    return result | {"unreadable": int((~good).sum())}


def _commonest(values: Sequence[Any]) -> list[list[Any]]:
    counts = collections.Counter(values)
    return [[value, count] for value, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]
