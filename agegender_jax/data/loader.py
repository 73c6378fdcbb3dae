"""How the examples come to the devices: all of them at once, or as they are needed."""

import math
import os
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np
from ml_collections import ConfigDict

from agegender_jax.data import stream
from agegender_jax.data.examples import Dataset, cores
from agegender_jax.data.preprocess import Preprocessor
from agegender_jax.data.resident import ResidentLoader
from agegender_jax.data.sampler import BatchSampler
from agegender_jax.data.source import Prepared
from agegender_jax.distributed import from_primary
from agegender_jax.mesh import by_batch, replicated

SHARE = 0.5
"""Of a device's memory that a resident dataset may take; the model and its activations need the rest."""

IN_FLIGHT = 4
"""Batches of an evaluation that are dispatched and not read back: the device never waits, and its queue is short."""


class Contents(Protocol):
    """What evaluation knows of how examples come to the devices; see also `content_of`."""

    @property
    def data(self) -> Mapping[str, Any]:
        """What lies on every device all the time: `labels`, arrays `[n]` by head, and, where resident, `content`."""

    def contents(self, rows: np.ndarray) -> Generator[dict[str, jax.Array], None, None]:
        """The batches of an evaluation: for each of `rows`, int `[batches, batch]`, one with `rows` or `content`."""


class DeviceLoader(Contents, Protocol):
    """What training knows besides."""

    def batches(self, step: int, steps: int) -> dict[str, jax.Array]:
        """The batches of training's steps `step` to `step + steps - 1`, split over the devices along the batch.

        Returns:
          `rows` int32 `[steps, batch]`, and, where streamed, `content` `[steps, batch, *shape]`.

        Raises:
          UserError: an example cannot be decoded.
        """

    def close(self) -> None:
        """Ends what runs in the background."""


def content_of(data: Mapping[str, Any], batch: Mapping[str, jax.Array]) -> jax.Array:
    """The content of a batch `[batch, *shape]`, which a stream brings with it and else lies on the devices.

    Args:
      data: `DeviceLoader.data`.
      batch: one of `DeviceLoader.contents`, or of the steps of `DeviceLoader.batches`.
    """
    return batch["content"] if "content" in batch else data["content"][batch["rows"]]


def make_loader(
    examples: Dataset,
    mesh: jax.sharding.Mesh,
    labels: Mapping[str, np.ndarray] | None = None,
    order: BatchSampler | None = None,
    last: int = 0,
) -> DeviceLoader:
    """The feed that the examples were opened for.

    Args:
      examples: from `open_dataset`.
      mesh: devices.
      labels: of every head, `[n]`, for training.
      order: of training.
      last: steps of training in all.
    """
    examples = examples.ready()
    if isinstance(examples.content, np.ndarray):
        return ResidentLoader(examples, mesh, labels or {}, order)
    return stream.StreamingLoader(examples, mesh, labels or {}, order, last)


def shapes(
    examples: Dataset,
    inputs: Preprocessor,
    labels: Mapping[str, np.ndarray],
    mesh: jax.sharding.Mesh,
    batch_size: int,
    steps: int,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The shapes of `DeviceLoader.data` and of `DeviceLoader.batches` with their shardings, before anything is decoded.

    Args:
      examples: from `open_dataset`.
      inputs: how they are decoded.
      labels: of every head, `[n]`.
      mesh: devices.
      batch_size: examples in a step.
      steps: in a call of `DeviceLoader.batches`.
    """
    everywhere, split = replicated(mesh), by_batch(mesh, axis=1)

    def shape(sizes: tuple[int, ...], dtype: Any, sharding: jax.sharding.Sharding) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(sizes, jax.dtypes.canonicalize_dtype(dtype), sharding=sharding)

    data: dict[str, Any] = {
        "labels": {name: shape(column.shape, column.dtype, everywhere) for name, column in labels.items()}
    }
    batches = {"rows": shape((steps, batch_size), np.int32, split)}
    if examples.streamed:
        batches["content"] = shape((steps, batch_size, *inputs.shape), inputs.dtype, split)
    else:
        data["content"] = shape((len(examples), *inputs.shape), inputs.dtype, everywhere)
    return data, batches


def choose(recipe: ConfigDict, prepared: Prepared, inputs: Preprocessor) -> tuple[bool, str]:
    """Whether a dataset is to be streamed, and what is said of it in a line; nothing is decoded for that.

    `config.compute.loader=auto` streams what would take more than `SHARE` of a device's memory.
    """
    size = prepared.count * math.prod(inputs.shape) * np.dtype(inputs.dtype).itemsize
    limit, where = memory()
    wanted = recipe.compute.loader
    streamed = size > SHARE * limit if wanted == "auto" else wanted == "stream"
    streamed = from_primary(streamed)  # the processes' memories may differ, and all must do the same
    reason = f"{_gigabytes(size)} decoded, {SHARE:.0%} of {where} is {_gigabytes(SHARE * limit)}"
    if not streamed:
        return False, f"resident ({reason})"
    there, underway = (
        examples * math.prod(inputs.shape) * np.dtype(inputs.dtype).itemsize for examples in _buffered(recipe)
    )
    return True, (
        f"stream ({reason}); at most {there:,} bytes of decoded examples on all devices and {underway:,} on the way, "
        f"decoded by {cores()} processes of some 35 MB"
    )


def _buffered(recipe: ConfigDict) -> tuple[int, int]:
    """Dataset that a streamed run has at most on all devices, and in the hosts' memory before they get there.

    Each lies on every device that one copy of the model is spread over, and is decoded by each process that has one.
    """
    copies = recipe.compute.model
    parts = max(1, jax.device_count() // copies)
    trained = recipe.train.batch_size * recipe.train.steps_per_dispatch
    evaluated = -(-recipe.evaluate.batch_size // parts) * parts  # the evaluator rounds it up
    there = (stream.AHEAD + 2) * trained + (stream.AHEAD + 2 + IN_FLIGHT) * evaluated
    return there * copies, stream.AHEAD * (trained + evaluated) * min(copies, jax.process_count())


def memory() -> tuple[float, str]:
    """Bytes of memory that a device has here, and what they are called."""
    device = jax.local_devices()[0]
    limit = (device.memory_stats() or {}).get("bytes_limit")
    if limit:
        return limit, f"{device.device_kind}'s memory"
    # Several devices of a host share its memory, and each keeps a copy.
    return available_memory() / jax.local_device_count(), "the memory that is free for each device"


def available_memory(root: Path = Path("/")) -> int:
    """Bytes of memory that this process can have without swapping; all of the host's where the system does not say.

    What cgroups (of a Slurm job, a systemd unit, a container) leave is minded. Other processes of the same run are not:
    where several share a host, each counts what is free as its own, so `config.compute.loader` had better be set there.

    Args:
      root: of the file system in which `/proc` and `/sys` are read.
    """
    try:
        lines = dict(line.split(":", 1) for line in (root / "proc/meminfo").read_text().splitlines())
        found = int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError, IndexError):
        found = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min([found, *_left_by_cgroups(root)])


_CGROUPS = {
    "": ("sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
    "memory": ("sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}
"""By controllers, as `/proc/self/cgroup` has them in versions 2 and 1: the mount, the limit's and the use's files, and
the key in `memory.stat` of the files' pages in memory that the kernel gives back first."""


def _left_by_cgroups(root: Path) -> Iterator[int]:
    """Bytes that are left of the limit of this process's cgroup, and of those around it; none where there is none."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for _, controllers, path in (line.split(":", 2) for line in lines):
        if controllers not in _CGROUPS:
            continue
        mount, limit, current, given_back = _CGROUPS[controllers]
        folder = root / mount / path.strip("/")
        while folder.is_relative_to(root / mount):
            try:
                used = int((folder / current).read_text())
                stat = dict(line.split(" ", 1) for line in (folder / "memory.stat").read_text().splitlines())
                yield max(0, int((folder / limit).read_text()) - used + int(stat.get(given_back, 0)))
            except (OSError, ValueError):  # it has no limit ("max"), or is a container's and not seen from inside
                pass
            folder = folder.parent


def _gigabytes(count: float) -> str:
    return f"{count / 1e9:.2f} GB"
