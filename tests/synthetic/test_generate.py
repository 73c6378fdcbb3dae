"""Synthetic datasets: whole or not at all, and never taken for people."""

import errno
import os
import re
from pathlib import Path
from typing import Any

import pytest

from agegender_jax.data.source import locate
from agegender_jax.errors import UserError
from agegender_jax.synthetic.generate import GENERATORS, builder_options, generate
from tfds_builders.archive import SYNTHETIC_FILE
from tfds_builders.prepare import dataset_names


def test_every_dataset_that_can_be_prepared_can_be_generated() -> None:
    assert set(GENERATORS) == set(dataset_names())


@pytest.mark.parametrize("name", GENERATORS)
def test_what_is_generated_can_be_prepared_and_is_known_to_be_synthetic(name: str, tmp_path: Path) -> None:
    generate(name, tmp_path / "synthetic", 64, progress=False)
    options = builder_options(name)
    prepared = locate(name, manual_dir=tmp_path / "synthetic", data_dir=tmp_path, options=options, progress=False)
    assert prepared.synthetic
    assert 20 <= len(prepared.open()) <= 64
    again = locate(name, manual_dir=tmp_path / "synthetic", data_dir=tmp_path, options=options, progress=False)
    assert again == prepared
    alone = locate(name, manual_dir=None, data_dir=prepared.directory.parents[1 + bool(prepared.config)])
    assert alone.synthetic


@pytest.mark.parametrize("name", GENERATORS)
def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(name: str, tmp_path: Path) -> None:
    contents = []
    for folder, seed in ((tmp_path / "a", 1), (tmp_path / "b", 1), (tmp_path / "c", 2)):
        generate(name, folder, 25, seed=seed, progress=False)
        paths = (path for path in folder.rglob("*") if path.is_file() and path.name != SYNTHETIC_FILE)
        contents.append({path.relative_to(folder): path.read_bytes() for path in paths})
    assert contents[0] == contents[1]
    assert set(contents[0].values()).isdisjoint(contents[2].values())
    if name == "utkface":
        (archive,) = contents[0].values()
        assert archive[4:8] == bytes(4)  # RFC 1952: the time in the header, here none


def test_what_is_there_is_left_alone(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=re.escape(str(tmp_path))):
        generate("utkface", tmp_path, 20, progress=False)
    with pytest.raises(UserError, match="mnist"):
        generate("mnist", tmp_path / "new", 20, progress=False)


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS, errno.ENOSPC])
def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Path, "mkdir", fail)
    with pytest.raises(UserError, match=f"{tmp_path / 'new'}.*{os.strerror(code)}"):
        generate("utkface", tmp_path / "new", 21)


def test_who_generates_second_takes_what_the_first_generated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "synthetic"

    def overtaken(*_: Any) -> None:
        folder.mkdir()
        (folder / "UTKFace.tar.gz").touch()

    monkeypatch.setitem(GENERATORS, "utkface", overtaken)
    generate("utkface", folder, 160)
    assert (folder / "UTKFace.tar.gz").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["synthetic"]


def test_generating_that_ends_midway_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(folder: Path, *_: object) -> None:
        (folder / "half").touch()
        raise KeyboardInterrupt

    monkeypatch.setitem(GENERATORS, "utkface", stopped)
    with pytest.raises(KeyboardInterrupt):
        generate("utkface", tmp_path / "synthetic", 20, progress=False)
    assert list(tmp_path.iterdir()) == []
