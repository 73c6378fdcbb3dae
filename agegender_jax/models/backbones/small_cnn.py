"""The small CNN of Uraimov & Yoo (2022), and the Levi-Hassner net (2015) that it descends from.

The paper says "six convolutional layers, each followed by ReLU, batch normalisation and max pooling, two fully
connected layers of 512 with dropout 0.5" and 11.5 million parameters, but gives neither widths nor kernels, and five
hundred regular nets have that count. The variants below are the natural readings; `a` is the default.
`plain` is a reading of a report on Adience that gives nothing but "convolutions, then three fully connected layers", of
which the heads are the third.
`gender_four` and `gender_three` are readings of the two gender nets of Imamdin et al.: four times convolution and
pooling, a dense layer, one sigmoid node (dropout is not mentioned: set its rate to 0); and three times convolution,
batch normalisation and pooling, a dense layer, dropout 0.5, two nodes. The widths are inferred. One sigmoid node is a
softmax of two whose first logit is 0, so the gender head serves both.
Totals count the convolutions, the normalisations, the dense layers and heads of 8 and 2 outputs (of 2 in the gender
nets) at 256x256.

| variant | layout | parameters | multiply-adds at 256x256 |
| --- | --- | --- | --- |
| `a` | AlexNet's widths and one more, 3x3, 2x2 pooling | 11,501,386 | 6.31 G |
| `b` | widths doubling slowly, 3x3, overlapping 3x3 pooling | 11,546,570 | 1.17 G |
| `c` | `valid` padding, thin, 2x2 pooling | 11,521,002 | 0.57 G |
| `d` | Levi-Hassner's 7x7 stem and 5x5 second layer | 11,459,306 | 0.58 G |
| `levi_hassner` | three layers, local response normalisation | 11,416,074 | 0.86 G |
| `plain` | 3x3, 2x2 pooling, no normalisation | 9,045,322 at 128x128 | 0.25 G at 128x128 |
| `gender_four` | 3x3, 2x2 pooling, no normalisation | 2,485,954 at 128x128 | 0.24 G at 128x128 |
| `gender_three` | 3x3, 2x2 pooling | 4,288,386 at 128x128 | 0.17 G at 128x128 |
| `thin` | for 64x64 inputs on a CPU: no reading of the paper | 3,618,634 at 64x64 | 0.05 G at 64x64 |
"""

import dataclasses
import itertools
from typing import Any, Literal

import jax
from flax import nnx

from agegender_jax.errors import UserError
from agegender_jax.models import layers
from agegender_jax.models.registry import BackboneOptions, BackboneSpec, register


@dataclasses.dataclass(frozen=True)
class ConvBlock:
    """One convolution with what follows it. `pool` is (window, stride), or None."""

    filters: int
    kernel: int = 3
    stride: int = 1
    padding: layers.Padding = "SAME"
    pool: tuple[int, int] | None = None


@dataclasses.dataclass(frozen=True)
class Variant:
    """A stack of convolutions, then dense layers of width `hidden`."""

    blocks: tuple[ConvBlock, ...]
    norm: Literal["batch", "local_response", "none"] = "batch"
    hidden: tuple[int, ...] = (512, 512)


def _stack(
    filters: tuple[int, ...], pooled: tuple[int, ...], pool: tuple[int, int], padding: layers.Padding = "SAME"
) -> tuple[ConvBlock, ...]:
    return tuple(
        ConvBlock(width, padding=padding, pool=pool if number in pooled else None)
        for number, width in enumerate(filters, start=1)
    )


VARIANTS: dict[str, Variant] = {
    "a": Variant(_stack((64, 192, 384, 256, 256, 256), (1, 2, 3, 5, 6), (2, 2))),
    "b": Variant(_stack((32, 64, 128, 192, 256, 384), (1, 2, 3, 4, 6), (3, 2))),
    "c": Variant(_stack((32, 32, 64, 64, 64, 128), (1, 2, 5, 6), (2, 2), "VALID")),
    "d": Variant(
        (
            ConvBlock(96, kernel=7, stride=4, padding="VALID", pool=(3, 2)),
            ConvBlock(96, kernel=5, pool=(3, 2)),
            ConvBlock(192),
            ConvBlock(192),
            ConvBlock(384),
            ConvBlock(384, kernel=1, pool=(3, 2)),
        )
    ),
    "levi_hassner": Variant(
        (
            ConvBlock(96, kernel=7, stride=4, padding="VALID", pool=(3, 2)),
            ConvBlock(256, kernel=5, pool=(3, 2)),
            ConvBlock(384, pool=(3, 2)),
        ),
        norm="local_response",
    ),
    "plain": Variant(_stack((32, 64, 128, 256), (1, 2, 3, 4), (2, 2)), norm="none"),
    "gender_four": Variant(_stack((32, 64, 128, 256), (1, 2, 3, 4), (2, 2)), norm="none", hidden=(128,)),
    "gender_three": Variant(_stack((32, 64, 128), (1, 2, 3), (2, 2)), hidden=(128,)),
    "thin": Variant(_stack((24, 48, 96, 192, 256, 256), (1, 2, 3, 4), (2, 2))),
}


class SmallCNN(nnx.Module):
    """Image in, embedding out: `[batch, size, size, 3] -> [batch, hidden[-1]]`.

    The published initialisation, of `levi_hassner`, is normal with deviation 0.01 (0.005 in dense layers), with biases
    of 1 in the second convolution and the dense layers.

    Raises:
      UserError: the image is too small for the variant's pooling.
    """

    def __init__(self, options: BackboneOptions, rngs: nnx.Rngs) -> None:
        layout, size, dtype = VARIANTS[options.variant], options.image_size, options.dtype
        published = options.init == "published"
        self.blocks, self.norm, self.dtype = layout.blocks, layout.norm, dtype
        convs, norms, channels = [], [], 3
        for number, block in enumerate(layout.blocks):
            inits = _inits(published, 0.01, float(number == 1))
            shape: dict[str, Any] = {"stride": block.stride, "padding": block.padding}
            convs.append(layers.Conv(channels, block.filters, block.kernel, **shape, **inits, dtype=dtype, rngs=rngs))
            if layout.norm == "batch":
                norms.append(layers.BatchNorm(block.filters, dtype=dtype))
            channels = block.filters
            size = layers.conv_output_size(size, block.kernel, block.stride, block.padding)
            if block.pool:
                size = layers.pool_output_size(size, *block.pool)
            if size < 1:
                raise UserError(
                    f"config.dataset.image_size={options.image_size} is too small for small_cnn {options.variant}, "
                    "which pools it to nothing; set it higher."
                )
        self.convs, self.norms = nnx.List(convs), nnx.List(norms)
        widths = (size * size * channels, *layout.hidden)
        inits = _inits(published, 0.005, 1.0)
        self.dense = nnx.List(nnx.Linear(m, n, **inits, dtype=dtype, rngs=rngs) for m, n in itertools.pairwise(widths))
        self.dropout = nnx.Dropout(options.dropout)
        self.embedding_size = widths[-1]

    def __call__(self, x: jax.Array, *, train: bool = False, rngs: nnx.Rngs | None = None) -> jax.Array:
        for i, block in enumerate(self.blocks):
            x = nnx.relu(self.convs[i](x))
            if i == len(self.blocks) - 1:
                x = layers.tap_features(x)
            if self.norm == "batch":  # before pooling, in the order that the paper gives
                x = self.norms[i](x, train=train)
            if block.pool:
                x = layers.max_pool(x, *block.pool)
            if self.norm == "local_response" and i < len(self.blocks) - 1:
                x = layers.local_response_norm(x)
        x = x.reshape(x.shape[0], -1)
        for dense in self.dense:
            x = self.dropout(nnx.relu(dense(x)), deterministic=not train, rngs=rngs)
        return x


def _inits(published: bool, deviation: float, bias: float) -> dict[str, Any]:
    if not published:
        return {"kernel_init": layers.he_normal}
    return {"kernel_init": nnx.initializers.normal(deviation), "bias_init": nnx.initializers.constant(bias)}


register(
    BackboneSpec(
        name="small_cnn",
        build=SmallCNN,
        variants=VARIANTS,
        poolings=("default",),
        dropout_poolings=("default",),
        published_inits=("levi_hassner",),
    )
)
