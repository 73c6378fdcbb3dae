"""Folders that keep what was computed from a prepared dataset.

A cache is a folder `<dataset>-<version>-<identity>-<content>-<layout>`. It is written under another name and renamed,
so it is whole or absent; it is checked when it is read, and made again where it is damaged.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from absl import logging

from agegender_jax import atomic
from agegender_jax.data.source import Prepared
from agegender_jax.errors import UserError

_LAYOUT = 3  # another number where the files of a cache change

T = TypeVar("T")


def cached(
    prepared: Prepared, content: str, cache_dir: Path, write: Callable[[Path], None], read: Callable[[Path], T]
) -> T:
    """Returns what `read` makes of a cache, which `write` fills first where it is missing or damaged.

    Args:
      prepared: the dataset.
      content: names what is kept; part of the folder's name.
      cache_dir: folder of all caches.
      write: fills a new folder.
      read: reads a folder, and raises anything but UserError where it is damaged.

    Raises:
      UserError: `write` raised it, or the cache cannot be written.
    """
    path = cache_dir / f"{prepared.name}-{prepared.version}-{prepared.identity}-{content}-{_LAYOUT}"
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
    """Removes a damaged cache, also where another process does the same."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
