"""How a recipe becomes a backbone: image in, embedding out."""

from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from ml_collections import ConfigDict

from agegender_jax.errors import UserError
from agegender_jax.labels import GENDERS
from agegender_jax.models import (
    alexnet,
    attention,
    cnn180,
    densenet,
    efficientnet,
    layers,
    pooling,
    resnet,
    routed,
    small_cnn,
    vgg,
)


def build_backbone(recipe: ConfigDict, outputs: int, rngs: nnx.Rngs) -> Any:
    """The backbone of a recipe with fresh parameters.

    Args:
      recipe: `model` and the image's size are used.
      outputs: of all heads together, which only the top `max_literal` needs.
      rngs: stream `params`.

    Returns:
      A module `[batch, size, size, 3] -> [batch, embedding_size]` with the attribute `embedding_size`.

    Raises:
      UserError: the recipe names what the backbone does not have.
    """
    options = recipe.model
    known = VARIANTS.get(options.backbone, ())
    if options.variant and options.variant not in known:
        raise UserError(
            f"There is no variant {options.variant!r} of {options.backbone}; "
            + (f"choose one of: {', '.join(known)}." if known else "leave config.model.variant empty.")
        )
    if options.width != 1 and options.backbone not in WITH_WIDTH:
        raise UserError(
            f"config.model.width={options.width} is not for {options.backbone}; it is for: {', '.join(WITH_WIDTH)}."
        )
    if options.init == "published" and variant_of(options) not in WITH_INIT.get(options.backbone, ()):
        raise UserError(
            f"config.model.init='published' is not for {options.backbone} {variant_of(options)}".rstrip()
            + ", whose published initialisation is the default or is not known; set it to default."
        )
    return BACKBONES[options.backbone](recipe, outputs, rngs)


def variant_of(model: ConfigDict) -> str:
    """The variant that a recipe's `model` means: the backbone's first where it names none; "" where there are none."""
    return model.variant or next(iter(VARIANTS.get(model.backbone, ("",))))


def _small_cnn(recipe: ConfigDict, outputs: int, rngs: nnx.Rngs) -> nnx.Module:
    _no_top(recipe)
    try:
        return small_cnn.SmallCNN(
            variant_of(recipe.model),
            image_size=recipe.dataset.image_size,
            dropout=recipe.model.dropout,
            init=recipe.model.init,
            dtype=jnp.dtype(recipe.model.dtype),
            rngs=rngs,
        )
    except ValueError as error:
        raise UserError(f"{error}; set config.dataset.image_size higher.") from error


def _alexnet(recipe: ConfigDict, outputs: int, rngs: nnx.Rngs) -> nnx.Module:
    options = recipe.model
    trunk = alexnet.AlexNet(init=options.init, dtype=jnp.dtype(options.dtype), rngs=rngs)
    published = options.init == "published"
    dense = partial(
        pooling.MLPPool,
        grid=6,
        dropout_first=True,
        kernel_init=alexnet.published_init if published else layers.he_normal,
        bias_init=nnx.initializers.constant(float(published)),
    )
    return _topped(trunk, dense, recipe, outputs, rngs)


def _vgg(depth: int, norm: bool, recipe: ConfigDict, outputs: int, rngs: nnx.Rngs) -> nnx.Module:
    options = recipe.model
    dtype = jnp.dtype(options.dtype)
    trunk = vgg.VGG(depth, norm=norm, width=options.width, init=options.init, dtype=dtype, rngs=rngs)
    dense = partial(
        pooling.MLPPool,
        grid=7,
        widths=(max(1, round(4096 * options.width)),) * 2,
        kernel_init=vgg.published_init if options.init == "published" else layers.he_normal,
    )
    return _topped(trunk, dense, recipe, outputs, rngs)


def _resnet(depth: int, recipe: ConfigDict, outputs: int, rngs: nnx.Rngs) -> nnx.Module:
    options = recipe.model
    variant = variant_of(options) or resnet.VARIANTS[0]  # basic blocks have no choice
    trunk = resnet.ResNet(depth, variant=variant, dtype=jnp.dtype(options.dtype), rngs=rngs)
    return _topped(trunk, None, recipe, outputs, rngs)


def _densenet(depth: int, recipe: ConfigDict, outputs: int, rngs: nnx.Rngs) -> nnx.Module:
    trunk = densenet.DenseNet(depth, dtype=jnp.dtype(recipe.model.dtype), rngs=rngs)
    return _topped(trunk, None, recipe, outputs, rngs)


def _efficientnet_lite0(recipe: ConfigDict, outputs: int, rngs: nnx.Rngs) -> nnx.Module:
    def average(shape: tuple[int, int, int], dropout: float, **_: Any) -> nnx.Module:
        return pooling.AveragePool(shape[-1], dropout)

    options = recipe.model
    trunk = efficientnet.EfficientNetLite0(drop_path=options.drop_path, dtype=jnp.dtype(options.dtype), rngs=rngs)
    return _topped(trunk, average, recipe, outputs, rngs)


def _cnn180(recipe: ConfigDict, outputs: int, rngs: nnx.Rngs) -> nnx.Module:
    _no_top(recipe)
    options = recipe.model
    try:
        return cnn180.CNN180(
            variant_of(options),
            image_size=recipe.dataset.image_size,
            dropout=options.dropout,
            spatial_dropout=options.spatial_dropout,
            dtype=jnp.dtype(options.dtype),
            rngs=rngs,
        )
    except ValueError as error:
        raise UserError(f"{error}; set config.dataset.image_size higher.") from error


def _residual_attention(recipe: ConfigDict, outputs: int, rngs: nnx.Rngs) -> nnx.Module:
    options = recipe.model
    trunk = attention.ResidualAttention(variant_of(options), dtype=jnp.dtype(options.dtype), rngs=rngs)
    return _topped(trunk, None, recipe, outputs, rngs)


def _attention_ensemble(recipe: ConfigDict, outputs: int, rngs: nnx.Rngs) -> nnx.Module:
    options = recipe.model
    depth = attention.VARIANTS[variant_of(options)].residual
    residual = resnet.ResNet(depth, dtype=jnp.dtype(options.dtype), rngs=rngs)
    return attention.AttentionEnsemble(
        _residual_attention(recipe, outputs, rngs), _topped(residual, None, recipe, outputs, rngs)
    )


def _routed(recipe: ConfigDict, outputs: int, rngs: nnx.Rngs) -> nnx.Module:
    options = recipe.model
    gender = small_cnn.SmallCNN(
        "gender_three",
        image_size=recipe.dataset.image_size,
        dropout=options.dropout,
        dtype=jnp.dtype(options.dtype),
        rngs=rngs,
    )
    ages = (outputs - len(GENDERS)) // len(GENDERS)  # the head `routed` is alone: what either age net predicts
    male, female = (_vgg(16, options.variant == "bn", recipe, ages, rngs) for _ in GENDERS)
    return routed.Routed(gender, male, female)


def _topped(
    trunk: Any, dense: Callable[..., nnx.Module] | None, recipe: ConfigDict, outputs: int, rngs: nnx.Rngs
) -> pooling.Backbone:
    """The trunk with the top that the recipe asks for; `dense` makes the published one, where it is not averaging."""
    options = recipe.model
    dtype = jnp.dtype(options.dtype)
    shape = feature_map_shape(trunk, recipe.dataset.image_size)
    if options.pooling == "max":
        return pooling.Backbone(trunk, pooling.GlobalMaxPool(shape[-1], dtype=dtype, rngs=rngs))
    if options.pooling == "max_literal":
        return pooling.Backbone(trunk, pooling.GlobalMaxPoolLiteral(shape[-1], outputs, dtype=dtype, rngs=rngs))
    if options.pooling == "published" and dense is not None:
        return pooling.Backbone(trunk, dense(shape, dropout=options.dropout, dtype=dtype, rngs=rngs))
    return pooling.Backbone(
        trunk, pooling.AveragePool(shape[-1], 0.0 if options.pooling == "published" else options.dropout)
    )


def _no_top(recipe: ConfigDict) -> None:
    if recipe.model.pooling != "published":
        raise UserError(
            f"config.model.pooling={recipe.model.pooling!r} is not for {recipe.model.backbone}, which has its own "
            "dense layers; set it to published."
        )


def feature_map_shape(trunk: Any, image_size: int) -> tuple[int, int, int]:
    """(height, width, channels) of a trunk's last feature map, computing nothing."""
    image = jax.ShapeDtypeStruct((1, image_size, image_size, 3), jnp.float32)
    _, height, width, channels = nnx.eval_shape(lambda trunk, x: trunk(x), trunk, image).shape
    return height, width, channels


BACKBONES: Mapping[str, Callable[[ConfigDict, int, nnx.Rngs], Any]] = {
    "small_cnn": _small_cnn,
    "alexnet": _alexnet,
    "vgg11": partial(_vgg, 11, False),
    "vgg11_bn": partial(_vgg, 11, True),
    "vgg16": partial(_vgg, 16, False),
    "vgg16_bn": partial(_vgg, 16, True),
    "resnet18": partial(_resnet, 18),
    "resnet34": partial(_resnet, 34),
    "resnet50": partial(_resnet, 50),
    "resnet101": partial(_resnet, 101),
    "densenet161": partial(_densenet, 161),
    "efficientnet_lite0": _efficientnet_lite0,
    "cnn180": _cnn180,
    "residual_attention": _residual_attention,
    "attention_ensemble": _attention_ensemble,
    "routed": _routed,
}
"""Builders by `model.backbone`."""

VARIANTS: Mapping[str, Collection[str]] = {
    "small_cnn": small_cnn.VARIANTS,
    "resnet50": resnet.VARIANTS,
    "resnet101": resnet.VARIANTS,
    "cnn180": cnn180.VARIANTS,
    "residual_attention": attention.VARIANTS,
    "attention_ensemble": attention.VARIANTS,
    "routed": ("plain", "bn"),  # VGG16 without and with batch normalisation
}
"""What `model.variant` may be; the first is the default."""

WITH_WIDTH = ("vgg11", "vgg11_bn", "vgg16", "vgg16_bn", "routed")
"""Backbones that have `model.width`."""

WITH_INIT: Mapping[str, Collection[str]] = {
    "small_cnn": ("levi_hassner",),
    **dict.fromkeys(("alexnet", "vgg11", "vgg11_bn", "vgg16", "vgg16_bn"), ("",)),
    "routed": VARIANTS["routed"],
}
"""Backbones, and their variants, with a published initialisation that is not the default: `model.init`."""
