"""The adience builder on Apache Beam: the same bytes and the same report as in one process."""

import hashlib
import io
import tarfile
from pathlib import Path

import pytest
from PIL import Image

pytest.importorskip("apache_beam", reason="preparing on Beam needs apache_beam, from the extra [build]")
pytest.importorskip("tensorflow", reason="TFDS writes on Beam with tensorflow installed, from the extra [build]")
import tensorflow_datasets as tfds
from apache_beam.options.pipeline_options import PipelineOptions

from agegender_jax.synthetic.adience import write_adience
from tfds_builders import generation
from tfds_builders.adience.adience_dataset_builder import Builder, Config
from tfds_builders.archive import DataError

THREADS = ("--runner=DirectRunner", "--direct_num_workers=2", "--direct_running_mode=multi_threading")


def build(manual: Path, data: Path, flags: tuple[str, ...] = (), max_bad: float = 0.5) -> dict[str, str]:
    """Prepares, on Beam where it is given flags; returns the SHA-256 of every file that is left."""
    options = {"beam_options": PipelineOptions(list(flags))} if flags else {}
    download = tfds.download.DownloadConfig(manual_dir=manual, try_download_gcs=False, **options)
    builder = Builder(data_dir=data, file_format="array_record", config=Config(name="some", max_bad=max_bad))
    builder.download_and_prepare(download_dir=data.parent / "downloads", download_config=download)
    return {
        path.relative_to(data).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in data.rglob("*")
        if path.is_file()
    }


def report(capsys: pytest.CaptureFixture[str]) -> str:
    said = capsys.readouterr().err
    return said[said.index("adience, from ") :]


def spoil(manual: Path) -> list[Path]:
    """Makes some of the drawn pictures missing, cut short, the same as another, and unlisted; returns the others."""
    gone, cut, same, *others = sorted(manual.glob("aligned/*/*"))
    gone.unlink()
    cut.write_bytes(cut.read_bytes()[:-2])
    same.write_bytes(others[0].read_bytes())
    Image.new("RGB", (20, 24)).save(manual / "aligned" / "unlisted.jpg", "JPEG")
    return others


def pack(manual: Path, again: Path) -> None:
    """Packs the folder `aligned` in another order, one picture twice."""
    with tarfile.open(manual / "aligned.tar", "w") as tar:
        for path in (*sorted(manual.glob("aligned/**/*.jpg"), key=lambda path: path.name[::-1]), again):
            info = tarfile.TarInfo(path.relative_to(manual).as_posix())
            info.size = path.stat().st_size
            tar.addfile(info, io.BytesIO(path.read_bytes()))


@pytest.mark.parametrize("packed", [False, True], ids=["folder", "archive"])
def test_two_threads_write_the_same_bytes_and_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, packed: bool
) -> None:
    monkeypatch.setattr(generation, "_CHUNK", 20)  # several chunks, each with pictures of one fold or two
    faces = write_adience(tmp_path / "manual", 150, seed=4, size=32)["faces"]
    others = spoil(tmp_path / "manual")
    if packed:
        pack(tmp_path / "manual", others[0])
    plain = build(tmp_path / "manual", tmp_path / "plain")
    told = report(capsys)
    assert build(tmp_path / "manual", tmp_path / "beam", THREADS) == plain  # dataset_info.json included
    assert report(capsys) == told
    assert sum("array_record" in file for file in plain) == 5
    for expected in (
        f"kept     {faces - 2} faces",
        f"left out {2 + packed}",
        "1 faces without a picture",
        "1 unusable pictures (a truncated image (it has no end marker))",
        "1 pictures that no row lists",
        "1 groups of identical pictures (2 files)",
    ):
        assert expected in told
    assert ("1 pictures that come twice" in told) == packed


def test_what_is_wrong_is_the_same_sentence(tmp_path: Path) -> None:
    write_adience(tmp_path / "manual", 150, seed=4, size=32)
    spoil(tmp_path / "manual")
    with pytest.raises(DataError, match=r"aligned: 2 of \d+ files cannot be used") as plain:
        build(tmp_path / "manual", tmp_path / "plain", max_bad=0.001)
    with pytest.raises(DataError) as beam:
        build(tmp_path / "manual", tmp_path / "beam", THREADS, max_bad=0.001)
    assert str(beam.value) == str(plain.value)
    assert not list((tmp_path / "beam").rglob("*array_record*"))
