"""How examples come to the devices: all of them at once, or as they are needed.

A streamed dataset is decoded ahead of the device, in bounded memory. The order is `BatchSampler`'s either way, so a
resumed run needs only its step, and resident and streamed datasets give the same batches.
"""

from collections.abc import Callable, Generator, Mapping
from typing import Any, Protocol

import jax
import numpy as np

from agegender_jax.data.dataset import PREFETCH, Dataset, ResidentDataset, StreamedDataset
from agegender_jax.data.sampler import BatchSampler
from agegender_jax.mesh import by_batch, put, replicated


class EvalLoader(Protocol):
    """What evaluation knows of how examples come to the devices; see also `content_of`."""

    @property
    def data(self) -> Mapping[str, Any]:
        """What lies on every device all the time: `labels`, arrays `[n]` by head, and, where resident, `content`."""

    def eval_batches(self, rows: np.ndarray) -> Generator[dict[str, jax.Array], None, None]:
        """Yields the batches of an evaluation: for each of `rows`, int `[batches, batch]`, `rows` or `content`."""


class DeviceLoader(EvalLoader, Protocol):
    """What training knows of how examples come to the devices."""

    def train_batches(self, step: int, steps: int) -> dict[str, jax.Array]:
        """Returns the batches of steps `step` to `step + steps - 1`, split over the devices along the batch.

        They are `rows` int32 `[steps, batch]`, and, where streamed, `content` `[steps, batch, *shape]`.

        Raises:
          UserError: an example cannot be decoded.
        """

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Returns decoded examples `[*rows.shape, *shape]` on the host."""

    def close(self) -> None:
        """Ends what runs in the background."""


def content_of(data: Mapping[str, Any], batch: Mapping[str, jax.Array]) -> jax.Array:
    """Returns the content of a batch `[batch, *shape]`, which a stream brings with it and else lies on the devices."""
    return batch["content"] if "content" in batch else data["content"][batch["rows"]]


def make_loader(
    dataset: Dataset,
    mesh: jax.sharding.Mesh,
    labels: Mapping[str, np.ndarray] | None = None,
    sampler: BatchSampler | None = None,
    last_step: int = 0,
    *,
    decoded: np.ndarray | None = None,
    progress: bool = True,
) -> DeviceLoader:
    """Builds the loader of a dataset.

    `labels` of every head, `[n]`, and `sampler` are for training; after its `last_step` nothing is decoded ahead.
    `decoded` is what `ResidentDataset.decode_all` returned; None calls it here.

    Raises:
      UserError: an example cannot be decoded.
    """
    if isinstance(dataset, ResidentDataset):
        decoded = dataset.decode_all(progress=progress) if decoded is None else decoded
        return ResidentLoader(decoded, mesh, labels or {}, sampler)
    return StreamingLoader(dataset, mesh, labels or {}, sampler, last_step)


def abstract_batches(
    dataset: Dataset, labels: Mapping[str, np.ndarray], mesh: jax.sharding.Mesh, batch_size: int, steps: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the shapes of a loader's `data` and `train_batches` with their shardings, before anything is decoded."""
    everywhere, split = replicated(mesh), by_batch(mesh, axis=1)
    example = dataset.preprocessor

    def shape(sizes: tuple[int, ...], dtype: Any, sharding: jax.sharding.Sharding) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(sizes, jax.dtypes.canonicalize_dtype(dtype), sharding=sharding)

    data: dict[str, Any] = {
        "labels": {name: shape(column.shape, column.dtype, everywhere) for name, column in labels.items()}
    }
    batches = {"rows": shape((steps, batch_size), np.int32, split)}
    if isinstance(dataset, StreamedDataset):
        batches["content"] = shape((steps, batch_size, *example.shape), example.dtype, split)
    else:
        data["content"] = shape((len(dataset), *example.shape), example.dtype, everywhere)
    return data, batches


class ResidentLoader:
    """Brings the row numbers of each batch to the devices, where all examples `decoded` lie; a `DeviceLoader`."""

    def __init__(
        self,
        decoded: np.ndarray,
        mesh: jax.sharding.Mesh,
        labels: Mapping[str, np.ndarray],
        sampler: BatchSampler | None,
    ) -> None:
        everywhere = replicated(mesh)
        self.data = {
            "content": put(np.asarray(decoded), everywhere),
            "labels": {name: put(column, everywhere) for name, column in labels.items()},
        }
        self._decoded, self._mesh, self._sampler = decoded, mesh, sampler

    def train_batches(self, step: int, steps: int) -> dict[str, jax.Array]:
        assert self._sampler is not None
        return {"rows": put(self._sampler.batches(step, steps), by_batch(self._mesh, axis=1))}

    def eval_batches(self, rows: np.ndarray) -> Generator[dict[str, jax.Array], None, None]:
        for batch in rows:
            yield {"rows": put(batch, by_batch(self._mesh))}

    def read(self, rows: np.ndarray) -> np.ndarray:
        return np.asarray(self._decoded[rows])

    def close(self) -> None:
        pass  # nothing runs


class StreamingLoader:
    """Brings the examples of each batch to the devices, decoded while these compute; a `DeviceLoader`.

    At most `PREFETCH + 2` blocks exist at once: `PREFETCH` decoded or in the making, the one that the device works on,
    and the one that waits for it. Each process decodes only what its own devices hold.
    """

    def __init__(
        self,
        dataset: Dataset,
        mesh: jax.sharding.Mesh,
        labels: Mapping[str, np.ndarray],
        sampler: BatchSampler | None,
        last_step: int,
    ) -> None:
        self.data = {"labels": {name: put(column, replicated(mesh)) for name, column in labels.items()}}
        self._reader, self._mesh, self._sampler, self._last_step = dataset.reader(), mesh, sampler, last_step
        self._following: Any = None
        self._expected = (-1, 0)

    def train_batches(self, step: int, steps: int) -> dict[str, jax.Array]:
        sampler, read, sharding = self._sampler, self._reader.read, by_batch(self._mesh, axis=1)
        assert sampler is not None

        def batches(step: int) -> dict[str, jax.Array]:
            rows = sampler.batches(step, steps)
            return {"rows": put(rows, sharding), "content": put_content(read, rows, sharding)}

        if self._expected != (step, steps) or step >= self._last_step:
            self._stop()
            self._following = _prefetched(batches, range(step, max(self._last_step, step + 1), steps))
        self._expected = (step + steps, steps)
        return next(self._following)

    def eval_batches(self, rows: np.ndarray) -> Generator[dict[str, jax.Array], None, None]:
        sharding = by_batch(self._mesh)
        following = _prefetched(
            lambda i: {"content": put_content(self._reader.read, rows[i], sharding)}, range(len(rows))
        )
        try:
            yield from following
        finally:
            following.close()

    def read(self, rows: np.ndarray) -> np.ndarray:
        return self._reader.read(rows)

    def close(self) -> None:
        self._stop()
        self._reader.close()

    def _stop(self) -> None:
        """Ends decoding ahead."""
        if self._following is not None:
            self._following.close()
        self._following, self._expected = None, (-1, 0)


class ArrayLoader:
    """Brings decoded examples `[n, *shape]` from the memory of this process to the devices; an `EvalLoader`."""

    def __init__(self, content: np.ndarray, mesh: jax.sharding.Mesh) -> None:
        self.data: Mapping[str, Any] = {"labels": {}}
        self._content, self._sharding = content, by_batch(mesh)

    def eval_batches(self, rows: np.ndarray) -> Generator[dict[str, jax.Array], None, None]:
        for batch in rows:
            yield {"content": put_content(self._content.__getitem__, batch, self._sharding)}


def put_content(
    read: Callable[[np.ndarray], np.ndarray], rows: np.ndarray, sharding: jax.sharding.Sharding
) -> jax.Array:
    """Puts the content of `rows` `[..., batch]` on the devices, `[..., batch, *shape]`.

    Each process reads only what its own devices hold; `sharding` splits nothing but the batch.
    """
    batch = np.arange(rows.shape[-1])
    indices: Any = sharding.addressable_devices_indices_map(rows.shape).values()
    mine = np.unique(np.concatenate([batch[index[-1]] for index in indices]))
    content = read(rows[..., mine])

    def piece(index: Any) -> np.ndarray:
        wanted = batch[index[rows.ndim - 1]]
        begin = int(np.searchsorted(mine, wanted[0]))
        return content[(*index[: rows.ndim - 1], slice(begin, begin + len(wanted)))]

    return jax.make_array_from_callback((*rows.shape, *content.shape[rows.ndim :]), sharding, piece)


def _prefetched(get: Callable[[int], Any], numbers: range) -> Any:
    """Returns an iterator of `get` of each number in turn, `PREFETCH` of them computed before they are asked for.

    Grain's own worker processes are slower: they start anew for every iterator (docs/RESULTS.md, "Processes or
    threads").
    """
    import grain  # takes a while, and where the dataset is resident nobody needs it

    options = grain.ReadOptions(num_threads=PREFETCH, prefetch_buffer_size=PREFETCH)
    steps = grain.MapDataset.range(numbers.start, numbers.stop, numbers.step)
    return iter(steps.map(get).to_iter_dataset(options))
