"""ResNet (He et al. 2016), in torchvision's layout.

Totals with 1,000 outputs: ResNet-18 11,689,512, -34 21,797,672, -50 25,557,032, -101 44,549,160.
"""

from collections.abc import Iterable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from agegender_jax.models import layers, pooling
from agegender_jax.models.registry import CAFFE, BackboneOptions, BackboneSpec, WeightFormat, register, split_index

DEPTHS = {
    18: ("basic", (2, 2, 2, 2)),
    34: ("basic", (3, 4, 6, 3)),
    50: ("bottleneck", (3, 4, 6, 3)),
    101: ("bottleneck", (3, 4, 23, 3)),
}
"""Kind of block, and blocks in each stage."""

VARIANTS = ("v1.5", "v1")
"""Where a bottleneck strides: in its 3x3 convolution (torchvision), or in its first 1x1 (the paper, and Keras)."""


class ConvNorm(nnx.Module):
    """Convolution without bias, then batch normalisation; zero padding keeps the size where the stride is 1."""

    def __init__(self, m: int, n: int, kernel: int, *, stride: int = 1, dtype: DTypeLike, rngs: nnx.Rngs) -> None:
        options: dict[str, Any] = {"use_bias": False, "kernel_init": layers.he_normal_out, "dtype": dtype, "rngs": rngs}
        self.conv = layers.Conv(m, n, kernel, stride=stride, padding=kernel // 2, **options)
        self.norm = layers.BatchNorm(n, dtype=dtype)

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        return self.norm(self.conv(x), train=train)


class Block(nnx.Module):
    """A residual block: two 3x3 convolutions (`basic`), or 1x1, 3x3, 1x1 to four times the width (`bottleneck`).

    `width` is that of the 3x3 convolutions.
    """

    def __init__(
        self,
        channels: int,
        width: int,
        kind: str,
        *,
        stride: int = 1,
        variant: str = "v1.5",
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        options: dict[str, Any] = {"dtype": dtype, "rngs": rngs}
        if kind == "basic":
            self.filters = width
            convs = [ConvNorm(channels, width, 3, stride=stride, **options), ConvNorm(width, width, 3, **options)]
        else:
            self.filters = 4 * width
            first, second = (stride, 1) if variant == "v1" else (1, stride)
            convs = [
                ConvNorm(channels, width, 1, stride=first, **options),
                ConvNorm(width, width, 3, stride=second, **options),
                ConvNorm(width, self.filters, 1, **options),
            ]
        self.convs = nnx.List(convs)
        fits = stride == 1 and channels == self.filters
        self.shortcut = None if fits else ConvNorm(channels, self.filters, 1, stride=stride, **options)

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        y = x
        for conv in self.convs[:-1]:
            y = nnx.relu(conv(y, train=train))
        y = self.convs[-1](y, train=train)
        return nnx.relu(y + (x if self.shortcut is None else self.shortcut(x, train=train)))


class ResNet(nnx.Module):
    """ResNet's stages: `[batch, size, size, 3] -> [batch, size / 32, size / 32, 512 or 2048]`, `depth` of `DEPTHS`."""

    def __init__(self, depth: int, *, variant: str = "v1.5", dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs) -> None:
        kind, counts = DEPTHS[depth]
        self.stem = ConvNorm(3, 64, 7, stride=2, dtype=dtype, rngs=rngs)
        blocks, channels = [], 64
        for stage, count in enumerate(counts):
            for number in range(count):
                stride = 2 if stage and not number else 1
                block = Block(channels, 64 << stage, kind, stride=stride, variant=variant, dtype=dtype, rngs=rngs)
                channels = block.filters
                blocks.append(block)
        self.blocks = nnx.List(blocks)

    def __call__(self, x: jax.Array, *, train: bool = False, rngs: nnx.Rngs | None = None) -> jax.Array:
        x = layers.max_pool(nnx.relu(self.stem(x, train=train)), 3, 2, padding=1)
        for block in self.blocks:
            x = block(x, train=train)
        return layers.tap_features(x)


def _build(depth: int, options: BackboneOptions, rngs: nnx.Rngs) -> pooling.Backbone:
    variant = options.variant or VARIANTS[0]  # basic blocks have no choice
    trunk = ResNet(depth, variant=variant, dtype=options.dtype, rngs=rngs)
    return pooling.with_pooling(trunk, options, rngs=rngs)


def _torchvision(depth: int, path: tuple[str, ...]) -> Iterable[str]:
    match path:
        case ("trunk", "stem", part):
            return ({"conv": "conv1", "norm": "bn1"}[part],)
        case ("trunk", "blocks", number, "shortcut", part):
            return (f"{_torchvision_block(depth, number)}.downsample.{('conv', 'norm').index(part)}",)
        case ("trunk", "blocks", number, "convs", i, part):
            return (f"{_torchvision_block(depth, number)}.{'conv' if part == 'conv' else 'bn'}{int(i) + 1}",)
    return ()


def _torchvision_block(depth: int, number: str) -> str:
    stage, block = split_index(DEPTHS[depth][1], int(number))
    return f"layer{stage + 1}.{block}"


def _keras(depth: int, path: tuple[str, ...]) -> Iterable[str]:
    part = {"conv": "conv", "norm": "bn"}.get(path[-1])
    match path:
        case ("trunk", "stem", _):
            return (f"conv1_{part}",)
        case ("trunk", "blocks", number, *rest):
            stage, block = split_index(DEPTHS[depth][1], int(number))
            place = 0 if rest[0] == "shortcut" else int(rest[1]) + 1
            return (f"conv{stage + 2}_block{block + 1}_{place}_{part}",)
    return ()


for _depth, (_kind, _) in DEPTHS.items():
    _deep = _kind == "bottleneck"
    register(
        BackboneSpec(
            name=f"resnet{_depth}",
            build=partial(_build, _depth),
            variants=VARIANTS if _deep else (),
            dropout_poolings=("average",),
            torch=WeightFormat(
                layer_names=partial(_torchvision, _depth), classifier=("fc",), variant="v1.5" if _deep else ""
            ),
            keras=WeightFormat(
                layer_names=partial(_keras, _depth), classifier=("predictions",), variant="v1", normalization=CAFFE
            )
            if _deep
            else None,
            hub=f"timm/resnet{_depth}.tv_in1k",
        )
    )
