"""The training step, its compilation, and the memory that it takes."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh

from agegender_jax.data.loader import content_of
from agegender_jax.data.preprocess import Preprocessor
from agegender_jax.data.resources import device_memory
from agegender_jax.errors import UserError
from agegender_jax.mesh import by_batch, replicated
from agegender_jax.models.convolution import CONVOLVED
from agegender_jax.models.heads import Head
from agegender_jax.models.model import key_streams
from agegender_jax.recipe_options import TrainOptions
from agegender_jax.sharding import bytes_per_device, fsdp_loss
from agegender_jax.train.state import TrainState

_MEND = (
    "Lower config.train.batch_size, raise config.train.microbatches, set config.compute.remat=True or "
    "config.compute.loader=stream, or take more devices and config.compute.fsdp=True."
)

Data = Mapping[str, Any]
"""Resident data: `labels`, arrays `[n]` by head, and, of a resident dataset, `content` `[n, *shape]`."""

Batches = Mapping[str, jax.Array]
"""Batches of several steps: `rows` int32 `[steps, batch]`, and, of a streamed dataset, `content`
`[steps, batch, *shape]`."""


def total_loss(
    heads: Mapping[str, Head], outputs: Mapping[str, jax.Array], labels: Mapping[str, jax.Array]
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Computes the loss of a batch, sum over heads of `head.weight * sum(w l) / sum(w)`, and that of each head.

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
    options: TrainOptions,
    inputs: Preprocessor,
    constrain: Callable[[jax.Array], jax.Array] = lambda x: x,
    loss_wrapper: Callable[[Callable[..., Any]], Callable[..., Any]] = lambda loss_of: loss_of,
) -> Callable[[TrainState, Data, Batches], tuple[TrainState, dict[str, jax.Array]]]:
    """Returns a pure function of several optimizer steps: `(state, data, batches) -> (state, metrics)`.

    `metrics` holds the loss, each head's loss and the norm of the gradient before clipping, float32 `[steps]`. Donate
    `state` when jitting.

    With k microbatches a step processes 1/k of the examples at a time, in less memory. Loss and gradient are those of
    the whole batch, whichever labels are unknown. Batch normalisation takes the statistics of each microbatch and
    updates the running ones k times; dropout has a key for each.

    With `remat` the results of convolutions are kept for the gradient; all between them is computed again.

    Args:
      graphdef: the model's structure, from `split_model`.
      heads: by name.
      optimizer: from `make_optimizer`.
      options: how to train.
      inputs: the preprocessor.
      constrain: puts a batch's sharding on an array whose first axis is the batch.
      loss_wrapper: makes the loss that is differentiated from that of whole parameters, its first argument.
    """
    _, key = key_streams(options.seed)
    parts = options.microbatches

    def loss_of(
        params: Any, stats: Any, images: jax.Array, labels: Any, dropout_key: jax.Array, part: jax.Array | None = None
    ) -> Any:
        model = nnx.merge(graphdef, params, stats)
        outputs = model(images, train=True, rngs=nnx.Rngs(dropout=dropout_key))
        loss, losses = total_loss(heads, outputs if part is None else scatter_microbatch(outputs, part, parts), labels)
        return loss, (losses, nnx.to_pure_dict(nnx.state(model, nnx.BatchStat)), outputs)

    if options.remat:
        loss_of = jax.checkpoint(loss_of, policy=jax.checkpoint_policies.save_only_these_names(CONVOLVED))
    gradient_of = jax.value_and_grad(loss_wrapper(loss_of), has_aux=True)

    def in_parts(params: Any, stats: Any, images: jax.Array, labels: Any, dropout_key: jax.Array) -> Any:
        """Returns the result of `gradient_of` for a batch in microbatches."""

        def add_part(carry: Any, part: Any) -> Any:
            stats, gradient = carry
            number, images = part
            (_, (_, stats, outputs)), slope = gradient_of(
                params, stats, constrain(images), labels, jax.random.fold_in(dropout_key, number), number
            )
            return (stats, jax.tree.map(jnp.add, gradient, slope)), outputs

        begin = (stats, jax.tree.map(jnp.zeros_like, params))
        every_kth = images.reshape(-1, parts, *images.shape[1:]).swapaxes(0, 1)
        (stats, gradient), outputs = jax.lax.scan(add_part, begin, (jnp.arange(parts), every_kth))
        outputs = {name: logits.swapaxes(0, 1).reshape(len(images), -1) for name, logits in outputs.items()}
        loss, losses = total_loss(heads, outputs, labels)
        return (loss, (losses, stats, outputs)), gradient

    def train_step(state: TrainState, data: Data, batch: Batches) -> tuple[TrainState, dict[str, jax.Array]]:
        augment_key, dropout_key = jax.random.split(jax.random.fold_in(key, state.step))
        rows = constrain(batch["rows"])
        content = constrain(content_of(data, {**batch, "rows": rows}))
        images = constrain(inputs.train_transform(content, rows, augment_key))
        labels = {name: column[rows] for name, column in data["labels"].items()}
        (loss, (losses, stats, _)), gradient = (gradient_of if parts == 1 else in_parts)(
            state.params, state.stats, images, labels, dropout_key
        )
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        average = state.average
        if average is not None:
            # Short at first, so that the average forgets the initial parameters (as TensorFlow's does).
            decay = jnp.minimum(options.ema_decay, (1.0 + state.step) / (10.0 + state.step))
            average = jax.tree.map(lambda old, new: decay * old + (1 - decay) * new, average, (params, stats))
        metrics = {"loss": loss, "gradient_norm": optax.tree.norm(gradient)}
        metrics |= {f"{name}/loss": value for name, value in losses.items()}
        return TrainState(state.step + 1, params, stats, opt_state, average), metrics

    def train_steps(state: TrainState, data: Data, batches: Batches) -> tuple[TrainState, dict[str, jax.Array]]:
        return jax.lax.scan(lambda carry, batch: train_step(carry, data, batch), state, batches)

    return train_steps


def scatter_microbatch(outputs: Mapping[str, jax.Array], part: jax.Array, parts: int) -> dict[str, jax.Array]:
    """Puts the logits of a microbatch, each `parts`-th example from `part`, into those of a batch, 0 elsewhere.

    A head then sees the labels, and the sum of weights, of the whole batch.

    >>> scatter_microbatch({"a": jnp.array([[1.0], [2.0]])}, jnp.array(1), 3)["a"][:, 0].tolist()
    [0.0, 1.0, 0.0, 0.0, 2.0, 0.0]
    """
    mine = (jnp.arange(parts) == part)[:, None]
    return {
        name: jnp.where(mine, logits[:, None], 0.0).reshape(-1, logits.shape[-1]) for name, logits in outputs.items()
    }


def check_microbatches(batch_size: int, microbatches: int, devices: int = 1) -> None:
    """Checks that a batch can be processed in microbatches of equal size, each divided evenly among the devices.

    Raises:
      UserError: it cannot.
    """
    if batch_size % (microbatches * devices):
        where = f" of which each of {devices} devices has an equal share" if devices > 1 else ""
        raise UserError(
            f"config.train.microbatches={microbatches} does not divide the batch size {batch_size} into equal parts"
            f"{where}; choose a batch size that is a multiple of {microbatches * devices}."
        )


def jit_train_steps(
    graphdef: Any,
    heads: Mapping[str, Head],
    optimizer: optax.GradientTransformation,
    options: TrainOptions,
    inputs: Preprocessor,
    mesh: Mesh,
    layout: Any = None,
) -> jax.stages.Wrapped:
    """Jits `make_train_steps` for a mesh: batches are split over its axis `data`, and the state is donated.

    `layout` is a `TrainState` of shardings; None replicates the state, as the metrics are.
    """
    steps = make_train_steps(
        graphdef,
        heads,
        optimizer,
        options,
        inputs,
        lambda x: jax.lax.with_sharding_constraint(x, by_batch(mesh)),
        loss_wrapper=partial(fsdp_loss, mesh=mesh) if options.fsdp else lambda loss_of: loss_of,
    )
    return jax.jit(steps, donate_argnums=0, out_shardings=(layout or replicated(mesh), replicated(mesh)))


def compile_steps(train_steps: jax.stages.Wrapped, abstract: TrainState, data: Any, batches: Any) -> tuple[Any, str]:
    """Compiles the steps from shapes alone.

    Args:
      train_steps: from `jit_train_steps`.
      abstract: shapes of the state, from `state.abstract_state`.
      data: shapes of the resident data, from `Setup.batch_shapes`.
      batches: shapes of the batches of a dispatch, likewise.

    Returns:
      The program, to be called as `train_steps` is, and `memory_of` it.

    Raises:
      UserError: it takes more than a device has.
    """
    try:
        program = train_steps.lower(abstract, data, batches).compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise UserError(f"A step does not fit into the memory of a device. {_MEND}") from error
    return program, memory_of(program, data, abstract)


def memory_of(program: Any, data: Any, abstract: TrainState) -> str:
    """Describes the memory of each device that a program needs; "" where the compiler does not report it.

    Raises:
      UserError: it is more than a device has.
    """
    usage = program.memory_analysis()
    if usage is None:
        return ""
    limit, where = device_memory()
    needed = usage.argument_size_in_bytes + usage.temp_size_in_bytes + usage.output_size_in_bytes
    needed -= usage.alias_size_in_bytes  # the new state lies where the old one did
    text = (
        f"{needed / 1e9:.2f} GB of {where}, {limit / 1e9:.2f} GB: {bytes_per_device(data) / 1e9:.2f} GB data, "
        f"{bytes_per_device(abstract) / 1e9:.2f} GB state, {usage.temp_size_in_bytes / 1e9:.2f} GB temporary"
    )
    if needed > limit:
        raise UserError(f"A step needs {text}. {_MEND}")
    return f"Memory of a training step: {text}"
