"""Files and directories that appear whole or not at all."""

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a new name beside `path` to write a file or a directory under, and renames that to `path` at the end.

    What was written is removed where the body raises, and where the rename fails: `path` is then as it was before. A
    directory replaces nothing but an empty directory.

    Raises:
      OSError: the renaming failed.
    """
    # Random, not the number of the process: on machines and in containers that share the folder that may be the same.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.part")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a text file in UTF-8, whole or not at all.

    Raises:
      OSError: it cannot be written.
    """
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
