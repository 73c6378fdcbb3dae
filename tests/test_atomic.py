"""What is written appears whole or not at all."""

import os
from pathlib import Path

import pytest

from agegender_jax import atomic


def test_a_text_replaces_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    atomic.write_text(path, "old")
    atomic.write_text(path, "né")
    assert path.read_bytes() == "né".encode()
    assert os.listdir(tmp_path) == ["summary.json"]


@pytest.mark.parametrize("kind", ["file", "directory"])
@pytest.mark.parametrize("broken", ["body", "rename"])
def test_a_failed_write_leaves_the_old_content_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, broken: str
) -> None:
    def fail(*_: object) -> None:
        raise OSError("disk full")

    def write() -> None:
        with atomic.replacing(path) as temporary:
            assert temporary.parent == tmp_path
            if kind == "directory":
                temporary.mkdir()
            (temporary / "part" if kind == "directory" else temporary).write_text("new")
            if broken == "body":
                fail()

    path = tmp_path / "there"
    path.write_text("old")
    if broken == "rename":
        monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["there"]


def test_a_directory_appears_whole(tmp_path: Path) -> None:
    with atomic.replacing(tmp_path / "new") as temporary:
        temporary.mkdir()
        (temporary / "file").write_text("content")
        assert not (tmp_path / "new").exists()
    assert (tmp_path / "new" / "file").read_text() == "content"
    assert os.listdir(tmp_path) == ["new"]
