"""How the protocols would divide a dataset into train, validation and test."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from agegender_jax import recipe as recipes
from agegender_jax.data.partition import class_names, split_dataset
from agegender_jax.describe.statistics import identified, in_several
from agegender_jax.errors import UserError
from agegender_jax.splits import PARTS, PROTOCOLS

Columns = Mapping[str, np.ndarray]


def strata(columns: Columns) -> tuple[str, ...]:
    """What a dataset can be stratified by without more ado: ages, else genders; and its classes if it names any."""
    first = "age_group" if np.isfinite(columns["age_low"]).any() else "gender"
    return (first, "class") if class_names(columns) else (first,)


def divisions(columns: Columns, scheme: str) -> list[dict[str, Any]]:
    """What the default recipe's split gives under every protocol, and with the published folds where there are any.

    Args:
      columns: `source.COLUMNS`.
      scheme: of age groups.

    Returns:
      Of each split `protocol`, `stratify` and `folds`, and either `refused`, the reason, or `rows` and `subjects` by
      part, `subjects_in_several` and `groups_in_several` parts, and `sha256`. `subjects` is None where nobody is
      identified; a group is all that `disjoint` keeps together.
    """
    fold = columns["fold"]
    # Parts of the dataset without a fold, or folds that are not numbered through, cannot be tested on in turn.
    published = int(fold.max()) + 1 if (fold >= 0).all() and len(np.unique(fold)) == fold.max() + 1 > 1 else 0
    wanted = [(protocol, by, 0) for by in strata(columns) for protocol in PROTOCOLS]
    wanted += [("disjoint", strata(columns)[0], published)] if published else []
    return [_divide(columns, scheme, *choice) for choice in wanted]


def _divide(columns: Columns, scheme: str, protocol: str, stratify: str, folds: int) -> dict[str, Any]:
    options = recipes.base().split.to_dict() | {"protocol": protocol, "stratify": stratify, "folds": folds}
    division: dict[str, Any] = {"protocol": protocol, "stratify": stratify, "folds": folds}
    try:
        split = split_dataset(columns, scheme, **options)[0]
    except UserError as error:
        return division | {"refused": str(error)}
    rows = {part: getattr(split, part) for part in PARTS}
    part_of = np.empty(len(split.keys), int)
    for index, part in enumerate(PARTS):
        part_of[rows[part]] = index
    known = identified(columns)
    subject = np.where(known, columns["subject"], -1)
    return division | {
        "rows": {part: len(of) for part, of in rows.items()},
        "subjects": {part: len(np.unique(subject[of][known[of]])) for part, of in rows.items()}
        if known.any()
        else None,
        "subjects_in_several": in_several(subject, part_of) if known.any() else None,
        "groups_in_several": split.report["groups_in_several_parts"],
        "sha256": split.sha256,
    }
