"""The cache of decoded examples: written whole or not at all, read, rebuilt; and placed on the devices."""

import errno
import os
import re
import shutil
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from agegender_jax import recipe as recipes
from agegender_jax.data import resident
from agegender_jax.data.decode_image import decode_image
from agegender_jax.data.preprocess import ImagePreprocessor
from agegender_jax.data.source import COLUMNS, Prepared, Source, locate
from agegender_jax.errors import UserError
from agegender_jax.mesh import make_mesh, replicated


def pictures(size: int) -> ImagePreprocessor:
    recipe = recipes.base()
    recipe.dataset.image_size = size
    return ImagePreprocessor(recipe)


def test_the_cache_is_read_and_not_decoded_again(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, warnings: list[str]
) -> None:
    first = resident.load(prepared, pictures(32), tmp_path, progress=False)
    monkeypatch.setattr(Prepared, "open", lambda _: pytest.fail("the prepared data were opened"))
    second = resident.load(prepared, pictures(32), tmp_path, progress=False)
    np.testing.assert_array_equal(first.content, second.content)
    for name in COLUMNS:
        np.testing.assert_array_equal(first.columns[name], second.columns[name])
    assert first.terms == second.terms
    assert warnings == []
    assert len(list(tmp_path.iterdir())) == 1


def test_every_row_has_its_own_content(prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resident, "_CHUNK", 47)  # the last is of 19
    found = resident.load(prepared, pictures(32), tmp_path, progress=False)
    source = prepared.open()
    for row in range(len(source)):
        assert found.columns["key"][row] == source[row]["key"]
        np.testing.assert_array_equal(found.content[row], decode_image(source[row]["content"], 32))


def test_each_size_and_each_dataset_has_a_cache_of_its_own(prepared: Prepared, tmp_path: Path) -> None:
    assert resident.load(prepared, pictures(32), tmp_path, progress=False).content.shape == (160, 32, 32, 3)
    assert resident.load(prepared, pictures(48), tmp_path, progress=False).content.shape == (160, 48, 48, 3)
    assert len(list(tmp_path.iterdir())) == 2


def put_byte(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 0x01
    path.write_bytes(bytes(content))


def foreign_columns(cache: Path) -> None:
    """Sound archives by themselves, and not what was written."""
    with zipfile.ZipFile(cache / "columns.npz", "w") as archive:
        archive.writestr("age.npy", b"not an array")


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "images cut short": lambda cache: os.truncate(cache / "content.npy", 4000),
    "images empty": lambda cache: os.truncate(cache / "content.npy", 0),
    "images: flipped bit": lambda cache: put_byte(cache / "content.npy", -1000),
    "images: header": lambda cache: put_byte(cache / "content.npy", 12),
    "images: magic": lambda cache: (cache / "content.npy").write_bytes(b"PK\x03\x04" + bytes(100)),
    "meta gone": lambda cache: (cache / "meta.json").unlink(),
    "meta empty": lambda cache: (cache / "meta.json").write_text(""),
    "meta of another form": lambda cache: (cache / "meta.json").write_text("[]"),
    "columns garbage": lambda cache: (cache / "columns.npz").write_bytes(b"garbage"),
    "columns foreign": foreign_columns,
    "columns gone": lambda cache: (cache / "columns.npz").unlink(),
    "folder empty": lambda cache: (shutil.rmtree(cache), cache.mkdir()),  # type: ignore[func-returns-value]
    "file in its place": lambda cache: (shutil.rmtree(cache), cache.write_text("")),  # type: ignore[func-returns-value]
}


@pytest.fixture(scope="module")
def sound_cache(synthetic_dir: Path, data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    resident.load(locate("utkface", manual_dir=synthetic_dir, data_dir=data_dir), pictures(16), folder, progress=False)
    return folder


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_cache_is_rebuilt_and_that_is_said(
    prepared: Prepared, sound_cache: Path, tmp_path: Path, warnings: list[str], damage: Callable[[Path], Any]
) -> None:
    folder = shutil.copytree(sound_cache, tmp_path / "cache")
    sound = resident.load(prepared, pictures(16), sound_cache, progress=False)
    assert warnings == []
    damage(next(folder.iterdir()))
    rebuilt = resident.load(prepared, pictures(16), folder, progress=False)
    assert len(warnings) == 1
    assert "damaged" in warnings[0]
    np.testing.assert_array_equal(rebuilt.content, sound.content)
    np.testing.assert_array_equal(rebuilt.columns["sha256"], sound.columns["sha256"])
    resident.load(prepared, pictures(16), folder, progress=False)
    assert len(warnings) == 1
    assert len(list(folder.iterdir())) == 1


def test_what_a_killed_process_left_is_in_nobodys_way(prepared: Prepared, sound_cache: Path, tmp_path: Path) -> None:
    # In a container the next process often has the same number.
    name = next(sound_cache.iterdir()).name
    (tmp_path / f".{name}.{os.getpid()}.part").mkdir()
    assert len(resident.load(prepared, pictures(16), tmp_path, progress=False)) == 160


def test_several_at_once_get_the_same_and_leave_one_cache(prepared: Prepared, tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(resident.load, prepared, pictures(24), tmp_path, progress=False) for _ in range(4)]
        results = [job.result() for job in jobs]
    for result in results[1:]:
        np.testing.assert_array_equal(result.content, results[0].content)
    assert len(list(tmp_path.iterdir())) == 1


def test_the_disk_fills_up_while_decoding(prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(UserError, match="No space left"):
        resident.load(prepared, pictures(32), tmp_path, progress=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", [UserError, KeyboardInterrupt])
def test_decoding_that_ends_midway_leaves_nothing(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[BaseException]
) -> None:
    def get(source: Source, row: int) -> dict[str, Any]:
        example = sound(source, row)
        if row != 100:
            return example
        if kind is KeyboardInterrupt:
            raise KeyboardInterrupt(f"{example['key']}: is no image")
        return example | {"content": b"text"}

    sound = Source.__getitem__
    name = prepared.open()[100]["key"]
    monkeypatch.setattr(Source, "__getitem__", get)
    with pytest.raises(kind, match=f"^{re.escape(name)}: is no image"):
        resident.load(prepared, pictures(32), tmp_path, progress=False)
    assert list(tmp_path.iterdir()) == []


def test_a_dataset_lies_whole_on_every_device(prepared: Prepared, sound_cache: Path) -> None:
    data = resident.load(prepared, pictures(16), sound_cache, progress=False)
    mesh = make_mesh()
    placed = resident.ResidentLoader(data, mesh, {"age": data.columns["age"]}, None).data
    assert placed["content"].sharding == replicated(mesh)
    assert placed["content"].dtype == np.uint8
    assert len(placed["content"].addressable_shards) == jax.device_count() == 8
    np.testing.assert_array_equal(placed["content"].addressable_shards[7].data, data.content)
    np.testing.assert_array_equal(placed["labels"]["age"], data.columns["age"])
