"""Which rows belong together: chains of shared values, against networks on paper and SciPy-free union-find."""

import numpy as np
import pytest

from agegender_jax.grouping import connected


def by_hand(*columns: list) -> list[int]:
    """Union-find over the rows, in plain Python."""
    n = len(columns[0])
    root = list(range(n))

    def find(i: int) -> int:
        while root[i] != i:
            i = root[i]
        return i

    for column in columns:
        for i in range(n):
            for j in range(i):
                if column[i] == column[j] and column[i] not in ("", -1):
                    root[max(find(i), find(j))] = min(find(i), find(j))
    names: dict[int, int] = {}
    return [names.setdefault(find(i), len(names)) for i in range(n)]


def test_a_chain_links_what_shares_nothing_directly_and_unknown_values_link_nothing() -> None:
    # 0-1 share a person, 1-2 a photographer, 2-3 a file: all four are one group. 4 is nobody's.
    assert connected([7, 7, -1, -1, -1], [-1, 3, 3, -1, -1], ["a", "b", "c", "c", "d"]).tolist() == [0, 0, 0, 0, 1]
    assert connected([-1, -1, -1], ["", "", ""]).tolist() == [0, 1, 2]


@pytest.mark.parametrize("seed", range(3))
def test_it_is_what_union_find_gives(seed: int) -> None:
    rng = np.random.default_rng(seed)
    person, group = rng.integers(-1, 12, 40), rng.integers(-1, 20, 40)
    content = rng.choice(["", *"abcdefghijklmnopqrstuvwxyz"], 40)
    numbers = connected(person, group, content)
    assert numbers.dtype == np.int64
    assert numbers.tolist() == by_hand(person.tolist(), group.tolist(), content.tolist())
