"""Preparing any dataset: the order and the bytes of its examples, memory, files left behind, refusals."""

import hashlib
import importlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds
from tensorflow_datasets.core import dataset_metadata

from agegender_jax.synthetic.generate import builder_options, generate
from tests.tfds_builders.files import jpeg, lay, metadata, read, records
from tfds_builders.archive import SYNTHETIC_FILE, DataError
from tfds_builders.builder import ExampleWriter
from tfds_builders.prepare import builder_version, dataset_names, prepare

ROOT = Path(__file__).parents[2]
CITATIONS = {"utkface": "zhang2017age", "adience": "eidinger2014age", "voice_age_gender": ""}
TEXTS = ("image", "audio", "key", "sha256", "class_name", "speaker", "user", "age_label")
TERMS = {
    "utkface": "non-commercial research only",
    "adience": "for research use",
    "voice_age_gender": "CC BY-NC-SA 4.0",
}


def faces(folder: Path, count: int = 3, size: int = 0) -> Path:
    """Writes a folder UTKFace whose files have that many random bytes behind the image."""
    files = {
        f"{age}_{age % 2}_{age % 5}_20170116174525125.jpg": jpeg(age) + os.urandom(size)
        for age in range(20, 20 + count)
    }
    return lay(folder / "UTKFace", files).parent


@pytest.fixture(scope="module", params=sorted(CITATIONS))
def prepared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, Path]:
    """The name of a dataset, a synthetic one in its format, and what was prepared from it."""
    name: str = request.param
    folder = tmp_path_factory.mktemp(name)
    generate(name, folder / "manual", 40, seed=1, progress=False)
    options = builder_options(name)
    return name, folder / "manual", prepare(name, folder / "manual", folder / "data", options=options)


def test_the_examples_lie_in_the_order_of_the_hashes_of_their_keys(prepared: tuple[str, Path, Path]) -> None:
    name, _, version_dir = prepared
    builder = tfds.builder_from_directory(version_dir)
    for split, info in builder.info.splits.items():
        keys = list(read(version_dir, split))
        assert keys == sorted(keys, key=lambda key: hashlib.md5(f"{split}{key}".encode()).digest())
        stored = builder.as_data_source(split=split).data_source
        assert info.num_bytes == sum(len(stored[row]) for row in range(len(stored)))
    for column, feature in builder.info.features.items():
        if column not in TEXTS:
            dtype = "float32" if column.startswith("age") or column == "seconds" else "int32"
            assert np.dtype(feature.np_dtype) == ("int64" if column in ("subject", "group") else dtype)
    assert builder_version(name) == version_dir.name
    assert metadata(version_dir)["synthetic"]


def test_another_process_writes_the_same_bytes_without_tensorflow(
    prepared: tuple[str, Path, Path], tmp_path: Path
) -> None:
    name, manual_dir, version_dir = prepared
    program = (
        "import sys; from tfds_builders.prepare import prepare; "
        f"path = prepare({name!r}, {str(manual_dir)!r}, {str(tmp_path)!r}, options={builder_options(name)}); "
        "assert not {'tensorflow', 'matplotlib', 'agegender_jax'} & set(sys.modules); print(path)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, timeout=120, capture_output=True)
    assert records(Path(done.stdout.decode().strip())) == records(version_dir)


def test_the_documents_of_a_builder_are_as_tfds_expects(prepared: tuple[str, Path, Path]) -> None:
    name = prepared[0]
    builder = importlib.import_module(f"tfds_builders.{name}.{name}_dataset_builder").Builder
    about = builder.get_metadata()
    assert builder.name == name
    assert TERMS[name] in about.description
    assert CITATIONS[name] in (about.citation or "")
    assert about.tags
    assert set(about.tags) <= set(dataset_metadata.valid_tags())


def test_memory_does_not_grow_with_the_content(tmp_path: Path) -> None:
    manual = faces(tmp_path / "manual", count=24, size=2 * 2**20)
    prepare("utkface", faces(tmp_path / "small"), tmp_path / "warm")
    tracemalloc.start()
    try:
        version_dir = prepare("utkface", manual, tmp_path / "data")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert sum(map(len, records(version_dir))) > 48 * 2**20
    assert peak < 20 * 2**20


def test_a_synthetic_dataset_has_no_labels_or_terms_of_people(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manual_dir = faces(tmp_path / "manual")
    (manual_dir / SYNTHETIC_FILE).touch()
    prepare("utkface", manual_dir, tmp_path / "data")
    printed = capsys.readouterr().err
    assert "synthetic" in printed
    assert "as annotated" not in printed
    assert "non-commercial" not in printed


def test_a_prepared_dataset_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manual = faces(tmp_path / "manual")
    version_dir = prepare("utkface", manual, tmp_path / "data")
    before = {path: path.stat().st_mtime_ns for path in version_dir.iterdir()}
    assert prepare("utkface", manual, tmp_path / "data") == version_dir
    assert str(version_dir) in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in version_dir.iterdir()} == before
    info = version_dir / "dataset_info.json"
    info.write_text(json.dumps(json.loads(info.read_text()) | {"fileFormat": "tfrecord"}))
    with pytest.raises(DataError, match="tfrecord"):
        prepare("utkface", manual, tmp_path / "data")
    info.unlink()
    with pytest.raises(DataError, match=str(version_dir)):
        prepare("utkface", manual, tmp_path / "data")


def test_nothing_is_left_in_the_folder_of_temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    prepare("utkface", faces(tmp_path / "manual"), tmp_path / "data")
    assert list((tmp_path / "temporary").iterdir()) == []


def test_unknown_names_are_refused(tmp_path: Path) -> None:
    assert set(dataset_names()) == set(CITATIONS)
    requests: list[tuple[str, dict[str, Any], str]] = [
        ("imdb", {}, "imdb"),
        ("utkface", {"config": "big"}, "big"),
        ("adience", {"config": "big"}, "big"),
        ("utkface", {"options": {"csv": "x"}}, "csv"),
    ]
    for name, arguments, message in requests:
        with pytest.raises(DataError, match=message):
            prepare(name, tmp_path, tmp_path / "data", **arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    with pytest.raises(DataError, match="file/data"):
        prepare("utkface", faces(tmp_path / "manual"), tmp_path / "file" / "data")
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.parametrize("method", ["write", "store"])
@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        RuntimeError("write() failed: No space left on device; at byte 41943040"),  # as array_record words it
    ],
)
def test_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, method: str) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(ExampleWriter, method, fail)
    with pytest.raises(DataError, match=re.escape(str(tmp_path / "data"))):
        prepare("utkface", faces(tmp_path / "manual"), tmp_path / "data")
    assert not (tmp_path / "data").exists()


@pytest.mark.slow
def test_tfds_build_writes_the_same_bytes(tmp_path: Path) -> None:
    missing = [name for name in ("tensorflow", "apache_beam", "mlcroissant") if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"`tfds build` needs the extra [build]; not installed: {', '.join(missing)}")
    manual = faces(tmp_path / "manual", 100)
    builder = tmp_path / "utkface"  # a copy: the command must not need to write beside the builder
    shutil.copytree(ROOT / "tfds_builders" / "utkface", builder)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "tensorflow_datasets.scripts.cli.main", "build"),
            *(f"--manual_dir={manual}", f"--data_dir={tmp_path / 'cli'}", "--file_format=array_record"),
        ],
        cwd=builder, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "kept 100 faces" in done.stderr
    theirs = tmp_path / "cli" / "utkface" / "1.1.0"
    assert records(prepare("utkface", manual, tmp_path / "data")) == records(theirs)
