"""ResNet (He et al. 2016), in torchvision's layout.

Totals with 1,000 outputs: ResNet-18 11,689,512, -34 21,797,672, -50 25,557,032, -101 44,549,160.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from agegender_jax.models import layers

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
        self.conv = layers.Conv(
            m,
            n,
            kernel,
            stride=stride,
            padding=kernel // 2,
            use_bias=False,
            kernel_init=layers.he_normal_out,
            dtype=dtype,
            rngs=rngs,
        )
        self.norm = layers.BatchNorm(n, dtype=dtype)

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """The normalised convolution of `x`."""
        return self.norm(self.conv(x), train=train)


class Block(nnx.Module):
    """A residual block: two 3x3 convolutions (`basic`), or 1x1, 3x3, 1x1 to four times the width (`bottleneck`).

    Args:
      channels: of the input.
      width: of the 3x3 convolutions.
      kind: `basic` or `bottleneck`.
      stride: of the block.
      variant: of `VARIANTS`.
      dtype: of the arithmetic.
      rngs: stream `params`.
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
            convs = [
                ConvNorm(channels, width, 3, stride=stride, **options),
                ConvNorm(width, width, 3, **options),
            ]
        else:
            self.filters = 4 * width
            first, second = (stride, 1) if variant == "v1" else (1, stride)
            convs = [
                ConvNorm(channels, width, 1, stride=first, **options),
                ConvNorm(width, width, 3, stride=second, **options),
                ConvNorm(width, self.filters, 1, **options),
            ]
        self.convs = nnx.List(convs)
        self.shortcut = (
            ConvNorm(channels, self.filters, 1, stride=stride, **options)
            if stride != 1 or channels != self.filters
            else None
        )

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """The block's output."""
        y = x
        for conv in self.convs[:-1]:
            y = nnx.relu(conv(y, train=train))
        y = self.convs[-1](y, train=train)
        return nnx.relu(y + (x if self.shortcut is None else self.shortcut(x, train=train)))


class ResNet(nnx.Module):
    """ResNet's stages: `[batch, size, size, 3] -> [batch, size / 32, size / 32, 512 or 2048]`.

    Args:
      depth: a key of `DEPTHS`.
      variant: of `VARIANTS`.
      dtype: of the arithmetic.
      rngs: stream `params`.
    """

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
        """The last feature map."""
        x = layers.max_pool(nnx.relu(self.stem(x, train=train)), 3, 2, padding=1)
        for block in self.blocks:
            x = block(x, train=train)
        return layers.tap_features(x)
