"""The training step: one for all systems."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh
from ml_collections import ConfigDict

from agegender_jax.data.inputs import Inputs
from agegender_jax.mesh import by_batch, replicated
from agegender_jax.models.heads import Head
from agegender_jax.train.state import TrainState

Data = Mapping[str, Any]
"""`content` `[n, *shape]`, see `inputs.Inputs`, and `labels`, a dictionary of `[n]` arrays by head, on the devices."""


def total_loss(
    heads: Mapping[str, Head], outputs: Mapping[str, jax.Array], labels: Mapping[str, jax.Array]
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The loss of a batch, sum over heads of `head.weight * sum(w l) / sum(w)`, and each head's own.

    The sums run over the global batch, so the loss is the same on one device and on many. Dividing by the sum of the
    weights keeps the size of a step independent of how many labels in the batch are known and how they are weighted.
    """
    losses = {}
    for name, head in heads.items():
        loss, weight = head.loss(outputs[name], labels[name])
        losses[name] = jnp.sum(loss * weight) / jnp.maximum(jnp.sum(weight), 1e-9)
    total = jnp.sum(jnp.stack([heads[name].weight * loss for name, loss in losses.items()]))
    return total, losses


def make_train_steps(
    graphdef: Any,
    heads: Mapping[str, Head],
    optimizer: optax.GradientTransformation,
    recipe: ConfigDict,
    inputs: Inputs,
    constrain: Callable[[jax.Array], jax.Array] = lambda x: x,
) -> Callable[[TrainState, Data, jax.Array], tuple[TrainState, dict[str, jax.Array]]]:
    """A function that takes several optimizer steps: `(state, data, rows) -> (state, figures)`.

    It is pure and not yet jitted; donate `state` when jitting it. `rows` is int32 `[steps, batch]`, which examples
    make each batch. `figures` holds the loss, each head's loss and the gradient norm, float32 `[steps]`.

    Args:
      graphdef: the model's structure, from `split_model`.
      heads: by name.
      optimizer: from `make_optimizer`.
      recipe: the run's.
      inputs: how examples become what the network sees.
      constrain: puts a batch's sharding on an array whose first axis is the batch.
    """
    key = jax.random.key(recipe.seed)

    def loss_of(params: Any, stats: Any, images: jax.Array, labels: Any, dropout_key: jax.Array) -> Any:
        model = nnx.merge(graphdef, params, stats)
        outputs = model(images, train=True, rngs=nnx.Rngs(dropout=dropout_key))
        loss, losses = total_loss(heads, outputs, labels)
        return loss, (losses, nnx.to_pure_dict(nnx.state(model, nnx.BatchStat)))

    def train_step(state: TrainState, data: Data, rows: jax.Array) -> tuple[TrainState, dict[str, jax.Array]]:
        augment_key, dropout_key = jax.random.split(jax.random.fold_in(key, state.step))
        rows = constrain(rows)
        images = constrain(inputs.augmented(constrain(data["content"][rows]), rows, augment_key))
        labels = {name: column[rows] for name, column in data["labels"].items()}
        (loss, (losses, stats)), gradient = jax.value_and_grad(loss_of, has_aux=True)(
            state.params, state.stats, images, labels, dropout_key
        )
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        average = state.average
        if average is not None:
            # Short at first, so that the average forgets the initial parameters (as TensorFlow's does).
            decay = jnp.minimum(recipe.train.ema_decay, (1.0 + state.step) / (10.0 + state.step))
            average = jax.tree.map(lambda old, new: decay * old + (1 - decay) * new, average, (params, stats))
        figures = {"loss": loss, "gradient_norm": optax.tree.norm(gradient)}
        figures |= {f"{name}/loss": value for name, value in losses.items()}
        return TrainState(state.step + 1, params, stats, opt_state, average), figures

    def train_steps(state: TrainState, data: Data, rows: jax.Array) -> tuple[TrainState, dict[str, jax.Array]]:
        return jax.lax.scan(lambda carry, batch: train_step(carry, data, batch), state, rows)

    return train_steps


def jit_train_steps(
    graphdef: Any,
    heads: Mapping[str, Head],
    optimizer: optax.GradientTransformation,
    recipe: ConfigDict,
    inputs: Inputs,
    mesh: Mesh,
) -> Callable[[TrainState, Data, jax.Array], tuple[TrainState, dict[str, jax.Array]]]:
    """`make_train_steps` jitted for a mesh: each batch lies over its axis `data`, the donated state on every device."""
    steps = make_train_steps(
        graphdef, heads, optimizer, recipe, inputs, lambda x: jax.lax.with_sharding_constraint(x, by_batch(mesh))
    )
    return jax.jit(steps, donate_argnums=0, out_shardings=replicated(mesh))
