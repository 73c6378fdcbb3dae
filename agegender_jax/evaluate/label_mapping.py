"""A run's heads on a dataset that labels in another way: classes are matched by name, and what has none is counted."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from agegender_jax.labels import UNKNOWN
from agegender_jax.models.heads import (
    GENDERS_AND_UNDEFINED,
    AgeGroupHead,
    AgeYearsHead,
    ClassNameHead,
    Columns,
    GenderHead,
    Head,
)
from agegender_jax.models.routed import RoutedHead

_COMMONEST = 5  # annotations that are named


def for_another_dataset(head: Head) -> Head:
    """The head as it labels another dataset than its run's.

    A scheme that takes only an annotation that is a group's own range (Adience's protocol) takes every age and range
    that lies in the group: elsewhere nothing is annotated in its words.
    """
    if isinstance(head, AgeGroupHead) and head.scheme.verbatim:
        return dataclasses.replace(head, scheme=dataclasses.replace(head.scheme, verbatim=False))
    if isinstance(head, RoutedHead):
        return dataclasses.replace(head, inner=for_another_dataset(head.inner))
    return head


def unmapped(heads: Mapping[str, Head], columns: Columns) -> dict[str, dict[str, Any]]:
    """What is annotated and is none of what a run's heads know; of heads for gender, age and a dataset's own classes.

    Args:
      heads: by name.
      columns: of the examples, `[n]` each.

    Returns:
      By what is predicted (`gender`, `age_group`, ...), where there is any: `count` of examples that are left out of
      its figures, `annotated` of them and the others together, and `commonest`: annotations and how many have them.
    """
    result = {}
    for name, head in heads.items():
        parts = head.heads if isinstance(head, RoutedHead) else {name: head}
        for thing, part in parts.items():
            if (found := _annotations(part, columns)) is None:
                continue
            annotated, text = found
            left = np.flatnonzero(annotated & ~part.known(part.column(columns)))
            if len(left):
                commonest = Counter(text(int(row)) for row in left).most_common(_COMMONEST)
                result[thing] = {
                    "count": len(left),
                    "annotated": int(annotated.sum()),
                    "commonest": dict(commonest),
                }
    return result


def _annotations(head: Head, columns: Columns) -> tuple[np.ndarray, Callable[[int], str]] | None:
    """Which examples have an annotation of the head's kind, bool `[n]`, and its text by row; None of other kinds."""
    if isinstance(head, GenderHead):
        return columns["gender"] != UNKNOWN, lambda row: GENDERS_AND_UNDEFINED[columns["gender"][row]]
    if isinstance(head, ClassNameHead):
        return columns["class_name"] != "", lambda row: str(columns["class_name"][row])
    if not isinstance(head, AgeGroupHead | AgeYearsHead):
        return None
    low, high = columns["age_low"], columns["age_high"]
    return ~np.isnan(low), lambda row: f"{low[row]:g}" if low[row] == high[row] else f"{low[row]:g}-{high[row]:g}"
