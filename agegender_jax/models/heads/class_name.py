"""The classes that a dataset names itself."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Self

import numpy as np

from agegender_jax.labels import UNKNOWN
from agegender_jax.models.heads.base import Columns, LabelNames, register
from agegender_jax.models.heads.classes import ClassHead


@register
@dataclasses.dataclass(frozen=True, eq=False)
class ClassNameHead(ClassHead):
    """The classes that a dataset names itself, such as one for each gender and age (`female_31`)."""

    name = "class_name"

    @classmethod
    def build(cls, options: Mapping[str, Any], labels: LabelNames) -> Self:
        return cls.from_options(options, names=labels.class_names)

    def column(self, examples: Columns) -> np.ndarray:
        index = {name: i for i, name in enumerate(self.names)}
        return np.array([index.get(name, UNKNOWN) for name in examples["class_name"].tolist()], np.int32)
