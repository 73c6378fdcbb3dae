"""DenseNet (Huang et al. 2017), in torchvision's layout: DenseNet-161 has 28,681,000 with 1,000 outputs."""

from collections.abc import Iterable

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from agegender_jax.models import layers, pooling
from agegender_jax.models.registry import BackboneOptions, BackboneSpec, WeightFormat, register, split_index

DEPTHS = {161: (48, 96, (6, 12, 36, 24))}
"""Growth, filters of the stem, and layers in each block."""


class NormConv(nnx.Module):
    """Batch normalisation, ReLU, convolution without bias."""

    def __init__(self, m: int, n: int, kernel: int, *, dtype: DTypeLike, rngs: nnx.Rngs) -> None:
        self.norm = layers.BatchNorm(m, dtype=dtype)
        self.conv = layers.Conv(m, n, kernel, padding=kernel // 2, use_bias=False, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        return self.conv(nnx.relu(self.norm(x, train=train)))


class Layer(nnx.Module):
    """A dense layer: `growth` new channels beside the old; the last of a block has the transition to the next.

    In a transition a 1x1 convolution halves the channels, and 2x2 average pooling the map.
    """

    def __init__(
        self, channels: int, growth: int, *, transition: bool = False, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs
    ) -> None:
        self.reduce = NormConv(channels, 4 * growth, 1, dtype=dtype, rngs=rngs)
        self.grow = NormConv(4 * growth, growth, 3, dtype=dtype, rngs=rngs)
        wide = channels + growth
        self.filters = wide // 2 if transition else wide
        self.transition = NormConv(wide, self.filters, 1, dtype=dtype, rngs=rngs) if transition else None

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = jnp.concatenate([x, self.grow(self.reduce(x, train=train), train=train)], axis=-1)
        return x if self.transition is None else layers.average_pool(self.transition(x, train=train))


class DenseNet(nnx.Module):
    """DenseNet's blocks: `[batch, size, size, 3] -> [batch, size / 32, size / 32, channels]`, `depth` of `DEPTHS`."""

    def __init__(self, depth: int, *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs) -> None:
        growth, channels, counts = DEPTHS[depth]
        self.stem = layers.Conv(3, channels, 7, stride=2, padding=3, use_bias=False, dtype=dtype, rngs=rngs)
        self.stem_norm = layers.BatchNorm(channels, dtype=dtype)
        dense = []
        for block, count in enumerate(counts, start=1):
            for place in range(1, count + 1):
                ends = place == count and block < len(counts)
                dense.append(Layer(channels, growth, transition=ends, dtype=dtype, rngs=rngs))
                channels = dense[-1].filters
        self.layers = nnx.List(dense)
        self.last_norm = layers.BatchNorm(channels, dtype=dtype)

    def __call__(self, x: jax.Array, *, train: bool = False, rngs: nnx.Rngs | None = None) -> jax.Array:
        x = nnx.relu(self.stem_norm(self.stem(x), train=train))
        x = layers.max_pool(x, 3, 2, padding=1)
        for layer in self.layers:
            x = layer(x, train=train)
        return layers.tap_features(nnx.relu(self.last_norm(x, train=train)))


def _build(options: BackboneOptions, rngs: nnx.Rngs) -> pooling.Backbone:
    return pooling.with_pooling(DenseNet(161, dtype=options.dtype, rngs=rngs), options, rngs=rngs)


def _torchvision(path: tuple[str, ...]) -> Iterable[str]:
    counts = DEPTHS[161][2]
    match path:
        case ("trunk", "stem"):
            return ("features.conv0",)
        case ("trunk", "stem_norm"):
            return ("features.norm0",)
        case ("trunk", "last_norm"):
            return (f"features.norm{len(counts) + 1}",)
        case ("trunk", "layers", number, half, part):
            block, place = split_index(counts, int(number))
            if half == "transition":
                return (f"features.transition{block + 1}.{part}",)
            start = f"features.denseblock{block + 1}.denselayer{place + 1}.{part}"
            order = 1 if half == "reduce" else 2
            return (f"{start}{order}", f"{start}.{order}")  # the second is torchvision's before 2018
    return ()


register(
    BackboneSpec(
        name="densenet161",
        build=_build,
        dropout_poolings=("average",),
        torch=WeightFormat(layer_names=_torchvision, classifier=("classifier",)),
        hub="timm/densenet161.tv_in1k",
    )
)
