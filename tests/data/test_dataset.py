"""From an archive to decoded examples: what is located, prepared, cached, rebuilt and refused."""

import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agegender_jax.data.dataset import DataOptions, DatasetOptions, ResidentDataset, open_dataset
from agegender_jax.data.decode_image import decode_image
from agegender_jax.data.preprocess import PreprocessOptions
from agegender_jax.data.source import COLUMNS, Prepared, locate
from agegender_jax.errors import UserError
from tests.tfds_builders.files import lay, pack, pack_utkface
from tfds_builders.archive import SYNTHETIC_FILE
from tfds_builders.utkface.utkface_dataset_builder import parse_name

ROOT = Path(__file__).parents[2]


def options(**changes: Any) -> DataOptions:
    return DataOptions(DatasetOptions("utkface", **changes), PreprocessOptions(32))


def test_every_column_and_image_is_that_of_the_archive(
    members: dict[str, bytes],
    resident: Callable[[int, Path], ResidentDataset],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("agegender_jax.data.dataset._CHUNK", 47)  # the last is of 19
    data = resident(32, tmp_path)
    decoded = data.decode_all(progress=False)
    files = members
    assert sorted(data.columns["key"].tolist()) == sorted(files)
    assert len(data) == 160
    assert decoded.dtype == np.uint8
    for row, key in enumerate(data.columns["key"].tolist()):
        label, digest = parse_name(key), hashlib.sha256(files[key]).hexdigest()
        assert label is not None
        expected = {"key": key, "gender": label.gender, "race": label.race, "class_name": "", "sha256": digest}
        expected |= dict.fromkeys(("age", "age_low", "age_high"), label.age)
        expected |= dict.fromkeys(("subject", "group", "fold"), -1)
        assert {name: data.columns[name][row].item() for name in COLUMNS} == expected
        np.testing.assert_array_equal(decoded[row], decode_image(files[key], 32))
    for name, kind in COLUMNS.items():
        assert np.issubdtype(data.columns[name].dtype, kind)
    assert "non-commercial" in data.terms


def test_neither_start_imports_tensorflow_and_the_second_not_even_tfds(synthetic_dir: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from agegender_jax.data.preprocess import PreprocessOptions\n"
        "from agegender_jax.data.dataset import DataOptions, DatasetOptions, open_dataset\n"
        "options = DataOptions(DatasetOptions('utkface'), PreprocessOptions(40))\n"
        "open_dataset(options, manual_dir=Path(sys.argv[1]), data_dir=Path(sys.argv[2]), progress=False)\n"
        "print(*[name for name in ('tensorflow', 'tensorflow_datasets') if name in sys.modules])"
    )
    command = [sys.executable, "-c", code, str(synthetic_dir), str(tmp_path)]
    first, second = (
        subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split() for _ in range(2)
    )
    assert first == ["tensorflow_datasets"]
    assert second == []


def test_what_was_prepared_is_used_again(
    synthetic_dir: Path, data_dir: Path, prepared: Prepared, tmp_path: Path
) -> None:
    before = prepared.directory.stat().st_mtime_ns
    assert locate("utkface", manual_dir=synthetic_dir, data_dir=data_dir) == prepared
    assert prepared.directory.stat().st_mtime_ns == before
    shutil.copy(synthetic_dir / "UTKFace.tar.gz", tmp_path)  # elsewhere, and newer
    assert locate("utkface", manual_dir=tmp_path, data_dir=data_dir) == prepared
    assert prepared.version == "1.1.0"


def test_the_same_archive_with_and_without_the_mark_of_synthetic_data_is_two_datasets(
    members: dict[str, bytes], tmp_path: Path
) -> None:
    pack_utkface(tmp_path / "in", dict(sorted(members.items())[:3]))
    for synthetic in (False, True):
        if synthetic:
            (tmp_path / "in" / SYNTHETIC_FILE).touch()
        prepared = locate("utkface", manual_dir=tmp_path / "in", data_dir=tmp_path / "out", progress=False)
        assert prepared.synthetic == synthetic


def test_what_tfds_build_put_into_the_data_dir_is_used(prepared: Prepared, tmp_path: Path) -> None:
    for version in ("1.0.0", "1.9.0", "1.10.0"):
        shutil.copytree(prepared.directory, tmp_path / "utkface" / version)
    newest = locate("utkface", manual_dir=None, data_dir=tmp_path)
    assert newest.version == "1.10.0"  # by number, not by letter
    assert len(newest.open()) == 160


def test_another_archive_in_the_same_place_is_prepared_anew(members: dict[str, bytes], tmp_path: Path) -> None:
    folder, results = tmp_path / "in", []
    for names in (sorted(members)[:5], sorted(members)[5:12]):
        pack_utkface(folder, {name: members[name] for name in names})
        data = open_dataset(options(), manual_dir=folder, data_dir=tmp_path / "out", progress=False)
        assert sorted(data.columns["key"].tolist()) == names
        results.append(data.prepared)
    assert results[0].directory != results[1].directory
    assert results[0].identity != results[1].identity


def test_a_change_anywhere_in_a_large_archive_is_seen(members: dict[str, bytes], tmp_path: Path) -> None:
    # Without compression, and so without a checksum; what follows an image's end marker is no part of it.
    files = [(name, members[name] + bytes(3 * 2**20)) for name in sorted(members)[:3]]
    archive = tmp_path / "in" / "UTKFace.tar"
    sizes, identities = set(), set()
    for change in (b"", b"changed"):
        half = len(files[1][1]) // 2
        files[1] = files[1][0], files[1][1][:half] + change + files[1][1][half + len(change) :]
        pack(archive, files, mode="w")
        data = open_dataset(options(), manual_dir=archive.parent, data_dir=tmp_path / "out", progress=False)
        digests = [hashlib.sha256(content).hexdigest() for _, content in files]
        assert sorted(data.columns["sha256"].tolist()) == sorted(digests)
        sizes.add(archive.stat().st_size)
        identities.add(data.prepared.identity)
    assert len(sizes) == 1
    assert len(identities) == 2


def test_a_name_that_is_no_unicode_is_rejected_like_others(members: dict[str, bytes], tmp_path: Path) -> None:
    for name in [*sorted(members)[:3], os.fsdecode(b"\xff.jpg")]:
        lay(tmp_path / "in", {name: next(iter(members.values()))})
    assert locate("utkface", manual_dir=tmp_path / "in", data_dir=tmp_path / "out", progress=False).count == 3


def test_a_large_file_that_has_not_changed_is_hashed_once(
    synthetic_dir: Path, data_dir: Path, prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agegender_jax.data.source._SMALL", 0)
    assert locate("utkface", manual_dir=synthetic_dir, data_dir=data_dir).identity == prepared.identity
    monkeypatch.delattr("hashlib.file_digest")
    locate("utkface", manual_dir=synthetic_dir, data_dir=data_dir)


@pytest.mark.parametrize("layout", ["UTKFace/part1", "."])
def test_a_change_inside_an_unpacked_folder_is_seen(members: dict[str, bytes], tmp_path: Path, layout: str) -> None:
    files, names = members, sorted(members)
    folder = tmp_path / "in" / layout
    folder.mkdir(parents=True)
    for name in names[:3]:
        (folder / name).write_bytes(files[name])

    def keys() -> list[str]:
        # Prepared data and caches beside the images, as where --data_dir is --manual_dir.
        data = open_dataset(options(), manual_dir=tmp_path / "in", data_dir=tmp_path / "in", progress=False)
        return sorted(data.columns["key"].tolist())

    assert keys() == names[:3]
    assert keys() == names[:3]
    assert len(list((tmp_path / "in" / "prepared").iterdir())) == 1
    (folder / names[3]).write_bytes(files[names[3]])
    assert keys() == names[:4]


@pytest.mark.parametrize(
    ("name", "manual_dir", "named"),
    [
        ("mnist", "", "mnist"),
        ("utkface", "absent", "absent"),
        ("utkface", "empty", "empty"),
        ("utkface", "UTKFace.tar.gz", r"UTKFace\.tar\.gz"),  # a file
        ("utkface", None, "out"),
    ],
)
def test_missing_data_name_the_folder(tmp_path: Path, name: str, manual_dir: str | None, named: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "UTKFace.tar.gz").touch()
    folder = None if manual_dir is None else tmp_path / manual_dir
    with pytest.raises(UserError, match=named):
        locate(name, manual_dir=folder, data_dir=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("damage", ["record", "info", "format", "gone"])
def test_damaged_prepared_data_are_named(prepared: Prepared, tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "utkface" / "1.0.0"
    shutil.copytree(prepared.directory, folder)
    record, info = next(folder.glob("*.array_record*")), folder / "dataset_info.json"
    if damage == "record":
        record.write_bytes(record.read_bytes()[:5000])
    elif damage == "gone":
        record.unlink()
    elif damage == "info":
        info.write_text("{")
    else:
        info.write_text(json.dumps(json.loads(info.read_text()) | {"fileFormat": "tfrecord"}))
    with pytest.raises(UserError, match=str(folder)) as caught:
        open_dataset(options(), manual_dir=None, data_dir=tmp_path, progress=False)
    assert "\n" not in str(caught.value)
    assert list((tmp_path / "cache").glob("*")) == []


@pytest.mark.parametrize("blocked", ["", "prepared", "cache", "synthetic"])
def test_a_file_where_a_folder_should_be_is_named(synthetic_dir: Path, tmp_path: Path, blocked: str) -> None:
    data_dir = tmp_path / "data"
    (data_dir if blocked else tmp_path).mkdir(exist_ok=True)
    (data_dir / blocked).write_text("in the way")
    synthetic = {"synthetic": 21} if blocked == "synthetic" else {}
    manual_dir = None if synthetic else synthetic_dir
    with pytest.raises(UserError, match=str(data_dir)):
        open_dataset(options(**synthetic), manual_dir=manual_dir, data_dir=data_dir, progress=False)


def test_who_prepares_second_takes_what_the_first_prepared(
    synthetic_dir: Path, prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def overtaken(name: str, manual_dir: Path, parent: Path, **_: Any) -> Path:
        shutil.copytree(prepared.directory, parent / name / "1.0.0")
        raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY))

    monkeypatch.setattr("tfds_builders.prepare.prepare", overtaken)
    assert len(locate("utkface", manual_dir=synthetic_dir, data_dir=tmp_path).open()) == 160


def test_faces_are_generated_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = open_dataset(options(synthetic=21), manual_dir=None, data_dir=tmp_path, progress=False)
    assert "21 examples" in capsys.readouterr().err
    archive = tmp_path / "synthetic" / "utkface-21-0" / "UTKFace.tar.gz"
    before = archive.stat().st_mtime_ns
    second = open_dataset(options(synthetic=21), manual_dir=None, data_dir=tmp_path, progress=False)
    assert "examples" not in capsys.readouterr().err
    assert (archive.stat().st_mtime_ns, first.prepared) == (before, second.prepared)
    assert len(first) == len(second) == 21
