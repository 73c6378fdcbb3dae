"""Tables of plain arrays as `.npz` files that anyone may have written: nothing is unpickled, nothing swells."""

import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from agegender_jax import atomic
from agegender_jax.errors import UserError


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray], choose: str = "choose another --out") -> None:
    """Writes a table, whole or not at all.

    Args:
      path: of the file.
      arrays: by name.
      choose: what a user can do where it cannot be written.

    Raises:
      UserError: it cannot be written.
    """
    try:
        with atomic.replacing(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); {choose}.") from error


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Reads what `write_arrays` wrote.

    Raises:
      OSError: it cannot be read.
      Exception: of many kinds, where it is damaged.
    """
    with zipfile.ZipFile(path) as archive:  # as NumPy writes it uncompressed, it can hold no more than its own size
        if sum(member.file_size for member in archive.infolist()) > path.stat().st_size:
            raise ValueError("its arrays are compressed")
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def require(right: object, complaint: str) -> None:
    """Raises ValueError where a file is not what it should be."""
    if not right:
        raise ValueError(complaint)
