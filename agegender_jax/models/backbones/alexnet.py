"""AlexNet in the single-tower layout of Krizhevsky (2014), which is torchvision's: 61,100,840 with 1,000 outputs."""

from collections.abc import Iterable
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from agegender_jax.models import layers, pooling
from agegender_jax.models.registry import BackboneOptions, BackboneSpec, WeightFormat, register

_LAYOUT = ((64, 11, 4, 2, 0.0), (192, 5, 1, 2, 1.0), (384, 3, 1, 1, 0.0), (256, 3, 1, 1, 1.0), (256, 3, 1, 1, 1.0))
"""Filters, kernel, stride, padding and, in Krizhevsky et al. (2012), initial bias."""

_POOLED = (0, 1, 4)

published_init = nnx.initializers.normal(0.01)
"""Of every layer in Krizhevsky et al. (2012, section 5), whose dense layers begin with a bias of 1."""


class AlexNet(nnx.Module):
    """AlexNet's convolutions: `[batch, size, size, 3] -> [batch, h, h, 256]`, 6x6 at 224.

    Args:
      init: `default` (He et al.) or `published` (normal with deviation 0.01; biases of 1 where the paper has them).
      dtype: of the arithmetic.
      rngs: stream `params`.
    """

    def __init__(self, *, init: str = "default", dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs) -> None:
        published = init == "published"
        convs, channels = [], 3
        for filters, kernel, stride, padding, bias in _LAYOUT:
            convs.append(
                layers.Conv(
                    channels,
                    filters,
                    kernel,
                    stride=stride,
                    padding=padding,
                    kernel_init=published_init if published else layers.he_normal,
                    bias_init=nnx.initializers.constant(bias if published else 0.0),
                    dtype=dtype,
                    rngs=rngs,
                )
            )
            channels = filters
        self.convs = nnx.List(convs)

    def __call__(self, x: jax.Array, *, train: bool = False, rngs: nnx.Rngs | None = None) -> jax.Array:
        """Returns the last feature map."""
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
    trunk = AlexNet(init=options.init, dtype=options.dtype, rngs=rngs)
    return pooling.with_pooling(trunk, options, dense, rngs=rngs)


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
        dropout_poolings=("published", "average"),
        published_inits=("",),
        torch=WeightFormat(
            layer_names=_torchvision, dense=("classifier.1", "classifier.4"), classifier=("classifier.6",), grid=6
        ),
    )
)
