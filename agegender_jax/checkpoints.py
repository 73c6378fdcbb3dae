"""Checkpoints of a run, by Orbax; nothing else in the project imports it.

A checkpoint holds two items: `training`, the whole training state, and `model`, the parameters and statistics that
evaluation and prediction use, so that these need not know what an optimizer is. A third, `checksums`, tells whether
the arrays that are read are those that were saved: the files themselves do not show a flipped bit.

Several processes save and restore together, each its own part of the arrays, in a folder that all of them share.
"""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec
from orbax.checkpoint import v1 as ocp

from agegender_jax import atomic
from agegender_jax.distributed import all_agree, is_primary, primary_first
from agegender_jax.errors import UserError

_WORST = -1e30  # figure of a checkpoint that was not evaluated: JSON has no minus infinity


class Checkpoints:
    """The checkpoints of one run, saved asynchronously: the newest `keep`, and the best.

    Args:
      directory: where they lie, one folder a step.
      keep: how many of the newest are kept.
    """

    def __init__(self, directory: Path, keep: int = 1) -> None:
        with primary_first():
            if is_primary():
                _mend_figures(directory)
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
          figure: what `best` compares, higher is better; None, or not finite, if not evaluated.
        """
        if jax.default_backend() == "cpu":
            # There the saver may look at the very memory that the next step is about to reuse.
            training, model = jax.tree.map(jnp.copy, (training, model))
        checksums = {"training": _checksum(training), "model": _checksum(model)}
        self._checkpointer.save_checkpointables_async(
            step,
            {"training": training, "model": model, "checksums": checksums},
            metrics=_metrics(figure),
            force=True,
            overwrite=True,
        )

    def evaluated(self, step: int) -> bool:
        """Whether the checkpoint of a step was saved, or rated, with a figure."""
        found = next((c.metrics for c in self._checkpointer.checkpoints if c.step == step), None)
        return (found or {}).get("evaluated", _figure(found) != _WORST)  # earlier versions did not say

    def rate(self, step: int, figure: float) -> None:
        """Gives a figure to a checkpoint that was saved without one; the arguments are those of `save`."""
        with primary_first():
            if is_primary():
                _write_figure(Path(self._checkpointer.directory) / str(step) / "metrics" / "metrics", figure)
        self._checkpointer.reload()

    def restore(self, step: int, item: str, abstract: Any) -> Any:
        """An item (`training` or `model`) of a step, laid out as `abstract`, a pytree of `jax.ShapeDtypeStruct`.

        Without (None) it is laid out as it was saved.

        Raises:
          UserError: the checkpoint is not there, or is damaged.
        """
        return _read(Path(self._checkpointer.directory), step, item, abstract)

    def restore_newest(self, item: str, abstract: Any) -> tuple[int, Any] | None:
        """The newest checkpoint that can be read, `(step, item)`, or None where there is none.

        A damaged one is said, moved to `damaged_checkpoints` beside the others' folder, and the one before is used.

        Raises:
          UserError: there are checkpoints, and none can be read; they stay where they are.
        """
        steps = self.steps
        damaged: list[int] = []
        for step in reversed(steps):
            try:
                restored = self.restore(step, item, abstract)
            except UserError as error:
                logging.warning("%s The one before it is used.", error)
                damaged.append(step)
                continue
            self._set_aside(damaged)  # not before one was read: the fault may lie elsewhere
            return step, restored
        if steps:
            raise UserError(
                f"{self._checkpointer.directory}: none of the checkpoints of steps {steps} can be read; restore them "
                "from a copy, or start in a new directory."
            )
        return None

    def _set_aside(self, steps: list[int]) -> None:
        if not steps:
            return
        folder = Path(self._checkpointer.directory)
        aside = folder.with_name("damaged_checkpoints")
        with primary_first():
            for step in steps if is_primary() else []:
                aside.mkdir(exist_ok=True)
                shutil.rmtree(aside / str(step), ignore_errors=True)
                (folder / str(step)).rename(aside / str(step))
        self._checkpointer.reload()

    def wait(self) -> None:
        """Returns when everything that was saved is on disk."""
        self._checkpointer.wait()

    def close(self) -> None:
        """Waits, and lets go of the directory."""
        self._checkpointer.close()


def read_model(directory: Path, step: int, abstract: Any) -> Any:
    """Reads the model of a checkpoint, and writes nothing.

    Args:
      directory: where the checkpoints lie.
      step: of the checkpoint.
      abstract: pytree of `jax.ShapeDtypeStruct`, how it is laid out; None is as it was saved.

    Raises:
      UserError: the checkpoint is not there, or is damaged.
    """
    if not (directory / str(step)).is_dir():
        raise UserError(f"{directory} has no checkpoint of step {step}; restore it from a copy.")
    return _read(directory, step, "model", abstract)


def _read(directory: Path, step: int, item: str, abstract: Any) -> Any:
    scalar = None
    if leaves := jax.tree.leaves(abstract):
        sharding = leaves[0].sharding
        if isinstance(sharding, NamedSharding):
            sharding = NamedSharding(sharding.mesh, PartitionSpec())
        scalar = jax.ShapeDtypeStruct((), jnp.uint32, sharding=sharding)
    wanted = {item: abstract, "checksums": {"training": scalar, "model": scalar} if leaves else None}
    restored: Any = None
    failure: BaseException | None = None
    try:
        restored = ocp.load_checkpointables(directory.resolve() / str(step), wanted)
    except Exception as error:  # Orbax and TensorStore raise many kinds on damaged files
        failure = error
    if not all_agree(failure is None):
        failure = failure or ValueError("another process cannot read its part")
    # Of all processes' parts together, but each reads the files by itself.
    elif not all_agree(int(_checksum(restored[item])) == int(restored["checksums"][item])):
        failure = ValueError("its arrays are not those that were saved")
    else:
        return restored[item]
    cause: BaseException = failure
    while cause.__cause__ is not None:
        cause = cause.__cause__
    reason = (str(cause).strip() or type(cause).__name__).splitlines()[0][:200]
    raise UserError(
        f"{directory}: the checkpoint of step {step} cannot be read ({reason}); restore it from a copy."
    ) from failure


def _checksum(tree: Any) -> np.ndarray:
    """Computes the sum of all elements of all arrays, read as unsigned integers, modulo 2^32, uint32 scalar.

    A flipped bit changes it; the order of the leaves and how the arrays are split over devices and processes do not.
    Each process adds up its own shards on the host, at the speed of its memory, and only the sums are exchanged: as a
    program for the devices, a sum of each of a thousand arrays takes longer to compile than an epoch of a small run.
    """
    copies, shards = 0, 0
    for leaf in jax.tree.leaves(tree):
        if isinstance(leaf, jax.Array) and not leaf.is_fully_replicated:
            shards += sum(_sum(shard.data) for shard in leaf.addressable_shards if shard.replica_id == 0)
        else:  # each process has it whole, and each checks its own copy
            copies += _sum(leaf.addressable_data(0) if isinstance(leaf, jax.Array) else leaf)
    if jax.process_count() > 1:
        shards = int(multihost_utils.process_allgather(np.uint32(shards % 2**32)).sum(dtype=np.uint64))
    return np.array((copies + shards) % 2**32, np.uint32)


def _sum(array: Any) -> int:
    """Computes the sum of the elements as unsigned integers of at most 32 bits, modulo 2^32."""
    content = np.ascontiguousarray(array).reshape(-1)
    return int(content.view(f"u{min(4, content.itemsize)}").sum(dtype=np.uint32))


def _mend_figures(directory: Path) -> None:
    """Orbax reads all figures at once when it opens the directory; a damaged one must not shut out every checkpoint."""
    for path in directory.glob("[0-9]*/metrics/metrics"):
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            found["figure"] + 0.0
            if not isinstance(found.get("evaluated", True), bool):
                raise TypeError("evaluated is neither true nor false")
        except (ValueError, KeyError, TypeError) as error:
            logging.warning("%s is damaged (%s): this checkpoint counts as not evaluated.", path, error)
            _write_figure(path, None)


def _write_figure(path: Path, figure: float | None) -> None:
    atomic.write_text(path, json.dumps(_metrics(figure)))


def _metrics(figure: float | None) -> dict[str, Any]:
    finite = figure is not None and math.isfinite(figure)
    return {"figure": figure if finite else _WORST, "evaluated": figure is not None}


def _figure(metrics: Any) -> float:
    return (metrics or {}).get("figure", _WORST)
