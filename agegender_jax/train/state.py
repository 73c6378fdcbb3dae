"""What training carries from step to step, as a plain pytree of arrays."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """The whole state of training; together with the recipe it determines everything that follows.

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


def initial_state(params: Any, stats: Any, optimizer: optax.GradientTransformation, *, average: bool) -> TrainState:
    """The state before the first step."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        stats=stats,
        opt_state=optimizer.init(params),
        average=jax.tree.map(jnp.copy, (params, stats)) if average else None,
    )
