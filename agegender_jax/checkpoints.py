"""Checkpoints of a run, by Orbax; nothing else in the project saves arrays with it.

A checkpoint holds named items, pytrees of arrays: `model`, the parameters and statistics that evaluation and prediction
use, which are read without knowing what an optimizer is; and `training`, the rest of the training state. A third,
`checksums`, shows whether the arrays that are read are those that were saved: the files do not detect a flipped bit.

Several processes save and restore together, each its own shards of the arrays, in a folder that all of them share.
"""

import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jax import lax
from jax.experimental import multihost_utils
from jaxtyping import Array, UInt32
from orbax.checkpoint import v1 as ocp

from agegender_jax import atomic
from agegender_jax.distributed import all_agree, is_primary, primary_first
from agegender_jax.errors import UserError

_WORST = -1e30  # score of a checkpoint that was not evaluated: JSON has no minus infinity


class Checkpoints:
    """The checkpoints of one run, one folder a step, saved asynchronously: the newest `keep`, and the best."""

    def __init__(self, directory: Path, keep: int = 1) -> None:
        with primary_first():
            if is_primary():
                _repair_scores(directory)
        policies = ocp.training.preservation_policies
        self._checkpointer = ocp.training.Checkpointer(
            directory.resolve(),
            preservation_policy=policies.AnyPreservationPolicy(
                [policies.LatestN(keep), policies.BestN(get_metric_fn=_score, n=1)]
            ),
            cleanup_tmp_directories=True,
        )

    @property
    def steps(self) -> list[int]:
        """Steps with a complete checkpoint, ascending."""
        return [checkpoint.step for checkpoint in self._checkpointer.checkpoints]

    @property
    def best(self) -> int | None:
        """The step with the highest score; the newest where none was evaluated; None where there is none."""
        checkpoints = self._checkpointer.checkpoints
        return max(checkpoints, key=lambda c: (_score(c.metrics), c.step)).step if checkpoints else None

    def save(self, step: int, items: Mapping[str, Any], score: float | None = None) -> None:
        """Starts saving pytrees of arrays by name; returns as soon as the arrays may be donated.

        An array that stands in two items is stored twice. `score` is what `best` compares, higher is better; None, or
        not finite, if not evaluated.
        """
        if jax.default_backend() == "cpu":
            # There the saver may look at the very memory that the next step is about to reuse.
            items = jax.tree.map(jnp.copy, dict(items))
        checksums = {name: np.array(checksum(tree), np.uint32) for name, tree in items.items()}
        self._checkpointer.save_checkpointables_async(
            step, {**items, "checksums": checksums}, metrics=_metrics(score), force=True, overwrite=True
        )

    def evaluated(self, step: int) -> bool:
        """Returns whether the checkpoint of a step was saved, or rated, with a score."""
        metrics = next((c.metrics for c in self._checkpointer.checkpoints if c.step == step), None)
        return bool(metrics and metrics["evaluated"])

    def rate(self, step: int, score: float) -> None:
        """Gives a score to a checkpoint that was saved without one; the arguments are those of `save`."""
        with primary_first():
            if is_primary():
                _write_score(Path(self._checkpointer.directory) / str(step) / "metrics" / "metrics", score)
        self._checkpointer.reload()

    def restore(self, step: int, layouts: Mapping[str, Any]) -> dict[str, Any]:
        """Restores items of a checkpoint.

        `layouts` has, by name of the item, a pytree of `jax.ShapeDtypeStruct`: how its arrays are laid out; None is as
        they were saved.

        Raises:
          UserError: the checkpoint is not there, or is damaged.
        """
        return _read(Path(self._checkpointer.directory), step, layouts)

    def restore_newest(self, layouts: Mapping[str, Any]) -> tuple[int, dict[str, Any]] | None:
        """Restores the newest checkpoint that can be read, `(step, items)`; None where there is none.

        A damaged one is warned of, moved to `damaged_checkpoints` beside the others' folder, and the one before is
        used.

        Raises:
          UserError: there are checkpoints, and none can be read; they stay where they are.
        """
        steps = self.steps
        damaged: list[int] = []
        for step in reversed(steps):
            try:
                restored = self.restore(step, layouts)
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
        """Waits, and releases the directory."""
        self._checkpointer.close()


def read_model(directory: Path, step: int, layout: Any) -> Any:
    """Reads the item `model` of a checkpoint, as `Checkpoints.restore` would, and writes nothing.

    Raises:
      UserError: the checkpoint is not there, or is damaged.
    """
    if not (directory / str(step)).is_dir():
        raise UserError(f"{directory} has no checkpoint of step {step}; restore it from a copy.")
    return _read(directory, step, {"model": layout})["model"]


def _read(directory: Path, step: int, layouts: Mapping[str, Any]) -> dict[str, Any]:
    failure: BaseException | None = None
    items: dict[str, Any] = {}
    try:
        items = ocp.load_checkpointables(directory.resolve() / str(step), {**layouts, "checksums": None})
        saved = {name: int(items["checksums"][name]) for name in layouts}
    except Exception as error:  # Orbax and TensorStore raise many kinds on damaged files
        failure = error
    if not all_agree(failure is None):
        failure = failure or ValueError("another process cannot read its shards")
    # Each process reads the files by itself, but a sum may be of the shards of all: none may leave out an item.
    elif not all_agree({name: checksum(items[name]) for name in layouts} == saved):
        failure = ValueError("its arrays are not those that were saved")
    else:
        return {name: items[name] for name in layouts}
    cause: BaseException = failure
    while cause.__cause__ is not None:
        cause = cause.__cause__
    reason = (str(cause).strip() or type(cause).__name__).splitlines()[0][:200]
    raise UserError(
        f"{directory}: the checkpoint of step {step} cannot be read ({reason}); restore it from a copy."
    ) from failure


def checksum(tree: Any) -> int:
    """Computes a sum over all arrays of their words, each times twice its position in the array plus one, modulo 2^32.

    Words are elements read as unsigned integers of at most 32 bits. A flipped bit changes the sum, and so do nearly all
    exchanges of words; the order of the arrays, and how they are split over devices and processes, do not.

    Accelerators add up their own shards, by one program for each shape. Where the devices are the CPU, NumPy adds them
    up in place: compiling the programs there takes longer than an epoch of a small run.
    """
    on_devices, copies, shards = [], 0, 0
    for leaf in jax.tree.leaves(tree):
        if isinstance(leaf, jax.Array) and next(iter(leaf.devices())).platform != "cpu":
            on_devices.append(device_sum(leaf))
        elif isinstance(leaf, jax.Array) and not leaf.is_fully_replicated:
            shards += sum(host_sum(s.data, leaf.shape, s.index) for s in leaf.addressable_shards if s.replica_id == 0)
        else:  # each process has it whole, and each checks its own copy
            copies += host_sum(leaf.addressable_data(0) if isinstance(leaf, jax.Array) else leaf, leaf.shape)
    if jax.process_count() > 1:
        shards = int(multihost_utils.process_allgather(np.uint32(shards % 2**32)).sum(dtype=np.uint64))
    return (sum(map(int, jax.device_get(on_devices))) + copies + shards) % 2**32


@jax.jit
def device_sum(array: Array) -> UInt32[Array, ""]:
    """Computes `checksum` of one array, each device over its own shards."""
    words = _words(array)
    weights = jnp.uint32(1)
    for axis, stride in enumerate(_strides(words.shape)):
        weights += jnp.uint32(2 * stride % 2**32) * lax.broadcasted_iota(jnp.uint32, words.shape, axis)
    return jnp.sum(words.astype(jnp.uint32) * weights, dtype=jnp.uint32)


def host_sum(shard: Any, shape: tuple[int, ...], index: tuple[slice, ...] = ()) -> int:
    """Computes the part of `checksum` that one shard contributes, not yet modulo 2^32; copies nothing.

    `shape` is that of the whole array; `index` is where the shard lies in it, empty where it is the array.
    """
    words = _words(np.asarray(shard))
    starts = [piece.start or 0 for piece in index] or [0] * len(shape)
    # The position of a word is a sum over axes, so that the sums along the other axes are all that is weighted.
    total = int(words.sum(dtype=np.uint32))
    for axis, (start, stride) in enumerate(zip([*starts, 0], _strides((*shape, words.shape[-1])), strict=True)):
        if start + words.shape[axis] > 1:
            sums = words.sum(axis=tuple(other for other in range(words.ndim) if other != axis), dtype=np.uint32)
            places = np.arange(start, start + len(sums), dtype=np.uint64)
            total += 2 * stride * int((sums * places).sum(dtype=np.uint64))
    return total


def _words(array: Any) -> Any:
    """Returns the elements as unsigned integers of at most 32 bits, `[*shape, words of an element]`."""
    return array.reshape(*array.shape, 1).view(f"uint{8 * min(4, array.dtype.itemsize)}")


def _strides(shape: tuple[int, ...]) -> list[int]:
    return [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]


def _repair_scores(directory: Path) -> None:
    """Rewrites damaged scores: Orbax reads all at once, and one must not shut out every checkpoint."""
    for path in directory.glob("[0-9]*/metrics/metrics"):
        try:
            metrics = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(metrics["score"], float) or not isinstance(metrics["evaluated"], bool):
                raise TypeError("a score is a number")
        except (ValueError, KeyError, TypeError) as error:
            logging.warning("%s is damaged (%s): this checkpoint counts as not evaluated.", path, error)
            _write_score(path, None)


def _write_score(path: Path, score: float | None) -> None:
    atomic.write_text(path, json.dumps(_metrics(score)))


def _metrics(score: float | None) -> dict[str, Any]:
    compared = float(score) if score is not None and math.isfinite(score) else _WORST
    return {"score": compared, "evaluated": score is not None}


def _score(metrics: Any) -> float:
    return (metrics or {}).get("score", _WORST)
