"""The voice_age_gender builder: labels, CSV files, what is kept and refused, and the bytes that come back."""

import dataclasses
import hashlib
import io
import json
import math
import os
import struct
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

pytest.importorskip("tensorflow_datasets")
import tensorflow_datasets as tfds

from tfds_builders.archive import DataError
from tfds_builders.prepare import prepare
from tfds_builders.voice_age_gender.listing import LABEL_PATTERN, Item, Label, Patterns, parse_label
from tfds_builders.voice_age_gender.voice_age_gender_dataset_builder import Builder, find_source, make_example

ROOT = Path(__file__).parents[2]
CONFIGS = {config.name: config for config in Builder.BUILDER_CONFIGS}
PATTERN = Patterns.compiled(LABEL_PATTERN, "", "").label


def sound(seed: int, kind: str = "WAV", rate: int = 8_000, frames: int = 800) -> bytes:
    buffer = io.BytesIO()
    noise = 0.1 * np.random.default_rng(seed).standard_normal(frames).clip(-3, 3)
    soundfile.write(buffer, noise, rate, format=kind)
    return buffer.getvalue()


def lay(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def pack(path: Path, files: list[tuple[str, bytes]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz", compresslevel=1) as tar:
        for name, content in files:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def read(version_dir: Path) -> dict[str, dict[str, Any]]:
    builder = tfds.builder_from_directory(version_dir)
    decoders = {"image": tfds.decode.SkipDecoding()} if "image" in builder.info.features else None
    return {example["key"].decode(): example for example in builder.as_data_source(split="all", decoders=decoders)}


def left(data_dir: Path) -> list[Path]:
    """What a failed preparation left behind."""
    return list(data_dir.rglob("*"))


def identity(text: str) -> int:
    return int(hashlib.sha256(text.encode()).hexdigest()[:16], 16) >> 1


FILES = {
    "female_31/a.wav": sound(1),
    "female_31/b.flac": sound(2, "FLAC", 16_000),
    "male/c.OGG": sound(3, "OGG"),
    "male/deeper/d.mp3": sound(4, "MP3", 16_000, 3_000),
}


@pytest.mark.parametrize(
    ("folder", "label"),
    [
        ("female_31", Label(1, 31)),
        ("Female-31", Label(1, 31)),
        ("FEMALE 31", Label(1, 31)),
        ("woman - 31", Label(1, 31)),
        ("f_031", Label(1, 31)),
        ("females", Label(1, math.nan)),
        ("m", Label(0, math.nan)),
        ("man_0", Label(0, 0)),
        ("M_120", Label(0, 120)),
        ("male_121", None),
        ("male_1234", None),
        ("male_-5", None),
        ("male_", None),
        ("male31", None),
        ("male_31_x", None),
        ("child_8", None),
        ("31_male", None),
        ("male_٣١", None),  # Arabic-Indic digits
        ("male_31\n", None),
        ("", None),
    ],
)
def test_folders_are_read_as_labels(folder: str, label: Label | None) -> None:
    found = parse_label(folder, PATTERN)
    assert (found is None) == (label is None)
    assert found is None or tuple(found) == pytest.approx(tuple(label or ()), nan_ok=True)


def test_the_bytes_come_back_unchanged_from_every_layout_and_every_time(tmp_path: Path) -> None:
    flat, nested = lay(tmp_path / "flat", FILES), lay(tmp_path / "nested" / "set", FILES).parent
    packed = pack(tmp_path / "packed" / "set.tgz", [(f"./x/set/{name}", FILES[name]) for name in reversed(FILES)])
    assert find_source(flat) == flat
    assert find_source(nested) == nested / "set"
    assert find_source(packed.parent) == packed
    written = set()
    for number, manual in enumerate((flat, nested, packed.parent, flat)):
        version_dir = prepare("voice_age_gender", manual, tmp_path / f"data{number}")
        assert version_dir == tmp_path / f"data{number}" / "voice_age_gender" / "folders" / "1.0.0"
        (record,) = version_dir.glob("*array_record*")
        written.add(record.read_bytes())
    assert len(written) == 1
    examples = read(version_dir)
    assert {key: example["audio"] for key, example in examples.items()} == FILES
    example = examples["female_31/b.flac"]
    assert {name: example[name] for name in ("class_name", "speaker", "gender", "age", "subject", "group")} == {
        "class_name": b"female_31", "speaker": b"", "gender": 1, "age": 31, "subject": -1, "group": -1,
    }  # fmt: skip
    assert example["sha256"].decode() == hashlib.sha256(FILES["female_31/b.flac"]).hexdigest()
    assert (example["sample_rate"], example["seconds"]) == (16_000, np.float32(0.05))
    assert math.isnan(examples["male/deeper/d.mp3"]["age"])
    info = tfds.builder_from_directory(version_dir).info
    dtypes = {name: np.dtype(info.features[name].np_dtype).name for name in ("age", "gender", "subject", "group")}
    dtypes |= {name: np.dtype(info.features[name].np_dtype).name for name in ("sample_rate", "seconds")}
    assert dtypes == {
        "age": "float32", "gender": "int32", "subject": "int64", "group": "int64", "sample_rate": "int32",
        "seconds": "float32",
    }  # fmt: skip
    assert info.metadata["kept"] == 4
    assert "terms of your recordings" in info.metadata["terms"]
    assert "perceived age and gender as annotated" in info.metadata["labels"]
    assert info.metadata["identities"] == "unknown"


def test_speakers_and_recordings_are_read_from_paths(tmp_path: Path) -> None:
    files = {"f_20/anna/r1_01.wav": sound(1), "f_20/anna/r1_02.wav": sound(2), "f_20/x.wav": sound(3)}
    options = {"speaker_pattern": "^[^/]+/([^/]+)/", "recording_pattern": r"(?P<n>/)(?P<recording>r\d+)_"}
    version_dir = prepare("voice_age_gender", lay(tmp_path / "manual", files), tmp_path / "data", options=options)
    assert version_dir.parent.name == "folders_custom"
    examples = read(version_dir)
    assert [examples[key]["speaker"] for key in files] == [b"anna", b"anna", b""]
    assert [examples[key]["subject"] for key in files] == [identity("anna"), identity("anna"), -1]
    assert [examples[key]["group"] for key in files] == [identity("r1"), identity("r1"), -1]
    assert tfds.builder_from_directory(version_dir).info.metadata["without_speaker"] == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"speaker_pattern": "("}, r"^speaker_pattern '\(' is no regular expression"),
        ({"recording_pattern": "[a"}, r"^recording_pattern '\[a' is no regular expression"),
        ({"label_pattern": "(?u)(?P<gender>m)"}, "^label_pattern .* is no regular expression"),
        ({"label_pattern": "(male|female)"}, r"^label_pattern .* has no group \(\?P<gender>"),
        ({"label_pattern": ""}, "^label_pattern '' has no group"),
        ({"speaker_pattern": "^.."}, r"^speaker_pattern '\^\.\.' has no group in parentheses"),
        ({"max_bad": 2.0}, "^max_bad is 2.0"),
        ({"max_seconds": 0.0}, "max_seconds 0.0"),
        ({"csv": "../x.csv"}, r"^csv is '\.\./x\.csv'; give the name"),
        ({"csv": "none.csv"}, r"none\.csv is neither here nor in a folder here"),
    ],
)
def test_a_wrong_option_is_one_sentence(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    lay(tmp_path / "manual", FILES)
    with pytest.raises(DataError, match=message):
        prepare("voice_age_gender", tmp_path / "manual", tmp_path / "data", options=options)
    assert left(tmp_path / "data") == []


def test_several_sets_are_named_and_a_corpus_is_found_by_its_name(tmp_path: Path) -> None:
    for name in ("emodb.tar.gz", "ravdess.tgz"):
        pack(tmp_path / name, [("male/a01.wav", sound(1))])
    lay(tmp_path / "mine", {"male/a.wav": sound(1)})
    with pytest.raises(DataError, match=r"several sets of recordings \(emodb\.tar\.gz, mine, ravdess\.tgz\); point"):
        find_source(tmp_path)
    assert find_source(tmp_path, CONFIGS["emodb"]) == tmp_path / "emodb.tar.gz"
    assert find_source(tmp_path, CONFIGS["ravdess_png"]) == tmp_path / "ravdess.tgz"
    assert find_source(tmp_path / "mine", CONFIGS["emodb"]) == tmp_path / "mine"
    (tmp_path / "empty").mkdir()
    for manual in (tmp_path / "empty", tmp_path / "nowhere"):
        with pytest.raises(DataError, match="no recordings here; put an archive"):
            find_source(manual)
        with pytest.raises(DataError, match=r"no recordings here; put emodb\.tar\.gz, a folder emodb"):
            find_source(manual, CONFIGS["emodb"])


def test_every_bad_file_is_counted_with_its_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    zero_rate = bytearray(sound(1))
    struct.pack_into("<I", zero_rate, 24, 0)
    silent = io.BytesIO()
    soundfile.write(silent, np.zeros(800), 8_000, format="FLAC")
    hours = io.BytesIO()
    soundfile.write(hours, np.zeros(3 * 3600 * 1000, np.float32), 1_000, format="FLAC")
    bad = {
        "male_20/truncated.wav": (sound(1)[:-100], "1 truncated or damaged"),
        "male_20/silent.flac": (silent.getvalue(), "1 silent"),
        "male_20/empty.wav": (b"", "1 empty"),
        "male_20/rate.wav": (bytes(zero_rate), "1 of a sample rate of 0"),
        "male_20/hours.flac": (hours.getvalue(), "1 longer than 600 s"),
        "male_20/page.wav": (b"<html>" * 100, "1 no readable sound"),
        "male_20/large.wav": (b"", "1 larger than 64 MiB"),
        "robot_20/a.wav": (sound(1), "4 wrongly labelled"),
        "male_200/a.wav": (sound(1), "4 wrongly labelled"),
        "male_20/female_20/a.wav": (sound(1), "4 wrongly labelled"),
        "male_20/male_30/a.wav": (sound(1), "4 wrongly labelled"),
        os.fsdecode(b"male_20/\xff.wav"): (sound(1), "1 named with bytes that are no text"),
    }
    good = {
        "Male-20/a.wav": sound(5), "male_20/b.wav": sound(6), "male_20/b2.wav": sound(6), "female_20/c.wav": sound(7),
        "female/d.wav": sound(6), "male_20/notes.txt": b"x", "male_20/video.mp4": b"x",
    }  # fmt: skip
    manual = lay(tmp_path / "manual", {**{name: content for name, (content, _) in bad.items()}, **good})
    os.truncate(manual / "male_20" / "large.wav", 64 * 2**20 + 1)  # a file of holes
    with pytest.raises(DataError, match=r"6 of 17 files cannot be used, and a share of at most 0\.05 is borne; 4 are"):
        prepare("voice_age_gender", manual, tmp_path / "data")
    with pytest.raises(DataError, match=r"12 of 17 files cannot be used, and a share of at most 0\.5 is borne"):
        prepare("voice_age_gender", manual, tmp_path / "data", options={"max_bad": 0.5})
    assert left(tmp_path / "data") == []
    version_dir = prepare("voice_age_gender", manual, tmp_path / "data", options={"max_bad": 0.8})
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = [line.strip() for line in captured.err.splitlines()]
    for name, (_, reason) in bad.items():
        assert repr(name) in lines[lines.index(reason) + 1 : lines.index(reason) + 6]
    for expected in (
        "kept     5 recordings: 3 male, 2 female, ages 20 to 20; 0 s in all, 8000 Hz (5)",
        "rejected 12 of 17",
        "3 classes",
        "male_20      3 files",
        "the speakers of 5 recordings are unknown: results of a random split are an upper bound, because a speaker may "
        "be on both sides of it",
        "2 classes have one file only: female, female_20",
        "male_20 is spelled in 2 ways, taken as one class: Male-20, male_20",
        "1 groups of identical files (3 files), 1 of them in conflict: with different ages or genders",
        "2 files that are no recordings by name were left out: 1 .mp4, 1 .txt",
        "terms    The terms of your recordings apply.",
    ):
        assert expected in lines
    assert set(read(version_dir)) == {name for name in good if name.endswith(".wav")}


def test_nothing_usable_is_one_sentence(tmp_path: Path) -> None:
    manual = lay(tmp_path / "manual", {"male/a.wav": b"", "male/b.txt": b"x"})
    with pytest.raises(DataError, match=r"manual: holds no usable recording; 1 empty;   'male/a\.wav'\."):
        prepare("voice_age_gender", manual, tmp_path / "data", options={"max_bad": 1.0})
    (manual / "male" / "a.wav").unlink()
    with pytest.raises(DataError, match=r"manual: holds no recording, only 1 \.txt; recordings are wav"):
        prepare("voice_age_gender", manual, tmp_path / "data")
    assert left(tmp_path / "data") == []


def test_a_class_of_one_speaker_is_reported_and_long_lists_are_cut(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {f"male_{age}/{age % 2}_{take}.wav": sound(age) for age in range(20, 82) for take in range(1 + (age == 20))}
    files["male_20/2_0.wav"] = sound(3)
    options = {"speaker_pattern": "/(.)_"}
    prepare("voice_age_gender", lay(tmp_path / "manual", files), tmp_path / "data", options=options)
    said = capsys.readouterr().err
    assert "62 classes have one speaker only" not in said
    assert "61 classes have one speaker only: male_21, male_22, male_23, male_24, male_25, and 56 more" in said
    assert "61 classes have one file only" in said
    assert "male_20      3 files, 2 speakers" in said
    assert "male_79      1 file, 1 speaker\n" in said
    assert "male_80      " not in said
    assert "             and 2 more" in said
    assert "upper bound" not in said


def test_a_path_that_comes_twice_in_an_archive_is_kept_once(tmp_path: Path) -> None:
    twice = [("x/male/a.wav", sound(1)), ("x/male/a.wav", sound(2)), ("x/male/b.wav", sound(3))]
    pack(tmp_path / "manual" / "x.tar.gz", twice)
    version_dir = prepare("voice_age_gender", tmp_path / "manual", tmp_path / "data", options={"max_bad": 0.5})
    assert {key: example["audio"] for key, example in read(version_dir).items()} == {
        "male/a.wav": sound(1), "male/b.wav": sound(3),
    }  # fmt: skip


def test_pictures_are_stored_instead_of_sound(tmp_path: Path) -> None:
    manual = lay(tmp_path / "manual", FILES)
    pictures = read(prepare("voice_age_gender", manual, tmp_path / "data", config="png"))
    sounds = read(prepare("voice_age_gender", manual, tmp_path / "data"))
    (one,) = (tmp_path / "data" / "voice_age_gender" / "png" / "1.0.0").glob("*array_record*")
    (two,) = prepare("voice_age_gender", manual, tmp_path / "again", config="png").glob("*array_record*")
    assert one.read_bytes() == two.read_bytes()
    for key, example in pictures.items():
        assert example.pop("image").startswith(b"\x89PNG")
        del sounds[key]["audio"]
        assert example == pytest.approx(sounds[key], nan_ok=True)
    version_dir = one.parent
    decoded = tfds.builder_from_directory(version_dir).as_data_source(split="all")[0]["image"]
    assert (decoded.shape, decoded.dtype) == ((224, 224, 3), np.uint8)
    assert CONFIGS["emodb_png"].png
    assert CONFIGS["emodb_png"].speaker_pattern == CONFIGS["emodb"].speaker_pattern


def test_an_example_is_a_pure_function_of_its_file() -> None:
    item = Item("x/a.wav", Label(1, 31.5), "anna", "")
    options = {"max_seconds": 600.0, "png": False}
    key, example = make_example(item, sound(1), options)
    assert key == "x/a.wav"
    assert example == make_example(item, sound(1), options)[1]
    assert (example["class_name"], example["subject"], example["group"]) == ("female_31", identity("anna"), -1)
    with pytest.raises(DataError, match=r"^longer than 0\.05 s$"):
        make_example(item, sound(1), {**options, "max_seconds": 0.05})
    unaged = make_example(json.loads(json.dumps(Item("x/a.wav", Label(0, math.nan)))), sound(1), options)[1]
    assert math.isnan(unaged["age"])
    assert unaged["class_name"] == "male"


@pytest.mark.parametrize("packed", [False, True], ids=["folder", "archive"])
@pytest.mark.parametrize("png", [False, True], ids=["sound", "png"])
def test_beam_writes_the_same_bytes_and_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], packed: bool, png: bool
) -> None:
    reason = "preparing on Beam needs apache_beam and tensorflow, from the extra [build]"
    pytest.importorskip("apache_beam", reason=reason)
    pytest.importorskip("tensorflow", reason=reason)
    from apache_beam.options.pipeline_options import PipelineOptions

    files = {**FILES, "male/copy.ogg": FILES["male/c.OGG"], "male_200/a.wav": sound(1), "male/cut.wav": sound(1)[:-100]}
    manual = tmp_path / "manual"
    if packed:
        pack(manual / "set.tgz", [(f"set/{name}", content) for name, content in files.items()])
    else:
        lay(manual, files)
    # The same name as of a listed configuration would be refused.
    config = dataclasses.replace(CONFIGS["folders"], name="mine", png=png, max_bad=0.3, speaker_pattern="/(.)")
    flags = ["--runner=DirectRunner", "--direct_num_workers=2", "--direct_running_mode=multi_threading"]
    found = []
    for options in ({}, {"beam_options": PipelineOptions(flags)}):
        data_dir = tmp_path / f"data{len(found)}"
        download = tfds.download.DownloadConfig(manual_dir=manual, try_download_gcs=False, **options)
        builder = Builder(data_dir=data_dir, file_format="array_record", config=config)
        builder.download_and_prepare(download_dir=tmp_path / "downloads", download_config=download)
        said = capsys.readouterr().err
        written = {path.relative_to(data_dir): path.read_bytes() for path in data_dir.rglob("*") if path.is_file()}
        found.append((written, said[said.index("voice_age_gender/mine, from ") :]))
    assert found[0] == found[1]
    assert "kept     5 recordings: 3 male, 2 female, ages 31 to 31" in found[0][1]
    assert "rejected 2 of 7" in found[0][1]


def test_tensorflow_is_not_imported_and_the_bytes_do_not_depend_on_the_process(tmp_path: Path) -> None:
    manual = lay(tmp_path / "manual", FILES)
    here = prepare("voice_age_gender", manual, tmp_path / "here")
    program = (
        "import sys; from tfds_builders.prepare import prepare; "
        f"prepare('voice_age_gender', {str(manual)!r}, {str(tmp_path / 'there')!r}); "
        "assert not {'tensorflow', 'matplotlib', 'agegender_jax'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, timeout=120)
    (ours,) = here.glob("*array_record*")
    (theirs,) = (tmp_path / "there/voice_age_gender/folders/1.0.0").glob("*array_record*")
    assert ours.read_bytes() == theirs.read_bytes()


def test_the_files_beside_the_builder_are_what_tfds_expects() -> None:
    from tensorflow_datasets.core import dataset_metadata

    metadata = Builder.get_metadata()
    assert Builder.name == "voice_age_gender"
    assert "CC BY-NC-SA 4.0" in metadata.description
    assert metadata.tags
    assert set(metadata.tags) <= set(dataset_metadata.valid_tags())


@pytest.mark.parametrize(
    ("name", "files", "speakers", "classes", "terms"),
    [("emodb", 535, 10, 10, "Burkhardt"), ("ravdess", 600, 20, 2, "CC BY-NC-SA 4.0")],
)
def test_the_real_corpora_have_their_published_sizes(
    real_data: Path, tmp_path: Path, name: str, files: int, speakers: int, classes: int, terms: str
) -> None:
    version_dir = prepare("voice_age_gender", real_data / "voice", tmp_path, config=name)
    metadata = tfds.builder_from_directory(version_dir).info.metadata
    counts = ("kept", "speakers", "classes", "rejected", "without_speaker")
    assert [metadata[count] for count in counts] == [files, speakers, classes, 0, 0]
    assert terms in metadata["terms"]
    with tarfile.open(real_data / "voice" / f"{name}.tar.gz") as tar:
        info = next(info for info in tar if info.isreg())
        content = tar.extractfile(info).read()  # type: ignore[union-attr]
    key = info.name.removeprefix(f"{name}/")
    assert read(version_dir)[key]["audio"] == content


def test_a_speaker_pattern_that_matches_nothing_is_a_sentence(tmp_path: Path) -> None:
    for number in range(3):
        path = tmp_path / "manual" / "male_20" / f"a{number}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(sound(number))
    options = {"speaker_pattern": r"/speaker(\d+)_"}
    with pytest.raises(DataError, match=r"matches none of 3 paths, such as 'male_20/a0.wav'"):
        prepare("voice_age_gender", tmp_path / "manual", tmp_path / "data", options=options)
