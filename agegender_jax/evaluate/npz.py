"""Tables of plain arrays as `.npz` files that anyone may have written: nothing is unpickled, nothing swells."""

import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import numpy as np

from agegender_jax import atomic
from agegender_jax.errors import UserError

Checked = TypeVar("Checked")


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray], choose: str = "choose another --out") -> None:
    """Writes arrays by name, whole or not at all; `choose` is what a user can do where that fails.

    Raises:
      UserError: it cannot be written.
    """
    try:
        with atomic.replacing(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); {choose}.") from error


def read_arrays(path: Path, check: Callable[[dict[str, np.ndarray]], Checked], content: str, remedy: str) -> Checked:
    """Reads what `write_arrays` wrote.

    `check` makes the result of the arrays, and raises any error where they are not what they should be. `content`
    and `remedy` are for messages: what the file should hold, and what a user can do where it is damaged.

    Raises:
      UserError: the file is missing or damaged, or holds something else.
    """
    try:
        with zipfile.ZipFile(path) as archive:  # as NumPy writes it uncompressed, it can hold no more than its own size
            require(sum(each.file_size for each in archive.infolist()) <= path.stat().st_size, "its arrays are packed")
        with np.load(path, allow_pickle=False) as file:
            return check({name: file[name] for name in file.files})
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}); check the path.") from error
    except Exception as error:  # NumPy, zipfile and json raise many kinds on damaged files
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{path} holds no {content} of this version ({reason}); {remedy}.") from error


def require(right: object, complaint: str) -> None:
    """Raises ValueError where a file is not what it should be."""
    if not right:
        raise ValueError(complaint)
