"""Age groups."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np

from agegender_jax.labels import UNKNOWN, AgeGroups, age_groups
from agegender_jax.models.heads.base import Columns, LabelNames, register
from agegender_jax.models.heads.classes import ClassHead
from agegender_jax.models.losses import refuse_label_smoothing


@register
@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class AgeGroupHead(ClassHead):
    """Age group under a named scheme; smoothed labels for a loss that has none are a UserError."""

    name = "age_group"
    options: ClassVar[dict[str, Any]] = ClassHead.options | {"weight": 1.0, "loss": "cross_entropy"}
    choices: ClassVar[Mapping[str, tuple[str, ...]]] = {"loss": ("cross_entropy", "coral", "corn")}
    sees_gender = True

    scheme: AgeGroups
    names: tuple[str, ...] = dataclasses.field(init=False)
    ordered: bool = True
    only_gender: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", self.scheme.names)
        refuse_label_smoothing("age_group", self.loss_name, self.label_smoothing)

    @classmethod
    def build(cls, options: Mapping[str, Any], labels: LabelNames) -> Self:
        return cls.from_options(options, scheme=age_groups(labels.age_groups))

    def column(self, examples: Columns) -> np.ndarray:
        groups = self.scheme.assign_range(examples["age_low"], examples["age_high"])
        return self.of_gender(groups, examples, UNKNOWN)
