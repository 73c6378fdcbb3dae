"""Files that anyone may have named: what is read, and what is refused without waiting."""

import contextlib
import os
from pathlib import Path

import pytest

from agegender_jax.data import files
from agegender_jax.data.files import read_file
from agegender_jax.errors import UserError


def test_the_content_through_links_too(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"\0\xff content")
    (tmp_path / "link").symlink_to("file")
    for name in ("file", "link"):
        assert read_file(str(tmp_path / name)) == b"\0\xff content"


def test_no_more_than_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_FILE_BYTES", 1000)
    path = tmp_path / "file"
    path.write_bytes(b"x" * 1000)
    assert len(read_file(str(path))) == 1000
    path.write_bytes(b"x" * 1001)
    with pytest.raises(UserError, match=r"file: has 1,001 bytes, and at most 1,000 are read; shrink or remove it\.$"):
        read_file(str(path))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("absent", r"cannot be read \(No such file or directory\)"),
        ("empty", "is empty"),
        ("folder", "is a folder of which no file is read"),
        ("pipe", "is a pipe, a socket or a device"),
        ("null", "is a pipe, a socket or a device"),
        ("file/below", r"cannot be read \(Not a directory\)"),
        ("no\0name", "cannot be read"),
        ("x" * 300, r"cannot be read \(File name too long\)"),
    ],
)
def test_what_is_no_file_is_one_sentence(name: str, reason: str, tmp_path: Path) -> None:
    for file in ("empty", "file"):
        (tmp_path / file).write_bytes(b"x" * (file == "file"))
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")  # nobody writes into it
    (tmp_path / "null").symlink_to("/dev/null")
    with pytest.raises(UserError, match=f"^{tmp_path}/.*: {reason}") as error:
        read_file(str(tmp_path / name))
    assert len(str(error.value).splitlines()) == 1


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "empty").touch()
    before = len(os.listdir("/proc/self/fd"))
    for name in (".", "file", "empty", "absent", "/dev/null") * 3:
        with contextlib.suppress(UserError):
            read_file(str(tmp_path / name))
    assert len(os.listdir("/proc/self/fd")) == before


def test_messages_show_the_name_that_was_given(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^here: is a folder"):
        read_file(str(tmp_path), "here")
    with pytest.raises(UserError, match=r"^here: cannot be read"):
        read_file(str(tmp_path / "absent"), "here")
