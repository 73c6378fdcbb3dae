"""Files that anyone may have named, read without trusting them."""

import os
import stat

from agegender_jax.errors import UserError
from tfds_builders.archive import MAX_FILE_BYTES


def read_file(path: str) -> bytes:
    """The content of a file of at most `MAX_FILE_BYTES` bytes (64 MiB); no more than that is ever read.

    Links are followed. What is no file is not waited for, as a pipe would make its reader.

    Raises:
      UserError: it cannot be read, is empty or too large, or is no file.
    """
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            status = os.fstat(file.fileno())
            _check(path, status)
            return file.read(status.st_size)
    except IsADirectoryError as error:  # of `open`, before anything can be checked
        raise _is_folder(path) from error
    except (OSError, ValueError) as error:  # the latter where the name itself is impossible
        raise UserError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error}); check it.") from error


def _check(path: str, status: os.stat_result) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise _is_folder(path)
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"{path}: is a pipe, a socket or a device, which is not read; name a file.")
    if not status.st_size:
        raise UserError(f"{path}: is empty; download it again or remove it.")
    if status.st_size > MAX_FILE_BYTES:
        raise UserError(
            f"{path}: has {status.st_size:,} bytes, and at most {MAX_FILE_BYTES:,} are read; shrink or remove it."
        )


def _is_folder(path: str) -> UserError:
    return UserError(f"{path}: is a folder of which no file is read: empty, closed, or a link; name its files.")
