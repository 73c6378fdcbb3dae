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
    with pytest.raises(DataError, match=rf"x\.tar\.gz.*{re.escape(repr(info.name))}"):
        list(iter_members(archive))


@pytest.mark.parametrize(
    "make",
    [lambda p: p.symlink_to(__file__), lambda p: p.symlink_to(Path(__file__).parent), os.mkfifo],
    ids=["link to a file", "link to a folder", "pipe"],
)
def test_a_link_or_a_pipe_in_a_folder_is_refused(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "a.jpg")
    with pytest.raises(DataError, match=r"'a\.jpg'"):
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
        with pytest.raises(DataError, match="cut"):
            list(iter_members(tmp_path / "cut"))


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
    read = list(iter_members(source, max_file_bytes=100, skipped=lambda *member: skipped.append(member[:2])))
    assert read == files[2:]
    assert skipped == [("a/large.wav", large)]
    assert list_members(source) == [("a/large.wav", large), ("a/one.wav", 100), ("b/empty", 0)]


def test_too_many_members_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = make_tar(tmp_path / "x.tar", [(f"{i}", b"") for i in range(4)], "w")
    monkeypatch.setattr("tfds_builders.archive.MAX_MEMBERS", 4)
    assert len(list(iter_members(archive))) == 4
    monkeypatch.setattr("tfds_builders.archive.MAX_MEMBERS", 3)
    with pytest.raises(DataError, match=r"x\.tar"):
        list(iter_members(archive))


def damaged_archives() -> dict[str, bytes]:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for number in range(4):
            info = tarfile.TarInfo(f"{number}.bin")
            info.size = 600
            tar.addfile(info, io.BytesIO(b"x" * 600))
    plain = buffer.getvalue()
    header, flipped = bytearray(plain), bytearray(gzip.compress(plain, 0))  # stored, not deflated
    header[512 + 1024 + 5] ^= 0xFF  # of the second member: tarfile alone would end there, in silence
    flipped[700] ^= 0xFF  # only the checksum can tell
    huge, large, cut, name = (tarfile.TarInfo(name) for name in ("huge.jpg", "large.jpg", "cut.jpg", "././@LongLink"))
    huge.size, large.size, cut.size, name.size = 2**40, MAX_SKIPPED_BYTES + 1, 2**21, 2**30
    name.type = tarfile.GNUTYPE_LONGNAME
    return {
        "header.tar": bytes(header),
        "checksum.tar.gz": bytes(flipped),
        "page.tar.gz": b"<html>Quota exceeded</html>" * 100,
        "huge.tar": huge.tobuf(),  # the header alone
        "large.tar": large.tobuf(),
        "cut.tar": cut.tobuf() + bytes(2**20),
        "long.tar.gz": gzip.compress(name.tobuf() + b"a" * 2**23, 1),  # a name that would fill the memory
    }


@pytest.mark.parametrize("name", [*damaged_archives(), "absent.tar"])
def test_a_damaged_or_hostile_archive_is_refused(tmp_path: Path, name: str) -> None:
    if name != "absent.tar":
        (tmp_path / name).write_bytes(damaged_archives()[name])
    with pytest.raises(DataError, match=re.escape(name)):
        list(iter_members(tmp_path / name, max_file_bytes=2**20))
    with pytest.raises(DataError, match=re.escape(name)):
        list_members(tmp_path / name)
