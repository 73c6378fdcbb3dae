"""What every head is: the interface `Head`, and the registry of heads.

A head is a target of the model. It owns its label, the number of its logits, its loss, how logits become predictions,
and its metrics. The model, the training step and the evaluator know only this interface.
"""

import abc
import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple, Self, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from agegender_jax.labels import GENDERS
from agegender_jax.metrics import Metric
from agegender_jax.models.losses import LOSSES

Columns = Mapping[str, np.ndarray]
"""Arrays `[n, ...]` by name."""


class LabelNames(NamedTuple):
    """What a head needs to know of a run's labels.

    Attributes:
      age_groups: name of the scheme of age groups.
      class_names: of the classes that the dataset names itself; before the data are read, any.
    """

    age_groups: str
    class_names: tuple[str, ...] = ("unknown",)


class Head(abc.ABC):
    """A target of the model.

    Attributes:
      name: of the head: its key in `config.heads`.
      options: keys of `config.heads.NAME` and their defaults; `weight` is one, and a head of weight 0 is left out.
      choices: values of those options that are one of a list.
      sees_gender: whether it may read the logits of the head `gender`, see `config.model.gender_to_age`.
      only_gender: of `GENDERS`, whose labels alone the head knows; None for all.
      loss_name: of `LOSSES`, which decides on `size`, `layer` and `distribution`.
      weight: factor of the loss in the total.
    """

    name: ClassVar[str]
    options: ClassVar[dict[str, Any]] = {"weight": 0.0}
    choices: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    sees_gender: ClassVar[bool] = False
    only_gender: str | None = None
    loss_name: str = "cross_entropy"
    weight: float

    @classmethod
    def build(cls, options: Mapping[str, Any], labels: LabelNames) -> Self:
        """Builds the head from its options in a recipe."""
        return cls.from_options(options)

    @classmethod
    def from_options(cls, options: Mapping[str, Any], **fields: Any) -> Self:
        """Builds the head of these fields and of the options that are fields too; the option `loss` is `loss_name`."""
        names = {field.name for field in dataclasses.fields(cls)}  # type: ignore[arg-type]  # all are dataclasses
        names.discard("class_weights")  # which come from the labels
        values = {"loss_name" if name == "loss" else name: value for name, value in options.items()}
        return cls(**{name: value for name, value in values.items() if name in names}, **fields)

    @property
    @abc.abstractmethod
    def class_count(self) -> int:
        """Number of classes."""

    @property
    def size(self) -> int:
        """Number of logits."""
        return LOSSES[self.loss_name].outputs(self.class_count)

    def layer(self, features: int, *, rngs: nnx.Rngs) -> nnx.Module:
        """Builds the module that computes the logits, float32 `[batch, features] -> [batch, size]`."""
        layer: nnx.Module = LOSSES[self.loss_name].layer(features, self.size, rngs=rngs)
        return layer

    @abc.abstractmethod
    def column(self, examples: Columns) -> np.ndarray:
        """Returns the label of every row of a table of examples, `[n]`; unknown is -1 (classes) or NaN (numbers)."""

    @abc.abstractmethod
    def known(self, label: np.ndarray) -> np.ndarray:
        """Returns which labels are known, bool `[n]`; only such examples are measured."""

    @abc.abstractmethod
    def loss(self, logits: Float[Array, "batch size"], label: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Computes the loss of each example and its weight, float32 `[batch]`; the weight is 0 for unknown labels."""

    def distribution(self, logits: Float[Array, "batch size"]) -> Float[Array, "batch ..."]:
        """Computes what may be averaged over views of an example or over models, float32."""
        return LOSSES[self.loss_name].distribution(logits)

    @abc.abstractmethod
    def decode(self, distribution: np.ndarray) -> dict[str, np.ndarray]:
        """Returns predictions from `distribution`: arrays `[n, ...]` by name."""

    @property
    @abc.abstractmethod
    def metrics(self) -> tuple[Metric, ...]:
        """What is measured; the first is the main one."""

    @abc.abstractmethod
    def statistics(self, predictions: Columns, label: np.ndarray, weights: np.ndarray | None = None) -> tuple[Any, ...]:
        """Returns the arguments of every metric's function, from all examples whose label is known.

        An example counts `weights` times, float `[..., n]`; None is once each.
        """

    @abc.abstractmethod
    def baseline(self, train_label: np.ndarray) -> tuple[str, dict[str, np.ndarray]]:
        """Returns the best constant prediction for the training labels: its name, and predictions `[1, ...]`."""

    @abc.abstractmethod
    def text(self, values: np.ndarray, row: int) -> str:
        """Returns a label, or a prediction in the form of a label, for people; "?" where it is unknown."""

    @abc.abstractmethod
    def predicted(self, predictions: Columns) -> np.ndarray:
        """Returns the predictions in the form of labels, `[n]`."""

    def measure(self, predictions: Columns, label: np.ndarray, weights: np.ndarray | None = None) -> dict[str, Any]:
        """Computes all metrics by name, over the examples whose label is known.

        With weights `[..., n]`, see `statistics`, each is an array `[...]`.
        """
        statistics = self.statistics(predictions, label, weights)
        return {metric.name: metric.function(*statistics) for metric in self.metrics}

    def of_gender(self, label: np.ndarray, examples: Columns, unknown: Any) -> np.ndarray:
        """Returns labels that are unknown but for the examples of `only_gender`."""
        if self.only_gender is None:
            return label
        return np.where(examples["gender"] == GENDERS.index(self.only_gender), label, label.dtype.type(unknown))


HeadClass = TypeVar("HeadClass", bound=type[Head])

HEADS: dict[str, type[Head]] = {}
"""Heads by name. Import it from `agegender_jax.models.heads`, which registers them all."""


def register(head: HeadClass) -> HeadClass:
    """Adds a head to `HEADS`, as a class decorator; raises ValueError where the name is taken."""
    if head.name in HEADS:
        raise ValueError(f"A head {head.name!r} is already registered.")
    HEADS[head.name] = head
    return head


def example_weight(
    loss_name: str, known: jax.Array, label: jax.Array, class_count: int, class_weights: np.ndarray | None
) -> Float[Array, " batch"]:
    """Returns the weight of each example: that of the loss, times that of the example's class."""
    weight = known.astype(jnp.float32)
    if (own := LOSSES[loss_name].weight) is not None:
        weight = weight * own(label, class_count)
    return weight if class_weights is None else weight * jnp.asarray(class_weights)[label]


def metrics_metadata(heads: Mapping[str, Head]) -> dict[str, dict[str, Any]]:
    """Returns `Metric.metadata` by `target/metric`, and `target`, `name`, `main` (the first of its target)."""
    return {
        f"{name}/{metric.name}": metric.metadata()
        | {"target": name, "name": metric.name, "main": metric is head.metrics[0]}
        for name, head in heads.items()
        for metric in head.metrics
    }
