"""A model: a backbone and its heads."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from flax import nnx

from agegender_jax.models.heads import Head
from agegender_jax.models.small_cnn import SmallCNN

BACKBONES: dict[str, Callable[..., nnx.Module]] = {"small_cnn": SmallCNN}
"""Constructors by name: `(*, image_size, dtype, rngs, **options)`, with an attribute `embedding_size`."""


class Model(nnx.Module):
    """Images in, logits by head out: `[batch, size, size, 3] -> {head: float32 [batch, head.size]}`.

    Args:
      backbone: image in, embedding out.
      heads: what is predicted from the embedding, by name.
      rngs: stream `params`.
    """

    def __init__(self, backbone: nnx.Module, heads: Mapping[str, Head], *, rngs: nnx.Rngs) -> None:
        self.backbone = backbone
        self.heads = nnx.Dict(
            {name: nnx.Linear(backbone.embedding_size, head.size, rngs=rngs) for name, head in heads.items()}
        )

    def __call__(self, x: jax.Array, *, train: bool = False, rngs: nnx.Rngs | None = None) -> dict[str, jax.Array]:
        embedding = self.backbone(x, train=train, rngs=rngs).astype(jnp.float32)
        return {name: head(embedding) for name, head in self.heads.items()}
