"""What tests of trainings share: the checkpoints of a run."""

from pathlib import Path

import jax
import numpy as np

from agegender_jax.checkpoints import Checkpoints


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
