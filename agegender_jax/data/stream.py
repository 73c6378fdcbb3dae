"""What does not fit on the devices: examples decoded as they are needed, ahead of the device and in bounded memory.

The order is `BatchSampler`'s, as where the dataset is resident, so a resumed run needs only its step, and both ways
give the same batches. What is known of the examples besides their content is read once and kept in a cache (see
`examples.py`), unless the resident dataset's cache has it already.
"""

import threading
from collections.abc import Callable, Generator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np

from agegender_jax.data.decode_pool import DecodePool
from agegender_jax.data.examples import Content, Dataset, by_chunks, cache_path, cached, read_columns, write_columns
from agegender_jax.data.preprocess import Preprocessor
from agegender_jax.data.sampler import BatchSampler
from agegender_jax.data.source import Prepared, Source
from agegender_jax.mesh import by_batch, put, replicated

AHEAD = 2
"""Blocks (of a dispatch, of an evaluation's batch) that are decoded before they are asked for."""


def load(prepared: Prepared, inputs: Preprocessor, cache_dir: Path, *, progress: bool = True) -> Dataset:
    """The examples of a dataset, none of them decoded yet.

    Args:
      prepared: the dataset.
      inputs: how they are decoded.
      cache_dir: folder of all caches.
      progress: whether to draw a progress bar on a terminal.

    Raises:
      UserError: the dataset cannot be read, or the cache cannot be written.
    """

    def write(folder: Path) -> None:
        source = prepared.open()

        def known(row: int) -> dict[str, Any]:
            example = source[row]
            del example["content"]
            return example

        rows = [row for chunk in by_chunks(known, len(source), "Reading labels", progress) for row in chunk]
        write_columns(folder, rows, terms=source.terms)

    try:
        columns, meta = read_columns(cache_path(prepared, inputs.tag, cache_dir))
    except Exception:  # it is not there, or damaged, which `resident.load` will say
        columns, meta = cached(prepared, "columns", cache_dir, write, read_columns)
    return Dataset(LazyContent(prepared, inputs, columns["key"]), columns, meta["terms"])


class LazyContent:
    """The content of examples as it lies on disk, decoded by several processes where it is asked for.

    Args:
      prepared: the dataset.
      inputs: how examples are decoded.
      keys: the examples' names, str `[n]`.
    """

    def __init__(self, prepared: Prepared, inputs: Preprocessor, keys: np.ndarray) -> None:
        self._prepared, self._inputs, self._keys = prepared, inputs, keys
        self._opening = threading.Lock()
        self._workers = DecodePool(inputs.decoding, inputs.shape, inputs.dtype)

    def __getitem__(self, rows: Any) -> np.ndarray:
        """Decoded examples `[*rows.shape, *shape]`, each decoded once however often it is asked for.

        Raises:
          UserError: one cannot be read or decoded; the message names it.
        """
        with self._opening:
            source = self._source
        rows = np.arange(len(self._keys))[rows]
        _, first, which = np.unique(rows.reshape(-1), return_index=True, return_inverse=True)
        found = np.empty((rows.size, *self._inputs.shape), self._inputs.dtype)

        def read(places: np.ndarray) -> tuple[list[bytes], list[str]]:
            return source.contents(rows.flat[places].tolist()), self._keys[rows.flat[places]].tolist()

        self._workers.decode(read, first, found)
        again = np.flatnonzero(first[which] != np.arange(rows.size))
        found[again] = found[first[which[again]]]
        return found.reshape(*rows.shape, *self._inputs.shape)

    @cached_property
    def _source(self) -> Source:
        """Opened where it is needed: that takes a while, and content that is read from a cache does without."""
        return self._prepared.open()


class StreamingLoader:
    """Brings each batch's examples to the devices, decoded while these compute; see `feed.Feed`.

    At most `AHEAD + 2` blocks exist at once: `AHEAD` decoded or in the making, the one that the device works on, and
    the one that waits for it. Each process decodes only what its own devices hold.

    Args:
      examples: with content of the kind `LazyContent`.
      mesh: devices.
      labels: of every head, `[n]`.
      order: of training; None where nothing is trained.
      last: steps of training, after which nothing is decoded ahead.
    """

    def __init__(
        self,
        examples: Dataset,
        mesh: jax.sharding.Mesh,
        labels: Mapping[str, np.ndarray],
        order: BatchSampler | None,
        last: int,
    ) -> None:
        self.data = {"labels": {name: put(column, replicated(mesh)) for name, column in labels.items()}}
        self._content, self._mesh, self._order, self._last = examples.content, mesh, order, last
        self._following: Any = None
        self._expected = (-1, 0)

    def batches(self, step: int, steps: int) -> dict[str, jax.Array]:
        """`rows` and `content`; `steps` later ones are decoded from now on."""
        order, content, sharding = self._order, self._content, by_batch(self._mesh, axis=1)
        assert order is not None

        def batches(step: int) -> dict[str, jax.Array]:
            rows = order.batches(step, steps)
            return {"rows": put(rows, sharding), "content": put_content(content, rows, sharding)}

        if self._expected != (step, steps) or step >= self._last:
            self.close()
            self._following = _ahead(batches, range(step, max(self._last, step + 1), steps))
        self._expected = (step + steps, steps)
        return next(self._following)

    def contents(self, rows: np.ndarray) -> Generator[dict[str, jax.Array], None, None]:
        """`content` alone."""
        sharding = by_batch(self._mesh)
        following = _ahead(lambda i: {"content": put_content(self._content, rows[i], sharding)}, range(len(rows)))
        try:
            yield from following
        finally:
            following.close()

    def close(self) -> None:
        """Ends decoding ahead."""
        if self._following is not None:
            self._following.close()
        self._following, self._expected = None, (-1, 0)


class ArrayLoader:
    """Brings examples that lie decoded in this process's memory to the devices, to be evaluated; see `feed.Contents`.

    Args:
      content: decoded examples `[n, *shape]`.
      mesh: devices.
    """

    def __init__(self, content: np.ndarray, mesh: jax.sharding.Mesh) -> None:
        self.data: Mapping[str, Any] = {"labels": {}}
        self._content, self._sharding = content, by_batch(mesh)

    def contents(self, rows: np.ndarray) -> Generator[dict[str, jax.Array], None, None]:
        """`content` alone."""
        for batch in rows:
            yield {"content": put_content(self._content, batch, self._sharding)}


def put_content(content: Content, rows: np.ndarray, sharding: jax.sharding.Sharding) -> jax.Array:
    """The content of `rows` `[..., batch]` on the devices, `[..., batch, *shape]`.

    Each process decodes only what its own devices hold; `sharding` splits nothing but the batch.
    """
    batch = np.arange(rows.shape[-1])
    parts: Any = sharding.addressable_devices_indices_map(rows.shape).values()
    mine = np.unique(np.concatenate([batch[part[-1]] for part in parts]))
    found = content[rows[..., mine]]

    def piece(index: Any) -> np.ndarray:
        wanted = batch[index[rows.ndim - 1]]
        begin = int(np.searchsorted(mine, wanted[0]))
        return found[(*index[: rows.ndim - 1], slice(begin, begin + len(wanted)))]

    return jax.make_array_from_callback((*rows.shape, *found.shape[rows.ndim :]), sharding, piece)


def _ahead(get: Callable[[int], Any], numbers: range) -> Any:
    """An iterator of `get` of each number in turn, `AHEAD` of which are computed before they are asked for."""
    import grain  # takes a while, and where the dataset is resident nobody needs it

    dataset = grain.MapDataset.range(numbers.start, numbers.stop, numbers.step).map(get)
    return iter(dataset.to_iter_dataset(grain.ReadOptions(num_threads=AHEAD, prefetch_buffer_size=AHEAD)))
