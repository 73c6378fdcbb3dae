"""DenseNet (Huang et al. 2017), in torchvision's layout: DenseNet-161 has 28,681,000 with 1,000 outputs."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from agegender_jax.models import layers

DEPTHS = {161: (48, 96, (6, 12, 36, 24))}
"""Growth, filters of the stem, and layers in each block."""


class NormConv(nnx.Module):
    """Batch normalisation, ReLU, convolution without bias."""

    def __init__(self, m: int, n: int, kernel: int, *, dtype: DTypeLike, rngs: nnx.Rngs) -> None:
        self.norm = nnx.BatchNorm(m, momentum=0.9, dtype=dtype, rngs=rngs)
        self.conv = layers.Conv(m, n, kernel, padding=kernel // 2, use_bias=False, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """The convolution of the normalised `x`."""
        return self.conv(nnx.relu(self.norm(x, use_running_average=not train)))


class DenseNet(nnx.Module):
    """DenseNet's blocks: `[batch, size, size, 3] -> [batch, size / 32, size / 32, channels]`, 2,208 for 161.

    Args:
      depth: a key of `DEPTHS`.
      dtype: of the arithmetic.
      rngs: stream `params`.
    """

    def __init__(self, depth: int, *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs) -> None:
        growth, channels, self.counts = DEPTHS[depth]
        self.stem = layers.Conv(3, channels, 7, stride=2, padding=3, use_bias=False, dtype=dtype, rngs=rngs)
        self.stem_norm = nnx.BatchNorm(channels, momentum=0.9, dtype=dtype, rngs=rngs)
        reduces, grows, transitions = [], [], []
        for number, count in enumerate(self.counts):
            for _ in range(count):
                reduces.append(NormConv(channels, 4 * growth, 1, dtype=dtype, rngs=rngs))
                grows.append(NormConv(4 * growth, growth, 3, dtype=dtype, rngs=rngs))
                channels += growth
            if number + 1 < len(self.counts):
                transitions.append(NormConv(channels, channels // 2, 1, dtype=dtype, rngs=rngs))
                channels //= 2
        self.reduces, self.grows, self.transitions = nnx.List(reduces), nnx.List(grows), nnx.List(transitions)
        self.last_norm = nnx.BatchNorm(channels, momentum=0.9, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array, *, train: bool = False, rngs: nnx.Rngs | None = None) -> jax.Array:
        """The last feature map."""
        x = nnx.relu(self.stem_norm(self.stem(x), use_running_average=not train))
        x = layers.max_pool(x, 3, 2, padding=1)
        layer = 0
        for number, count in enumerate(self.counts):
            for _ in range(count):
                new = self.grows[layer](self.reduces[layer](x, train=train), train=train)
                x = jnp.concatenate([x, new], axis=-1)
                layer += 1
            if number < len(self.transitions):
                x = layers.average_pool(self.transitions[number](x, train=train))
        return nnx.relu(self.last_norm(x, use_running_average=not train))
