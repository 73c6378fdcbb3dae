"""AlexNet in the single-tower layout of Krizhevsky (2014), which is torchvision's: 61,100,840 with 1,000 outputs."""

from collections.abc import Iterable
from functools import partial
from typing import Any

import jax
from flax import nnx

from agegender_jax.models import layers, pooling
from agegender_jax.models.registry import BackboneOptions, BackboneSpec, WeightFormat, register

_LAYOUT = (
    (3, 64, 11, 4, 2, 0.0),
    (64, 192, 5, 1, 2, 1.0),
    (192, 384, 3, 1, 1, 0.0),
    (384, 256, 3, 1, 1, 1.0),
    (256, 256, 3, 1, 1, 1.0),
)
"""Channels in and out, kernel, stride, padding and, in Krizhevsky et al. (2012), initial bias."""

_POOLED = (0, 1, 4)

published_init = nnx.initializers.normal(0.01)
"""Of every layer in Krizhevsky et al. (2012, section 5), whose dense layers begin with a bias of 1."""


class AlexNet(nnx.Module):
    """AlexNet's convolutions: `[batch, size, size, 3] -> [batch, h, h, 256]`, 6x6 at 224."""

    def __init__(self, options: BackboneOptions, rngs: nnx.Rngs) -> None:
        published = options.init == "published"
        kernel_init = published_init if published else layers.he_normal
        convs = []
        for channels, filters, kernel, stride, padding, bias in _LAYOUT:
            inits = {"kernel_init": kernel_init, "bias_init": nnx.initializers.constant(bias if published else 0.0)}
            shape: dict[str, Any] = {"stride": stride, "padding": padding, **inits}
            convs.append(layers.Conv(channels, filters, kernel, **shape, dtype=options.dtype, rngs=rngs))
        self.convs = nnx.List(convs)

    def __call__(self, x: jax.Array, *, train: bool = False, rngs: nnx.Rngs | None = None) -> jax.Array:
        for number, conv in enumerate(self.convs):
            x = nnx.relu(conv(x))
            if number == len(_LAYOUT) - 1:
                x = layers.tap_features(x)
            if number in _POOLED:
                x = layers.max_pool(x, 3, 2)
        return x


def _build(options: BackboneOptions, rngs: nnx.Rngs) -> pooling.Backbone:
    published = options.init == "published"
    dense = partial(
        pooling.MLPPool,
        grid=6,
        dropout_first=True,
        kernel_init=published_init if published else layers.he_normal,
        bias_init=nnx.initializers.constant(float(published)),
    )
    return pooling.with_pooling(AlexNet(options, rngs), options, dense, rngs=rngs)


def _torchvision(path: tuple[str, ...]) -> Iterable[str]:
    match path:
        case ("trunk", "convs", i):
            return (f"features.{(0, 3, 6, 8, 10)[int(i)]}",)
        case ("top", "dense", i):
            return (f"classifier.{(1, 4)[int(i)]}",)
    return ()


register(
    BackboneSpec(
        name="alexnet",
        build=_build,
        dropout_poolings=("default", "average"),
        published_inits=("",),
        torch=WeightFormat(
            layer_names=_torchvision, dense=("classifier.1", "classifier.4"), classifier=("classifier.6",), grid=6
        ),
    )
)
