"""Archives that must be read, and those that must be refused."""

import gzip
import io
import os
import re
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.tfds_builders.files import lay
from tfds_builders.archive import MAX_SKIPPED_BYTES, DataError, iter_members, list_members


def make_tar(path: Path, members: list[tuple[str | tarfile.TarInfo, bytes]], mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name) if isinstance(name, str) else name
            if info.isreg():
                info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def member(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


FILES = [("a/two.jpg", b"2" * 700), ("a/one.txt", b"1" * 512), ("b/empty", b""), ("a/" + "long" * 60, b"0")]


@pytest.mark.parametrize(("name", "mode"), [("x.tar.gz", "w:gz"), ("x.tgz", "w:gz"), ("x.tar", "w")])
@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_an_archive_gives_its_files_in_order(tmp_path: Path, name: str, mode: str, form: int) -> None:
    files = FILES[:3] if form == tarfile.USTAR_FORMAT else FILES  # USTAR has no room for the long name
    with tarfile.open(tmp_path / name, mode, format=form) as tar:
        tar.addfile(member("a", tarfile.DIRTYPE))
        for file, content in files:
            info = tarfile.TarInfo(file)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    assert list(iter_members(tmp_path / name)) == files


def test_a_folder_gives_its_files_sorted(tmp_path: Path) -> None:
    assert list(iter_members(lay(tmp_path, dict(FILES)))) == sorted(FILES)


def test_what_macos_adds_is_left_out(tmp_path: Path) -> None:
    names = ["__MACOSX/UTKFace/._a.jpg", "UTKFace/._a.jpg", "UTKFace/.DS_Store", "UTKFace/a.jpg"]
    archive = make_tar(tmp_path / "x.tar.gz", [(name, b"x") for name in names])
    folder = lay(tmp_path / "folder", dict.fromkeys(names, b"x"))
    assert list(iter_members(archive)) == list(iter_members(folder)) == [("UTKFace/a.jpg", b"x")]


@pytest.mark.parametrize(
    "info",
    [
        *map(tarfile.TarInfo, ["/etc/passwd", "../x.jpg", "a/../../x.jpg", "a\\..\\x.jpg"]),
        member("a.jpg", tarfile.SYMTYPE, "/etc/passwd"),
        member("a.jpg", tarfile.SYMTYPE, "good.jpg"),
        member("a.jpg", tarfile.LNKTYPE, "../good.jpg"),
        member("a.jpg", tarfile.CHRTYPE),
        member("a.jpg", tarfile.FIFOTYPE),
    ],
    ids=lambda info: f"{info.name} {info.type.decode()}",
)
def test_a_path_outside_a_link_or_a_device_in_an_archive_is_refused(tmp_path: Path, info: tarfile.TarInfo) -> None:
    archive = make_tar(tmp_path / "x.tar.gz", [("good.jpg", b"x"), (info, b"")])
    with pytest.raises(DataError, match=rf"x\.tar\.gz: member {re.escape(repr(info.name))}"):
        list(iter_members(archive))


@pytest.mark.parametrize(
    "make",
    [lambda p: p.symlink_to(__file__), lambda p: p.symlink_to(Path(__file__).parent), os.mkfifo],
    ids=["link to a file", "link to a folder", "pipe"],
)
def test_a_link_or_a_pipe_in_a_folder_is_refused(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "a.jpg")
    with pytest.raises(DataError, match=r"member 'a\.jpg'"):
        list(iter_members(tmp_path))


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_truncated_archive_is_refused_wherever_it_was_cut(tmp_path: Path, mode: str) -> None:
    whole = make_tar(tmp_path / "x.tar", [(f"{i}.bin", os.urandom(400 * i)) for i in range(4)], mode).read_bytes()
    # The four files take 512, 1024, 1536 and 2048 + 512 bytes with their headers; at each end a cut leaves a
    # well-formed archive that only lacks the end marker.
    ends = 512 + (512 + 512) + (512 + 1024) + (512 + 1536)
    cuts = range(0, ends + 1, 256) if mode == "w" else range(0, len(whole), 97)
    for cut in cuts:
        (tmp_path / "cut").write_bytes(whole[:cut])
        with pytest.raises(DataError, match=r"cut: .*truncated or corrupt"):
            list(iter_members(tmp_path / "cut"))


def test_a_damaged_archive_is_refused(tmp_path: Path) -> None:
    plain = make_tar(tmp_path / "x.tar", [(f"{i}.bin", b"x" * 600) for i in range(4)], "w").read_bytes()
    damaged = bytearray(plain)
    damaged[512 + 1024 + 5] ^= 0xFF  # in the second member's header: tarfile alone would end there, in silence
    (tmp_path / "header.tar").write_bytes(damaged)
    flipped = bytearray(gzip.compress(plain, 0))  # stored, not deflated: only the checksum can tell
    flipped[700] ^= 0xFF
    (tmp_path / "checksum.tar.gz").write_bytes(flipped)
    (tmp_path / "page.tar.gz").write_bytes(b"<html>Quota exceeded</html>" * 100)
    for name in ("header.tar", "checksum.tar.gz", "page.tar.gz"):
        with pytest.raises(DataError, match=f"{name}: .*truncated or corrupt"):
            list(iter_members(tmp_path / name))


def test_a_large_file_is_refused_unread(tmp_path: Path) -> None:
    info = tarfile.TarInfo("huge.jpg")
    info.size = 2**40
    (tmp_path / "x.tar").write_bytes(info.tobuf())  # the header alone
    with pytest.raises(DataError, match=r"x\.tar: member 'huge\.jpg' has 1099511627776 bytes"):
        list(iter_members(tmp_path / "x.tar"))
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.jpg").write_bytes(b"x" * 101)
    with pytest.raises(DataError, match=r"folder: member 'a\.jpg' has 101 bytes, and at most 100"):
        list(iter_members(tmp_path / "folder", max_file_bytes=100))


@pytest.mark.parametrize("layout", ["w", "w:gz", "folder"])
def test_a_large_file_is_skipped_unread_on_request(tmp_path: Path, layout: str) -> None:
    large = 3 * 2**20  # more than a header may take
    files = [("a/.DS_Store", b"x" * 101), ("a/large.wav", bytes(large)), ("a/one.wav", b"1" * 100), ("b/empty", b"")]
    source = tmp_path / "source"
    if layout == "folder":
        lay(source, dict(files))
    else:
        make_tar(source, [*files], layout)
    skipped: list[tuple[str, int]] = []
    read = list(iter_members(source, max_file_bytes=100, oversized=lambda *member: skipped.append(member)))
    assert read == files[2:]
    assert skipped == [("a/large.wav", large)]
    assert list_members(source) == [("a/large.wav", large), ("a/one.wav", 100), ("b/empty", 0)]


def test_skipping_has_a_limit_and_notices_a_truncation(tmp_path: Path) -> None:
    info = tarfile.TarInfo("huge.wav")
    for size, message in ((MAX_SKIPPED_BYTES + 1, "4294967296"), (2**21, "truncated or corrupt")):
        info.size = size
        (tmp_path / "x.tar").write_bytes(info.tobuf() + bytes(2**20))
        with pytest.raises(DataError, match=message):
            list_members(tmp_path / "x.tar")


def test_a_huge_header_is_refused_before_it_fills_the_memory(tmp_path: Path) -> None:
    name = tarfile.TarInfo("././@LongLink")
    name.type, name.size = tarfile.GNUTYPE_LONGNAME, 2**30
    with gzip.open(tmp_path / "bomb.tar.gz", "wb", compresslevel=1) as file:
        file.write(name.tobuf())
        for _ in range(8):
            file.write(b"a" * 2**20)
    with pytest.raises(DataError, match="a header is too long"):
        list(iter_members(tmp_path / "bomb.tar.gz", max_file_bytes=2**20))


def test_too_many_members_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = make_tar(tmp_path / "x.tar", [(f"{i}", b"") for i in range(4)], "w")
    monkeypatch.setattr("tfds_builders.archive.MAX_MEMBERS", 4)
    assert len(list(iter_members(archive))) == 4
    monkeypatch.setattr("tfds_builders.archive.MAX_MEMBERS", 3)
    with pytest.raises(DataError, match="3"):
        list(iter_members(archive))


def test_a_missing_path_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.tar"):
        list(iter_members(tmp_path / "nowhere.tar"))
