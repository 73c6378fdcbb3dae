"""Checkpoints of a run, by Orbax; nothing else in the project imports it.

A checkpoint holds two items: `training`, the whole training state, and `model`, the parameters and statistics that
evaluation and prediction use, so that these need not know what an optimizer is.
"""

import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from absl import logging
from orbax.checkpoint import v1 as ocp

from agegender_jax.errors import UserError

_WORST = -1e30  # figure of a checkpoint that was not evaluated: JSON has no minus infinity


class Checkpoints:
    """The checkpoints of one run, saved asynchronously: the newest `keep`, and the best.

    Args:
      directory: where they lie, one folder a step.
      keep: how many of the newest are kept.
    """

    def __init__(self, directory: Path, keep: int = 1) -> None:
        policies = ocp.training.preservation_policies
        self._checkpointer = ocp.training.Checkpointer(
            directory.resolve(),
            preservation_policy=policies.AnyPreservationPolicy(
                [policies.LatestN(keep), policies.BestN(get_metric_fn=_figure, n=1)]
            ),
            cleanup_tmp_directories=True,
        )

    @property
    def steps(self) -> list[int]:
        """Steps with a complete checkpoint, ascending."""
        return [checkpoint.step for checkpoint in self._checkpointer.checkpoints]

    @property
    def best(self) -> int | None:
        """The step with the highest figure; the newest where none was evaluated; None where there is none."""
        checkpoints = self._checkpointer.checkpoints
        return max(checkpoints, key=lambda c: (_figure(c.metrics or {}), c.step)).step if checkpoints else None

    def save(self, step: int, training: Any, model: Any, figure: float | None = None) -> None:
        """Starts saving; returns as soon as the state may change again.

        Args:
          step: optimizer steps done.
          training: pytree, the whole training state.
          model: pytree, what evaluation uses.
          figure: what `best` compares, higher is better; None if not evaluated.
        """
        if jax.default_backend() == "cpu":
            # There the saver may look at the very memory that the next step is about to reuse.
            training, model = jax.tree.map(jnp.copy, (training, model))
        self._checkpointer.save_checkpointables_async(
            step,
            {"training": training, "model": model},
            metrics={"figure": _WORST if figure is None else figure},
            force=True,
            overwrite=True,
        )

    def restore(self, step: int, item: str, abstract: Any) -> Any:
        """An item (`training` or `model`) of a step, laid out as `abstract`, a pytree of `jax.ShapeDtypeStruct`."""
        return self._checkpointer.load_checkpointables(step, {item: abstract})[item]

    def restore_newest(self, item: str, abstract: Any) -> tuple[int, Any] | None:
        """The newest checkpoint that can be read, `(step, item)`, or None where there is none.

        A damaged one is said, set aside under another name, and the one before is used.

        Raises:
          UserError: there are checkpoints, and none can be read.
        """
        steps = self.steps
        for step in reversed(steps):
            try:
                return step, self.restore(step, item, abstract)
            except Exception as error:  # Orbax and TensorStore raise many kinds on damaged files
                reason = str(error).strip().splitlines()[0][:200]
                logging.warning("The checkpoint of step %d is damaged (%s): the one before it is used.", step, reason)
                self._set_aside(step)
        if steps:
            raise UserError(
                f"{self._checkpointer.directory}: none of the checkpoints of steps {steps} can be read; restore them "
                "from a copy, or start in a new directory."
            )
        return None

    def _set_aside(self, step: int) -> None:
        folder = Path(self._checkpointer.directory)
        damaged = folder.with_name("damaged_checkpoints")
        damaged.mkdir(exist_ok=True)
        shutil.rmtree(damaged / str(step), ignore_errors=True)
        (folder / str(step)).rename(damaged / str(step))
        self._checkpointer.reload()

    def wait(self) -> None:
        """Returns when everything that was saved is on disk."""
        self._checkpointer.wait()

    def close(self) -> None:
        """Waits, and lets go of the directory."""
        self._checkpointer.close()


def _figure(metrics: Any) -> float:
    return (metrics or {}).get("figure", _WORST)
