"""Perceived gender."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np

from agegender_jax.labels import GENDERS, UNDEFINED_GENDER, UNKNOWN
from agegender_jax.models.heads.base import Columns, LabelNames, register
from agegender_jax.models.heads.classes import ClassHead

GENDERS_AND_UNDEFINED = (*GENDERS, UNDEFINED_GENDER)


@register
@dataclasses.dataclass(frozen=True, eq=False)
class GenderHead(ClassHead):
    """Perceived gender as annotated. With `names` of `GENDERS` alone, "undefined" counts as unknown."""

    name = "gender"
    # `undefined`: a third class for Adience's gender "u", which means "infant, not annotated"
    options: ClassVar[dict[str, Any]] = ClassHead.options | {"weight": 1.0, "undefined": False}

    names: tuple[str, ...] = GENDERS

    @classmethod
    def build(cls, options: Mapping[str, Any], labels: LabelNames) -> Self:
        return cls.from_options(options, names=GENDERS_AND_UNDEFINED if options["undefined"] else GENDERS)

    def column(self, examples: Columns) -> np.ndarray:
        gender = np.asarray(examples["gender"])
        return np.where(gender < self.class_count, gender, UNKNOWN).astype(np.int32)
