"""Pooling of a trunk's last feature map to an embedding: `[batch, h, w, channels] -> [batch, embedding_size]`."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from agegender_jax.models import layers
from agegender_jax.models.layers import FeatureMap
from agegender_jax.models.registry import BackboneOptions

Images = Float[Array, "batch size size 3"]
Embedding = Float[Array, "batch embedding"]


class Backbone(nnx.Module):
    """A trunk (image in, feature map out) and a top (feature map in, embedding out).

    `rngs` holds the stream `dropout`, needed if `train`.
    """

    def __init__(self, trunk: Any, top: Any) -> None:
        self.trunk, self.top = trunk, top
        self.embedding_size = top.embedding_size

    def __call__(self, x: Images, *, train: bool = False, rngs: nnx.Rngs | None = None) -> Embedding:
        return self.top(self.trunk(x, train=train, rngs=rngs), train=train, rngs=rngs)


class AveragePool(nnx.Module):
    """Global average pooling, as ResNet, DenseNet and EfficientNet end, then dropout."""

    def __init__(self, channels: int, dropout: float = 0.0) -> None:
        self.embedding_size = channels
        self.dropout = nnx.Dropout(dropout)

    def __call__(self, x: FeatureMap, *, train: bool = False, rngs: nnx.Rngs | None = None) -> Embedding:
        return self.dropout(x.mean((1, 2)), deterministic=not train, rngs=rngs)


class MLPPool(nnx.Module):
    """Average pooling to a fixed grid, then dense layers with ReLU and dropout, as AlexNet and VGG end.

    A map smaller than the grid is not enlarged (torchvision repeats its values), so the first layer has fewer
    parameters on small images, and as many as published from the published size on.

    Args:
      map_shape: (height, width, channels) of the feature map.
      grid: edge of the grid.
      widths: of the dense layers.
      dropout_first: whether dropout comes before each layer (AlexNet) instead of after it (VGG).
    """

    def __init__(
        self,
        map_shape: Sequence[int],
        grid: int,
        *,
        widths: Sequence[int] = (4096, 4096),
        dropout: float = 0.5,
        dropout_first: bool = False,
        kernel_init: Callable = layers.he_normal,
        bias_init: Callable = nnx.initializers.zeros,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        height, width, channels = map_shape
        self.grid, self.dropout_first = grid, dropout_first
        sizes = (min(height, grid) * min(width, grid) * channels, *widths)
        self.dense = nnx.List(
            nnx.Linear(m, n, kernel_init=kernel_init, bias_init=bias_init, dtype=dtype, rngs=rngs)
            for m, n in itertools.pairwise(sizes)
        )
        self.dropout = nnx.Dropout(dropout)
        self.embedding_size = sizes[-1]

    def __call__(self, x: FeatureMap, *, train: bool = False, rngs: nnx.Rngs | None = None) -> Embedding:
        x = layers.adaptive_average_pool(x, self.grid)
        x = x.reshape(x.shape[0], -1)
        for dense in self.dense:
            if self.dropout_first:
                x = self.dropout(x, deterministic=not train, rngs=rngs)
            x = nnx.relu(dense(x))
            if not self.dropout_first:
                x = self.dropout(x, deterministic=not train, rngs=rngs)
        return x


class GlobalMaxPool(nnx.Module):
    """Global max pooling, batch normalisation, ReLU (Mansour & Abu-Naser 2022; the dense softmax is the head's)."""

    def __init__(self, channels: int, *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs) -> None:
        self.norm = layers.BatchNorm(channels, dtype=dtype)
        self.embedding_size = channels

    def __call__(self, x: FeatureMap, *, train: bool = False, rngs: nnx.Rngs | None = None) -> Embedding:
        return nnx.relu(self.norm(x.max((1, 2)), train=train))


class GlobalMaxPoolLiteral(nnx.Module):
    """The same read literally: global max pooling, dense softmax, batch normalisation, ReLU; a second softmax follows.

    The papers' text lists two dense softmax layers, with normalisation, ReLU and a flattening (of nothing) between; the
    first has as many outputs as there are classes.
    """

    def __init__(self, channels: int, classes: int, *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs) -> None:
        self.dense = nnx.Linear(channels, classes, dtype=dtype, rngs=rngs)
        self.norm = layers.BatchNorm(classes, dtype=dtype)
        self.embedding_size = classes

    def __call__(self, x: FeatureMap, *, train: bool = False, rngs: nnx.Rngs | None = None) -> Embedding:
        x = nnx.softmax(self.dense(x.max((1, 2))))
        return nnx.relu(self.norm(x, train=train))


def with_pooling(
    trunk: Any, options: BackboneOptions, default: Callable[..., nnx.Module] | None = None, *, rngs: nnx.Rngs
) -> Backbone:
    """Returns a trunk (image in, feature map out) with the pooling that the options name.

    `default` makes the backbone's own pooling, as `MLPPool` from the map's shape; None is average pooling, no dropout.
    """
    shape = feature_map_shape(trunk, options.image_size)
    if options.pooling == "max":
        return Backbone(trunk, GlobalMaxPool(shape[-1], dtype=options.dtype, rngs=rngs))
    if options.pooling == "max_literal":
        return Backbone(trunk, GlobalMaxPoolLiteral(shape[-1], options.outputs, dtype=options.dtype, rngs=rngs))
    if options.pooling == "average":
        return Backbone(trunk, AveragePool(shape[-1], options.dropout))
    if default is None:
        return Backbone(trunk, AveragePool(shape[-1]))
    return Backbone(trunk, default(shape, dropout=options.dropout, dtype=options.dtype, rngs=rngs))


def feature_map_shape(trunk: Any, image_size: int) -> tuple[int, int, int]:
    """Returns (height, width, channels) of a trunk's last feature map, computing nothing."""
    image = jax.ShapeDtypeStruct((1, image_size, image_size, 3), jnp.float32)
    _, height, width, channels = nnx.eval_shape(lambda trunk, x: trunk(x), trunk, image).shape
    return height, width, channels
