"""A model: a backbone and its heads, and how a recipe becomes one."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from agegender_jax.errors import UserError
from agegender_jax.labels import GENDERS, age_groups
from agegender_jax.models.heads import (
    GENDERS_AND_UNDEFINED,
    AgeGroupHead,
    AgeYearsHead,
    GenderHead,
    Head,
    JointClassHead,
)
from agegender_jax.models.small_cnn import VARIANTS, SmallCNN


class Model(nnx.Module):
    """Images in, logits by head out: `[batch, size, size, 3] -> {head: float32 [batch, head.size]}`.

    Args:
      backbone: image in, embedding out.
      heads: what is predicted from the embedding, by name.
      rngs: stream `params`.
    """

    def __init__(self, backbone: Any, heads: Mapping[str, Head], *, rngs: nnx.Rngs) -> None:
        self.backbone = backbone
        self.heads = nnx.Dict(
            {name: nnx.Linear(backbone.embedding_size, head.size, rngs=rngs) for name, head in heads.items()}
        )

    def __call__(self, x: jax.Array, *, train: bool = False, rngs: nnx.Rngs | None = None) -> dict[str, jax.Array]:
        """Logits; `rngs` holds the stream `dropout`, needed where `train`."""
        embedding = self.backbone(x, train=train, rngs=rngs).astype(jnp.float32)
        return {name: head(embedding) for name, head in self.heads.items()}


def _small_cnn(recipe: ConfigDict, rngs: nnx.Rngs) -> nnx.Module:
    if recipe.model.variant not in VARIANTS:
        raise UserError(
            f"There is no variant {recipe.model.variant!r} of small_cnn; choose one of: {', '.join(VARIANTS)}."
        )
    try:
        return SmallCNN(
            recipe.model.variant,
            image_size=recipe.dataset.image_size,
            dropout=recipe.model.dropout,
            dtype=jnp.dtype(recipe.model.dtype),
            rngs=rngs,
        )
    except ValueError as error:
        raise UserError(f"{error}; set config.dataset.image_size higher.") from error


BACKBONES: dict[str, Callable[[ConfigDict, nnx.Rngs], nnx.Module]] = {"small_cnn": _small_cnn}
"""How a recipe becomes a backbone, by `model.backbone`."""


def build_heads(
    recipe: ConfigDict,
    class_names: Sequence[str] = ("unknown",),
    class_weights: Mapping[str, np.ndarray] | None = None,
) -> dict[str, Head]:
    """The heads of a recipe, by name; a head of weight 0 is left out.

    Args:
      recipe: the run's.
      class_names: the dataset's own classes, which the head `joint` predicts; before the data are read, any.
      class_weights: float32 `[classes]` for each head that weights its classes; only the loss needs them.
    """
    options = recipe.heads
    weights = class_weights or {}
    heads: dict[str, Head] = {
        "gender": GenderHead(
            names=GENDERS_AND_UNDEFINED if options.gender.undefined else GENDERS,
            weight=options.gender.weight,
            class_weights=weights.get("gender"),
        ),
        "age_group": AgeGroupHead(
            scheme=age_groups(recipe.age_groups),
            weight=options.age_group.weight,
            class_weights=weights.get("age_group"),
        ),
        "joint": JointClassHead(
            names=tuple(class_names), weight=options.joint.weight, class_weights=weights.get("joint")
        ),
        "age": AgeYearsHead(decoding=options.age.decoding, spread=options.age.spread, weight=options.age.weight),
    }
    return {name: head for name, head in heads.items() if head.weight}


def build_model(recipe: ConfigDict, heads: Mapping[str, Head]) -> Model:
    """The model of a recipe with fresh parameters, a pure function of its seed."""
    rngs = nnx.Rngs(params=recipe.seed)
    return Model(BACKBONES[recipe.model.backbone](recipe, rngs), heads, rngs=rngs)


def split_model(model: nnx.Module) -> tuple[Any, Any, Any]:
    """A model as its structure and plain dictionaries of parameters and statistics: `(graphdef, params, stats)`.

    Plain dictionaries cross the boundary of a jitted function several times faster than `nnx.State` does.
    `nnx.merge(graphdef, params, stats)` is the model again.
    """
    parts: Any = nnx.split(model, nnx.Param, nnx.BatchStat)
    graphdef, params, stats = parts
    return graphdef, nnx.to_pure_dict(params), nnx.to_pure_dict(stats)


def model_structure(recipe: ConfigDict, heads: Mapping[str, Head]) -> tuple[Any, Any, Any]:
    """`split_model` of a recipe's model without computing anything: shapes and dtypes instead of arrays."""
    model: Model = nnx.eval_shape(lambda: build_model(recipe, heads))
    return split_model(model)
