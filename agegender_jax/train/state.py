"""The training state, a pytree of arrays: fresh or restored."""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from agegender_jax.checkpoints import Checkpoints
from agegender_jax.models.model import ModelDef
from agegender_jax.sharding import state_shardings


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """The state of training; with the recipe, it determines all that follows.

    Attributes:
      step: int32 scalar, optimizer steps done.
      params: trained parameters, float32.
      stats: normalisation statistics, float32.
      opt_state: of the optimizer.
      average: exponential moving average of `(params, stats)`, or None where the recipe asks for none.
    """

    step: jax.Array
    params: Any
    stats: Any
    opt_state: Any
    average: Any

    @property
    def evaluated(self) -> tuple[Any, Any]:
        """The `(params, stats)` that evaluation and prediction use: the average where there is one."""
        return (self.params, self.stats) if self.average is None else self.average

    def to_items(self) -> dict[str, Any]:
        """Returns what a checkpoint holds: `model`, which is `evaluated`, and `training`, the state without it."""
        if self.average is None:
            rest: Any = dataclasses.replace(self, params=None, stats=None)
        else:
            rest = dataclasses.replace(self, average=None)
        return {"model": self.evaluated, "training": rest}

    @classmethod
    def from_items(cls, items: Mapping[str, Any]) -> "TrainState":
        """Returns the state of `to_items`."""
        model, rest = items["model"], items["training"]
        if rest.params is None:
            return dataclasses.replace(rest, params=model[0], stats=model[1])
        return dataclasses.replace(rest, average=model)


def initial_state(params: Any, stats: Any, optimizer: optax.GradientTransformation, *, average: bool) -> TrainState:
    """Returns the state before the first step."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        stats=stats,
        opt_state=optimizer.init(params),
        average=jax.tree.map(jnp.copy, (params, stats)) if average else None,
    )


def abstract_state(
    model: ModelDef, optimizer: optax.GradientTransformation, mesh: jax.sharding.Mesh, *, average: bool, fsdp: bool
) -> TrainState:
    """Computes the shapes of the training state, and where each array lies (`compute.fsdp`, `compute.model`).

    Returns:
      A state of `jax.ShapeDtypeStruct` with shardings; nothing is computed on the devices.
    """
    shapes = jax.eval_shape(partial(initial_state, optimizer=optimizer, average=average), model.params, model.stats)
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        state_shardings(shapes, mesh, fsdp=fsdp),
    )


def initialise(model: ModelDef, shardings: Any) -> tuple[Any, Any]:
    """Computes fresh parameters and statistics, laid out as `shardings` says."""
    # It runs once: on a CPU, compiling it well takes seconds longer, and its bits are the same.
    options: dict[str, str | bool] | None = None
    if jax.default_backend() == "cpu":
        options = {"xla_backend_optimization_level": "1"}
    return jax.jit(model.init, out_shardings=shardings, compiler_options=options)()


def init_or_restore(
    model: ModelDef,
    optimizer: optax.GradientTransformation,
    abstract: TrainState,
    checkpoints: Checkpoints,
    load_pretrained: Callable[[Any, Any], tuple[Any, Any]] | None = None,
) -> tuple[int, TrainState]:
    """Restores the newest checkpoint that can be read, or else initialises the state.

    Args:
      model: from `define_model`.
      optimizer: from `make_optimizer`.
      abstract: from `abstract_state`: shapes and shardings of the state.
      checkpoints: of the run.
      load_pretrained: takes fresh parameters and statistics, and returns them with pretrained values; None keeps them.

    Returns:
      Steps done, and the state.

    Raises:
      UserError: no checkpoint can be read, or the pretrained weights cannot.
    """
    if restored := checkpoints.restore_newest(abstract.to_items()):
        step, items = restored
        return step, TrainState.from_items(items)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    # Pretrained weights are put into a model that every process has whole.
    where = shardings.step if load_pretrained else (shardings.params, shardings.stats)
    params, stats = initialise(model, where)
    if load_pretrained:
        params, stats = load_pretrained(params, stats)
    begin = partial(initial_state, optimizer=optimizer, average=abstract.average is not None)
    return 0, jax.jit(begin, out_shardings=shardings)(params, stats)
