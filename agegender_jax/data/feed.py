"""How the examples come to the devices: all of them at once, or as they are needed."""

import math
import os
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np
from ml_collections import ConfigDict

from agegender_jax.data import stream
from agegender_jax.data.examples import Examples
from agegender_jax.data.inputs import Inputs
from agegender_jax.data.order import BatchOrder
from agegender_jax.data.resident import ResidentFeed
from agegender_jax.data.source import Prepared
from agegender_jax.distributed import from_primary
from agegender_jax.mesh import by_batch, replicated

SHARE = 0.5
"""Of a device's memory that a resident dataset may take; the model and its activations need the rest."""

IN_FLIGHT = 4
"""Batches of an evaluation that are dispatched and not read back: the device never waits, and its queue is short."""


class Feed(Protocol):
    """What training and evaluation know of how examples come to the devices.

    The content of a batch is `batch["content"]` where that is there, and else `data["content"][batch["rows"]]`.
    """

    @property
    def data(self) -> Mapping[str, Any]:
        """What lies on every device all the time: `labels`, arrays `[n]` by head, and, where resident, `content`."""

    def batches(self, step: int, steps: int) -> dict[str, jax.Array]:
        """The batches of training's steps `step` to `step + steps - 1`, split over the devices along the batch.

        Returns:
          `rows` int32 `[steps, batch]`, and, where streamed, `content` `[steps, batch, *shape]`.

        Raises:
          UserError: an example cannot be decoded.
        """

    def contents(self, rows: np.ndarray) -> Generator[dict[str, jax.Array], None, None]:
        """The batches of an evaluation: for each of `rows`, int `[batches, batch]`, one with `rows` or `content`."""

    def close(self) -> None:
        """Ends what runs in the background."""


def make_feed(
    examples: Examples,
    mesh: jax.sharding.Mesh,
    labels: Mapping[str, np.ndarray] | None = None,
    order: BatchOrder | None = None,
    last: int = 0,
) -> Feed:
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
        return ResidentFeed(examples, mesh, labels or {}, order)
    return stream.StreamedFeed(examples, mesh, labels or {}, order, last)


def shapes(
    examples: Examples,
    inputs: Inputs,
    labels: Mapping[str, np.ndarray],
    mesh: jax.sharding.Mesh,
    batch_size: int,
    steps: int,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The shapes of `Feed.data` and of `Feed.batches` with their shardings, before anything is decoded.

    Args:
      examples: from `open_dataset`.
      inputs: how they are decoded.
      labels: of every head, `[n]`.
      mesh: devices.
      batch_size: examples in a step.
      steps: in a call of `Feed.batches`.
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


def choose(recipe: ConfigDict, prepared: Prepared, inputs: Inputs) -> tuple[bool, str]:
    """Whether a dataset is to be streamed, and what is said of it in a line; nothing is decoded for that.

    `config.compute.feed=auto` streams what would take more than `SHARE` of a device's memory.
    """
    size = prepared.count * math.prod(inputs.shape) * np.dtype(inputs.dtype).itemsize
    limit, where = memory()
    wanted = recipe.compute.feed
    streamed = size > SHARE * limit if wanted == "auto" else wanted == "stream"
    streamed = from_primary(streamed)  # the processes' memories may differ, and all must do the same
    reason = f"{_gigabytes(size)} decoded, {SHARE:.0%} of {where} is {_gigabytes(SHARE * limit)}"
    if not streamed:
        return False, f"resident ({reason})"
    there, underway = (
        examples * math.prod(inputs.shape) * np.dtype(inputs.dtype).itemsize for examples in _buffered(recipe)
    )
    return True, (
        f"stream ({reason}); at most {there:,} bytes of decoded examples on all devices and {underway:,} on the way"
    )


def _buffered(recipe: ConfigDict) -> tuple[int, int]:
    """Examples that a streamed run has at most on all devices, and in the hosts' memory before they get there."""
    trained, evaluated = recipe.train.batch_size * recipe.train.steps_per_dispatch, recipe.evaluate.batch_size
    there = (stream.AHEAD + 2) * trained + (stream.AHEAD + 2 + IN_FLIGHT) * evaluated
    return there, stream.AHEAD * (trained + evaluated)


def memory() -> tuple[float, str]:
    """Bytes of memory that a device has here, and what they are called."""
    device = jax.local_devices()[0]
    limit = (device.memory_stats() or {}).get("bytes_limit")
    if limit:
        return limit, f"{device.device_kind}'s memory"
    # Several devices of a host share its memory, and each keeps a copy.
    return available_memory() / jax.local_device_count(), "the memory that is free for each device"


def available_memory() -> int:
    """Bytes of the host's memory that can be had without swapping; all of it where the system does not say."""
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        found = int(lines["MemAvailable"].split()[0]) * 1024
        limit = Path("/sys/fs/cgroup/memory.max")  # of a container
        text = limit.read_text().strip() if limit.exists() else "max"
        return found if text == "max" else min(found, int(text))
    except (OSError, KeyError, ValueError, IndexError):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _gigabytes(count: float) -> str:
    return f"{count / 1e9:.2f} GB"
