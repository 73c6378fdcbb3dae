"""`agegender predict`: what it writes, and 200 hostile files among good ones."""

import argparse
import csv
import io
import json
import os
import shutil
import socket
import struct
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from agegender_jax.commands import predict
from agegender_jax.data.synthetic import draw_face
from agegender_jax.errors import UserError
from agegender_jax.predictor import Predictor
from tfds_builders.archive import MAX_FILE_BYTES

Run = Callable[..., int]


@pytest.fixture
def run(finished: Any, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command with a finished run."""
    monkeypatch.setattr("agegender_jax.compilation.cache_compilations", lambda: None)  # the tests' own cache stays
    parser = argparse.ArgumentParser()
    predict.add_parser(parser.add_subparsers())

    def run(*arguments: object) -> int:
        parsed = parser.parse_args(["predict", str(finished.workdir), *map(str, arguments)])
        return parsed.function(parsed)

    return run


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of five faces, PNG."""
    folder = tmp_path_factory.mktemp("faces")
    for seed in range(5):
        face = draw_face(np.random.default_rng(seed), age=20 * seed, gender=seed % 2, size=64)
        Image.fromarray(face).save(folder / f"{seed}.png")
    return folder


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_csv_is_what_the_predictor_says(finished: Any, run: Run, faces: Path, tmp_path: Path) -> None:
    out = tmp_path / "faces.csv"
    assert run(faces, "--out", out) == 0
    rows = rows_of(out)
    assert [Path(row["file"]).name for row in rows] == [f"{seed}.png" for seed in range(5)]
    found = Predictor.load(finished.workdir).predict(sorted(faces.iterdir()))
    assert list(rows[0]) == list(found.columns())
    for name, values in found.columns().items():
        got = [row[name] for row in rows]
        if values.dtype == object:
            assert got == [value or "" for value in values]
        else:  # to the last bit
            np.testing.assert_array_equal(np.array(got, np.float32), values)
    assert [path.name for path in tmp_path.iterdir()] == ["faces.csv"]  # nothing temporary is left


def test_all_kinds_of_files_say_the_same(run: Run, faces: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    (tmp_path / "text.png").write_text("none")
    for kind in ("csv", "json", "parquet"):
        assert run(faces, tmp_path / "text.png", "--out", tmp_path / f"out.{kind}", "--abstain_below", 0.6) == 0
    lines = [json.loads(line) for line in (tmp_path / "out.json").read_text().splitlines()]
    table = parquet.read_table(tmp_path / "out.parquet")
    assert {str(table.schema.field(name).type) for name in ("file", "gender", "error")} == {"string"}
    assert {str(table.schema.field(name).type) for name in ("age", "age_low", "gender_male")} == {"float"}
    for row, line, other in zip(rows_of(tmp_path / "out.csv"), lines, table.to_pylist(), strict=True):
        assert list(row) == list(line) == list(other)
        for name, value in row.items():
            if value == "":
                assert line[name] is None is other[name]
            elif isinstance(line[name], float):
                assert np.float32(value) == np.float32(line[name]) == np.float32(other[name])
            else:
                assert value == line[name] == other[name]
    assert lines[-1]["error"].startswith("is no image")
    assert lines[-1]["age"] is None


def test_parquet_is_written_a_part_at_a_time(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr(predict, "_ROWS", 64)  # two batches of 32
    (tmp_path / "list").write_text("absent\n" * 150 + str(tmp_path / "face.png"))
    Image.new("RGB", (9, 9)).save(tmp_path / "face.png")
    assert run("--list", tmp_path / "list", "--out", tmp_path / "out.parquet") == 0
    file = parquet.ParquetFile(tmp_path / "out.parquet")
    assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [64, 64, 23]
    assert file.read().column("error").to_pylist().count(None) == 1


def test_the_terminal_gets_csv_and_a_count(
    finished: Any, run: Run, faces: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(faces / "1.png", "absent") == 0
    said = capsys.readouterr()
    rows = list(csv.DictReader(io.StringIO(said.out, newline="")))
    assert [row["file"] for row in rows] == [str(faces / "1.png"), "absent"]
    assert rows[1]["error"] == "cannot be read (No such file or directory); check it."
    assert "1 answers and 1 errors (see the column `error`).\n" in said.err
    assert ("drawn: proves the pipeline and says nothing about people" in said.err) == finished.summary["drawn"]


def test_nothing_answered_is_exit_code_2(run: Run, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert run("absent", tmp_path / "empty", "--out", tmp_path / "out.csv") == 2
    errors = [row["error"] for row in rows_of(tmp_path / "out.csv")]
    assert errors[1] == "is a folder of which no file is read: empty, closed, or a link; name its files."


def test_folders_are_walked_in_order_and_hidden_files_left_out(run: Run, tmp_path: Path) -> None:
    names = ["b/2.png", "b/c/1.png", "a/9.png", "10.png", "9.png", ".hidden/1.png", ".1.png", "__MACOSX/1.png"]
    for name in names:
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 9)).save(tmp_path / "in" / name)
    assert run(tmp_path / "in", tmp_path / "in" / ".1.png", "--out", tmp_path / "out.csv") == 0
    expected = ["10.png", "9.png", "a/9.png", "b/2.png", "b/c/1.png", ".1.png"]
    assert [row["file"] for row in rows_of(tmp_path / "out.csv")] == [f"{tmp_path}/in/{name}" for name in expected]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_lists(end: str, run: Run, faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = end.join([str(faces / "3.png"), "", str(faces), str(faces / "1.png")])
    (tmp_path / "list").write_text(text, newline="")
    monkeypatch.setattr(sys, "stdin", io.StringIO(text, newline="\n"))
    for number, where in enumerate((tmp_path / "list", "-")):
        assert run(faces / "0.png", "--list", where, "--out", tmp_path / f"{number}.csv") == 0
        found = [Path(row["file"]).stem for row in rows_of(tmp_path / f"{number}.csv")]
        assert found == ["0", "3", "0", "1", "2", "3", "4", "1"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "There is nothing to answer for; name files or folders, or a --list of them."),
        (["x", "--out", "x.txt"], "x.txt: this kind of file is not written; name it *.csv, *.json or *.parquet."),
        (["x", "--out", "nowhere/x.csv"], "nowhere is no folder; make it, or choose another --out."),
        (["x", "--out", "HERE"], "is there already, and nothing is overwritten; choose another --out."),
        (["--list", "nowhere"], "nowhere: cannot be read (No such file or directory); check the path of --list."),
        (["--list", "HERE", "--out", "NEW"], "here.csv: names no file; put a path a line there."),
    ],
)
def test_what_is_wrong_is_one_sentence(arguments: list[str], sentence: str, run: Run, tmp_path: Path) -> None:
    (tmp_path / "here.csv").write_text("\n")
    paths = {"HERE": tmp_path / "here.csv", "NEW": tmp_path / "new.csv"}
    with pytest.raises(UserError) as error:
        run(*[paths.get(argument, argument) for argument in arguments])
    assert sentence in str(error.value)
    assert len(str(error.value).splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["here.csv"]


def test_a_failure_leaves_nothing(run: Run, faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(predict, "_plain", full)
    with pytest.raises(UserError, match=r"out\.json: cannot be written \(No space left on device\); choose another"):
        run(faces / "1.png", "--out", tmp_path / "out.json")
    assert list(tmp_path.iterdir()) == []


def test_options_are_checked(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--level", "2"], ["--abstain_below", "x"], ["--margin", "-1"], ["--min_size", "0"]):
        with pytest.raises(SystemExit):
            run("x", *arguments)
    assert "'2' is no number from 0 to 1" in capsys.readouterr().err


def test_detection_is_a_row_a_face(run: Run, tmp_path: Path) -> None:
    face = np.pad(draw_face(np.random.default_rng(0), age=30, gender=0), ((60, 60), (60, 60), (0, 0)), "edge")
    Image.fromarray(np.concatenate([face, face[:, ::-1]], axis=1)).save(tmp_path / "two.png")
    Image.new("RGB", (60, 60)).save(tmp_path / "none.png")
    assert run(tmp_path, "--detect", "--out", tmp_path / "out.csv", "--min_bytes", 10) == 0
    rows = rows_of(tmp_path / "out.csv")
    assert [Path(row["file"]).name for row in rows] == ["none.png", "two.png", "two.png"]
    assert [row["error"] for row in rows] == ["no face found.", "", ""]
    assert sorted(int(row["x"]) // 320 for row in rows[1:]) == [0, 1]
    assert rows[0]["x"] == ""


def test_a_run_that_learned_from_cut_faces_cuts_them(
    finished: Any, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    load = Predictor.load

    def cropped(directory: Path) -> Predictor:
        found = load(directory)
        found.run.recipe.dataset.crop = "haar"
        return found

    monkeypatch.setattr(Predictor, "load", cropped)
    Image.new("RGB", (60, 60)).save(tmp_path / "none.png")
    assert run(tmp_path / "none.png", "--no-detect", "--out", tmp_path / "no.csv") == 0
    assert "faces are detected" not in capsys.readouterr().err
    assert run(tmp_path / "none.png", "--out", tmp_path / "out.csv") == 2
    assert "The run learned from detected faces, so faces are detected" in capsys.readouterr().err


def _encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    stored = io.BytesIO()
    image.save(stored, kind, **options)
    return stored.getvalue()


def _png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size, with right checksums and hardly any pixels."""
    chunks = {b"IHDR": struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0), b"IDAT": zlib.compress(b"\0" * 9)}
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks.items()
    )


def hostile(folder: Path) -> tuple[set[str], set[str]]:
    """Writes 200 files, some of which can be answered for and some not: the names of either."""
    rng = np.random.default_rng(0)
    scene = Image.fromarray(rng.integers(0, 256, (60, 50, 3)).astype(np.uint8))
    whole = {kind: _encoded(scene, kind) for kind in ("JPEG", "PNG", "WEBP", "BMP", "TIFF")}
    exif = Image.Exif()
    exif[0x0112] = 6
    frames = [scene.rotate(angle) for angle in (30, 60)]
    grey16 = Image.fromarray(rng.integers(0, 65536, (40, 40)).astype(np.uint16))
    good = {
        "cmyk.jpg": _encoded(scene.convert("CMYK"), "JPEG"),
        "rotated.jpg": _encoded(scene, "JPEG", exif=exif),
        "16-bit.png": _encoded(grey16, "PNG"),
        "animated.png": _encoded(scene, "PNG", save_all=True, append_images=frames),
        "animated.webp": _encoded(scene, "WEBP", save_all=True, append_images=frames),
        "palette.png": _encoded(scene.convert("P"), "PNG"),
        "one bit.png": _encoded(scene.convert("1"), "PNG"),
        "transparent.png": _encoded(scene.convert("RGBA"), "PNG"),
        "lab.tif": _encoded(scene.convert("LAB"), "TIFF"),
        "ycbcr.jpg": _encoded(scene.convert("YCbCr"), "JPEG"),
        "progressive.jpg": _encoded(scene, "JPEG", progressive=True),
        "one pixel.png": _encoded(Image.new("RGB", (1, 1)), "PNG"),
        "thin.png": _encoded(Image.new("RGB", (3000, 1)), "PNG"),
        "trailing.jpg": whole["JPEG"] + b"\0" * 999,
        "wrong suffix.txt": whole["PNG"],
        "=1+1.png": whole["PNG"],
        "+1.png": whole["PNG"],
        "-1.png": whole["PNG"],
        "@x.png": whole["PNG"],
        "two\nlines.png": whole["PNG"],
        'quo"te,s.png': whole["PNG"],
        "bad exif.jpg": whole["JPEG"][:2] + b"\xff\xe1\x00\x10Exif\0\0" + b"\xff" * 8 + whole["JPEG"][2:],
    }
    bad = {
        "empty.jpg": b"",
        "text.jpg": b"Dear reader,\n",
        "gif.gif": _encoded(scene, "GIF"),
        "svg.svg": b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>",
        "script.png": b"#!/bin/sh\nrm -rf /\n",
        "float.tif": _encoded(Image.new("F", (9, 9)), "TIFF"),
        "zip.jpg": b"PK\x03\x04" + b"\0" * 200,
        "no pixels.png": _png_header(0, 0),
        "no height.bmp": b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 9, 0, 1, 24, 0, 0, 0, 0, 0, 0),
    }
    for width, height in ((2**31 - 1, 2**31 - 1), (100_000, 100_000), (64_000_001, 1), (8001, 8000), (1, 2**31 - 1)):
        bad[f"claims {width}x{height}.png"] = _png_header(width, height)
    bmp = bytearray(whole["BMP"])
    bmp[18:26] = struct.pack("<ii", 90_000, 90_000)
    bad["claims much.bmp"] = bytes(bmp)
    for kind, content in whole.items():
        for share in (0.01, 0.1, 0.3, 0.5, 0.7):
            bad[f"cut at {share}.{kind}"] = content[: max(1, int(share * len(content)))]
    for number in range(40):
        bad[f"noise {number}.jpg"] = rng.bytes(int(rng.integers(1, 4000)))
        bad[f"start {number}.png"] = whole["PNG"][:30] + rng.bytes(200)
    for folder_name in ("folder.jpg", "linked"):
        (folder / folder_name).mkdir(parents=True)
    os.mkfifo(folder / "pipe.jpg")
    (folder / "nowhere.jpg").symlink_to(folder / "absent")
    (folder / "itself.jpg").symlink_to(folder / "itself.jpg")
    (folder / "folder link.jpg").symlink_to(folder / "linked")
    (folder / "null.jpg").symlink_to("/dev/zero")
    with open(folder / "large.jpg", "wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)
    special = {"pipe.jpg", "nowhere.jpg", "itself.jpg", "folder link.jpg", "null.jpg", "large.jpg"}
    closed = "closed.png"
    (folder / closed).write_bytes(whole["PNG"])
    (folder / closed).chmod(0)
    count = 200 - len(good) - len(bad) - len(special) - 1
    assert count > 0
    good |= {f"face {number}.jpg": whole["JPEG"] for number in range(count)}
    for name, content in (good | bad).items():
        (folder / name).write_bytes(content)
    answered, refused = set(good), set(bad) | special
    (answered if os.access(folder / closed, os.R_OK) else refused).add(closed)
    return answered, refused


@pytest.fixture
def hostile_folder(tmp_path: Path) -> Iterator[tuple[Path, set[str], set[str]]]:
    folder = tmp_path / "in"
    with socket.socket(socket.AF_UNIX) as server:
        here = os.getcwd()
        answered, refused = hostile(folder)
        os.chdir(folder)  # the name of a socket must be short
        server.bind("socket.jpg")
        os.chdir(here)
        yield folder, answered, refused | {"socket.jpg"}
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize("options", [(), ("--detect",)], ids=["whole", "detect"])
def test_hostile_files(
    options: tuple[str, ...], hostile_folder: tuple[Path, set[str], set[str]], run: Run, tmp_path: Path
) -> None:
    folder, answered, refused = hostile_folder
    assert len(answered | refused) == 201
    face = np.pad(draw_face(np.random.default_rng(0), age=30, gender=0), ((60, 60), (60, 60), (0, 0)), "edge")
    Image.fromarray(face).save(folder / "zz.png")
    assert run(folder, "--out", tmp_path / "out.csv", *options) == 0
    rows = {row["file"].lstrip("'")[len(str(folder)) + 1 :]: row for row in rows_of(tmp_path / "out.csv")}
    assert set(rows) == answered | refused | {"zz.png"}
    assert list(rows) == sorted(rows)
    for name in refused:
        assert rows[name]["error"].endswith("."), name
        assert not rows[name]["error"].startswith(str(folder))
        assert {rows[name][column] for column in ("gender", "age", "age_group_0-2")} == {""}
    for name in answered:
        assert rows[name]["error"] == ("no face found." if options else "")
        assert bool(rows[name]["age"]) == (not options)
    assert rows["zz.png"]["gender"] in ("male", "female")
    if not options:
        assert rows["=1+1.png"]["age"] == rows["two\nlines.png"]["age"]
    assert "claims 8001x8000 pixels" in rows["claims 8001x8000.png"]["error"]
    assert rows["pipe.jpg"]["error"].startswith("is a pipe")
    assert rows["large.jpg"]["error"] == "has 67,108,865 bytes, and at most 67,108,864 are read; shrink or remove it."


def test_names_are_no_formulas(run: Run, faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = ["=1+1.png", "@x.png", "+1.png", "\tx.png", "two\r\nlines.png", os.fsdecode(b"\xe9.png")]
    for name in names:
        shutil.copy(faces / "1.png", name)
    shutil.copy(faces / "1.png", "-1.png")
    (tmp_path / "list").write_bytes(b"-1.png\n\xe9.png\n")
    assert run(*names[:5], "--list", "list", "--out", "out.csv") == 0
    expected = ["'=1+1.png", "'@x.png", "'+1.png", "'\tx.png", "two\r\nlines.png", "'-1.png", "\\udce9.png"]
    rows = rows_of(tmp_path / "out.csv")
    assert [row["file"] for row in rows] == expected
    assert not any(row["error"] for row in rows)
