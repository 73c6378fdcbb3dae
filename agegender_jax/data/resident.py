"""The whole dataset decoded once, kept in a cache on disk, and placed on the devices.

The cache is a folder `<dataset>-<version>-<identity>-<decoding>-<layout>` with `content.npy` (memory-mapped),
`columns.npz` and `meta.json`. It is written under another name and renamed, so it is whole or absent; it is checked
when it is read, and rebuilt where it is damaged.
"""

import dataclasses
import hashlib
import json
import os
import shutil
import sys
import uuid
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import logging
from tqdm import tqdm

from agegender_jax.data.inputs import Inputs
from agegender_jax.data.source import COLUMNS, Prepared, Source
from agegender_jax.errors import UserError

_LAYOUT = 2  # of the cache: another number where files or columns change
_CHUNK = 256  # rows decoded at a time: bounds the memory, and gives every thread enough to do


@dataclasses.dataclass(frozen=True)
class Resident:
    """A decoded dataset in host memory.

    Attributes:
      content: `[n, *shape]`, decoded pictures (uint8) or waveforms (int16), memory-mapped; see `inputs.Inputs`.
      columns: arrays `[n]` by name, `source.COLUMNS`.
      terms: under which the dataset may be used.
    """

    content: np.ndarray
    columns: dict[str, np.ndarray]
    terms: str

    def __len__(self) -> int:
        return len(self.content)

    @property
    def sha256(self) -> str:
        """Hash of which files the examples are: of the lines `key<TAB>content's SHA-256`, sorted."""
        pairs = zip(self.columns["key"].tolist(), self.columns["sha256"].tolist(), strict=True)
        return hashlib.sha256("\n".join(sorted(f"{key}\t{content}" for key, content in pairs)).encode()).hexdigest()


def load(prepared: Prepared, inputs: Inputs, cache_dir: Path, *, progress: bool = True) -> Resident:
    """The decoded examples of a dataset, from the cache, which is written first where it is missing.

    Args:
      prepared: the dataset.
      inputs: how they are decoded.
      cache_dir: folder of all caches.
      progress: whether to draw a progress bar on a terminal.

    Raises:
      UserError: an example cannot be decoded, or the cache cannot be written.
    """
    path = cache_dir / f"{prepared.name}-{prepared.version}-{prepared.identity}-{inputs.tag}-{_LAYOUT}"
    # Not the process's number: on machines and in containers that share the folder it may be the same.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.part")
    try:
        if path.exists():
            try:
                return _read(path)
            except Exception as error:  # NumPy and zipfile raise many kinds on damaged files
                logging.warning("The cache %s is damaged (%s): it is rebuilt.", path, error)
                _remove(path)
        source = prepared.open()
        temporary.mkdir(parents=True)
        _write(temporary, source, inputs, progress)
        try:
            os.replace(temporary, path)
        except OSError as error:
            try:
                return _read(path)  # another process may have been first: its cache is as good
            except Exception:
                raise error from None
        return _read(path)
    except OSError as error:
        raise UserError(
            f"{cache_dir}: the cache of decoded data cannot be written ({error.strerror or error}); "
            "free some space or choose another --data_dir."
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _remove(path: Path) -> None:
    """Removes a damaged cache, whatever it is, and minds no other process that does the same."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _write(folder: Path, source: Source, inputs: Inputs, progress: bool) -> None:
    shape, dtype = (len(source), *inputs.shape), np.dtype(inputs.dtype)
    columns: dict[str, list] = {name: [] for name in COLUMNS}
    checksum = 0
    with open(folder / "content.npy", "wb") as file:
        header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        # Written as a stream, not through a memory map: a full disk is then an error and not a signal.
        for examples, decoded in _decoded(source, inputs, progress):
            for name, values in columns.items():
                values.extend(example[name] for example in examples)
            block = decoded.tobytes()
            checksum = zlib.crc32(block, checksum)
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
    arrays: dict[str, Any] = {name: np.array(columns[name], kind) for name, kind in COLUMNS.items()}
    np.savez(folder / "columns.npz", **arrays)
    meta = {
        "content_crc32": checksum,
        "columns_crc32": zlib.crc32((folder / "columns.npz").read_bytes()),
        "shape": shape,
        "dtype": dtype.name,
        "terms": source.terms,
    }
    (folder / "meta.json").write_text(json.dumps(meta, indent=1))


def _decoded(source: Source, inputs: Inputs, progress: bool) -> Iterator[tuple[list, np.ndarray]]:
    def one(row: int) -> tuple[dict, np.ndarray]:
        example = source[row]
        return example, inputs.decode(example.pop("content"), example["key"])

    bar = tqdm(
        total=len(source),
        desc=f"Decoding to {'x'.join(map(str, inputs.shape))}",
        unit=" examples",
        disable=not (progress and sys.stderr.isatty()),
        file=sys.stderr,
    )
    with bar, ThreadPoolExecutor(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None) as pool:
        for start in range(0, len(source), _CHUNK):
            pairs = list(pool.map(one, range(start, min(start + _CHUNK, len(source)))))
            bar.update(len(pairs))
            yield [example for example, _ in pairs], np.stack([decoded for _, decoded in pairs])


def _read(path: Path) -> Resident:
    meta = json.loads((path / "meta.json").read_text())
    content = np.load(path / "content.npy", mmap_mode="r", allow_pickle=False)
    if list(content.shape) != meta["shape"] or content.dtype.name != meta["dtype"]:
        raise ValueError("content.npy has another shape than it was written with")
    # The pages are needed in memory anyway, on their way to the devices.
    if zlib.crc32(content.reshape(-1).view()) != meta["content_crc32"]:
        raise ValueError("content.npy does not have the checksum that it was written with")
    if zlib.crc32((path / "columns.npz").read_bytes()) != meta["columns_crc32"]:
        raise ValueError("columns.npz does not have the checksum that it was written with")
    with np.load(path / "columns.npz", allow_pickle=False) as columns:
        return Resident(content, {name: columns[name] for name in COLUMNS}, meta["terms"])


def place(resident: Resident, labels: dict[str, np.ndarray], sharding: jax.sharding.Sharding) -> dict:
    """Puts a dataset on the devices, whole on each: `{"content": [n, *shape], "labels": {head: [n]}}`."""
    return {
        "content": jax.device_put(resident.content, sharding),
        "labels": {name: jax.device_put(column, sharding) for name, column in labels.items()},
    }
