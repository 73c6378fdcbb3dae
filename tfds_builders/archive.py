"""Reading of untrusted archives and folders: file by file, without extraction, with limits on every size.

Standard library only.
"""

import contextlib
import gzip
import itertools
import os
import stat
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, NoReturn

SYNTHETIC_FILE = "SYNTHETIC.txt"  # marks the folder of a synthetic dataset: no metric on it is of people
MAX_FILE_BYTES = 64 * 2**20  # largest single file that is read, in bytes (64 MiB)
MAX_SKIPPED_BYTES = 64 * MAX_FILE_BYTES  # largest single file that is skipped unread, in bytes (4 GiB)
MAX_MEMBERS = 200_000  # largest number of members (files, folders and junk) of an archive or a folder
SUFFIXES = (".tar.gz", ".tgz", ".tar")  # suffixes of archives
TOO_LARGE = f"larger than {MAX_FILE_BYTES // 2**20} MiB"  # reason why a file is skipped

Skipped = Callable[[str, int, str], object]

_HEADER_BYTES = 2**20  # what tar headers between two files may take; long names need a few hundred bytes
_BLOCK = 512  # tar's block size; an archive ends with two blocks of zeros


class DataError(ValueError):
    """An error in a dataset's files. The message is one sentence: what, where, what to do."""


def find_archive(folder: Path, name: str) -> Path | None:
    """Returns the archive NAME.tar.gz, NAME.tgz or NAME.tar in a folder, else the folder NAME in it, else None."""
    for suffix in SUFFIXES:
        if (folder / f"{name}{suffix}").is_file():
            return folder / f"{name}{suffix}"
    return folder / name if (folder / name).is_dir() else None


def read_text(path: Path) -> str:
    """Reads a text file of at most `MAX_FILE_BYTES` in UTF-8, with or without a byte-order mark.

    Raises:
      DataError: it cannot be read, is too large or not UTF-8.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the path and its permissions.") from error
    if len(content) > MAX_FILE_BYTES:
        raise DataError(f"{path}: is larger than {MAX_FILE_BYTES} bytes; is this the right file?")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 text; save it as UTF-8 or download it again.") from error


def iter_members(
    path: Path, *, max_file_bytes: int = MAX_FILE_BYTES, skipped: Skipped | None = None
) -> Iterator[tuple[str, bytes]]:
    """Reads the regular files of an archive or of an unpacked folder, one after the other.

    An archive (`.tar.gz`, `.tgz` or `.tar`, recognised by content) is streamed once and never extracted. A folder is
    walked recursively in sorted order. Files that macOS adds (`._x`, `__MACOSX`, `.DS_Store`) are skipped. Links are
    refused, even those that stay inside: following one may leave the folder, and skipping one would silently lose an
    example.

    `skipped` is called, instead of raising, with each file that is larger than `max_file_bytes`, up to
    `MAX_SKIPPED_BYTES`, or that a folder's owner may not read: its name, its size in bytes, and a reason that files may
    share.

    Yields:
      (name, content): the name inside the archive or relative to the folder, with `/` as separator.

    Raises:
      DataError: `path` is missing, not a tar archive, truncated or corrupt; or a member has an absolute path or one
        with `..`, is a link or a device, is too large or cannot be read; or there are too many members.
    """
    path = Path(path)
    if path.is_dir():
        yield from _iter_folder(path, max_file_bytes, skipped)
    elif path.is_file():
        yield from _iter_archive(path, max_file_bytes, skipped)
    else:
        raise DataError(f"{path}: no such archive or folder; check the path.")


def list_members(path: Path) -> list[tuple[str, int]]:
    """Lists (name, size in bytes) of the regular files of an archive or a folder, in the order of `iter_members`.

    Raises:
      DataError: as `iter_members`; a file is too large only above `MAX_SKIPPED_BYTES`.
    """
    members: list[tuple[str, int]] = []
    for name, _ in iter_members(path, max_file_bytes=0, skipped=lambda *member: members.append(member[:2])):
        members.append((name, 0))  # only an empty file is within a limit of 0
    return members


def _iter_folder(folder: Path, max_file_bytes: int, skipped: Skipped | None) -> Iterator[tuple[str, bytes]]:
    limit = MAX_SKIPPED_BYTES if skipped else max_file_bytes

    def fail(error: OSError) -> NoReturn:
        raise DataError(f"{error.filename}: cannot be read ({error.strerror}); check its permissions.") from error

    count = 0
    for parent, folders, files in os.walk(folder, onerror=fail):
        folders.sort()
        for entry in sorted(folders + files):
            path, size, reason = Path(parent, entry), 0, TOO_LARGE
            name = path.relative_to(folder).as_posix()
            count += 1
            _check_count(folder, count)
            if _is_junk(name):
                continue
            try:
                status = path.lstat()
                if stat.S_ISDIR(status.st_mode):
                    continue
                size = status.st_size
                _check_member(folder, name, stat.S_ISREG(status.st_mode), size, limit)
                if size <= max_file_bytes:
                    with path.open("rb") as file:
                        yield name, file.read(size)  # no more than was checked, even if the file grows
                    continue
            except OSError as error:
                if skipped is None:
                    fail(error)
                reason = f"unreadable ({error.strerror})"
            assert skipped is not None
            skipped(name, size, reason)


def _iter_archive(path: Path, max_file_bytes: int, skipped: Skipped | None) -> Iterator[tuple[str, bytes]]:
    last = "the start"
    limit, unread = MAX_SKIPPED_BYTES if skipped else max_file_bytes, 0
    with contextlib.ExitStack() as stack:
        with _reading(path, last):
            raw: IO[bytes] = stack.enter_context(path.open("rb"))
            zipped = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            # gzip.GzipFile checks length and CRC; tarfile's own gzip stream ("r|gz") does neither.
            source = stack.enter_context(gzip.GzipFile(fileobj=raw)) if zipped else raw
            limited = _Limited(source)
            tar = stack.enter_context(tarfile.open(fileobj=limited, mode="r|"))  # type: ignore[call-overload]
        for count in itertools.count(1):
            with _reading(path, last):
                limited.budget = max_file_bytes + _HEADER_BYTES + unread
                info = tar.next()
                tar.members.clear()  # tarfile keeps every header
            if info is None:
                break
            _check_count(path, count)
            last, unread = info.name, 0
            if info.isdir() or _is_junk(info.name):
                _check_member(path, info.name, True, info.size, limit)
                unread = info.size
                continue
            _check_member(path, info.name, info.isreg() and not info.issparse(), info.size, limit)
            if skipped and info.size > max_file_bytes:
                skipped(info.name, info.size, TOO_LARGE)
                unread = info.size  # the next step reads and drops it
                continue
            with _reading(path, last):
                content = tar.extractfile(info).read(info.size)
            yield info.name, content
        with _reading(path, last):
            _check_end(tar.fileobj)


class _Limited:
    """A file of which at most `budget` bytes can be read: tarfile reads long names whole, whatever their length."""

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
    """Converts the exceptions of tarfile, gzip and zlib on damaged bytes to a DataError."""
    try:
        yield
    except (tarfile.TarError, zlib.error, EOFError, OSError, ValueError, OverflowError, RecursionError) as error:
        raise DataError(
            f"{path}: not a tar archive, or truncated or corrupt after {last!r} ({error}); download it again."
        ) from error


def _check_end(stream: IO[bytes]) -> None:
    """Checks that only zeros follow the last member, and by reading to the end gzip's checksum.

    For tarfile a damaged header, or a file that stops between two members, is the end of the archive.
    """
    trailing = 0
    while chunk := stream.read(2**16):
        trailing += len(chunk)
        if chunk.strip(b"\0"):
            raise tarfile.ReadError("damaged header")
    if trailing < _BLOCK:
        raise tarfile.ReadError("no end-of-archive marker")


def _check_count(path: Path, count: int) -> None:
    if count > MAX_MEMBERS:
        raise DataError(f"{path}: holds more than {MAX_MEMBERS} members; is this the right archive or folder?")


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
