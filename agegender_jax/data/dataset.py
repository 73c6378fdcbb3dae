"""A dataset opened for use: its metadata table, and its examples, decoded all at once or as they are needed."""

import dataclasses
import hashlib
import json
import math
import os
import shutil
import sys
import threading
import zlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
from absl import logging

from agegender_jax import atomic
from agegender_jax.data.decode_pool import DecodePool
from agegender_jax.data.preprocess import PreprocessOptions, Preprocessor, make_preprocessor
from agegender_jax.data.resources import cores, device_memory
from agegender_jax.data.source import COLUMNS, Prepared, Source, locate
from agegender_jax.errors import UserError
from agegender_jax.labels import DISCLAIMER
from agegender_jax.progress import progress_bar
from agegender_jax.synthetic.generate import builder_options, generate

SYNTHETIC_SEED = 0  # seed of the synthetic datasets of recipes: one archive serves them all
RESIDENT_SHARE = 0.5  # share of a device's memory that a resident dataset may take; the model needs the rest
PREFETCH = 2  # blocks (of one dispatch, of one evaluation batch) that a stream decodes before they are asked for
IN_FLIGHT = 4  # batches of an evaluation that are dispatched and not read back, so that the device never waits
_CHUNK = 1024  # examples decoded before they are written: bounds the memory, and gives every process enough to do
_READ_CHUNK = 256  # examples whose metadata are read at a time, by all threads together
_CACHE_LAYOUT = 3  # another number where the files of a cache change

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class DatasetOptions:
    """Which dataset is opened."""

    name: str  # one of tfds_builders.prepare.dataset_names()
    config: str = ""  # name of a configuration of its builder; "" is the first
    synthetic: int = 0  # if not 0, this many generated examples are used instead of real data
    builder: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # fields of the configuration that differ


@dataclasses.dataclass(frozen=True)
class LoadingOptions:
    """How examples are brought to the devices."""

    loader: str = "auto"  # resident, stream, or auto: stream what takes more than RESIDENT_SHARE of a device's memory
    dispatch_examples: int = 0  # examples of one dispatch of training
    eval_batch: int = 0  # examples of one batch of an evaluation
    devices_per_copy: int = 1  # that one copy of the model is split over


@dataclasses.dataclass(frozen=True)
class DataOptions:
    """All that `open_dataset` needs to know."""

    dataset: DatasetOptions
    preprocess: PreprocessOptions
    loading: LoadingOptions = LoadingOptions()


@dataclasses.dataclass(frozen=True)
class Dataset:
    """The examples of a dataset: either a `StreamedDataset` or a `ResidentDataset`."""

    prepared: Prepared
    preprocessor: Preprocessor
    columns: Mapping[str, np.ndarray]  # the metadata table, arrays [n] by name; see source.COLUMNS
    terms: str  # under which the dataset may be used
    placement: str = ""  # one line that says how the examples come to the devices, and why

    def __len__(self) -> int:
        return len(self.columns["key"])

    @property
    def sha256(self) -> str:
        """Returns a hash of which files the examples are: of the lines `key<TAB>SHA-256 of the content`, sorted."""
        pairs = zip(self.columns["key"].tolist(), self.columns["sha256"].tolist(), strict=True)
        return hashlib.sha256("\n".join(sorted(f"{key}\t{content}" for key, content in pairs)).encode()).hexdigest()

    def reader(self) -> "Reader":
        """Opens a reader of the decoded examples; it holds processes, so close it."""
        return Reader(self.prepared, self.preprocessor, self.columns["key"])

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Decodes some examples, as `Reader.read`: `[*rows.shape, *shape]` of the preprocessor's dtype."""
        with self.reader() as reader:
            return reader.read(rows)


class StreamedDataset(Dataset):
    """A dataset whose examples are decoded as they are needed, since all of them do not fit on a device."""


@dataclasses.dataclass(frozen=True)
class ResidentDataset(Dataset):
    """A dataset that is decoded as a whole and lies on every device."""

    cache_dir: Path = Path()  # folder of the caches of decoded examples

    def decode_all(self, *, progress: bool = True) -> np.ndarray:
        """Returns all decoded examples `[n, *shape]`, memory-mapped from a cache that is written first if missing.

        Raises:
          UserError: an example cannot be decoded, or the cache cannot be written.
        """

        def write(folder: Path) -> None:
            shape, dtype = (len(self), *self.preprocessor.shape), np.dtype(self.preprocessor.dtype)
            title = f"Decoding to {'x'.join(map(str, self.preprocessor.shape))}"
            checksum = 0
            with (
                self.reader() as reader,
                progress_bar(len(self), title, shown=progress) as bar,
                open(folder / "content.npy", "wb") as file,
            ):
                header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
                # Written as a stream, not through a memory map: a full disk is then an error and not a signal.
                for start in range(0, len(self), _CHUNK):
                    block = reader.read(np.arange(start, min(start + _CHUNK, len(self))))
                    checksum = zlib.crc32(block.data, checksum)
                    file.write(block.data)
                    bar.update(len(block))
                file.flush()
                os.fsync(file.fileno())
            meta = {"content_crc32": checksum, "shape": shape, "dtype": dtype.name}
            (folder / "meta.json").write_text(json.dumps(meta, indent=1))

        return _cached(self.prepared, self.preprocessor.cache_key, self.cache_dir, write, _read_decoded)


def _read_decoded(folder: Path) -> np.ndarray:
    meta = json.loads((folder / "meta.json").read_text())
    content = np.load(folder / "content.npy", mmap_mode="r", allow_pickle=False)
    if list(content.shape) != meta["shape"] or content.dtype.name != meta["dtype"]:
        raise ValueError("content.npy has another shape than it was written with")
    # The pages are needed in memory anyway, on their way to the devices.
    if zlib.crc32(content.reshape(-1).view()) != meta["content_crc32"]:
        raise ValueError("content.npy does not have the checksum that it was written with")
    return content


class Reader:
    """Reads stored examples by row and decodes them, in several processes where there are many; a context manager."""

    def __init__(self, prepared: Prepared, preprocessor: Preprocessor, keys: np.ndarray) -> None:
        self._prepared, self._preprocessor, self._keys = prepared, preprocessor, keys
        self._opening, self._closed = threading.Lock(), False
        self._pool = DecodePool(preprocessor.decode, preprocessor.shape, preprocessor.dtype)

    def __enter__(self) -> "Reader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the processes that decode; a closed reader reads nothing, so a thread that is late starts no others."""
        self._closed = True
        self._pool.close()

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Decodes examples `[*rows.shape, *shape]`, each once however often it is asked for; any thread may call it.

        Raises:
          UserError: one cannot be read or decoded; the message names it.
          ValueError: the reader is closed.
        """
        if self._closed:
            raise ValueError("read from a closed reader")
        with self._opening:
            source = self._source
        _, first, which = np.unique(rows.reshape(-1), return_index=True, return_inverse=True)
        decoded = np.empty((rows.size, *self._preprocessor.shape), self._preprocessor.dtype)

        def read(places: np.ndarray) -> tuple[list[bytes], list[str]]:
            return source.contents(rows.flat[places].tolist()), self._keys[rows.flat[places]].tolist()

        self._pool.decode(read, first, decoded)
        again = np.flatnonzero(first[which] != np.arange(rows.size))
        decoded[again] = decoded[first[which[again]]]
        return decoded.reshape(*rows.shape, *self._preprocessor.shape)

    @cached_property
    def _source(self) -> Source:
        """Opens the source where it is needed: that takes a while."""
        return self._prepared.open()


def open_dataset(
    options: DataOptions,
    *,
    manual_dir: Path | None,
    data_dir: Path,
    kind: str | None = None,
    memory: tuple[float, str] | None = None,
    progress: bool = True,
) -> StreamedDataset | ResidentDataset:
    """Locates, generates or prepares a dataset, each only where it has not been done before, and reads its metadata.

    Nothing is decoded here: that is done by `ResidentDataset.decode_all`, or as the examples are needed. The downloaded
    data lie in `manual_dir`, prepared datasets and caches in `data_dir`. `kind`, of `preprocess.PREPROCESSORS`, is what
    the content must be; None takes any. `memory` is that of `choose_placement`.

    Raises:
      UserError: the dataset is not there, or bad, or nothing can be written; the options do not fit its kind.
    """
    dataset, builder = options.dataset, options.dataset.builder
    if builder and manual_dir is None and not dataset.synthetic:
        raise UserError(
            f"config.dataset.{next(iter(builder))} says how data are prepared, and without --manual_dir they are taken "
            "as they were prepared; give --manual_dir=DIR, or leave it out."
        )
    if dataset.synthetic:
        if manual_dir is not None:
            raise UserError(
                f"This recipe generates its data, and --manual_dir={manual_dir} is given; leave that out, or set "
                "--config.dataset.synthetic=0."
            )
        builder = builder_options(dataset.name) | dict(builder)
        manual_dir = data_dir / "synthetic" / f"{dataset.name}-{dataset.synthetic}-{SYNTHETIC_SEED}"
        if not manual_dir.exists():
            print(f"Generating {dataset.synthetic} examples in {manual_dir} ({DISCLAIMER}).", file=sys.stderr)
            generate(dataset.name, manual_dir, dataset.synthetic, seed=SYNTHETIC_SEED, progress=progress)
    prepared = locate(
        dataset.name,
        manual_dir=manual_dir,
        data_dir=data_dir,
        config=dataset.config,
        options=builder,
        progress=progress,
    )
    if kind not in (None, prepared.kind):
        raise UserError(
            f"{dataset.name} holds content of the kind {prepared.kind!r}, and {kind!r} is wanted here; "
            "choose another dataset or configuration."
        )
    preprocessor = make_preprocessor(options.preprocess, prepared.kind)
    streamed, placement = choose_placement(options.loading, prepared.count, preprocessor, memory)
    cache_dir = data_dir / "cache"
    columns, terms = read_columns(prepared, cache_dir, progress=progress)
    if streamed:
        return StreamedDataset(prepared, preprocessor, columns, terms, placement)
    return ResidentDataset(prepared, preprocessor, columns, terms, placement, cache_dir)


def choose_placement(
    options: LoadingOptions, count: int, preprocessor: Preprocessor, memory: tuple[float, str] | None = None
) -> tuple[bool, str]:
    """Returns whether a dataset of `count` examples is to be streamed, and one line that says why.

    `memory` is what `device_memory` returns; None is that of this process.
    """
    example = math.prod(preprocessor.shape) * np.dtype(preprocessor.dtype).itemsize
    size = count * example
    limit, where = memory or device_memory()
    streamed = size > RESIDENT_SHARE * limit if options.loader == "auto" else options.loader == "stream"
    reason = f"{size / 1e9:.2f} GB decoded, {RESIDENT_SHARE:.0%} of {where} is {RESIDENT_SHARE * limit / 1e9:.2f} GB"
    if not streamed:
        return False, f"resident ({reason})"
    on_devices, underway = _buffered(options)
    return True, (
        f"stream ({reason}); at most {on_devices * example:,} bytes of decoded examples on all devices and "
        f"{underway * example:,} on the way, decoded by {cores()} processes of some 35 MB"
    )


def _buffered(options: LoadingOptions) -> tuple[int, int]:
    """Returns the largest numbers of decoded examples of a stream: on all devices, and in the memory of all hosts.

    An example lies on each device of a copy of the model, and in the memory of each process that has such a device.
    """
    copies = options.devices_per_copy
    devices = max(1, jax.device_count() // copies)
    evaluated = -(-options.eval_batch // devices) * devices  # the evaluator rounds it up
    on_devices = (PREFETCH + 2) * options.dispatch_examples + (PREFETCH + 2 + IN_FLIGHT) * evaluated
    return on_devices * copies, PREFETCH * (options.dispatch_examples + evaluated) * min(copies, jax.process_count())


def read_columns(prepared: Prepared, cache_dir: Path, *, progress: bool = True) -> tuple[dict[str, np.ndarray], str]:
    """Reads the metadata table of a dataset and the terms of its use, from a cache that is written first if missing.

    Raises:
      UserError: the dataset cannot be read, or the cache cannot be written.
    """

    def write(folder: Path) -> None:
        source = prepared.open()
        rows: list[dict[str, Any]] = []

        def metadata(row: int) -> dict[str, Any]:
            example = source[row]
            return {name: example[name] for name in COLUMNS}

        with progress_bar(len(source), "Reading labels", shown=progress) as bar, ThreadPoolExecutor(cores()) as threads:
            for start in range(0, len(source), _READ_CHUNK):  # bounds the memory
                chunk = range(start, min(start + _READ_CHUNK, len(source)))
                rows += threads.map(metadata, chunk)
                bar.update(len(chunk))
        arrays: dict[str, Any] = {name: np.array([row[name] for row in rows], kind) for name, kind in COLUMNS.items()}
        np.savez(folder / "columns.npz", **arrays)
        meta = {"terms": source.terms, "columns_crc32": zlib.crc32((folder / "columns.npz").read_bytes())}
        (folder / "meta.json").write_text(json.dumps(meta, indent=1))

    return _cached(prepared, "columns", cache_dir, write, _read_columns)


def _read_columns(folder: Path) -> tuple[dict[str, np.ndarray], str]:
    meta = json.loads((folder / "meta.json").read_text())
    if zlib.crc32((folder / "columns.npz").read_bytes()) != meta["columns_crc32"]:
        raise ValueError("columns.npz does not have the checksum that it was written with")
    with np.load(folder / "columns.npz", allow_pickle=False) as columns:
        return {name: columns[name] for name in COLUMNS}, meta["terms"]


def _cached(
    prepared: Prepared, content: str, cache_dir: Path, write: Callable[[Path], None], read: Callable[[Path], T]
) -> T:
    """Returns what `read` makes of a cache, which `write` fills first where it is missing or damaged.

    A cache is a folder `<dataset>-<version>-<identity>-<content>-<layout>`, whole or absent. `read` raises anything but
    UserError where it is damaged.

    Raises:
      UserError: `write` raised it, or the cache cannot be written.
    """
    path = cache_dir / f"{prepared.name}-{prepared.version}-{prepared.identity}-{content}-{_CACHE_LAYOUT}"
    try:
        if path.exists():
            try:
                return read(path)
            except Exception as error:  # NumPy and zipfile raise many kinds on damaged files
                logging.warning("The cache %s is damaged (%s): it is rebuilt.", path, error)
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)  # another process may do the same
                else:
                    path.unlink(missing_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with atomic.replacing(path) as temporary:
                temporary.mkdir()
                write(temporary)
        except OSError:
            if not path.exists():
                raise
            # Another process was first, and its cache is as good.
        return read(path)
    except OSError as error:
        raise UserError(
            f"{cache_dir}: the cache of decoded data cannot be written ({error.strerror or error}); "
            "free some space or choose another --data_dir."
        ) from error
