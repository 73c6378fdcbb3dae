"""A run's heads on a dataset that labels in another way: classes are matched by name, others counted."""

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

_COMMONEST = 5  # annotations that are named


def for_another_dataset(head: Head) -> Head:
    """Returns the head as it labels another dataset than its run's.

    A scheme that takes only an annotation that is a group's own range (Adience's protocol) takes every age and range
    that lies in the group: no other dataset annotates such ranges.
    """
    if isinstance(head, AgeGroupHead) and head.scheme.verbatim:
        return dataclasses.replace(head, scheme=dataclasses.replace(head.scheme, verbatim=False))
    return head


def unmapped(heads: Mapping[str, Head], columns: Columns) -> dict[str, dict[str, Any]]:
    """Counts annotations that none of a head's classes has; of heads for gender, age and a dataset's own classes.

    Returns:
      By target (`gender`, `age_group`, ...), where there are any: `count` of examples that are left out of its
      metrics, `annotated` of them and the others together, and `commonest`: annotations and how many have them.
    """
    whole: dict[str, Any] = {}  # heads that know one gender alone are counted as one that knows both
    for name, head in heads.items():
        if head.only_gender:
            whole[head.name] = dataclasses.replace(head, only_gender=None)  # type: ignore[type-var]
        else:
            whole[name] = head
    result = {}
    for name, head in whole.items():
        annotated, text = _annotations(head, columns)
        unknown = np.flatnonzero(annotated & ~head.known(head.column(columns))) if annotated.any() else ()
        if len(unknown):
            result[name] = {
                "count": len(unknown),
                "annotated": int(annotated.sum()),
                "commonest": dict(Counter(text(int(row)) for row in unknown).most_common(_COMMONEST)),
            }
    return result


def _annotations(head: Head, columns: Columns) -> tuple[np.ndarray, Callable[[int], str]]:
    """Returns which examples have an annotation of the head's kind, bool `[n]`, and its text by row."""
    if isinstance(head, GenderHead):
        return columns["gender"] != UNKNOWN, lambda row: GENDERS_AND_UNDEFINED[columns["gender"][row]]
    if isinstance(head, ClassNameHead):
        return columns["class_name"] != "", lambda row: str(columns["class_name"][row])
    if not isinstance(head, AgeGroupHead | AgeYearsHead):
        return np.zeros(0, bool), str
    low, high = columns["age_low"], columns["age_high"]
    return ~np.isnan(low), lambda row: f"{low[row]:g}" if low[row] == high[row] else f"{low[row]:g}-{high[row]:g}"
