"""Three nets side by side: a gender net (small_cnn), and an age net (VGG16) for each gender (Imamdin et al.)."""

import dataclasses
from itertools import accumulate
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from agegender_jax.labels import GENDERS
from agegender_jax.models.backbones import small_cnn, vgg
from agegender_jax.models.registry import POOLINGS, BackboneOptions, BackboneSpec, register

VARIANTS = ("plain", "bn")
"""VGG16 without and with batch normalisation."""


class Routed(nnx.Module):
    """Three nets side by side: `[batch, size, size, 3] -> [batch, embedding_size]`.

    Every image goes through both age nets, which is what the soft mixture asks for and what keeps shapes static: a
    step costs three nets, not two. A batch normalisation within an age net thus has the statistics of images of both
    genders, in training as afterwards; nets without it learn from the images of their own gender alone.
    """

    def __init__(self, gender: Any, male: Any, female: Any) -> None:
        self.gender, self.male, self.female = gender, male, female
        self.ends = tuple(accumulate(net.embedding_size for net in (gender, male, female)))
        self.embedding_size = self.ends[-1]

    def embedding_slice(self, gender: str | None) -> slice:
        """Returns where in the embedding that of the age net of a gender is, or of the gender net for None."""
        number = 0 if gender is None else 1 + GENDERS.index(gender)
        return slice((0, *self.ends)[number], self.ends[number])

    def __call__(self, x: jax.Array, *, train: bool = False, rngs: nnx.Rngs | None = None) -> jax.Array:
        nets = (self.gender, self.male, self.female)
        return jnp.concatenate([net(x, train=train, rngs=rngs) for net in nets], -1)


def _build(options: BackboneOptions, rngs: nnx.Rngs) -> Routed:
    gender = small_cnn.SmallCNN(dataclasses.replace(options, variant="gender_three", init="default"), rngs)
    ages = (options.outputs - len(GENDERS)) // len(GENDERS)  # logits of either age net
    vgg_options = dataclasses.replace(options, outputs=ages)
    male, female = (vgg.build(16, options.variant == "bn", vgg_options, rngs) for _ in GENDERS)
    return Routed(gender, male, female)


register(
    BackboneSpec(
        name="routed",
        build=_build,
        variants=VARIANTS,
        options=("width",),
        dropout_poolings=POOLINGS,  # the gender net has dropout with each
        published_inits=VARIANTS,
    )
)
