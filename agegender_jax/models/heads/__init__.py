"""Heads: the targets of the model, one file each.

Every module of this package is imported, and a head that it decorates with `register` is one: `config.heads.NAME` of a
recipe, the model, evaluation and reports have it.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from agegender_jax.models.heads.base import HEADS, Columns, Head, LabelNames, metrics_metadata

# In this order: parameters are initialised in the order of the heads.
from agegender_jax.models.heads.gender import GENDERS_AND_UNDEFINED, GenderHead  # isort: skip
from agegender_jax.models.heads.age_group import AgeGroupHead  # isort: skip
from agegender_jax.models.heads.class_name import ClassNameHead  # isort: skip
from agegender_jax.models.heads.age_years import AgeYearsHead  # isort: skip
from agegender_jax.models.heads.classes import ClassHead
from agegender_jax.models.heads.routing import route_by_gender
from agegender_jax.models.registry import import_modules

__all__ = ["GENDERS_AND_UNDEFINED", "HEADS", "AgeGroupHead", "AgeYearsHead", "ClassHead", "ClassNameHead", "Columns"]
__all__ += ["GenderHead", "Head", "HeadOptions", "build_heads", "metrics_metadata", "with_class_weights"]


@dataclasses.dataclass(frozen=True)
class HeadOptions:
    """Options of all heads.

    Attributes:
      age_groups: name of the scheme.
      heads: the options of each head, by its name: `config.heads`.
      routed: whether there is a head for either gender, see `route_by_gender`.
    """

    age_groups: str
    heads: Mapping[str, Mapping[str, Any]]
    routed: bool


def build_heads(options: HeadOptions, class_names: Sequence[str] = ("unknown",)) -> dict[str, Head]:
    """Builds the heads by name; a head of weight 0 is left out.

    Before the data are read, any `class_names` do.

    Raises:
      UserError: the backbone does not go with the heads.
    """
    labels = LabelNames(options.age_groups, tuple(class_names))
    heads: dict[str, Any] = {
        name: head.build(options.heads[name], labels) for name, head in HEADS.items() if options.heads[name]["weight"]
    }
    return route_by_gender(heads) if options.routed else heads


def with_class_weights(heads: Mapping[str, Any], weights: Mapping[str, np.ndarray]) -> dict[str, Head]:
    """Returns the heads, some with these weights of their classes, float32 `[classes]`, which only the loss needs."""
    return {**heads, **{name: dataclasses.replace(heads[name], class_weights=own) for name, own in weights.items()}}


import_modules(__path__, __name__)
