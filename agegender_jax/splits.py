"""Splits into train, validation and test.

Two protocols. `disjoint`, the default, keeps the rows of a group (a subject, a speaker, a photographer) together, so
that nobody is both learnt from and tested on. `paper` takes rows at random as the published papers did, which leaks
groups; it is there to compare with their results. Both are stratified.

A split is a pure function of the seed, the fold and the set of keys with their labels: the order of the rows and the
numbering of the groups play no part. Where groups are small the totals are exact, and randomness is the raw output of
the Philox bit generator, sorted, which NumPy keeps from release to release (NEP 19): an upgrade must not move anybody
between train and test. Where groups are large, scikit-learn's `StratifiedGroupKFold` deals them out.
"""

import hashlib
import json
import os
from dataclasses import dataclass, replace
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from agegender_jax import atomic, grouping
from agegender_jax.errors import UserError
from agegender_jax.grouping import BoolArray, IntArray

PROTOCOLS = ("disjoint", "paper")
LEAKY = ("paper",)  # protocols whose test metrics are of people, or files, that may be in the training part
PARTS = ("train", "validation", "test")
_LARGE = 5  # rows a group on average: from here on no group of one row can be counted on to fill up a total
_LARGE_FOR_STRATA = 2  # likewise, where every stratum has to be in every part
SCHEMA = 1  # version of the file that Split.save writes.
_SAVED_FIELDS = ("protocol", "seed", "fold", "folds", "test_fraction", "validation_fraction", "report")


class TooFewGroups(UserError):
    """Strata (int `[k]`) whose groups (`counts`, int `[k]`) are fewer than needed to fill every part."""

    def __init__(self, strata: IntArray, counts: IntArray, needed: int) -> None:
        few = counts < needed
        self.strata, self.counts, self.needed = strata[few], counts[few], needed
        super().__init__(f"{int(few.sum())} strata have fewer than {needed} groups, so no split can keep groups apart.")


@dataclass(frozen=True, eq=False)
class Split:
    """Which rows of a table are in which part, each in exactly one; the options are those of `make_split`."""

    protocol: str
    seed: int
    fold: int
    folds: int
    test_fraction: float | None  # None where `folds` decides it
    validation_fraction: float
    keys: npt.NDArray[np.str_]  # [n], the key of every row of the table
    train: IntArray  # row indices, ascending
    validation: IntArray
    test: IntArray
    report: dict[str, Any]  # counts worth printing, as JSON values; see `make_split`

    @property
    def sha256(self) -> str:
        """Returns a hash of who is where: SHA-256 of the UTF-8 lines `key<TAB>part<NEWLINE>` in order of the keys."""
        part_of = {key: part for part in PARTS for key in self.keys[getattr(self, part)].tolist()}
        return hashlib.sha256("".join(f"{key}\t{part_of[key]}\n" for key in sorted(part_of)).encode()).hexdigest()

    def for_keys(self, keys: npt.ArrayLike) -> "Split":
        """Returns the same split for a table of the same keys (str [n]) in another order; others are a UserError."""
        keys = _checked_keys(keys)
        missing, new = np.setdiff1d(self.keys, keys).tolist(), np.setdiff1d(keys, self.keys).tolist()
        if missing or new:
            raise UserError(
                f"The split is of another dataset: {len(missing)} of its {len(self.keys)} keys are missing from the "
                f"dataset and {len(new)} keys of the dataset are new to it (for example {(missing or new)[0]!r}); use "
                "the dataset that the split was made from, or make a new split."
            )
        rows: dict[str, Any] = {part: _rows_of(keys, self.keys[getattr(self, part)]) for part in PARTS}
        return replace(self, keys=keys, **rows)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the split as JSON, by keys and with its hash, whole or not at all."""
        content = {"schema": SCHEMA, "sha256": self.sha256} | {field: getattr(self, field) for field in _SAVED_FIELDS}
        content["parts"] = {part: np.sort(self.keys[getattr(self, part)]).tolist() for part in PARTS}
        atomic.write_text(Path(path), json.dumps(content, indent=1))

    @classmethod
    def load(cls, path: str | os.PathLike[str], keys: npt.ArrayLike | None = None) -> "Split":
        """Reads a split that `save` wrote, checks its hash, and applies it to a table with these keys, in any order.

        Without keys (str [n]) the rows are those of the split's own keys, sorted.

        Raises:
          UserError: there is no such file, it is not a split, it was changed since, or `keys` are not its keys.
        """
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
            if content["schema"] != SCHEMA:
                raise UserError(f"{path} is a split of schema {content['schema']!r}; this program reads {SCHEMA}.")
            own_keys = _checked_keys(sorted(key for part in PARTS for key in content["parts"][part]))
            rows: dict[str, Any] = {part: _rows_of(own_keys, content["parts"][part]) for part in PARTS}
            split = cls(keys=own_keys, **rows, **{field: content[field] for field in _SAVED_FIELDS})
            recorded = content["sha256"]
        except OSError as error:
            raise UserError(f"The split {path} cannot be read ({error.strerror}); check the path.") from error
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} is not a split that this program saved ({error!r}); make a new one.") from error
        if recorded != split.sha256:
            raise UserError(
                f"The split {path} was changed after it was saved (its keys hash to {split.sha256[:12]}, it records "
                f"{str(recorded)[:12]}); restore the file, or make a new split."
            )
        return split if keys is None else split.for_keys(keys)


def is_leaky(split: Split) -> bool:
    """Returns whether somebody, or a file, may be both learned from and tested on."""
    report = split.report
    return split.protocol in LEAKY or bool(report["groups_in_several_parts"] or report.get("seen_by_pretrained"))


def marked(protocol: str, leaky: bool = False) -> str:
    """Returns the protocol's name as it is printed: never without the word where it, or the run, is leaky.

    >>> marked("disjoint"), marked("paper"), marked("disjoint", leaky=True)
    ('disjoint', 'paper (leaky)', 'disjoint (leaky)')
    """
    return f"{protocol} (leaky)" if leaky or protocol in LEAKY else protocol


def make_split(
    keys: npt.ArrayLike,
    stratum: npt.ArrayLike,
    group: npt.ArrayLike,
    *,
    conflicted: npt.ArrayLike,
    protocol: str = "disjoint",
    seed: int = 0,
    test_fraction: float = 0.2,
    validation_fraction: float = 0.15,
    folds: int = 0,
    fold: int = 0,
    published_fold: npt.ArrayLike | None = None,
    every_stratum: bool = False,
) -> Split:
    """Divides the rows of a table into train, validation and test.

    Test has `test_fraction` of the n rows and validation `validation_fraction` of the others, both rounded half up:
    24,104 rows give 16,391 / 2,892 / 4,821, as Uraimov and Yoo (2022) state. Each stratum gives its share to either by
    largest remainder. With `folds`, the test parts of the folds partition the rows instead. Conflicted rows, and under
    `disjoint` whoever shares a group with one, always go to train.

    Under `disjoint` a group counts, with all its rows, to the stratum of its first key. Where groups of several
    rows do not add up to the totals, groups of one row fill them; where those run out, the totals are missed by
    part of a group. Where a group has five rows or more on average (speakers), the parts are folds of scikit-learn's
    `StratifiedGroupKFold` instead: 1 / fraction of them, rounded, or as many as the rarest stratum has groups where
    `every_stratum` asks for one in each.

    Args:
      keys: str [n], one distinct key per row.
      stratum: int [n], the class whose share is kept in every part; unknown (-1) is a stratum of its own.
      group: int [n], what stays together under `disjoint`, see `grouping.connected`; negative where unknown, which
        makes the row a group of its own.
      conflicted: bool [n], rows whose labels cannot be trusted, see `grouping.find_conflicts`.
      protocol: one of `PROTOCOLS`.
      seed: not negative.
      test_fraction: between 0 and 1; ignored where `folds` is set.
      validation_fraction: between 0 and 1.
      folds: 0 for a single split, or the number of folds, 2 or more.
      fold: which fold is the test part, 0 to folds - 1.
      published_fold: int [n], the folds that a dataset was published with; under `disjoint` its test parts are these,
        save that a group lies whole in the fold of its first key.
      every_stratum: under `disjoint`, refuse a stratum whose groups are too few for every part to hold one.

    Returns:
      The split. Its report holds the numbers of rows in `train`, `validation` and `test` and those aimed at
      (`wanted_validation`, `wanted_test`), of `conflicted` rows and rows `kept_in_train` on their account, of
      `groups`, `groups_of_several_rows` and `groups_in_several_parts` (leaks; none under `disjoint`), and in `strata`
      the rows of each stratum in each part.

    Raises:
      UserError: an unknown protocol, fractions or folds out of range, a repeated key, or too few rows or groups.

    >>> split = make_split([f"face_{i}" for i in range(20)], [0, 1] * 10, [-1] * 20, conflicted=[False] * 20)
    >>> len(split.train), len(split.validation), len(split.test)
    (14, 2, 4)
    """
    fractions: dict[str, Any] = {"test_fraction": test_fraction, "validation_fraction": validation_fraction}
    _check_options(protocol, seed, fractions, folds, fold)
    keys = _checked_keys(keys)
    n = len(keys)
    columns = {"stratum": stratum, "group": group, "conflicted": conflicted}
    for name, column in (columns | ({} if published_fold is None else {"published_fold": published_fold})).items():
        if np.shape(column) != (n,):
            raise UserError(f"A split of {n} keys needs {n} values of {name}; it has shape {np.shape(column)}.")

    # From here on rows are in order of their keys, and a group is known by its first row.
    order = np.argsort(keys, kind="stable")
    strata, row_stratum = np.unique(np.asarray(stratum)[order], return_inverse=True)
    group = np.asarray(group)[order]
    first, inverse = np.unique(group, return_index=True, return_inverse=True)[1:]
    owner = np.where(group < 0, np.arange(n), first[inverse])
    conflicted = np.asarray(conflicted, bool)[order]
    unit = owner if protocol == "disjoint" else np.arange(n)
    size, unit_stratum = np.bincount(unit, minlength=n), row_stratum[unit]
    kept = (np.bincount(unit, weights=conflicted, minlength=n) > 0)[unit]
    free = (size > 0) & ~kept
    required = np.flatnonzero(strata >= 0) if every_stratum and protocol == "disjoint" else np.array([], int)
    together = n >= (_LARGE_FOR_STRATA if required.size else _LARGE) * (size > 0).sum()
    available = grouping.groups_in(row_stratum, unit, ~kept, len(strata))
    if (available[required] < max(3, folds)).any():
        raise TooFewGroups(strata[required], available[required], max(3, folds))

    def choose(total: int, stream: int, fraction: float, among: BoolArray) -> BoolArray:
        """Chooses units with `total` rows, about, out of the rows that remain, each stratum giving its share."""
        if together:
            left = grouping.groups_in(row_stratum, unit, among & ~kept, len(strata))
            parts = max(2, min([round(1 / fraction), len(np.unique(unit[among & ~kept])), *left[required]]))
            return grouping.group_folds(row_stratum, unit, among & ~kept, parts, seed, stream) == 0
        rows, able = (np.bincount(unit_stratum[some], minlength=len(strata)) for some in (among, among & ~kept))
        quota = grouping.allocate(total, rows, able)
        return grouping.pick(unit_stratum, size, grouping.shuffled(n, seed, stream), free & among, quota)[unit]

    published = None if published_fold is None else np.asarray(published_fold)[order]
    if folds and protocol == "disjoint" and published is not None and (published >= 0).all():
        if published.max() + 1 != folds:
            raise UserError(f"This dataset was published with {published.max() + 1} folds; {folds} were asked for.")
        in_test = (published[owner] == fold) & ~kept
        wanted_test = int((published == fold).sum())
    elif folds:
        wanted_test = len(range(fold, int((~kept).sum()), folds))
        if together:
            in_test = grouping.group_folds(row_stratum, unit, ~kept, folds, seed, 0) == fold
        else:
            in_test = (grouping.deal(unit_stratum, size, grouping.shuffled(n, seed, 0), free, folds) == fold)[unit]
    else:
        wanted_test = _round_half_up(test_fraction, n)
        in_test = choose(wanted_test, 0, test_fraction, np.ones(n, bool))
    remaining = ~in_test
    wanted_validation = _round_half_up(validation_fraction, int(remaining.sum()))
    in_validation = choose(wanted_validation, 1 + fold, validation_fraction, remaining)

    part = np.where(in_test, 2, np.where(in_validation, 1, 0))
    parts: dict[str, Any] = {name: np.sort(order[part == index]) for index, name in enumerate(PARTS)}
    for name, rows in parts.items():
        if not rows.size:
            raise UserError(
                f"Too little to split: {n} rows of {int((size > 0).sum())} groups, {int(kept.sum())} of the rows "
                f"kept in train for conflicting labels, leave {name} empty; use more data or other fractions."
            )
    missing = [int(s) for s in required if np.unique(part[row_stratum == s]).size < len(PARTS)]
    if missing:
        raise TooFewGroups(strata[missing], available[missing], int(available[missing].max()) + 1)
    in_part, table = np.zeros((n, 3), bool), np.zeros((len(strata), 3), np.int64)
    in_part[owner, part] = True
    np.add.at(table, (row_stratum, part), 1)
    report = {
        **{name: len(rows) for name, rows in parts.items()},
        "wanted_validation": wanted_validation,
        "wanted_test": wanted_test,
        "conflicted": int(conflicted.sum()),
        "kept_in_train": int(kept.sum()),
        "groups": len(np.unique(owner)),
        "groups_of_several_rows": int((np.bincount(owner) > 1).sum()),
        "groups_in_several_parts": int((in_part.sum(axis=1) > 1).sum()),
        "strata": {str(a): dict(zip(PARTS, row, strict=True)) for a, row in zip(strata, table.tolist(), strict=True)},
    }
    fractions["test_fraction"] = None if folds else test_fraction
    return Split(protocol, int(seed), int(fold), int(folds), keys=keys, report=report, **fractions, **parts)


def _check_options(protocol: str, seed: int, fractions: dict[str, float], folds: int, fold: int) -> None:
    if protocol not in PROTOCOLS:
        raise UserError(f"There is no split protocol {protocol!r}; choose one of {', '.join(PROTOCOLS)}.")
    if seed < 0:
        raise UserError(f"The seed of a split must not be negative, got {seed}.")
    for name, fraction in fractions.items():
        if not 0 < fraction < 1:
            raise UserError(f"{name} must lie between 0 and 1, got {fraction}.")
    if folds < 0 or folds == 1:
        raise UserError(f"folds must be 0 (one split) or at least 2, got {folds}.")
    if not 0 <= fold < max(folds, 1):
        raise UserError(f"fold must lie between 0 and {max(folds, 1) - 1} with folds={folds}, got {fold}.")


def _checked_keys(keys: npt.ArrayLike) -> npt.NDArray[np.str_]:
    """Returns the keys as a string array [n], which must be distinct and fit on a line."""
    keys = np.asarray(keys, np.str_)
    if keys.ndim != 1 or keys.size < 3:
        raise UserError(f"A split needs a list of at least three keys, got an array of shape {keys.shape}.")
    ordered = np.sort(keys)
    repeated = ordered[1:][ordered[1:] == ordered[:-1]]
    if repeated.size:
        raise UserError(f"Keys must be distinct, and {str(repeated[0])!r} occurs more than once; drop or rename rows.")
    if {"\t", "\n"} & set("".join(keys.tolist())):
        raise UserError("Keys must hold neither tabs nor line breaks; rename the files concerned.")
    return keys


def _rows_of(keys: npt.NDArray[np.str_], wanted: npt.ArrayLike) -> IntArray:
    """Returns row indices, ascending, of the wanted keys, all of which are in `keys`."""
    order = np.argsort(keys)
    return np.sort(order[np.searchsorted(keys[order], np.asarray(wanted, np.str_))])


def _round_half_up(fraction: float, n: int) -> int:
    """Rounds fraction * n in decimal, so that 0.145 * 100 is the 14.5 that it looks like."""
    return int((Decimal(str(fraction)) * n).to_integral_value(ROUND_HALF_UP))
