"""The custom CNN for 180x180 images that Imamdin et al. describe, after Sheoran, Joshi & Bhayani (2021, section 3.2).

Stated are: inputs of 180x180x3; blocks of 3x3 convolution, batch normalisation, ReLU and 2x2 max pooling; whole-channel
("spatial") dropout of 0.15 to 0.2 in the deeper ones; up to 256 filters, of which the age net has three blocks and the
gender net two; flattening; dense layers with batch normalisation, ReLU and dropout of 0.2 to 0.4.
Inferred are: the blocks before those (32, 64 and 128 filters), `SAME` padding, that spatial dropout is in the blocks of
256 filters and comes after pooling, and two dense layers of 256 and 128.
Neither convolutions nor dense layers have a bias, as the normalisation that follows would take it away again.

| variant | blocks | last map at 180x180 | parameters |
| --- | --- | --- | --- |
| `age` | 32, 64, 128, 256, 256, 256 | 2x2x256 | 1,865,248 |
| `gender` | 32, 64, 128, 256, 256 | 5x5x256 | 2,651,168 |
"""

import itertools

import jax
from flax import nnx

from agegender_jax.errors import UserError
from agegender_jax.models import layers
from agegender_jax.models.registry import BackboneOptions, BackboneSpec, register

VARIANTS: dict[str, tuple[int, ...]] = {"age": (32, 64, 128, 256, 256, 256), "gender": (32, 64, 128, 256, 256)}
"""Filters of each block; the first variant is the default."""

DEEP = 256
"""Filters from which on a block is a deeper one, with spatial dropout."""

HIDDEN = (256, 128)
"""Widths of the dense layers."""

LEAST_SIZE = 32
"""Edge, in pixels, of the smallest image: five poolings leave one pixel of it, which a sixth keeps."""


class CNN180(nnx.Module):
    """Image in, embedding out: `[batch, size, size, 3] -> [batch, 128]`.

    As published, `dropout` (after each dense layer) is 0.2 to 0.4, and `spatial_dropout` (after the deeper blocks) 0.15
    to 0.2.

    Raises:
      UserError: the image is smaller than `LEAST_SIZE`.
    """

    def __init__(self, options: BackboneOptions, rngs: nnx.Rngs) -> None:
        image_size, dtype = options.image_size, options.dtype
        if image_size < LEAST_SIZE:
            raise UserError(
                f"config.dataset.image_size={image_size} is too small for cnn180; set it to at least {LEAST_SIZE}."
            )
        self.filters = VARIANTS[options.variant]
        self.convs = nnx.List(
            layers.Conv(m, n, use_bias=False, dtype=dtype, rngs=rngs) for m, n in itertools.pairwise((3, *self.filters))
        )
        self.norms = nnx.List(layers.BatchNorm(n, dtype=dtype) for n in self.filters)
        size = max(image_size >> len(self.filters), 1)
        widths = (size * size * self.filters[-1], *HIDDEN)
        self.dense = nnx.List(
            nnx.Linear(m, n, use_bias=False, kernel_init=layers.he_normal, dtype=dtype, rngs=rngs)
            for m, n in itertools.pairwise(widths)
        )
        self.dense_norms = nnx.List(layers.BatchNorm(n, dtype=dtype) for n in HIDDEN)
        self.dropout = nnx.Dropout(options.dropout)
        self.spatial_dropout = nnx.Dropout(options.spatial_dropout, broadcast_dims=(1, 2))
        self.embedding_size = HIDDEN[-1]

    def __call__(self, x: jax.Array, *, train: bool = False, rngs: nnx.Rngs | None = None) -> jax.Array:
        for number, (conv, norm, filters) in enumerate(zip(self.convs, self.norms, self.filters, strict=True), start=1):
            x = nnx.relu(norm(conv(x), train=train))
            if number == len(self.filters):
                x = layers.tap_features(x)
            x = layers.max_pool(x)
            if filters >= DEEP:
                x = self.spatial_dropout(x, deterministic=not train, rngs=rngs)
        x = x.reshape(x.shape[0], -1)
        for dense, norm in zip(self.dense, self.dense_norms, strict=True):
            x = nnx.relu(norm(dense(x), train=train))
            x = self.dropout(x, deterministic=not train, rngs=rngs)
        return x


register(
    BackboneSpec(
        name="cnn180",
        build=CNN180,
        variants=VARIANTS,
        options=("spatial_dropout",),
        poolings=("default",),
        dropout_poolings=("default",),
    )
)
