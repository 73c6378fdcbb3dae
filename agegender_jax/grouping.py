"""Which rows of a table belong together, and which identical files contradict each other."""

from typing import Any

import numpy as np
import numpy.typing as npt

BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]


def connected(*columns: npt.ArrayLike) -> IntArray:
    """Numbers the rows of a table so that rows have one number where a chain of shared values links them.

    Two rows that share a value in any column are linked: two photographs of a person, of one photographer, or of
    one file. Negative numbers and empty texts are unknown and link nothing.

    Args:
      *columns: each int [n] or str [n].

    Returns:
      int64 [n], 0 or more.

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
    return np.argsort(np.argsort(first))[inverse].astype(np.int64)  # in order of appearance


def find_conflicts(
    content: npt.ArrayLike, age: npt.ArrayLike, *others: npt.ArrayLike
) -> tuple[BoolArray, dict[str, int]]:
    """Finds identical files whose labels disagree. An unknown label disagrees with nothing.

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
        """Largest less smallest known value of each group; not above 0 where fewer than two are known."""
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
