"""What tests of trainings share: steps that are compiled in no time, and the checkpoints of a run."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh

from agegender_jax.checkpoints import Checkpoints
from agegender_jax.train.state import TrainState

MAKE_TRAIN_STEPS = "agegender_jax.train.step.make_train_steps"


def mesh_of(devices: int, model: int = 1) -> Mesh:
    """Returns so many of the eight devices as a mesh."""
    types = (AxisType.Auto, AxisType.Auto)
    return jax.make_mesh((devices // model, model), ("data", "model"), types, devices=jax.devices()[:devices])


def two_devices(model: int = 1) -> Mesh:
    """Returns two of the eight devices as a mesh."""
    return mesh_of(2, model)


def fake_steps(
    loss_of: Callable[[jax.Array], jax.Array] = jnp.ones_like,
    bias: Callable | None = None,
    norm: Callable[[jax.Array], jax.Array] = jnp.ones_like,
) -> Callable:
    """A stand-in for `make_train_steps` that only counts, compiled in no time.

    Args:
      loss_of: the losses of given step numbers (from 1), float32 `[steps]`.
      norm: the norms of their gradients, likewise.
      bias: the gender that the model predicts for every face after so many steps: 0 or 1.
    """

    def make(*_: Any, **__: Any) -> Callable:
        def steps(state: TrainState, data: Any, batches: Any) -> tuple[TrainState, dict[str, jax.Array]]:
            count = len(batches["rows"])
            number = state.step + 1 + jnp.arange(count)
            new = dataclasses.replace(state, step=state.step + count)
            if bias is not None:
                params, stats = state.average
                head = {
                    "kernel": jnp.zeros_like(params["heads"]["gender"]["kernel"]),
                    "bias": 10.0 * jax.nn.one_hot(bias(number[-1]), 2),
                }
                heads_of = params["heads"] | {"gender": head}
                new = dataclasses.replace(new, average=(params | {"heads": heads_of}, stats))
            loss = loss_of(number.astype(jnp.float32))
            return new, {"loss": loss, "gradient_norm": norm(number.astype(jnp.float32))}

        return steps

    return make


def steps_of(workdir: Path) -> list[int]:
    """Returns the steps of a run's checkpoints."""
    checkpoints = Checkpoints(workdir / "checkpoints")
    steps = checkpoints.steps
    checkpoints.close()
    return steps


def saved(workdir: Path) -> dict[str, np.ndarray]:
    """Returns every array of a run's newest checkpoint, `training` and `model`, by path."""
    checkpoints = Checkpoints(workdir / "checkpoints")
    items = checkpoints.restore(checkpoints.steps[-1], {"training": None, "model": None})
    checkpoints.close()
    return {jax.tree_util.keystr(k): np.asarray(v) for k, v in jax.tree_util.tree_leaves_with_path(items)}


def assert_same_bits(workdir: Path, other: Path) -> None:
    """Asserts that the newest checkpoints of two runs are of the same step and hold the same arrays."""
    arrays, expected = saved(workdir), saved(other)
    assert steps_of(workdir)[-1] == steps_of(other)[-1]
    assert arrays.keys() == expected.keys()
    assert len(arrays) > 50
    for name, array in expected.items():
        np.testing.assert_array_equal(arrays[name], array, err_msg=name)
