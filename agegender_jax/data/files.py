"""Files that anyone may have named, read without trusting them."""

import os
import stat

from agegender_jax.errors import UserError
from tfds_builders.archive import MAX_FILE_BYTES


def read_file(path: str, name: str = "") -> bytes:
    """Returns the content of a file of at most `MAX_FILE_BYTES` bytes (64 MiB); no more than that is ever read.

    Links are followed. What is no file is not waited for, as a pipe would make its reader.
    Messages show `name`, or the path where that is "".

    Raises:
      UserError: it cannot be read, is empty or too large, or is no file.
    """
    name = name or path
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
        try:
            status = os.fstat(descriptor)  # before `open`, which refuses folders
            size, wrong = status.st_size, ""
            if stat.S_ISDIR(status.st_mode):
                wrong = "is a folder of which no file is read: empty, closed, or a link; name its files"
            elif not stat.S_ISREG(status.st_mode):
                wrong = "is a pipe, a socket or a device, which is not read; name a file"
            elif not size:
                wrong = "is empty; download it again or remove it"
            elif size > MAX_FILE_BYTES:
                wrong = f"has {size:,} bytes, and at most {MAX_FILE_BYTES:,} are read; shrink or remove it"
            if wrong:
                raise UserError(f"{name}: {wrong}.")
            with open(descriptor, "rb", closefd=False) as file:
                return file.read(size)
        finally:
            os.close(descriptor)
    except (OSError, ValueError) as error:  # the latter where the name itself is impossible
        raise UserError(f"{name}: cannot be read ({getattr(error, 'strerror', None) or error}); check it.") from error
