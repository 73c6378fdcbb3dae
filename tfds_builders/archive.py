"""Reading a downloaded archive without trusting it: member by member, nothing extracted, every size bounded.

Standard library only.
"""

import contextlib
import gzip
import os
import stat
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO

SYNTHETIC_FILE = "SYNTHETIC.txt"
"""A file that marks the folder of a synthetic dataset, so that no metric on it is taken for one on people."""

MAX_FILE_BYTES = 64 * 2**20
"""Largest single file that is read, in bytes (64 MiB)."""

MAX_PASSED_BYTES = 64 * MAX_FILE_BYTES
"""Largest single file that is passed over unread where the caller wishes that, in bytes (4 GiB)."""

MAX_MEMBERS = 200_000
"""Most members (files, folders and junk together) that an archive or a folder may hold."""

_HEADER_BYTES = 2**20  # what tar headers between two files may take; long names need a few hundred bytes
_BLOCK = 512  # tar's block size; an archive ends with two blocks of zeros


class DataError(ValueError):
    """What is wrong with a dataset's files: one clear sentence (what, where, what to do)."""


def iter_members(
    path: Path,
    *,
    max_file_bytes: int = MAX_FILE_BYTES,
    max_members: int = MAX_MEMBERS,
    oversized: Callable[[str, int], object] | None = None,
) -> Iterator[tuple[str, bytes]]:
    """Reads the regular files of an archive or of an unpacked folder, one after the other.

    An archive (`.tar.gz`, `.tgz` or `.tar`; told apart by content, not by name) is streamed once and never
    extracted. A folder is walked recursively in sorted order. What macOS adds (`._x`, `__MACOSX`, `.DS_Store`) is
    left out. Links are refused, even those that stay inside: following one may leave the folder, and skipping one
    would lose an example in silence.

    Args:
      path: the archive or the folder.
      max_file_bytes: largest file that is read.
      max_members: most members that are looked at.
      oversized: called with the name and the size of each file that is larger than `max_file_bytes`, in its turn,
        instead of raising; the file is passed over unread, up to `MAX_PASSED_BYTES`.

    Yields:
      (name, content): the name inside the archive or relative to the folder, with `/` between its parts.

    Raises:
      DataError: `path` is missing, is no tar archive, is truncated or corrupt; or a member is absolute, climbs with
        `..`, is a link or a device, or is too large; or there are too many members.
    """
    path = Path(path)
    if path.is_dir():
        yield from _iter_folder(path, max_file_bytes, max_members, oversized)
    elif path.is_file():
        yield from _iter_archive(path, max_file_bytes, max_members, oversized)
    else:
        raise DataError(f"{path}: no such archive or folder; check the path.")


def list_members(path: Path, *, max_members: int = MAX_MEMBERS) -> list[tuple[str, int]]:
    """Lists the regular files of an archive or of an unpacked folder without reading them.

    Args:
      path: the archive, which has to be unzipped for it, or the folder.
      max_members: most members that are looked at.

    Returns:
      (name, size in bytes) of each file, in the order of `iter_members`.

    Raises:
      DataError: as `iter_members`; a file is too large only above `MAX_PASSED_BYTES`.
    """
    members: list[tuple[str, int]] = []

    def note(name: str, size: int) -> None:
        members.append((name, size))

    for name, _ in iter_members(path, max_file_bytes=0, max_members=max_members, oversized=note):
        members.append((name, 0))  # only an empty file is not over a limit of 0
    return members


def _iter_folder(
    folder: Path, max_file_bytes: int, max_members: int, oversized: Callable[[str, int], object] | None
) -> Iterator[tuple[str, bytes]]:
    limit = MAX_PASSED_BYTES if oversized else max_file_bytes

    def fail(error: OSError) -> None:
        raise DataError(f"{error.filename}: cannot be read ({error.strerror}); check its permissions.") from error

    count = 0
    for parent, folders, files in os.walk(folder, onerror=fail):
        folders.sort()
        for entry in sorted(folders + files):
            path = Path(parent, entry)
            name = path.relative_to(folder).as_posix()
            count += 1
            _check_count(folder, count, max_members)
            if _is_junk(name):
                continue
            try:
                status = path.lstat()
                if stat.S_ISDIR(status.st_mode):
                    continue
                _check_member(folder, name, stat.S_ISREG(status.st_mode), status.st_size, limit)
                if oversized and status.st_size > max_file_bytes:
                    oversized(name, status.st_size)
                    continue
                with path.open("rb") as file:
                    content = file.read(status.st_size)  # never more than was checked, should the file grow
            except OSError as error:
                fail(error)
            yield name, content


def _iter_archive(
    path: Path, max_file_bytes: int, max_members: int, oversized: Callable[[str, int], object] | None
) -> Iterator[tuple[str, bytes]]:
    last = "the start"
    limit, passed = MAX_PASSED_BYTES if oversized else max_file_bytes, 0
    with contextlib.ExitStack() as stack:
        with _reading(path, last):
            raw: IO[bytes] = stack.enter_context(path.open("rb"))
            zipped = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            # gzip.GzipFile checks length and CRC; tarfile's own gzip stream ("r|gz") does neither.
            source = stack.enter_context(gzip.GzipFile(fileobj=raw)) if zipped else raw
            metered = _Metered(source)
            tar = stack.enter_context(tarfile.open(fileobj=metered, mode="r|"))  # type: ignore[call-overload]
        for count in range(1, max_members + 2):
            with _reading(path, last):
                metered.budget = max_file_bytes + _HEADER_BYTES + passed
                info = tar.next()
                tar.members.clear()  # tarfile keeps every header, which nothing here looks at again
            if info is None:
                break
            _check_count(path, count, max_members)
            last, passed = info.name, 0
            if info.isdir() or _is_junk(info.name):
                _check_member(path, info.name, True, info.size, limit)
                passed = info.size
                continue
            _check_member(path, info.name, info.isreg() and not info.issparse(), info.size, limit)
            if oversized and info.size > max_file_bytes:
                oversized(info.name, info.size)
                passed = info.size  # what the next step has to read and drop
                continue
            with _reading(path, last):
                content = tar.extractfile(info).read(info.size)
            yield info.name, content
        with _reading(path, last):
            _check_end(tar.fileobj)


class _Metered:
    """A source that refuses to give more than `budget` bytes.

    tarfile reads long names and extended headers whole, whatever length they claim; this bounds them.
    """

    def __init__(self, source: IO[bytes] | gzip.GzipFile) -> None:
        self._source = source
        self.budget = _HEADER_BYTES

    def read(self, size: int) -> bytes:
        data = self._source.read(size)
        self.budget -= len(data)
        if self.budget < 0:
            raise tarfile.ReadError("a header is too long")
        return data


@contextlib.contextmanager
def _reading(path: Path, last: str) -> Iterator[None]:
    """Turns what tarfile, gzip and zlib raise for damaged bytes into one sentence."""
    try:
        yield
    except (tarfile.TarError, zlib.error, EOFError, OSError, ValueError, OverflowError, RecursionError) as error:
        raise DataError(
            f"{path}: this is no tar archive, or it is truncated or corrupt after {last!r} ({error}); "
            "download it again."
        ) from error


def _check_end(stream: IO[bytes]) -> None:
    """Reads what follows the last member: zeros to the end of the file, and with that gzip's checksum.

    tarfile takes a damaged header, or a file that stops between two members, for the end of the archive.
    """
    trailing = 0
    while chunk := stream.read(2**16):
        trailing += len(chunk)
        if chunk.strip(b"\0"):
            raise tarfile.ReadError("damaged header")
    if trailing < _BLOCK:
        raise tarfile.ReadError("it stops before the end-of-archive marker")


def _check_count(path: Path, count: int, max_members: int) -> None:
    if count > max_members:
        raise DataError(f"{path}: holds more than {max_members} members; is this the right archive or folder?")


def _check_member(path: Path, name: str, regular: bool, size: int, max_file_bytes: int) -> None:
    parts = PurePosixPath(name.replace("\\", "/"))
    if parts.is_absolute() or ".." in parts.parts:
        raise DataError(f"{path}: member {name!r} points outside its folder; do not use this archive.")
    if not regular:
        raise DataError(
            f"{path}: member {name!r} is a link, a device or a sparse file, which is not followed; "
            "put the file itself in its place."
        )
    if not 0 <= size <= max_file_bytes:
        raise DataError(
            f"{path}: member {name!r} has {size} bytes, and at most {max_file_bytes} are read; "
            "is this the right archive or folder?"
        )


def _is_junk(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return "__MACOSX" in parts or (bool(parts) and (parts[-1] == ".DS_Store" or parts[-1].startswith("._")))
