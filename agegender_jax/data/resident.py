"""The whole dataset decoded once, kept in a cache on disk, and placed on the devices.

The cache (see `examples.py`) has also `content.npy`, which is memory-mapped.
"""

import os
import zlib
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from agegender_jax.data.decode_pool import DecodePool
from agegender_jax.data.examples import Dataset, cached, read_columns, write_columns
from agegender_jax.data.preprocess import Preprocessor
from agegender_jax.data.sampler import BatchSampler
from agegender_jax.data.source import Prepared, Source
from agegender_jax.mesh import by_batch, put, replicated
from agegender_jax.progress import progress_bar

_CHUNK = 1024  # examples decoded before they are written: bounds the memory, and gives every process enough to do


def load(prepared: Prepared, inputs: Preprocessor, cache_dir: Path, *, progress: bool = True) -> Dataset:
    """The decoded examples of a dataset, from the cache, which is written first where it is missing.

    Args:
      prepared: the dataset.
      inputs: how they are decoded.
      cache_dir: folder of all caches.
      progress: whether to draw a progress bar on a terminal.

    Raises:
      UserError: an example cannot be decoded, or the cache cannot be written.
    """
    return cached(
        prepared, inputs.tag, cache_dir, lambda folder: _write(folder, prepared.open(), inputs, progress), _read
    )


def _write(folder: Path, source: Source, inputs: Preprocessor, progress: bool) -> None:
    shape, dtype = (len(source), *inputs.shape), np.dtype(inputs.dtype)
    rows: dict[int, dict[str, Any]] = {}

    def read(some: np.ndarray) -> tuple[list[bytes], list[str]]:
        examples = {row: source[row] for row in (start + some).tolist()}
        contents = [example.pop("content") for example in examples.values()]
        rows.update(examples)
        return contents, [example["key"] for example in examples.values()]

    workers = DecodePool(inputs.decoding, inputs.shape, dtype)
    bar = progress_bar(len(source), f"Decoding to {'x'.join(map(str, inputs.shape))}", shown=progress)
    checksum = 0
    with bar, open(folder / "content.npy", "wb") as file:
        header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        # Written as a stream, not through a memory map: a full disk is then an error and not a signal.
        for start in range(0, len(source), _CHUNK):
            block = np.empty((min(_CHUNK, len(source) - start), *inputs.shape), dtype)
            workers.decode(read, np.arange(len(block)), block)
            checksum = zlib.crc32(block.data, checksum)
            file.write(block.data)
            bar.update(len(block))
        file.flush()
        os.fsync(file.fileno())
    ordered = [rows[row] for row in range(len(source))]
    write_columns(folder, ordered, content_crc32=checksum, shape=shape, dtype=dtype.name, terms=source.terms)


def _read(path: Path) -> Dataset:
    columns, meta = read_columns(path)
    content = np.load(path / "content.npy", mmap_mode="r", allow_pickle=False)
    if list(content.shape) != meta["shape"] or content.dtype.name != meta["dtype"]:
        raise ValueError("content.npy has another shape than it was written with")
    # The pages are needed in memory anyway, on their way to the devices.
    if zlib.crc32(content.reshape(-1).view()) != meta["content_crc32"]:
        raise ValueError("content.npy does not have the checksum that it was written with")
    return Dataset(content, columns, meta["terms"])


class ResidentLoader:
    """Brings the numbers of the examples that make each batch to the devices, where the examples lie whole.

    See `feed.Feed`.
    """

    def __init__(
        self, examples: Dataset, mesh: jax.sharding.Mesh, labels: Mapping[str, np.ndarray], order: BatchSampler | None
    ) -> None:
        everywhere = replicated(mesh)
        self.data = {
            "content": put(np.asarray(examples.content), everywhere),
            "labels": {name: put(column, everywhere) for name, column in labels.items()},
        }
        self._mesh, self._order = mesh, order

    def batches(self, step: int, steps: int) -> dict[str, jax.Array]:
        """`rows` alone."""
        assert self._order is not None
        return {"rows": put(self._order.batches(step, steps), by_batch(self._mesh, axis=1))}

    def contents(self, rows: np.ndarray) -> Generator[dict[str, jax.Array], None, None]:
        """`rows` alone."""
        for batch in rows:
            yield {"rows": put(batch, by_batch(self._mesh))}

    def close(self) -> None:
        """Nothing runs."""
