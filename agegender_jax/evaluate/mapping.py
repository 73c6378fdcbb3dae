"""A run's heads on a dataset that labels in another way: classes are matched by name, and what has none is counted."""

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from agegender_jax.labels import UNKNOWN
from agegender_jax.models.heads import (
    GENDERS_AND_UNDEFINED,
    AgeGroupHead,
    AgeYearsHead,
    Columns,
    GenderHead,
    Head,
    JointClassHead,
)

_COMMONEST = 5  # annotations that are named


def for_another_dataset(head: Head) -> Head:
    """The head as it labels another dataset than its run's.

    A scheme that takes only an annotation that is a group's own range (Adience's protocol) takes every age and range
    that lies in the group: elsewhere nothing is annotated in its words.
    """
    if isinstance(head, AgeGroupHead) and head.scheme.verbatim:
        return dataclasses.replace(head, scheme=dataclasses.replace(head.scheme, verbatim=False))
    inner = getattr(head, "inner", None)  # of a head that owns another one
    if inner is None:
        return head
    changed: Any = dataclasses.replace(head, inner=for_another_dataset(inner))  # type: ignore[type-var]
    return changed


def unmapped(heads: Mapping[str, Head], columns: Columns) -> dict[str, dict[str, Any]]:
    """What is annotated and is none of what a run's heads know.

    Args:
      heads: by name.
      columns: of the examples, `[n]` each.

    Returns:
      By what is predicted (`gender`, `age_group`, ...), where there is any: `count` of examples that are left out of
      its figures, `annotated` of them and the others together, and `commonest`: annotations and how many have them.
    """
    result = {}
    for name, head in heads.items():
        for thing, part in _parts(name, head):
            annotated, text = _annotations(part, columns)
            label = part.column(columns)
            known = ~np.isnan(label) if label.dtype.kind == "f" else label != UNKNOWN
            left = np.flatnonzero(annotated & ~known)
            if len(left):
                commonest = Counter(text(row) for row in left).most_common(_COMMONEST)
                result[thing] = {
                    "count": len(left),
                    "annotated": int(annotated.sum()),
                    "commonest": dict(commonest),
                }
    return result


def _parts(name: str, head: Head) -> Iterator[tuple[str, Head]]:
    inner = getattr(head, "inner", None)
    if inner is None:
        yield name, head
    else:
        yield "gender", head.gender  # type: ignore[attr-defined]
        yield ("age_group" if isinstance(inner, AgeGroupHead) else "age"), inner


def _annotations(head: Head, columns: Columns) -> tuple[np.ndarray, Any]:
    """Which examples have an annotation of the head's kind, bool `[n]`, and a function from a row to its text."""
    if isinstance(head, GenderHead):
        return columns["gender"] != UNKNOWN, lambda row: GENDERS_AND_UNDEFINED[columns["gender"][row]]
    if isinstance(head, JointClassHead):
        return columns["class_name"] != "", lambda row: str(columns["class_name"][row])
    assert isinstance(head, AgeGroupHead | AgeYearsHead)
    low, high = columns["age_low"], columns["age_high"]
    return ~np.isnan(low), lambda row: f"{low[row]:g}" if low[row] == high[row] else f"{low[row]:g}-{high[row]:g}"
