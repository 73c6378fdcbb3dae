"""Residual attention (Wang et al. 2017), alone and beside a residual net (Abdolrashidi et al. 2020).

The layers of `56` are those of the authors' published description of Attention-56 (fwang91/residual-attention-network,
Attention-56-deploy.prototxt): 31,810,728 parameters with 1,000 outputs, and 31,883,432 with the statistics of the
normalisations, which is the 31.9 M of the paper's table.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from agegender_jax.models import layers, pooling
from agegender_jax.models.backbones.resnet import ConvNorm, ResNet
from agegender_jax.models.registry import BackboneOptions, BackboneSpec, register


@dataclasses.dataclass(frozen=True)
class Variant:
    """A residual attention network, and the residual net that stands beside it in the ensemble.

    Attributes:
      stem: filters of the first convolution.
      channels: of each stage, all of which but the last hold an attention module.
      steps: how often the mask of each attention module halves its map.
      outer_units: residual units before each module's two branches, and as many after (p in the paper).
      trunk_units: residual units of its trunk branch (t in the paper).
      last_units: residual units of the last stage.
      residual: depth of the ensemble's ResNet, a key of `resnet.DEPTHS`.
    """

    stem: int
    channels: tuple[int, ...]
    steps: tuple[int, ...]
    outer_units: int
    trunk_units: int
    last_units: int
    residual: int


VARIANTS: Mapping[str, Variant] = {
    "56": Variant(64, (256, 512, 1024, 2048), (3, 2, 1), outer_units=1, trunk_units=2, last_units=3, residual=50),
    "small": Variant(32, (64, 128, 256), (2, 1), outer_units=0, trunk_units=1, last_units=1, residual=18),
}
"""`56` is the paper's; `small` is for two cores. The first is the default."""


class ResidualUnit(nnx.Module):
    """A bottleneck whose normalisations and ReLUs come before its convolutions (He et al. 2016, "Identity mappings").

    From `channels` to `filters`, with a quarter of these in between; `stride` is that of the 3x3 convolution.
    """

    def __init__(self, channels: int, filters: int, *, stride: int = 1, dtype: DTypeLike, rngs: nnx.Rngs) -> None:
        width = filters // 4
        shapes = ((channels, width, 1, 1), (width, width, 3, stride), (width, filters, 1, 1))
        options: dict[str, Any] = {"use_bias": False, "dtype": dtype, "rngs": rngs}
        self.norms = nnx.List(layers.BatchNorm(m, dtype=dtype) for m, *_ in shapes)
        self.convs = nnx.List(layers.Conv(m, n, k, stride=s, padding=k // 2, **options) for m, n, k, s in shapes)
        fits = stride == 1 and channels == filters
        self.shortcut = None if fits else layers.Conv(channels, filters, 1, stride=stride, padding=0, **options)

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        y = nnx.relu(self.norms[0](x, train=train))
        shortcut = x if self.shortcut is None else self.shortcut(y)
        y = self.convs[0](y)
        for norm, conv in zip(self.norms[1:], self.convs[1:], strict=True):
            y = conv(nnx.relu(norm(y, train=train)))
        return shortcut + y


def _units(channels: int, count: int, dtype: DTypeLike, rngs: nnx.Rngs) -> nnx.List:
    return nnx.List(ResidualUnit(channels, channels, dtype=dtype, rngs=rngs) for _ in range(count))


class SoftMask(nnx.Module):
    """Where to look: the map made smaller and larger again, with a skip at each size (Wang et al., section 3.1).

    A residual unit (r = 1) follows each max pooling, and two the last one; each bilinear enlargement but the last
    is added to what was there at its size, and a unit follows. Two 1x1 convolutions and a sigmoid end it. `steps` is
    how often the map is halved.
    """

    def __init__(self, channels: int, steps: int, *, dtype: DTypeLike, rngs: nnx.Rngs) -> None:
        self.down = _units(channels, steps + 1, dtype, rngs)
        self.skip = _units(channels, steps - 1, dtype, rngs)
        self.up = _units(channels, steps - 1, dtype, rngs)
        self.norms = nnx.List(layers.BatchNorm(channels, dtype=dtype) for _ in range(2))
        self.convs = nnx.List(
            layers.Conv(channels, channels, 1, use_bias=False, dtype=dtype, rngs=rngs) for _ in range(2)
        )

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Returns the mask, in (0, 1), of the shape of `x`."""
        size, maps = x.shape[1:3], []
        for unit in self.down[:-1]:
            x = unit(layers.max_pool(x, 3, 2, padding=1), train=train)
            maps.append(x)
        x = self.down[-1](x, train=train)
        for number in reversed(range(len(self.up))):
            there = maps[number]
            x = enlarge(x, there.shape[1:3]) + self.skip[number](there, train=train)
            x = self.up[number](x, train=train)
        x = enlarge(x, size)
        for norm, conv in zip(self.norms, self.convs, strict=True):
            x = conv(nnx.relu(norm(x, train=train)))
        return nnx.sigmoid(x)


class AttentionModule(nnx.Module):
    """`(1 + mask) * trunk` (Wang et al., equation 3), with `outer_units` residual units before and as many after."""

    def __init__(
        self, channels: int, steps: int, outer_units: int, trunk_units: int, *, dtype: DTypeLike, rngs: nnx.Rngs
    ) -> None:
        self.first = _units(channels, outer_units, dtype, rngs)
        self.trunk = _units(channels, trunk_units, dtype, rngs)
        self.mask = SoftMask(channels, steps, dtype=dtype, rngs=rngs)
        self.last = _units(channels, outer_units, dtype, rngs)

    def __call__(self, x: jax.Array, *, train: bool) -> tuple[jax.Array, jax.Array]:
        """Returns (the module's output, its mask), both of the shape of `x`."""
        for unit in self.first:
            x = unit(x, train=train)
        mask = self.mask(x, train=train)
        for unit in self.trunk:
            x = unit(x, train=train)
        x = (1 + mask) * x
        for unit in self.last:
            x = unit(x, train=train)
        return x, mask


class ResidualAttention(nnx.Module):
    """A residual attention network: `[batch, size, size, 3] -> [batch, h, w, channels]`.

    Of `56` it is `[batch, size / 32, size / 32, 2048]`. Its masks shrink their maps to size / 32 as well: to 7 at the
    paper's 224 pixels, and to 1 at 32. An odd size is halved upwards.
    """

    def __init__(self, variant: str = "56", *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs) -> None:
        shape = VARIANTS[variant]
        options: dict[str, Any] = {"dtype": dtype, "rngs": rngs}
        self.stem = ConvNorm(3, shape.stem, 7, stride=2, **options)
        units, modules, channels = [], [], shape.stem
        for stage, filters in enumerate(shape.channels):
            units.append(ResidualUnit(channels, filters, stride=2 if stage else 1, **options))
            channels = filters
            if stage < len(shape.steps):
                counts = (shape.steps[stage], shape.outer_units, shape.trunk_units)
                modules.append(AttentionModule(channels, *counts, **options))
        units += _units(channels, shape.last_units - 1, dtype, rngs)
        self.units, self.modules = nnx.List(units), nnx.List(modules)
        self.norm = layers.BatchNorm(channels, dtype=dtype)

    def __call__(
        self, x: jax.Array, *, train: bool = False, rngs: nnx.Rngs | None = None, masks: list[jax.Array] | None = None
    ) -> jax.Array:
        """Returns the last feature map; each mask, float32 `[batch, h, w, channels]` in (0, 1), is added to `masks`."""
        x = layers.max_pool(nnx.relu(self.stem(x, train=train)), 3, 2, padding=1)
        for number, unit in enumerate(self.units):
            x = unit(x, train=train)
            if number < len(self.modules):
                x, mask = self.modules[number](x, train=train)
                if masks is not None:
                    masks.append(mask.astype(jnp.float32))
        return layers.tap_features(nnx.relu(self.norm(x, train=train)))


class AttentionEnsemble(nnx.Module):
    """An attentional and a residual net, averaged: `[batch, size, size, 3] -> [batch, embedding_size]`.

    Their embeddings e and f stand side by side, so that a dense layer on both is `e U + f V + b`, which is twice the
    mean of `e U + b / 2` and `f V + b / 2`: the average of two nets' logits, trained as one net.
    """

    def __init__(self, attention: Any, residual: Any) -> None:
        self.attention, self.residual = attention, residual
        self.embedding_size = attention.embedding_size + residual.embedding_size

    def __call__(self, x: jax.Array, *, train: bool = False, rngs: nnx.Rngs | None = None) -> jax.Array:
        nets = (self.attention, self.residual)
        return jnp.concatenate([net(x, train=train, rngs=rngs) for net in nets], axis=-1)


def attention_trunk(backbone: Any) -> ResidualAttention | None:
    """Returns the attention trunk of a backbone, or None if there is none."""
    trunk = getattr(getattr(backbone, "attention", backbone), "trunk", None)
    return trunk if isinstance(trunk, ResidualAttention) else None


def enlarge(
    x: Float[Array, "batch h w channels"], size: tuple[int, ...]
) -> Float[Array, "batch height width channels"]:
    """Resamples bilinearly with the corner pixels kept in the corners, as the authors' `Interp` layer does.

    One matrix for the rows and one for the columns: matrix products are fast on every backend, gathers are not.

    >>> enlarge(jnp.array([0.0, 2.0]).reshape(1, 1, 2, 1), (1, 5)).ravel().tolist()
    [0.0, 0.5, 1.0, 1.5, 2.0]
    """
    down, across = (jnp.asarray(_interpolation(m, n), x.dtype) for m, n in zip(x.shape[1:3], size, strict=True))
    x = jnp.einsum("yh,bhwc->bywc", down, x)
    return jnp.einsum("xw,bywc->byxc", across, x)


def _interpolation(size: int, out: int) -> np.ndarray:
    """Returns a matrix whose row i holds the weights of the `size` pixels in pixel i of `out`."""
    places = np.linspace(0, size - 1, out)
    return np.maximum(0, 1 - np.abs(places[:, None] - np.arange(size)))


def _build(options: BackboneOptions, rngs: nnx.Rngs) -> pooling.Backbone:
    return pooling.with_pooling(ResidualAttention(options.variant, dtype=options.dtype, rngs=rngs), options, rngs=rngs)


def _build_ensemble(options: BackboneOptions, rngs: nnx.Rngs) -> AttentionEnsemble:
    residual = ResNet(VARIANTS[options.variant].residual, dtype=options.dtype, rngs=rngs)
    attention = _build(options, rngs)
    return AttentionEnsemble(attention, pooling.with_pooling(residual, options, rngs=rngs))


for _name, _function in (("residual_attention", _build), ("attention_ensemble", _build_ensemble)):
    register(BackboneSpec(name=_name, build=_function, variants=VARIANTS, dropout_poolings=("average",)))
