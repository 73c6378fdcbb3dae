"""Groups of rows: which belong together, which contradict each other, and how they are dealt out in equal shares."""

import warnings
from typing import Any

import numpy as np
import numpy.typing as npt

from agegender_jax.errors import UserError

BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]


def connected(*columns: npt.ArrayLike) -> IntArray:
    """Numbers the rows of a table so that rows have one number where a chain of shared values links them.

    Two rows that share a value in any column (int or str, `[n]`) are linked: two photographs of a person, of one
    photographer, or of one file. Negative numbers and empty texts are unknown and link nothing.

    Returns:
      int64 `[n]`, 0 or more, in order of appearance.

    >>> connected([1, 1, 2, -1, -1], ["a", "b", "b", "", "c"]).tolist()
    [0, 0, 0, 1, 2]
    """
    from scipy.sparse import coo_array  # only for splits that are made anew
    from scipy.sparse.csgraph import connected_components

    n = len(np.asarray(columns[0]))
    rows, values, nodes = [], [], n
    for column in map(np.asarray, columns):
        known = np.flatnonzero(column != "" if column.dtype.kind in "US" else column >= 0)
        distinct, value = np.unique(column[known], return_inverse=True)
        rows.append(known)
        values.append(nodes + value)
        nodes += len(distinct)
    edges = (np.concatenate(rows), np.concatenate(values))
    graph = coo_array((np.ones(len(edges[0]), np.int8), edges), shape=(nodes, nodes))
    labels = connected_components(graph, directed=False)[1][:n]
    first, inverse = np.unique(labels, return_index=True, return_inverse=True)[1:]
    return np.argsort(np.argsort(first))[inverse].astype(np.int64)


def find_conflicts(
    content: npt.ArrayLike, age: npt.ArrayLike, *others: npt.ArrayLike
) -> tuple[BoolArray, dict[str, int]]:
    """Marks identical files whose labels disagree. An unknown label disagrees with nothing.

    Args:
      content: str [n], the hash of each row's file.
      age: float [n], years; NaN where unknown.
      *others: other labels as numbers, float or int [n]; NaN or negative where unknown.

    Returns:
      bool [n], true for every row of a set in which two labels of a kind differ, and the counts `groups` (of two
      files or more), `files` (in them), `conflicting_groups`, `conflicting_files` and `groups_over_5_years` (with two
      ages more than 5 years apart).
    """
    group, size = np.unique(np.asarray(content), return_inverse=True, return_counts=True)[1:]

    def spread(values: npt.ArrayLike) -> Any:
        """Returns the largest less the smallest known value of each group; not above 0 where fewer are known."""
        values = np.asarray(values, np.float64)
        known = values >= 0  # and so no NaN
        lowest, highest = np.full(len(size), np.inf), np.full(len(size), -np.inf)
        np.minimum.at(lowest, group[known], values[known])
        np.maximum.at(highest, group[known], values[known])
        return highest - lowest

    years = spread(age)
    conflicting = np.logical_or.reduce([years > 0, *(spread(label) > 0 for label in others)])
    conflicted = conflicting[group]
    return conflicted, {
        "groups": int((size > 1).sum()),
        "files": int(size[size > 1].sum()),
        "conflicting_groups": int(conflicting.sum()),
        "conflicting_files": int(conflicted.sum()),
        "groups_over_5_years": int((years > 5).sum()),
    }


def allocate(total: int, weights: npt.ArrayLike, capacity: npt.ArrayLike) -> IntArray:
    """Divides a whole number in proportion to weights, by largest remainder; equal remainders go to the first.

    Weights are int [S]; capacities too, the most that each may get, not above its weight: what one cannot take goes
    to the others. Returns int64 [S] that sums to `total`; raises UserError where the capacities add up to less.

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


def pick(stratum: IntArray, size: IntArray, order: IntArray, free: BoolArray, quota: IntArray) -> BoolArray:
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


def groups_in(stratum: IntArray, group: IntArray, among: BoolArray, strata: int) -> IntArray:
    """Returns the number of groups that each stratum has a row in, int [strata]."""
    pairs = np.unique(np.stack([stratum[among], group[among]]), axis=1)
    return np.bincount(pairs[0], minlength=strata)


def group_folds(stratum: IntArray, group: IntArray, among: BoolArray, folds: int, seed: int, stream: int) -> IntArray:
    """Gives each row among these a fold, groups whole and strata in equal shares; -1 to the others."""
    from sklearn.model_selection import StratifiedGroupKFold

    rows, fold_of = np.flatnonzero(among), np.full(len(stratum), -1)
    _check_groups(len(np.unique(group[rows])), folds)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a rare stratum is not in every fold
        derived = int(np.random.SeedSequence(seed, spawn_key=(stream,)).generate_state(1)[0])
        splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=derived)
        # A stratum of fewer rows than folds is an error to scikit-learn where no other is larger.
        for index, (_, test) in enumerate(splitter.split(rows, stratum[rows], group[rows])):
            fold_of[rows[test]] = index
    return fold_of


def _check_groups(groups: int, folds: int) -> None:
    if groups < folds:
        raise UserError(f"{folds} folds need at least as many groups without conflicting labels; there are {groups}.")


def deal(stratum: IntArray, size: IntArray, order: IntArray, free: BoolArray, folds: int) -> IntArray:
    """Gives each free group a fold, with equally many rows of each stratum in every fold; -1 to the others."""
    order = order[free[order]]
    order = order[np.argsort(-size[order], kind="stable")]
    _check_groups(len(order), folds)
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


def shuffled(n: int, seed: int, stream: int) -> IntArray:
    """Returns a random order of n items, the same under every version of NumPy."""
    bits = np.random.Philox(np.random.SeedSequence(seed, spawn_key=(stream,))).random_raw(n)
    return np.argsort(bits, kind="stable")
