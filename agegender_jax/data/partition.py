"""Splits a dataset: its metadata table as the arguments of `splits.make_split`."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from agegender_jax.data.source import COLUMNS
from agegender_jax.errors import Refused, UserError
from agegender_jax.grouping import connected, find_conflicts
from agegender_jax.labels import GENDERS, UNDEFINED_GENDER, UNKNOWN, age_groups
from agegender_jax.splits import Split, TooFewGroups, make_split

Columns = Mapping[str, np.ndarray]
INSTEAD = (
    "--config.heads.class_name.weight=0 --config.heads.gender.weight=1 --config.split.stratify=gender "
    "--config.evaluate.select=gender/accuracy"
)
"""Flags that learn gender instead of a dataset's own classes."""

STRATA = ("age_group", "gender", "class")  # what the parts of a split may have in equal shares: split.stratify.


def class_names(columns: Columns) -> tuple[str, ...]:
    """Returns the classes that a dataset names itself, sorted; none where it names none."""
    return tuple(sorted(set(columns["class_name"].tolist()) - {""}))


def contradictions(columns: Columns) -> tuple[np.ndarray, dict[str, int]]:
    """Returns identical files whose ages, ranges of ages, genders or classes differ, see `grouping.find_conflicts`."""
    gender = columns["gender"]
    classes = np.unique(columns["class_name"], return_inverse=True)[1]
    return find_conflicts(
        columns["sha256"],
        columns["age_low"],
        columns["age_high"],
        np.where(gender < len(GENDERS), gender, UNKNOWN),  # "undefined" says that nobody looked
        np.where(columns["class_name"] == "", UNKNOWN, classes),
    )


def split_dataset(
    columns: Columns, age_group_scheme: str, *, stratify: str, folds: int = 0, **options: Any
) -> tuple[Split, dict[str, int]]:
    """Makes a split of a dataset, and counts the identical files (see `contradictions`).

    Under `disjoint`, examples stay together that share a subject, a `group` or their very content. The parts have age
    groups, genders or classes in equal shares, as `stratify` says; a gender or a class with too few subjects for every
    part is refused. The options are those of `make_split`; `stratify` is one of `STRATA`.

    Raises:
      UserError: too few examples, or no classes to stratify by.
      Refused: too few subjects of a gender or a class; says what to do instead.
    """
    assert set(COLUMNS) <= set(columns)
    names: Sequence[str] = (*GENDERS, UNDEFINED_GENDER)
    if stratify == "class":
        names = class_names(columns)
        if not names:
            raise UserError("This dataset names no classes; set config.split.stratify to age_group or gender.")
        named = columns["class_name"]
        stratum = np.where(named == "", UNKNOWN, np.searchsorted(np.array(names), named))
    elif stratify == "gender":
        stratum = columns["gender"]
    else:
        stratum = age_groups(age_group_scheme).assign_range(columns["age_low"], columns["age_high"])
    conflicted, conflicts = contradictions(columns)
    try:
        split = make_split(
            columns["key"],
            stratum,
            connected(columns["subject"], columns["group"], columns["sha256"]),
            conflicted=conflicted,
            published_fold=columns["fold"],
            every_stratum=stratify != "age_group",
            folds=folds,
            **options,
        )
    except TooFewGroups as error:
        raise Refused(_refusal(error, names, stratify, folds)) from error
    return split, conflicts


def _refusal(error: TooFewGroups, names: Sequence[str], stratify: str, folds: int) -> str:
    few = [f"{names[s]} ({count})" for s, count in zip(error.strata, error.counts, strict=True)]
    shown = ", ".join(few[:6]) + (f" and {len(few) - 6} more" if len(few) > 6 else "")
    ways = []
    if folds > 3 and error.counts.min() >= 3:
        ways.append(f"choose fewer folds (--config.split.folds={error.counts.min()})")
    if stratify == "class":
        ways.append(
            f"learn gender and age bands instead of exact classes ({INSTEAD} --config.heads.age_group.weight=1), or "
            f"gender and age in years ({INSTEAD} --config.heads.age.weight=1)"
        )
    ways += ["merge classes", "add speakers"] if stratify == "class" else ["add subjects"]
    return (
        f"A disjoint split needs at least {error.needed} subjects of every {stratify}, one for each part, and these "
        f"have fewer: {shown}. Ways out: {'; '.join(ways)}; or the leaky protocol (--config.split.protocol=paper), "
        "which measures how well known speakers are recognised."
    )
