"""The losses of heads by name: cross-entropy for any classes, and those that know the classes' order, as ages have one.

With each stand the number of logits that it needs, its layer, and how its logits become probabilities.

A loss takes logits float32 `[batch, outputs]` and ages `[batch]`, integer or floating, in years or in whatever the
classes 0 to K-1 count; it returns float32 `[batch]`. Where it needs a class, that is the nearest; ages above K-1 count
as K-1. Extreme logits give finite losses.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from agegender_jax.errors import UserError

_CENTRE, _SCALE = 50.0, 25.0
_MEAN_FACTOR, _VARIANCE_FACTOR = 0.2, 0.05  # of Pan et al.


def years(logits: jax.Array) -> jax.Array:
    """Computes the years of a regression, `[..., 1] -> [...]`: 50 + 25 * output.

    A fresh head's outputs are about -1 to 1, so it begins in the middle of 0 to 100 and reaches both ends at 2; an
    output that were years itself would have to climb there at the pace of the learning rate.
    """
    return _CENTRE + _SCALE * logits[..., 0]


def l1(logits: jax.Array, age: jax.Array) -> jax.Array:
    """Computes the absolute error in years, of one output; its mean is the MAE."""
    return jnp.abs(years(logits) - age)


def huber(logits: jax.Array, age: jax.Array) -> jax.Array:
    """Computes the absolute error in years less 1/2, or half its square below 1 year (Huber 1964); of one output."""
    return optax.losses.huber_loss(years(logits), age.astype(jnp.float32), delta=1.0)


def cross_entropy(logits: jax.Array, age: jax.Array, label_smoothing: float = 0.0) -> jax.Array:
    """Computes softmax cross-entropy against the class (Rothe et al. 2015, "DEX", has one a year); of K outputs.

    `label_smoothing` is the share of the target that is spread over all classes alike (Szegedy et al. 2016, section 7).
    """
    label = _class(age, logits.shape[-1])
    if not label_smoothing:
        return optax.losses.softmax_cross_entropy_with_integer_labels(logits, label)
    target = optax.smooth_labels(jax.nn.one_hot(label, logits.shape[-1]), label_smoothing)
    return optax.losses.softmax_cross_entropy(logits, target)


def dldl(logits: jax.Array, age: jax.Array, spread: float = 2.0) -> jax.Array:
    """Computes cross-entropy against a Gaussian around the age (Gao et al. 2017, eq. 2 and 4); of K outputs.

    It is their Kullback-Leibler divergence but for the target's own entropy, which has no gradient. `spread` is the
    standard deviation of the Gaussian.
    """
    classes = jnp.arange(logits.shape[-1], dtype=jnp.float32)
    centre = jnp.clip(age, 0, logits.shape[-1] - 1)[:, None]
    target = jax.nn.softmax(-0.5 * jnp.square((classes - centre) / spread))
    return optax.losses.softmax_cross_entropy(logits, target)


def mean_variance(logits: jax.Array, age: jax.Array) -> jax.Array:
    """Computes cross-entropy + 0.2 (mean - age)^2 / 2 + 0.05 variance (factors of Pan et al. 2018); of K outputs."""
    classes = jnp.arange(logits.shape[-1], dtype=jnp.float32)
    probability = jax.nn.softmax(logits)
    mean = probability @ classes
    variance = jnp.sum(probability * jnp.square(classes - mean[:, None]), -1)
    error = mean - jnp.clip(age, 0, logits.shape[-1] - 1)
    return cross_entropy(logits, age) + _MEAN_FACTOR * jnp.square(error) / 2 + _VARIANCE_FACTOR * variance


def coral(logits: jax.Array, age: jax.Array) -> jax.Array:
    """Sums the binary cross-entropies of "older than k", k = 0 to K-2 (Cao et al. 2020, eq. 4); of K-1 outputs."""
    return _older(logits, age).sum(-1)


def corn(logits: jax.Array, age: jax.Array) -> jax.Array:
    """Averages the binary cross-entropy of "older than k, if older than k-1" over these k; of K-1 outputs.

    Shi et al. (2023, eq. 10) divide by the number of all terms of a batch. So does a mean of this over examples with
    the weights `corn_terms`.
    """
    conditional = jnp.arange(logits.shape[-1]) <= _class(age, logits.shape[-1] + 1)[:, None]
    return jnp.sum(_older(logits, age) * conditional, -1) / corn_terms(age, logits.shape[-1] + 1)


def corn_terms(age: jax.Array, classes: int) -> jax.Array:
    """Counts the terms of `corn` of an example, float32 `[batch]`: one more than its class, at most K-1."""
    return jnp.minimum(_class(age, classes) + 1, classes - 1).astype(jnp.float32)


def coral_probability(logits: jax.Array) -> jax.Array:
    """Converts the logits of `coral` to probabilities of the classes, `[..., K-1] -> [..., K]`.

    Nothing keeps the thresholds in order while they are learned, so P(older than k) is sorted first (Chernozhukov et
    al. 2010): no probability is negative, and the expectation and the number of thresholds passed stay as they are.
    """
    older = jnp.flip(jnp.sort(jax.nn.sigmoid(logits), -1), -1)
    one, zero = jnp.ones_like(older[..., :1]), jnp.zeros_like(older[..., :1])
    return jnp.concatenate([one, older], -1) - jnp.concatenate([older, zero], -1)


def corn_probability(logits: jax.Array) -> jax.Array:
    """Converts the logits of `corn` to probabilities of the classes, `[..., K-1] -> [..., K]`."""
    older = jnp.cumprod(jax.nn.sigmoid(logits), -1)
    one = jnp.ones_like(older[..., :1])
    return jnp.concatenate([one, older], -1) * jnp.concatenate([jax.nn.sigmoid(-logits), one], -1)


def regressed(logits: jax.Array) -> jax.Array:
    """Returns the years, `[..., 1]`, which may be averaged as well as probabilities; none is below 0."""
    return jnp.maximum(years(logits), 0)[..., None]


class CoralLayer(nnx.Module):
    """One weight vector for all thresholds, and a bias for each: `[batch, in_features] -> [batch, out_features]`.

    The biases begin in descending order, from 1 to 1 / out_features, as in coral-pytorch.
    """

    def __init__(self, in_features: int, out_features: int, *, rngs: nnx.Rngs) -> None:
        self.kernel = nnx.Param(nnx.initializers.lecun_normal()(rngs.params(), (in_features, 1), jnp.float32))
        self.bias = nnx.Param(jnp.arange(out_features, 0, -1, dtype=jnp.float32) / out_features)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns the logits."""
        return x @ self.kernel[...] + self.bias[...]


@dataclasses.dataclass(frozen=True)
class Loss:
    """A loss and what belongs to it.

    Attributes:
      loss: of logits and ages, per example.
      distribution: what may be averaged, from logits: probabilities of K classes, or `[batch, 1]` years.
      outputs: how many logits K classes need.
      layer: that makes them; called like `nnx.Linear`.
      weight: of an example in a mean, from its age and K; None is 1.
    """

    loss: Callable[..., jax.Array]
    distribution: Callable[[jax.Array], jax.Array] = jax.nn.softmax
    outputs: Callable[[int], int] = lambda classes: classes
    layer: Callable[..., Any] = nnx.Linear
    weight: Callable[[jax.Array, int], jax.Array] | None = None


LOSSES: Mapping[str, Loss] = {
    "cross_entropy": Loss(cross_entropy),
    "dldl": Loss(dldl),
    "mean_variance": Loss(mean_variance),
    "l1": Loss(l1, regressed, outputs=lambda _: 1),
    "huber": Loss(huber, regressed, outputs=lambda _: 1),
    "coral": Loss(coral, coral_probability, outputs=lambda classes: classes - 1, layer=CoralLayer),
    "corn": Loss(corn, corn_probability, outputs=lambda classes: classes - 1, weight=corn_terms),
}
"""By `heads.age.loss`. To add one, add it here."""

ORDINAL = ("coral", "corn")
"""Losses whose published prediction is the number of thresholds that are passed with more than half the probability."""


def refuse_label_smoothing(head: str, loss_name: str, label_smoothing: float) -> None:
    """Raises UserError where `label_smoothing` is above 0 and the loss is not `cross_entropy`."""
    if label_smoothing and loss_name != "cross_entropy":
        raise UserError(
            f"config.heads.{head}.label_smoothing={label_smoothing:g} is not for the loss {loss_name!r}; set it to 0, "
            f"or config.heads.{head}.loss=cross_entropy."
        )


def _class(age: jax.Array, classes: int) -> jax.Array:
    return jnp.clip(jnp.round(age), 0, classes - 1).astype(jnp.int32)


def _older(logits: jax.Array, age: jax.Array) -> jax.Array:
    """Computes the binary cross-entropy of every threshold, `[batch, K-1]`."""
    passed = jnp.arange(logits.shape[-1]) < _class(age, logits.shape[-1] + 1)[:, None]
    return -jax.nn.log_sigmoid(jnp.where(passed, logits, -logits))
