"""CSV files that label recordings: every form that is read, and what is refused."""

import math
from pathlib import Path

import pytest

from tests.tfds_builders.files import lay, metadata, pack, read, sound
from tfds_builders.archive import DataError
from tfds_builders.labels import identity
from tfds_builders.prepare import prepare

ROWS = [
    ["path", "gender", "age", "speaker"],
    ["wavs/a.wav", "F", "31.5", "anna"],
    ["b.wav", "male", "", "ben"],  # relative to the folder of the recordings
    [".\\wavs\\c.wav", "", "40", ""],
]


@pytest.mark.parametrize(
    ("delimiter", "form", "layout"),
    [
        (",", "plain", "folder"),
        (",", "spreadsheet", "archive"),
        (";", "spreadsheet", "inside"),
        ("\t", "plain", "archive"),
    ],
)
def test_a_csv_file_labels_the_recordings(tmp_path: Path, delimiter: str, form: str, layout: str) -> None:
    text = "\n".join(delimiter.join(row) for row in ROWS) + "\n"
    if form == "spreadsheet":
        text = "\ufeff" + text.replace("\n", "\r\n").replace("path", '" Path"', 1)
        text = text if delimiter == "," else text.replace("31.5", "31,5")
    files = {f"wavs/{name}.wav": sound(seed) for seed, name in enumerate("abcd")}
    manual = tmp_path / "manual"
    if layout == "archive":
        pack(manual / "set.tar.gz", [(f"set/{name}", content) for name, content in files.items()])
    else:
        lay(manual / "set" if layout == "inside" else manual, files)
    (manual / ("set/labels.csv" if layout == "inside" else "labels.csv")).write_bytes(text.encode())
    version_dir = prepare("voice_age_gender", manual, tmp_path / "data", options={"csv": "labels.csv"})
    examples = read(version_dir)
    assert {key: example["audio"] for key, example in examples.items()} == {
        f"{name}.wav": sound(seed) for seed, name in enumerate("abc")
    }
    columns = ("gender", "age", "class_name", "speaker", "subject")
    assert [[examples[f"{name}.wav"][column] for column in columns] for name in "abc"] == [
        [1, 31.5, b"female_31", b"anna", identity("anna")],
        [0, pytest.approx(math.nan, nan_ok=True), b"male", b"ben", identity("ben")],
        [-1, 40, b"", b"", -1],
    ]
    about = metadata(version_dir)
    assert (about["unlisted"], about["rejected"], about["classes"]) == (1, {}, 2)
    assert "labels.csv" in about["labels"]


def test_bad_rows_are_counted_with_their_reasons(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manual = lay(tmp_path / "manual", {f"{name}.wav": sound(seed) for seed, name in enumerate("abcde")})
    (tmp_path / "outside.wav").write_bytes(sound(9))
    text = """path,gender,age,speaker,recording
a.wav,m,20,x,one
gone.wav,m,20,x,one
../outside.wav,m,20,x,one
/etc/passwd,m,20,x,one
C:\\x.wav,m,20,x,one
a.wav,f,30,y,two
b.wav,other,20,x,one
c.wav,m,121,x,one
d.wav,m,old,x,one
e.wav,,,x,one
,m,20,x,one
e.wav,m,20
e.wav,m,20,x,one,more

notes.txt,m,20,x,one
"""
    lay(manual, {"labels.csv": text.encode(), "notes.txt": b"some text"})
    options = {"csv": "labels.csv", "max_bad": 0.95}
    version_dir = prepare("voice_age_gender", manual, tmp_path / "data", options=options)
    examples = read(version_dir)
    assert set(examples) == {"a.wav"}
    assert examples["a.wav"]["group"] == identity("one")
    printed = capsys.readouterr().err
    for expected in (
        "rejected 13",
        "1: no such file\n      'gone.wav'",
        "3: a path that leaves its folder\n      '../outside.wav'\n      '/etc/passwd'",
        "1: a path that occurs twice\n      'a.wav'",
        "4: a wrong label\n      'b.wav'",
        "1: rows without a path\n      'row 12'",
        "2: rows with more or fewer cells than the first row",
        "1: not a readable recording\n      'notes.txt'",
    ):
        assert expected in printed
    with pytest.raises(DataError, match=r"max_bad=0\.05"):
        prepare("voice_age_gender", manual, tmp_path / "other", options={"csv": "labels.csv"})


@pytest.mark.parametrize(
    "content",
    [
        b"path,gender,age\na.wav,m,3\n",
        b"file;gender;age;speaker\n",
        b"",
        b"path,gender,age,speaker,age\n",
        "päth".encode("latin-1"),
        b"path,gender,age,speaker\n" + b"x" * 200_000,
        None,  # a link
    ],
    ids=["no speaker", "no path", "empty", "twice", "latin-1", "long", "link"],
)
def test_a_bad_csv_file_is_named(tmp_path: Path, content: bytes | None) -> None:
    manual = lay(tmp_path / "manual", {"a.wav": sound(1)})
    (tmp_path / "elsewhere.csv").write_bytes(b"path,gender,age,speaker\n" if content is None else content)
    if content is None:
        (manual / "labels.csv").symlink_to(tmp_path / "elsewhere.csv")
    else:
        (tmp_path / "elsewhere.csv").rename(manual / "labels.csv")
    with pytest.raises(DataError, match=r"labels\.csv"):
        prepare("voice_age_gender", manual, tmp_path / "data", options={"csv": "labels.csv"})
    assert not list(tmp_path.glob("data/**/*array_record*"))
