"""The voice_age_gender builder: labels, CSV files, what is kept and refused, and the bytes that come back."""

import hashlib
import io
import math
import os
import struct
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import tensorflow_datasets as tfds

from tests.tfds_builders.files import lay, metadata, pack, read, records, sound
from tfds_builders.archive import DataError
from tfds_builders.labels import identity
from tfds_builders.prepare import prepare
from tfds_builders.voice_age_gender.listing import LABEL_PATTERN, Label, Patterns, parse_label
from tfds_builders.voice_age_gender.voice_age_gender_dataset_builder import Builder, find_source

CONFIGS = {config.name: config for config in Builder.BUILDER_CONFIGS}
PATTERN = Patterns.compiled(LABEL_PATTERN, "", "").label


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
        *[(f"male{rest}", None) for rest in ("_121", "_1234", "_-5", "_", "31", "_31_x", "_٣١", "_31\n")],
        *[(name, None) for name in ("child_8", "31_male", "")],
    ],
)
def test_folders_are_read_as_labels(folder: str, label: Label | None) -> None:
    parsed = parse_label(folder, PATTERN)
    assert (parsed is None) == (label is None)
    assert parsed is None or tuple(parsed) == pytest.approx(tuple(label or ()), nan_ok=True)


def test_the_bytes_come_back_unchanged_from_every_layout(tmp_path: Path) -> None:
    flat, nested = lay(tmp_path / "flat", FILES), lay(tmp_path / "nested" / "set", FILES).parent
    packed = pack(tmp_path / "packed" / "set.tgz", [(f"./x/set/{name}", FILES[name]) for name in reversed(FILES)])
    assert find_source(flat) == flat
    assert find_source(nested) == nested / "set"
    assert find_source(packed.parent) == packed
    prepared = [
        prepare("voice_age_gender", manual, tmp_path / f"data{number}")
        for number, manual in enumerate((flat, nested, packed.parent))
    ]
    version_dir = prepared[0]
    assert version_dir == tmp_path / "data0" / "voice_age_gender" / "folders" / "1.1.0"
    assert records(prepared[0]) == records(prepared[1]) == records(prepared[2])
    examples = read(version_dir)
    assert {key: example["audio"] for key, example in examples.items()} == FILES
    example = examples["female_31/b.flac"]
    assert {name: example[name] for name in ("class_name", "speaker", "gender", "age", "subject", "group")} == {
        "class_name": b"female_31", "speaker": b"", "gender": 1, "age": 31, "subject": -1, "group": -1,
    }  # fmt: skip
    assert example["sha256"].decode() == hashlib.sha256(FILES["female_31/b.flac"]).hexdigest()
    assert (example["sample_rate"], example["seconds"]) == (16_000, np.float32(0.05))
    assert math.isnan(examples["male/deeper/d.mp3"]["age"])
    about = metadata(version_dir)
    assert about["kept"] == 4
    assert "terms of your recordings" in about["terms"]
    assert "perceived age and gender as annotated" in about["labels"]
    assert about["identities"] == "unknown"


def test_speakers_and_recordings_are_read_from_paths(tmp_path: Path) -> None:
    files = {"f_20/anna/r1_01.wav": sound(1), "f_20/anna/r1_02.wav": sound(2), "f_20/x.wav": sound(3)}
    options = {"speaker_pattern": "^[^/]+/([^/]+)/", "recording_pattern": r"(?P<n>/)(?P<recording>r\d+)_"}
    version_dir = prepare("voice_age_gender", lay(tmp_path / "manual", files), tmp_path / "data", options=options)
    assert version_dir.parent.name == "folders_custom"
    examples = read(version_dir)
    assert [examples[key]["speaker"] for key in files] == [b"anna", b"anna", b""]
    assert [examples[key]["subject"] for key in files] == [identity("anna"), identity("anna"), -1]
    assert [examples[key]["group"] for key in files] == [identity("r1"), identity("r1"), -1]
    assert metadata(version_dir)["without_speaker"] == 1


@pytest.mark.parametrize(
    "options",
    [
        {"speaker_pattern": "("},
        {"speaker_pattern": "^.."},
        {"speaker_pattern": r"/speaker(\d+)_"},  # matches no path
        {"recording_pattern": "[a"},
        {"label_pattern": "(?u)(?P<gender>m)"},
        {"label_pattern": "(male|female)"},
        {"label_pattern": ""},
        {"max_bad": 2.0},
        {"max_seconds": 0.0},
        {"csv": "../x.csv"},
        {"csv": "none.csv"},
    ],
)
def test_a_wrong_option_is_named(tmp_path: Path, options: dict[str, Any]) -> None:
    lay(tmp_path / "manual", FILES)
    with pytest.raises(DataError, match="|".join(options)):
        prepare("voice_age_gender", tmp_path / "manual", tmp_path / "data", options=options)
    assert not list(tmp_path.glob("data/**/*array_record*"))


def test_nothing_usable_is_an_error_with_the_file(tmp_path: Path) -> None:
    manual = lay(tmp_path / "manual", {"male/a.wav": b"", "male/b.txt": b"x"})
    with pytest.raises(DataError, match=r"manual: .*'male/a\.wav'"):
        prepare("voice_age_gender", manual, tmp_path / "data", options={"max_bad": 1.0})
    (manual / "male" / "a.wav").unlink()
    with pytest.raises(DataError, match=r"manual: .*\.txt"):
        prepare("voice_age_gender", manual, tmp_path / "data")
    assert list(tmp_path.glob("data/*")) == []


def test_several_sets_are_named_and_a_corpus_is_chosen_by_its_name(tmp_path: Path) -> None:
    for name in ("emodb.tar.gz", "ravdess.tgz"):
        pack(tmp_path / name, [("male/a01.wav", sound(1))])
    lay(tmp_path / "mine", {"male/a.wav": sound(1)})
    with pytest.raises(DataError, match=r"emodb\.tar\.gz, mine, ravdess\.tgz"):
        find_source(tmp_path)
    assert find_source(tmp_path, CONFIGS["emodb"]) == tmp_path / "emodb.tar.gz"
    assert find_source(tmp_path, CONFIGS["ravdess_png"]) == tmp_path / "ravdess.tgz"
    assert find_source(tmp_path / "mine", CONFIGS["emodb"]) == tmp_path / "mine"
    (tmp_path / "empty").mkdir()
    for manual in (tmp_path / "empty", tmp_path / "nowhere"):
        with pytest.raises(DataError, match=str(manual)):
            find_source(manual)
        with pytest.raises(DataError, match=r"emodb\.tar\.gz"):
            find_source(manual, CONFIGS["emodb"])


def test_every_bad_file_is_counted_with_its_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    zero_rate = bytearray(sound(1))
    struct.pack_into("<I", zero_rate, 24, 0)
    silent = io.BytesIO()
    soundfile.write(silent, np.zeros(800), 8_000, format="FLAC")
    hours = io.BytesIO()
    soundfile.write(hours, np.zeros(3 * 3600 * 1000, np.float32), 1_000, format="FLAC")
    bad = {
        "male_20/truncated.wav": (sound(1)[:-100], "1: truncated or damaged"),
        "male_20/silent.flac": (silent.getvalue(), "1: silent"),
        "male_20/empty.wav": (b"", "1: empty"),
        "male_20/rate.wav": (bytes(zero_rate), "1: of a sample rate of 0"),
        "male_20/hours.flac": (hours.getvalue(), "1: longer than 600 s"),
        "male_20/page.wav": (b"<html>" * 100, "1: not a readable recording"),
        "male_20/large.wav": (b"", "1: larger than 64 MiB"),
        "robot_20/a.wav": (sound(1), "4: a wrong label"),
        "male_200/a.wav": (sound(1), "4: a wrong label"),
        "male_20/female_20/a.wav": (sound(1), "4: a wrong label"),
        "male_20/male_30/a.wav": (sound(1), "4: a wrong label"),
        os.fsdecode(b"male_20/\xff.wav"): (sound(1), "1: a name that is not valid Unicode"),
    }
    good = {
        "Male-20/a.wav": sound(5), "male_20/b.wav": sound(6), "male_20/b2.wav": sound(6), "female_20/c.wav": sound(7),
        "female/d.wav": sound(6), "male_20/notes.txt": b"x", "male_20/video.mp4\x1b[2j": b"x",
    }  # fmt: skip
    manual = lay(tmp_path / "manual", {**{name: content for name, (content, _) in bad.items()}, **good})
    os.truncate(manual / "male_20" / "large.wav", 64 * 2**20 + 1)  # a file of holes
    with pytest.raises(DataError, match=r"max_bad=0\.05"):
        prepare("voice_age_gender", manual, tmp_path / "data")
    with pytest.raises(DataError, match=r"max_bad=0\.5"):
        prepare("voice_age_gender", manual, tmp_path / "data", options={"max_bad": 0.5})
    assert list(tmp_path.glob("data/*")) == []
    version_dir = prepare("voice_age_gender", manual, tmp_path / "data", options={"max_bad": 0.8})
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = [line.strip() for line in captured.err.splitlines()]
    for name, (_, reason) in bad.items():
        assert repr(name) in lines[lines.index(reason) + 1 : lines.index(reason) + 6]
    for expected in (
        "kept 5 of 17 recordings: 3 male, 2 female, ages 20 to 20; 0 s in all, 8000 Hz (5)",
        "rejected 12",
        "3 classes",
        "male_20      files: 3",
        "the speakers of 5 recordings are unknown: results of a random split are an upper bound, because a speaker may "
        "be on both sides of it",
        "2 classes have one file only: female, female_20",
        "male_20 is spelled in 2 ways, taken as one class: Male-20, male_20",
        "1 groups of identical files (3 files), 1 of them with different ages or genders",
        "files left out, whose names are not those of recordings: 1 .mp4\\x1b[2j, 1 .txt",
        "terms:      The terms of your recordings apply.",
    ):
        assert expected in lines
    assert set(read(version_dir)) == {name for name in good if name.endswith(".wav")}


def test_a_class_of_one_speaker_is_reported_and_long_lists_are_cut(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {f"male_{age}/{age % 2}_{take}.wav": sound(age) for age in range(20, 82) for take in range(1 + (age == 20))}
    files["male_20/2_0.wav"] = sound(3)
    options = {"speaker_pattern": "/(.)_"}
    prepare("voice_age_gender", lay(tmp_path / "manual", files), tmp_path / "data", options=options)
    printed = capsys.readouterr().err
    assert "62 classes have one speaker only" not in printed
    assert "61 classes have one speaker only: male_21, male_22, male_23, male_24, male_25 and 56 more" in printed
    assert "61 classes have one file only" in printed
    assert "male_20      files: 3, speakers: 2" in printed
    assert "male_80      " not in printed
    assert "    and 2 more" in printed
    assert "upper bound" not in printed


def test_a_path_that_comes_twice_in_an_archive_is_kept_once(tmp_path: Path) -> None:
    twice = [("x/male/a.wav", sound(1)), ("x/male/a.wav", sound(2)), ("x/male/b.wav", sound(3))]
    pack(tmp_path / "manual" / "x.tar.gz", twice)
    version_dir = prepare("voice_age_gender", tmp_path / "manual", tmp_path / "data", options={"max_bad": 0.5})
    assert {key: example["audio"] for key, example in read(version_dir).items()} == {
        "male/a.wav": sound(1), "male/b.wav": sound(3),
    }  # fmt: skip


def test_spectrograms_are_stored_instead_of_sound(tmp_path: Path) -> None:
    manual = lay(tmp_path / "manual", FILES)
    version_dir = prepare("voice_age_gender", manual, tmp_path / "data", config="png")
    assert records(version_dir) == records(prepare("voice_age_gender", manual, tmp_path / "again", config="png"))
    sounds = read(prepare("voice_age_gender", manual, tmp_path / "data"))
    for key, example in read(version_dir).items():
        assert example.pop("image").startswith(b"\x89PNG")
        del sounds[key]["audio"]
        assert example == pytest.approx(sounds[key], nan_ok=True)
    decoded = tfds.builder_from_directory(version_dir).as_data_source(split="all")[0]["image"]
    assert (decoded.shape, decoded.dtype) == ((224, 224, 3), np.uint8)
    assert CONFIGS["emodb_png"].png
    assert CONFIGS["emodb_png"].speaker_pattern == CONFIGS["emodb"].speaker_pattern


@pytest.mark.parametrize(
    ("name", "files", "speakers", "classes", "terms"),
    [("emodb", 535, 10, 10, "Burkhardt"), ("ravdess", 600, 20, 2, "CC BY-NC-SA 4.0")],
)
def test_the_real_corpora_have_their_published_sizes(
    real_data: Path, tmp_path: Path, name: str, files: int, speakers: int, classes: int, terms: str
) -> None:
    version_dir = prepare("voice_age_gender", real_data / "voice", tmp_path, config=name)
    about = metadata(version_dir)
    counts = ("kept", "speakers", "classes", "rejected", "without_speaker")
    assert [about[count] for count in counts] == [files, speakers, classes, {}, 0]
    assert terms in about["terms"]
    with tarfile.open(real_data / "voice" / f"{name}.tar.gz") as tar:
        info = next(info for info in tar if info.isreg())
        content = tar.extractfile(info).read()  # type: ignore[union-attr]
    key = info.name.removeprefix(f"{name}/")
    assert read(version_dir)[key]["audio"] == content
