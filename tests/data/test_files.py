"""Files that anyone may have named: what is read, and what is refused without waiting."""

import os
from pathlib import Path

import pytest

from agegender_jax.data import files
from agegender_jax.data.files import read_file
from agegender_jax.errors import UserError


def test_the_content_is_read_through_links_up_to_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_FILE_BYTES", 1000)
    (tmp_path / "file").write_bytes(b"\0" * 1000)
    (tmp_path / "link").symlink_to("file")
    for name in ("file", "link"):
        assert read_file(str(tmp_path / name)) == b"\0" * 1000
    (tmp_path / "file").write_bytes(b"x" * 1001)
    with pytest.raises(UserError, match=r"^file: has 1,001 bytes"):
        read_file(str(tmp_path / "link"), "file")


@pytest.mark.parametrize("name", ["absent", "empty", "folder", "pipe", "null", "file/below", "no\0name", "x" * 300])
def test_what_is_no_file_is_named_and_nothing_is_left_open(name: str, tmp_path: Path) -> None:
    for file in ("empty", "file"):
        (tmp_path / file).write_bytes(b"x" * (file == "file"))
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")  # nobody writes into it
    (tmp_path / "null").symlink_to("/dev/null")
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(UserError, match=f"^{tmp_path}/[^\n]*: [^\n]*$"):
        read_file(str(tmp_path / name))
    with pytest.raises(UserError, match=r"^here: "):
        read_file(str(tmp_path / name), "here")
    assert len(os.listdir("/proc/self/fd")) == before
