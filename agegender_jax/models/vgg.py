"""VGG (Simonyan & Zisserman 2015): 3x3 convolutions in five stages, each ended by 2x2 pooling.

Totals with the dense top at 224x224: VGG11 132,863,336 and VGG16 138,357,544 with 1,000 outputs; VGG16's convolutions
alone 14,714,688.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from agegender_jax.models import layers

STAGES = {11: (1, 1, 2, 2, 2), 16: (2, 2, 3, 3, 3)}
"""Convolutions in each stage, by depth (configurations A and D of the paper)."""

published_init = nnx.initializers.glorot_normal()
"""Of every layer; the paper's remedy (section 3.1) for initialising deep nets by shallow ones."""

WIDTHS = (64, 128, 256, 512, 512)


class VGG(nnx.Module):
    """VGG's convolutions: `[batch, size, size, 3] -> [batch, size / 32, size / 32, 512 * width]`.

    Args:
      depth: a key of `STAGES`.
      norm: batch normalisation before each ReLU, which the paper predates and without which deep ones learn slowly.
      width: factor of the channels.
      init: `default` (He et al., of the backward pass, as torchvision) or `published` (the paper's remedy: Glorot).
      dtype: of the arithmetic.
      rngs: stream `params`.
    """

    def __init__(
        self,
        depth: int,
        *,
        norm: bool = False,
        width: float = 1.0,
        init: str = "default",
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        self.stages = STAGES[depth]
        kernel_init = published_init if init == "published" else layers.he_normal_out
        convs, norms = [], []
        channels = 3
        for count, filters in zip(self.stages, (max(1, round(n * width)) for n in WIDTHS), strict=True):
            for _ in range(count):
                convs.append(layers.Conv(channels, filters, padding=1, kernel_init=kernel_init, dtype=dtype, rngs=rngs))
                channels = filters
                if norm:
                    norms.append(layers.BatchNorm(filters, dtype=dtype))
        self.convs, self.norms = nnx.List(convs), nnx.List(norms)

    def __call__(self, x: jax.Array, *, train: bool = False, rngs: nnx.Rngs | None = None) -> jax.Array:
        """The last feature map."""
        number = 0
        for count in self.stages:
            for _ in range(count):
                x = self.convs[number](x)
                if len(self.norms):
                    x = self.norms[number](x, train=train)
                x = nnx.relu(x)
                number += 1
            if number == len(self.convs):
                x = layers.tap_features(x)
            x = layers.max_pool(x)
        return x
