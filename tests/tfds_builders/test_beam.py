"""Preparation on Apache Beam: the same bytes, the same report and the same sentences as in one process."""

import functools
import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("apache_beam", reason="preparing on Beam needs apache_beam, from the extra [build]")
pytest.importorskip("tensorflow", reason="TFDS writes on Beam with tensorflow installed, from the extra [build]")
import tensorflow_datasets as tfds
from apache_beam.options.pipeline_options import PipelineOptions

from tfds_builders import generation
from tfds_builders.archive import DataError
from tfds_builders.prepare import prepare
from tfds_builders.utkface.utkface_dataset_builder import Builder

ROOT = Path(__file__).parents[2]
THREADS = ("runner=DirectRunner", "direct_num_workers=2", "direct_running_mode=multi_threading")
PROCESSES = (*THREADS[:2], "direct_running_mode=multi_processing")

Files = list[tuple[str, bytes]]


def face(seed: int) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


def name(number: int) -> str:
    return f"{number % 117}_{number % 2}_{number % 5}_2017{number:013d}.jpg.chip.jpg"


FACES: Files = [(name(number), face(number)) for number in range(150)]
ODD: Files = [
    *FACES,
    FACES[3],  # again, in an archive
    (name(300), FACES[4][1]),  # the content of another, of another age
    ("README.txt", b"hello"),
    ("130_0_0_20170116174525125.jpg", FACES[0][1]),
]


def pack(manual: Path, files: Files) -> Path:
    manual.mkdir(parents=True)
    with tarfile.open(manual / "UTKFace.tar.gz", "w:gz") as tar:
        for file, content in files:
            info = tarfile.TarInfo(f"UTKFace/{file}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return manual


def unpacked(manual: Path, files: Files) -> Path:
    (manual / "UTKFace").mkdir(parents=True)
    for file, content in files:
        (manual / "UTKFace" / file).write_bytes(content)
    return manual


def build(manual: Path, data: Path, flags: tuple[str, ...] = (), **config: Any) -> dict[str, str]:
    """Prepares, on Beam where it is given flags; returns the SHA-256 of every file that is left."""
    options = {"beam_options": PipelineOptions([f"--{flag}" for flag in flags])} if flags else {}
    download = tfds.download.DownloadConfig(manual_dir=manual, try_download_gcs=False, **options, **config)
    builder = Builder(data_dir=data, file_format="array_record")
    builder.download_and_prepare(download_dir=data.parent / "downloads", download_config=download)
    return {
        path.relative_to(data).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in data.rglob("*")
        if path.is_file()
    }


def report(capsys: pytest.CaptureFixture[str]) -> str:
    said = capsys.readouterr().err
    return said[said.index("utkface, from ") :]


@pytest.mark.parametrize("layout", [pack, unpacked])
@pytest.mark.parametrize("shards", [None, 3])
def test_two_threads_write_the_same_bytes_and_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], layout: Callable[[Path, Files], Path], shards: int | None
) -> None:
    manual = layout(tmp_path / "manual", ODD)
    plain = build(manual, tmp_path / "plain", num_shards=shards)
    told = report(capsys)
    beam = build(manual, tmp_path / "beam", THREADS, num_shards=shards)
    assert beam == plain  # dataset_info.json and its figures included
    assert report(capsys) == told
    assert "kept     151 faces" in told
    assert sum("array_record" in file for file in plain) == (shards or 1)
    assert {file.rpartition("/")[2].partition("-")[0] for file in plain} == {
        "dataset_info.json", "features.json", "metadata.json", "utkface",
    }  # fmt: skip


def test_many_small_chunks_write_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generation, "_CHUNK", 7)
    manual = pack(tmp_path / "manual", ODD)
    assert build(manual, tmp_path / "beam", THREADS) == build(manual, tmp_path / "plain")


def test_a_cloud_reads_what_the_launching_machine_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manual = unpacked(tmp_path / "manual", FACES)
    plain = build(manual, tmp_path / "plain")
    monkeypatch.setattr(generation, "_is_remote", lambda path: True)
    read = generation.Content.read

    def from_the_spool(content: generation.Content) -> bytes:
        where.append("spool" in content.path)
        return read(content)

    where: list[bool] = []
    monkeypatch.setattr(generation.Content, "read", from_the_spool)
    assert build(manual, tmp_path / "beam", THREADS) == plain
    assert sorted(where) == [False] * len(FACES) + [True] * len(FACES)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([*FACES, (name(200), face(1)[:-2])], rf"UTKFace/{name(200)}: a truncated image"),
        ([*FACES, (name(200), b"text")], rf"UTKFace/{name(200)}: not a readable JPEG image"),
        ([*FACES, (FACES[0][0], face(500))], "two different files are named"),
        ([("README.txt", b"")], r"holds no usable face \(1 files with other names\)"),
        ([], r"holds no usable face \(0 files"),
    ],
    ids=["cut", "text", "two of a name", "only other names", "empty"],
)
def test_what_a_worker_meets_is_one_sentence(tmp_path: Path, files: Files, message: str) -> None:
    manual = pack(tmp_path / "manual", files)
    with pytest.raises(DataError, match=rf"UTKFace\.tar\.gz: {message}") as plain:
        prepare("utkface", manual, tmp_path / "plain")
    with pytest.raises(DataError) as beam:
        build(manual, tmp_path / "beam", THREADS)
    assert str(beam.value) == str(plain.value)
    assert not list((tmp_path / "beam").rglob("*.*"))  # nor a spool


def test_a_worker_that_fails_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(chunk: Any, maker: Any, folder: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(generation, "_make_chunk", full)
    with pytest.raises(DataError, match=r"^Apache Beam failed \(.*OSError: .* No space left on device\); [^\n]*$"):
        build(pack(tmp_path / "manual", FACES), tmp_path / "beam", THREADS)


def test_tfds_build_on_two_processes_writes_the_same_bytes(tmp_path: Path) -> None:
    manual = pack(tmp_path / "manual", ODD)
    builder = tmp_path / "utkface"  # a copy: workers import the module by its own name, not by this folder's
    shutil.copytree(ROOT / "tfds_builders" / "utkface", builder)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "tensorflow_datasets.scripts.cli.main", "build"),
            *(f"--manual_dir={manual}", f"--data_dir={tmp_path / 'cli'}", "--file_format=array_record"),
            f"--beam_pipeline_options={','.join(PROCESSES)}",
        ],
        cwd=builder, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "kept     151 faces" in done.stderr
    (theirs,) = (tmp_path / "cli" / "utkface" / "1.1.0").glob("*array_record*")
    (ours,) = prepare("utkface", manual, tmp_path / "data").glob("*array_record*")
    assert ours.name == theirs.name
    assert ours.read_bytes() == theirs.read_bytes()


def test_the_bytes_are_those_of_tfds_own_writer(tmp_path: Path) -> None:
    class Plain(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        name = "utkface"
        VERSION = Builder.VERSION
        _info = Builder._info
        _example_writer = Builder._example_writer

        @classmethod
        @functools.cache
        def get_metadata(cls) -> Any:
            return Builder.get_metadata()

        def _split_generators(self, dl_manager: object) -> dict[str, Any]:
            return {"train": self._generate_examples()}

        def _generate_examples(self) -> Any:
            from tfds_builders.utkface.utkface_dataset_builder import make_example

            return (make_example(file, content, {}) for file, content in FACES)

    Plain(data_dir=tmp_path / "tfds", file_format="array_record").download_and_prepare(
        download_dir=tmp_path / "downloads", download_config=tfds.download.DownloadConfig(num_shards=4)
    )
    ours = build(pack(tmp_path / "manual", FACES), tmp_path / "ours", num_shards=4)
    theirs = {
        path.relative_to(tmp_path / "tfds").as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in (tmp_path / "tfds").rglob("*array_record*")
    }
    assert len(theirs) == 4
    assert theirs.items() <= ours.items()
