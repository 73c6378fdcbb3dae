"""The utkface builder: names, what is kept and refused, what is left behind, and TensorFlow's absence."""

import dataclasses
import hashlib
import importlib.util
import io
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("tensorflow_datasets")
import tensorflow_datasets as tfds

from tfds_builders.archive import SYNTHETIC_FILE, DataError
from tfds_builders.prepare import prepare
from tfds_builders.utkface import utkface_dataset_builder
from tfds_builders.utkface.utkface_dataset_builder import Label, find_source, parse_name
from tfds_builders.writing import ReproducibleWriter

ROOT = Path(__file__).parents[2]
REAL = ROOT.parent / "shared" / "data" / "utkface" / "UTKFace.tar.gz"
TIME = "20170116174525125"


def jpeg(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (20, 20), (shade, 0, 0)).save(buffer, "JPEG")
    return buffer.getvalue()


def pack(folder: Path, files: list[tuple[str, bytes]]) -> Path:
    """Writes UTKFace.tar.gz; returns the directory that it lies in."""
    folder.mkdir(exist_ok=True)
    with tarfile.open(folder / "UTKFace.tar.gz", "w:gz") as tar:
        for name, content in files:
            info = tarfile.TarInfo(f"UTKFace/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return folder


def read(version_dir: Path) -> dict[str, dict[str, Any]]:
    source = tfds.builder_from_directory(version_dir).as_data_source(
        split="all", decoders={"image": tfds.decode.SkipDecoding()}
    )
    return {example["key"].decode(): example for example in source}


FACES = [
    (f"26_1_2_{TIME}.jpg.chip.jpg", jpeg(1)),
    (f"0_0_4_{TIME}.jpg", jpeg(2)),
    (f"39_1_{TIME}.jpg.chip.jpg", jpeg(3)),
]


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("26_1_2_20170116174525125.jpg.chip.jpg", Label(26, 1, 2)),
        ("26_1_2_20170116174525125.jpg", Label(26, 1, 2)),
        ("UTKFace/part1/116_0_0_20170116174525125.jpg", Label(116, 0, 0)),
        ("0_0_4_20170116174525125.jpg.chip.jpg", Label(0, 0, 4)),
        ("120_1_0_20170116174525125.jpg", Label(120, 1, 0)),
        ("39_1_20170116174525125.jpg.chip.jpg", Label(39, 1, -1)),
        ("61_1_20170109142408075.jpg", Label(61, 1, -1)),
        ("24_0_1_20170116220224657 .jpg.chip.jpg", Label(24, 0, 1)),
        ("24_0_1_20170116220224657 .jpg", Label(24, 0, 1)),
        ("55_0_0_20170116232725357jpg.chip.jpg", Label(55, 0, 0)),
        ("55_0_0_20170116232725357jpg", Label(55, 0, 0)),
        ("121_0_0_20170116174525125.jpg", None),
        ("-1_0_0_20170116174525125.jpg", None),
        ("61_3_20170109150557335.jpg", None),
        ("26_2_0_20170116174525125.jpg", None),
        ("26_0_5_20170116174525125.jpg", None),
        ("53__0_20170116184028385.jpg", None),
        ("44_1_4_20170116235150272.pg", None),
        ("26_1_2_20170116174525125.png", None),
        ("26_1_2_20170116174525125.jpg\n", None),
        ("٢٦_1_2_20170116174525125.jpg", None),  # Arabic-Indic digits
        ("README.txt", None),
        ("", None),
    ],
)
def test_parse_name(name: str, label: Label | None) -> None:
    assert parse_name(name) == label


def test_a_label_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Label(1, 0, 0).age = 2  # type: ignore[misc]


def test_an_example_holds_the_file_and_its_label(tmp_path: Path) -> None:
    version_dir = prepare("utkface", pack(tmp_path / "manual", FACES), tmp_path / "data")
    assert version_dir == tmp_path / "data" / "utkface" / "1.1.0"
    examples = read(version_dir)
    assert set(examples) == {name for name, _ in FACES}
    for (name, content), (age, gender, race) in zip(FACES, [(26, 1, 2), (0, 0, 4), (39, 1, -1)], strict=True):
        example = examples[name]
        digest = hashlib.sha256(content)
        assert example["image"] == content
        assert example["sha256"].decode() == digest.hexdigest()
        assert (example["age"], example["gender"], example["race"]) == (age, gender, race)
        assert example["subject"] == -1
    features = tfds.builder_from_directory(version_dir).info.features
    dtypes = {key: np.dtype(features[key].np_dtype).name for key in ("age", "gender", "race", "subject")}
    assert dtypes == {"age": "float32", "gender": "int32", "race": "int32", "subject": "int64"}
    metadata = tfds.builder_from_directory(version_dir).info.metadata
    assert "non-commercial research only" in metadata["terms"]
    assert metadata["kept"] == 3
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["utkface"]
    assert sorted(path.name for path in (tmp_path / "data" / "utkface").iterdir()) == ["1.1.0"]


def test_all_layouts_give_the_same_bytes(tmp_path: Path) -> None:
    archive = pack(tmp_path / "archive", FACES)
    folder, flat = tmp_path / "folder", tmp_path / "flat"
    (folder / "UTKFace").mkdir(parents=True)
    flat.mkdir()
    for name, content in FACES:
        (folder / "UTKFace" / name).write_bytes(content)
        (flat / name).write_bytes(content)
    assert [find_source(path) for path in (archive, folder, flat)] == [
        archive / "UTKFace.tar.gz",
        folder / "UTKFace",
        flat,
    ]
    written = set()
    for path in (archive, folder, flat):
        version_dir = prepare("utkface", path, tmp_path / f"data_{path.name}")
        (record,) = version_dir.glob("*array_record*")
        written.add(record.read_bytes())
    assert len(written) == 1


def test_the_report_counts_what_was_kept_and_skipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [
        *FACES,
        FACES[0],  # the same file again
        (f"30_0_1_{TIME}.jpg", jpeg(7)),
        (f"30_0_1_9{TIME}.jpg", jpeg(7)),  # identical, same labels
        (f"57_1_1_{TIME}.jpg", jpeg(8)),
        (f"47_1_1_{TIME}.jpg", jpeg(8)),  # identical, another age
        (f"130_0_0_{TIME}.jpg", jpeg(9)),
        ("README.txt", b"hello"),
    ]
    version_dir = prepare("utkface", pack(tmp_path / "manual", files), tmp_path / "data")
    captured = capsys.readouterr()
    assert captured.out == ""
    for expected in (
        "kept     7 faces: 3 male, 4 female, ages 0 to 57; 1 without race",
        "skipped  2 files whose names are not AGE_GENDER_RACE_TIME.jpg",
        f"'UTKFace/130_0_0_{TIME}.jpg'",
        "'UTKFace/README.txt'",
        "skipped  1 files that came again",
        "2 groups of identical files (4 files), 1 of them with different ages or genders",
        "perceived age, gender and race as annotated",
        "people   none: several photographs of one person cannot be kept together",
        "non-commercial research only",
    ):
        assert expected in captured.err
    examples = read(version_dir)
    contents = {name: example["sha256"] for name, example in examples.items()}
    assert contents[f"57_1_1_{TIME}.jpg"] == contents[f"47_1_1_{TIME}.jpg"]
    assert len(set(contents.values())) == 5


def test_what_was_drawn_has_no_labels_or_terms_of_people(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manual_dir = pack(tmp_path / "manual", list(FACES))
    (manual_dir / SYNTHETIC_FILE).touch()
    prepare("utkface", manual_dir, tmp_path / "data")
    said = capsys.readouterr().err
    assert "drawn from a seed: labels, identities and terms of the original do not apply" in said
    assert "as annotated" not in said
    assert "non-commercial" not in said


def test_a_prepared_dataset_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    version_dir = prepare("utkface", pack(tmp_path / "manual", FACES), tmp_path / "data")
    before = {path: path.stat().st_mtime_ns for path in version_dir.iterdir()}
    capsys.readouterr()
    assert prepare("utkface", tmp_path / "manual", tmp_path / "data") == version_dir
    assert "already prepared" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in version_dir.iterdir()} == before
    info = version_dir / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(DataError, match="was prepared as tfrecord"):
        prepare("utkface", tmp_path / "manual", tmp_path / "data")
    info.unlink()
    with pytest.raises(DataError, match="holds no prepared dataset"):
        prepare("utkface", tmp_path / "manual", tmp_path / "data")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([("README.txt", b"x"), (f"130_0_0_{TIME}.jpg", b"x")], r"UTKFace\.tar\.gz: holds no usable face \(2 files"),
        ([], r"UTKFace\.tar\.gz: holds no usable face \(0 files"),
        (
            [*FACES, (f"5_0_0_{TIME}.jpg", b"text")],
            rf"UTKFace\.tar\.gz: UTKFace/5_0_0_{TIME}\.jpg: .*not a readable JPEG",
        ),
        ([*FACES, (f"5_0_0_{TIME}.jpg", jpeg(9)[:-2])], rf"UTKFace/5_0_0_{TIME}\.jpg: a truncated image"),
        ([*FACES, (FACES[0][0], jpeg(9))], rf"two different files are named '26_1_2_{TIME}\.jpg\.chip\.jpg'"),
        ([*FACES, ("../x.jpg", jpeg(9))], "points outside its folder"),
    ],
    ids=["only other names", "empty", "text", "cut", "two of a name", "traversal"],
)
def test_bad_data_leaves_nothing_behind(tmp_path: Path, files: list[tuple[str, bytes]], message: str) -> None:
    manual = pack(tmp_path / "manual", files)
    with pytest.raises(DataError, match=message):
        prepare("utkface", manual, tmp_path / "new" / "data")
    assert not (tmp_path / "new").exists()
    (tmp_path / "mine").mkdir()  # what was there before stays
    with pytest.raises(DataError, match=message):
        prepare("utkface", manual, tmp_path / "mine")
    assert list((tmp_path / "mine").iterdir()) == []


def test_a_truncated_download_leaves_nothing_behind(tmp_path: Path) -> None:
    archive = pack(tmp_path / "manual", FACES) / "UTKFace.tar.gz"
    archive.write_bytes(archive.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"UTKFace\.tar\.gz: .*truncated or corrupt"):
        prepare("utkface", tmp_path / "manual", tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_nothing_to_prepare_names_the_directory_and_what_belongs_there(tmp_path: Path) -> None:
    for manual in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(DataError, match=rf"{manual}: no UTKFace here; put UTKFace\.tar\.gz"):
            prepare("utkface", manual, tmp_path / "data")
    with pytest.raises(DataError, match=r"unknown dataset 'imdb'; choose one of: .*utkface"):
        prepare("imdb", tmp_path, tmp_path / "data")
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    manual = pack(tmp_path / "manual", FACES)
    (tmp_path / "file").write_text("kept")
    with pytest.raises(DataError, match=r"file/data: the prepared dataset cannot be written \(Not a directory\)"):
        prepare("utkface", manual, tmp_path / "file" / "data")
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        RuntimeError("write() failed: No space left on device; at byte 41943040"),  # as array_record words it
    ],
)
def test_a_full_disk_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def full(*_: object) -> None:
        raise error

    monkeypatch.setattr(ReproducibleWriter, "write", full)
    with pytest.raises(DataError, match=r"data: .* cannot be written \(No space left on device\); free some space"):
        prepare("utkface", pack(tmp_path / "manual", FACES), tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_tensorflow_is_not_imported_and_the_bytes_do_not_depend_on_the_process(tmp_path: Path) -> None:
    manual = pack(tmp_path / "manual", FACES)
    here = prepare("utkface", manual, tmp_path / "here")
    program = (
        "import sys; from tfds_builders.prepare import prepare; "
        f"prepare('utkface', {str(manual)!r}, {str(tmp_path / 'there')!r}); "
        "assert 'tensorflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, timeout=120)
    (ours,), (theirs,) = here.glob("*array_record*"), (tmp_path / "there/utkface/1.1.0").glob("*array_record*")
    assert ours.read_bytes() == theirs.read_bytes()


def test_the_files_beside_the_builder_are_what_tfds_expects() -> None:
    from tensorflow_datasets.core import dataset_metadata

    metadata = utkface_dataset_builder.Builder.get_metadata()
    assert utkface_dataset_builder.Builder.name == "utkface"
    assert "non-commercial research only" in metadata.description
    assert "zhang2017age" in metadata.citation
    assert metadata.tags
    assert set(metadata.tags) <= set(dataset_metadata.valid_tags())


def test_tfds_build_writes_the_same_bytes(tmp_path: Path) -> None:
    missing = [name for name in ("tensorflow", "apache_beam", "mlcroissant") if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"`tfds build` needs the extra [build]; not installed: {', '.join(missing)}")
    faces = [(f"{age}_{age % 2}_{age % 5}_{TIME}.jpg", jpeg(age)) for age in range(0, 100)]
    manual = pack(tmp_path / "manual", faces)
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
    assert "kept     100 faces" in done.stderr
    (theirs,) = (tmp_path / "cli" / "utkface" / "1.1.0").glob("*array_record*")
    (ours,) = prepare("utkface", manual, tmp_path / "data").glob("*array_record*")
    assert ours.name == theirs.name
    assert ours.read_bytes() == theirs.read_bytes()


@pytest.mark.skipif(not REAL.is_file(), reason=f"the real archive is not at {REAL}")
def test_every_name_of_the_real_archive_parses() -> None:
    with tarfile.open(REAL) as tar:
        labels = [parse_name(info.name) for info in tar if info.isreg()]
    assert len(labels) == 21_447
    assert None not in labels
    assert sum(label is not None and label.race == -1 for label in labels) == 3
