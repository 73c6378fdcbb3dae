"""Who is in train, validation and test.

Two protocols. `disjoint`, the default, keeps the rows of a subject together, so that nobody is both learnt from and
tested on. `paper` draws rows at random as the published papers did, which leaks subjects; it is there to compare with
their figures. Both are stratified by age group and have exact totals.

A split is a pure function of the seed, the fold and the set of keys with their labels: the order of the rows and the
numbering of the subjects play no part. Randomness is the raw output of the Philox bit generator, sorted: NumPy keeps
the bits of its bit generators and of `SeedSequence` the same from release to release, but not the results of
`Generator` methods such as `permutation` (NEP 19), and an upgrade must not move anybody between train and test.
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

from agegender_jax.errors import UserError

PROTOCOLS = ("disjoint", "paper")
PARTS = ("train", "validation", "test")
SCHEMA = 1
"""Version of the file that `Split.save` writes."""

_SAVED_FIELDS = ("protocol", "seed", "fold", "folds", "test_fraction", "validation_fraction", "report")

BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Split:
    """Which rows of a table are in which part. Every row is in exactly one.

    Attributes:
      protocol: one of `PROTOCOLS`.
      seed, fold, folds, validation_fraction: as given to `make_split`.
      test_fraction: as given to `make_split`; None where `folds` decides it.
      keys: str [n], the key of every row of the table.
      train, validation, test: int64, row indices, ascending.
      report: counts worth printing, as JSON values; see `make_split`.
    """

    protocol: str
    seed: int
    fold: int
    folds: int
    test_fraction: float | None
    validation_fraction: float
    keys: npt.NDArray[np.str_]
    train: IntArray
    validation: IntArray
    test: IntArray
    report: dict[str, Any]

    @property
    def sha256(self) -> str:
        """Hash of who is where: SHA-256 of the UTF-8 lines `key<TAB>part<NEWLINE>` in order of the keys."""
        part_of = {key: part for part in PARTS for key in self.keys[getattr(self, part)].tolist()}
        return hashlib.sha256("".join(f"{key}\t{part_of[key]}\n" for key in sorted(part_of)).encode()).hexdigest()

    def for_keys(self, keys: npt.ArrayLike) -> "Split":
        """Returns the same split for a table with the same keys (str [n]) in another order.

        Raises:
          UserError: the table's keys are not the split's.
        """
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
        temporary = Path(f"{os.fspath(path)}.{os.getpid()}.tmp")
        try:
            temporary.write_text(json.dumps(content, indent=1), encoding="utf-8")
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

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


def find_conflicts(
    subject: npt.ArrayLike, age: npt.ArrayLike, gender: npt.ArrayLike
) -> tuple[BoolArray, dict[str, int]]:
    """Finds identical files whose labels disagree. An unknown label disagrees with nothing.

    For data sets in which a subject is a set of identical files (UTKFace), not a person photographed over the years.

    Args:
      subject: int [n], the set of identical files a row belongs to; negative where unknown.
      age: float [n], years; NaN where unknown.
      gender: int [n]; negative where unknown.

    Returns:
      bool [n], true for every row of a set in which two ages or two genders differ, and the counts `groups` (of two
      files or more), `files` (in them), `conflicting_groups`, `conflicting_files` and `groups_over_5_years` (with two
      ages more than 5 years apart).
    """
    subject, age, gender = np.asarray(subject), np.asarray(age, np.float64), np.asarray(gender)
    rows = np.flatnonzero(subject >= 0)
    group, size = np.unique(subject[rows], return_inverse=True, return_counts=True)[1:]

    def spread(values: npt.NDArray[Any]) -> Any:
        """Largest less smallest known value of each group; not above 0 where fewer than two are known."""
        known = np.isfinite(values)
        lowest, highest = np.full(len(size), np.inf), np.full(len(size), -np.inf)
        np.minimum.at(lowest, group[known], values[known])
        np.maximum.at(highest, group[known], values[known])
        return highest - lowest

    years = spread(age[rows])
    conflicting = (years > 0) | (spread(np.where(gender[rows] < 0, np.nan, gender[rows])) > 0)
    conflicted = np.zeros(len(subject), bool)
    conflicted[rows] = conflicting[group]
    return conflicted, {
        "groups": int((size > 1).sum()),
        "files": int(size[size > 1].sum()),
        "conflicting_groups": int(conflicting.sum()),
        "conflicting_files": int(conflicted.sum()),
        "groups_over_5_years": int((years > 5).sum()),
    }


def make_split(
    keys: npt.ArrayLike,
    age_group: npt.ArrayLike,
    subject: npt.ArrayLike,
    *,
    conflicted: npt.ArrayLike,
    protocol: str = "disjoint",
    seed: int = 0,
    test_fraction: float = 0.2,
    validation_fraction: float = 0.15,
    folds: int = 0,
    fold: int = 0,
) -> Split:
    """Divides the rows of a table into train, validation and test.

    Test has `test_fraction` of the n rows and validation `validation_fraction` of the others, both rounded half up:
    24,104 rows give 16,391 / 2,892 / 4,821, as Uraimov and Yoo (2022) state. Each stratum gives its share to either by
    largest remainder. With `folds`, the test parts of the folds partition the rows instead. Conflicted rows, and under
    `disjoint` whoever shares a subject with one, always go to train.

    Under `disjoint` a subject counts, with all its rows, to the stratum of its first key. Where subjects of several
    rows do not add up to the totals, subjects of one row fill them; where those run out, the totals are missed by
    part of a subject, and the report shows it.

    Args:
      keys: str [n], one distinct key per row.
      age_group: int [n], the strata; unknown (-1) is a stratum of its own.
      subject: int [n], who a row shows; negative where unknown, which makes the row a subject of its own.
      conflicted: bool [n], rows whose labels cannot be trusted, see `find_conflicts`.
      protocol: `disjoint` or `paper`.
      seed: not negative.
      test_fraction: between 0 and 1; plays no part where `folds` is set.
      validation_fraction: between 0 and 1.
      folds: 0 for a single split, or the number of folds, 2 or more.
      fold: which fold is the test part, 0 to folds - 1.

    Returns:
      The split. Its report holds the numbers of rows in `train`, `validation` and `test` and those aimed at
      (`wanted_validation`, `wanted_test`), of `conflicted` rows and rows `kept_in_train` on their account, of
      `subjects_of_several_rows` and `subjects_in_several_parts` (leaks; none under `disjoint`), and in `strata` the
      rows of each age group in each part.

    Raises:
      UserError: an unknown protocol, fractions or folds out of range, a repeated key, or too few rows or subjects.

    >>> split = make_split([f"face_{i}" for i in range(20)], [0, 1] * 10, [-1] * 20, conflicted=[False] * 20)
    >>> len(split.train), len(split.validation), len(split.test)
    (14, 2, 4)
    """
    fractions: dict[str, Any] = {"test_fraction": test_fraction, "validation_fraction": validation_fraction}
    _check_options(protocol, seed, fractions, folds, fold)
    keys = _checked_keys(keys)
    n = len(keys)
    for name, column in {"age_group": age_group, "subject": subject, "conflicted": conflicted}.items():
        if np.shape(column) != (n,):
            raise UserError(f"A split of {n} keys needs {n} values of {name}; it has shape {np.shape(column)}.")

    # From here on rows are in order of their keys, and a subject, or a group of rows, is known by its first row.
    order = np.argsort(keys, kind="stable")
    ages, age = np.unique(np.asarray(age_group)[order], return_inverse=True)
    subject = np.asarray(subject)[order]
    first, inverse = np.unique(subject, return_index=True, return_inverse=True)[1:]
    subject = np.where(subject < 0, np.arange(n), first[inverse])
    conflicted = np.asarray(conflicted, bool)[order]
    group = subject if protocol == "disjoint" else np.arange(n)
    size, stratum = np.bincount(group, minlength=n), age[group]
    kept = (np.bincount(group, weights=conflicted, minlength=n) > 0)[group]
    free = (size > 0) & ~kept

    def pick(total: int, stream: int, among: BoolArray) -> BoolArray:
        """Draws groups with `total` rows out of the rows that remain, each stratum giving its share."""
        rows, able = (np.bincount(stratum[some], minlength=len(ages)) for some in (among, among & ~kept))
        return _pick(stratum, size, _shuffled(n, seed, stream), free & among, allocate(total, rows, able))

    if folds:
        wanted_test = len(range(fold, int((~kept).sum()), folds))
        in_test = _deal(stratum, size, _shuffled(n, seed, 0), free, folds) == fold
    else:
        wanted_test = _round_half_up(test_fraction, n)
        in_test = pick(wanted_test, 0, np.ones(n, bool))
    remaining = ~in_test[group]
    wanted_validation = _round_half_up(validation_fraction, int(remaining.sum()))
    in_validation = pick(wanted_validation, 1 + fold, remaining)

    part = np.where(in_test[group], 2, np.where(in_validation[group], 1, 0))
    parts: dict[str, Any] = {name: np.sort(order[part == index]) for index, name in enumerate(PARTS)}
    for name, rows in parts.items():
        if not rows.size:
            raise UserError(
                f"Too little to split: {n} rows of {int((size > 0).sum())} subjects, {int(kept.sum())} of the rows "
                f"kept in train for conflicting labels, leave {name} empty; use more data or other fractions."
            )
    in_part, table = np.zeros((n, 3), bool), np.zeros((len(ages), 3), np.int64)
    in_part[subject, part] = True
    np.add.at(table, (age, part), 1)
    report = {
        **{name: len(rows) for name, rows in parts.items()},
        "wanted_validation": wanted_validation,
        "wanted_test": wanted_test,
        "conflicted": int(conflicted.sum()),
        "kept_in_train": int(kept.sum()),
        "subjects_of_several_rows": int((np.bincount(subject) > 1).sum()),
        "subjects_in_several_parts": int((in_part.sum(axis=1) > 1).sum()),
        "strata": {str(a): dict(zip(PARTS, row, strict=True)) for a, row in zip(ages, table.tolist(), strict=True)},
    }
    fractions["test_fraction"] = None if folds else test_fraction
    return Split(protocol, int(seed), int(fold), int(folds), keys=keys, report=report, **fractions, **parts)


def allocate(total: int, weights: npt.ArrayLike, capacity: npt.ArrayLike) -> IntArray:
    """Divides a whole number in proportion to weights, by largest remainder; equal remainders go to the first.

    Weights are int [S]; capacities too, the most that each may get, not above its weight: what one cannot take goes
    to the others. Returns int64 [S] that sums to `total`.

    Raises:
      UserError: the capacities add up to less than `total`.

    >>> allocate(5, [10, 7, 4], [10, 7, 4]).tolist()  # 2.38, 1.67, 0.95
    [2, 2, 1]
    """
    weights, capacity = np.asarray(weights, np.int64), np.asarray(capacity, np.int64)
    if total > capacity.sum():
        left_over = f"only {capacity.sum()} rows without conflicting labels are left"
        raise UserError(f"A part of {total} rows is asked for and {left_over}; use smaller fractions or more data.")
    given = np.zeros_like(weights)
    while left := total - int(given.sum()):
        open_weights = np.where(given < capacity, weights, 0)
        whole, remainder = np.divmod(left * open_weights, open_weights.sum())
        whole[np.argsort(-remainder, kind="stable")[: left - int(whole.sum())]] += 1
        given = np.minimum(given + whole, capacity)
    return given


def _pick(stratum: IntArray, size: IntArray, order: IntArray, free: BoolArray, quota: IntArray) -> BoolArray:
    """Chooses groups at random so that each stratum gives its quota of rows, or the sum of quotas is met at least."""
    chosen = np.zeros(len(size), bool)
    need = quota.copy()
    order = order[free[order]]
    several, single = order[size[order] > 1], order[size[order] == 1]

    def take(groups: Any) -> None:
        chosen[groups] = True
        np.subtract.at(need, stratum[groups], size[groups])

    # Groups of several rows give their part of the quota; else nearly all or none of them would be picked.
    rows, shared = (np.bincount(stratum[some], size[some], len(quota)) for some in (order, several))
    share = quota * shared / np.maximum(rows, 1)
    for g in several:
        s = stratum[g]
        if size[g] <= need[s] and quota[s] - need[s] + size[g] / 2 <= share[s]:
            take(g)
    for s in range(len(quota)):
        take(single[stratum[single] == s][: need[s]])

    # What is missing still: first what brings a stratum closer to its quota, then what costs the quotas least.
    always = np.full(len(size), -np.inf)
    for candidates, gap in ((several, size / 2), (single, always), (several, np.ones(len(size))), (several, always)):
        for g in candidates if need.sum() else ():
            if not chosen[g] and size[g] <= need.sum() and need[stratum[g]] >= gap[g]:
                take(g)
    left = several[~chosen[several]]
    if left.size and need.sum() and (size[left].min() < 2 * need.sum() or not chosen.any()):
        take(left[np.argmin(size[left])])
    return chosen


def _deal(stratum: IntArray, size: IntArray, order: IntArray, free: BoolArray, folds: int) -> IntArray:
    """Gives each free group a fold, with equally many rows of each stratum in every fold; -1 to the others."""
    order = order[free[order]]
    order = order[np.argsort(-size[order], kind="stable")]
    if len(order) < folds:
        raise UserError(f"{folds} folds need at least as many subjects without conflicting labels; {len(order)} found.")
    # Rows dealt like cards, stratum after stratum: cells and totals are then as equal as whole rows allow.
    rows = np.bincount(stratum[order], size[order]).astype(np.int64)
    quota = np.zeros((len(rows), folds), np.int64)
    np.add.at(quota, (np.repeat(np.arange(len(rows)), rows), np.arange(rows.sum()) % folds), 1)
    need, total = quota.tolist(), quota.sum(axis=0).tolist()
    fold_of = np.full(len(size), -1)
    for g, s, rows_of_group in zip(order.tolist(), stratum[order].tolist(), size[order].tolist(), strict=True):
        cell = need[s]
        if rows_of_group > 1:  # to where it is needed most, in its stratum and altogether
            need_of = [cell[f] / rows[s] + total[f] / rows.sum() for f in range(folds)]
        else:  # fills up what is left, the totals above all
            need_of = [(total[f] > 0, cell[f], total[f]) for f in range(folds)]
        fold_of[g] = f = need_of.index(max(need_of))
        cell[f] -= rows_of_group
        total[f] -= rows_of_group
    return fold_of


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
    """Row indices, ascending, of the wanted keys, all of which are in `keys`."""
    order = np.argsort(keys)
    return np.sort(order[np.searchsorted(keys[order], np.asarray(wanted, np.str_))])


def _shuffled(n: int, seed: int, stream: int) -> IntArray:
    """A random order of n things, the same under every version of NumPy."""
    bits = np.random.Philox(np.random.SeedSequence(seed, spawn_key=(stream,))).random_raw(n)
    return np.argsort(bits, kind="stable")


def _round_half_up(fraction: float, n: int) -> int:
    """Nearest whole number to fraction * n, in decimal, so that 0.145 * 100 is the 14.5 that it looks like."""
    return int((Decimal(str(fraction)) * n).to_integral_value(ROUND_HALF_UP))
