"""Caches of metadata and of decoded examples: read, rebuilt where they are damaged, never left half written."""

import errno
import os
import shutil
import zipfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agegender_jax.data.dataset import ResidentDataset
from agegender_jax.data.source import Prepared, Source
from agegender_jax.errors import UserError

Open = Callable[[int, Path], ResidentDataset]


def test_caches_are_read_and_nothing_is_opened_again(
    resident: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, warnings: list[str]
) -> None:
    first = resident(32, tmp_path)
    decoded = first.decode_all(progress=False)
    assert resident(48, tmp_path).decode_all(progress=False).shape == (160, 48, 48, 3)
    monkeypatch.setattr(Prepared, "open", lambda _: pytest.fail("the prepared data were opened"))
    second = resident(32, tmp_path)
    np.testing.assert_array_equal(second.decode_all(progress=False), decoded)
    for name, column in first.columns.items():
        np.testing.assert_array_equal(column, second.columns[name])
    assert first.terms == second.terms
    assert warnings == []
    assert len(list(tmp_path.iterdir())) == 3  # metadata, and a size each


def put_byte(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 0x01
    path.write_bytes(bytes(content))


def foreign_columns(folder: Path) -> None:
    """Writes a sound archive of something else."""
    with zipfile.ZipFile(folder / "columns.npz", "w") as archive:
        archive.writestr("age.npy", b"not an array")


DECODED: dict[str, Callable[[Path], Any]] = {
    "cut short": lambda folder: os.truncate(folder / "content.npy", 4000),
    "flipped bit": lambda folder: put_byte(folder / "content.npy", -1000),
    "header": lambda folder: put_byte(folder / "content.npy", 12),
    "magic": lambda folder: (folder / "content.npy").write_bytes(b"PK\x03\x04" + bytes(100)),
    "meta gone": lambda folder: (folder / "meta.json").unlink(),
    "meta of another form": lambda folder: (folder / "meta.json").write_text("[]"),
    "folder empty": lambda folder: (shutil.rmtree(folder), folder.mkdir()),  # type: ignore[func-returns-value]
    "file in its place": lambda folder: (shutil.rmtree(folder), folder.write_text("")),  # type: ignore[func-returns-value]
}
COLUMNS: dict[str, Callable[[Path], Any]] = {
    "columns cut short": lambda folder: os.truncate(folder / "columns.npz", 50),
    "columns foreign": foreign_columns,
    "columns gone": lambda folder: (folder / "columns.npz").unlink(),
}


@pytest.fixture(scope="module")
def sound_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.mark.parametrize("damage", [*DECODED, *COLUMNS])
def test_a_damaged_cache_is_rebuilt_with_one_warning(
    resident: Open, sound_cache: Path, tmp_path: Path, warnings: list[str], damage: str
) -> None:
    sound = resident(16, sound_cache)
    expected = sound.decode_all(progress=False)
    folder = shutil.copytree(sound_cache, tmp_path / "cache")
    (DECODED | COLUMNS)[damage](next(folder.glob("*-columns-*" if damage in COLUMNS else "*-16px-*")))
    for _ in range(2):
        rebuilt = resident(16, folder)
        np.testing.assert_array_equal(rebuilt.decode_all(progress=False), expected)
        assert rebuilt.sha256 == sound.sha256
        assert len(warnings) == 1
    assert len(list(folder.iterdir())) == 2


def test_several_at_once_get_the_same_and_leave_one_cache(resident: Open, tmp_path: Path) -> None:
    datasets = [resident(24, tmp_path) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda dataset: dataset.decode_all(progress=False), datasets))
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("reason", ["full disk", "damaged image", "interrupt"])
def test_decoding_that_ends_midway_leaves_nothing(
    resident: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    dataset = resident(32, tmp_path)
    before, sound = set(tmp_path.iterdir()), Source.contents
    expected: tuple[type[BaseException], str] = (UserError, f"^{dataset.columns['key'][100]}: ")

    def contents(source: Source, rows: Sequence[int]) -> list[bytes]:
        if reason == "interrupt" and 100 in rows:
            raise KeyboardInterrupt
        return [b"text" if row == 100 else stored for row, stored in zip(rows, sound(source, rows), strict=True)]

    if reason == "full disk":
        expected = UserError, os.strerror(errno.ENOSPC)

        def fail(_: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "fsync", fail)
    else:
        expected = expected if reason == "damaged image" else (KeyboardInterrupt, "^$")
        monkeypatch.setattr(Source, "contents", contents)
    with pytest.raises(expected[0], match=expected[1]):
        dataset.decode_all(progress=False)
    assert set(tmp_path.iterdir()) == before
