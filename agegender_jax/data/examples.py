"""The examples of a dataset, open: what is known of each, and its content by row; and the cache that both come from.

A cache is a folder `<dataset>-<version>-<identity>-<what>-<layout>` with `columns.npz`, `meta.json` and whatever else
belongs to it. It is written under another name and renamed, so it is whole or absent; it is checked when it is read,
and made again where it is damaged.
"""

import dataclasses
import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from absl import logging

from agegender_jax import atomic
from agegender_jax.data.source import COLUMNS, Prepared
from agegender_jax.errors import UserError
from agegender_jax.progress import progress_bar

_LAYOUT = 2  # of the cache: another number where files or columns change
_CHUNK = 256  # rows read at a time: bounds the memory, and gives every thread enough to do

T = TypeVar("T")


class Content(Protocol):
    """Decoded pictures (uint8) or waveforms (int16) by row, `[n, *shape]`: an array, or what decodes when asked."""

    def __getitem__(self, rows: Any) -> np.ndarray:
        """Those of one row, of a slice, or of an array of rows."""


@dataclasses.dataclass(frozen=True)
class Dataset:
    """The examples of a dataset, as one recipe sees them.

    Attributes:
      content: by row, see `inputs.Inputs`; an array once all were read; `stream.LazyContent` before, and
        where streamed.
      columns: arrays `[n]` by name, `source.COLUMNS`.
      terms: under which the dataset may be used.
      feed: how they come to the devices and why so, in a line.
      decode: reads or makes the cache of all of them decoded; None where they are streamed.
    """

    content: Content
    columns: Mapping[str, np.ndarray]
    terms: str
    feed: str = ""
    decode: Callable[[], "Dataset"] | None = None

    def __len__(self) -> int:
        return len(self.columns["key"])

    @property
    def sha256(self) -> str:
        """Hash of which files the examples are: of the lines `key<TAB>content's SHA-256`, sorted."""
        pairs = zip(self.columns["key"].tolist(), self.columns["sha256"].tolist(), strict=True)
        return hashlib.sha256("\n".join(sorted(f"{key}\t{content}" for key, content in pairs)).encode()).hexdigest()

    @property
    def streamed(self) -> bool:
        """Whether they are decoded as they are needed."""
        return self.decode is None and not isinstance(self.content, np.ndarray)

    def ready(self) -> "Dataset":
        """The same, their content read where they are not to be streamed: the first time decoded, which takes a while.

        Raises:
          UserError: an example cannot be decoded, or the cache cannot be written.
        """
        if self.decode is None or isinstance(self.content, np.ndarray):
            return self
        return dataclasses.replace(self.decode(), feed=self.feed, decode=self.decode)


def cache_path(prepared: Prepared, what: str, cache_dir: Path) -> Path:
    """The folder of a cache.

    Args:
      prepared: the dataset.
      what: of it is kept.
      cache_dir: folder of all caches.
    """
    return cache_dir / f"{prepared.name}-{prepared.version}-{prepared.identity}-{what}-{_LAYOUT}"


def cached(
    prepared: Prepared, what: str, cache_dir: Path, write: Callable[[Path], None], read: Callable[[Path], T]
) -> T:
    """What `read` makes of a cache, which is written first where it is missing.

    Args:
      prepared: the dataset.
      what: of it is kept; part of the folder's name.
      cache_dir: folder of all caches.
      write: fills a new folder.
      read: reads a folder, and raises anything but UserError where it is damaged.

    Raises:
      UserError: of `write`, or the cache cannot be written.
    """
    path = cache_path(prepared, what, cache_dir)
    try:
        if path.exists():
            try:
                return read(path)
            except Exception as error:  # NumPy and zipfile raise many kinds on damaged files
                logging.warning("The cache %s is damaged (%s): it is rebuilt.", path, error)
                _remove(path)
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


def _remove(path: Path) -> None:
    """Removes a damaged cache, whatever it is, and minds no other process that does the same."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def write_columns(folder: Path, rows: Sequence[Mapping[str, Any]], **meta: Any) -> None:
    """Writes what is known of every example into a new cache, with whatever else `read_columns` shall return."""
    arrays: dict[str, Any] = {name: np.array([row[name] for row in rows], kind) for name, kind in COLUMNS.items()}
    np.savez(folder / "columns.npz", **arrays)
    meta["columns_crc32"] = zlib.crc32((folder / "columns.npz").read_bytes())
    (folder / "meta.json").write_text(json.dumps(meta, indent=1))


def read_columns(folder: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The columns of a cache and what was written with them; raises where these files are damaged."""
    meta = json.loads((folder / "meta.json").read_text())
    if zlib.crc32((folder / "columns.npz").read_bytes()) != meta["columns_crc32"]:
        raise ValueError("columns.npz does not have the checksum that it was written with")
    with np.load(folder / "columns.npz", allow_pickle=False) as columns:
        return {name: columns[name] for name in COLUMNS}, meta


def by_chunks(function: Callable[[int], T], count: int, what: str, progress: bool) -> Iterator[list[T]]:
    """`function` of 0 to `count - 1`, computed in threads and given in order, some at a time.

    Args:
      function: of a row.
      count: of rows.
      what: is being done, for the progress bar.
      progress: whether to draw that on a terminal.
    """
    with progress_bar(count, what, shown=progress) as bar, ThreadPoolExecutor(cores()) as pool:
        for start in range(0, count, _CHUNK):
            found = list(pool.map(function, range(start, min(start + _CHUNK, count))))
            bar.update(len(found))
            yield found


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
