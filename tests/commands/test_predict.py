"""`agegender predict`: what it takes, and what it writes."""

import contextlib
import csv
import errno
import io
import json
import os
import resource
import shutil
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from PIL import Image

from agegender_jax import atomic
from agegender_jax.commands import predict
from agegender_jax.errors import UserError
from agegender_jax.labels import DISCLAIMER
from agegender_jax.predictor import WITHOUT_FACE, Predictor
from agegender_jax.synthetic.faces import generate_face

Command = Callable[..., int]


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of five faces, PNG."""
    folder = tmp_path_factory.mktemp("faces")
    for seed in range(5):
        face = generate_face(np.random.default_rng(seed), age=20 * seed, gender=seed % 2, size=64)
        Image.fromarray(face).save(folder / f"{seed}.png")
    return folder


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_csv_is_the_predictor_s_table(finished: Any, predict_files: Command, faces: Path, tmp_path: Path) -> None:
    out = tmp_path / "faces.csv"
    assert predict_files(faces, "--out", out) == 0
    rows = rows_of(out)
    assert [Path(row["file"]).name for row in rows] == [f"{seed}.png" for seed in range(5)]
    table = Predictor.load(finished.workdir).predict(sorted(faces.iterdir()))
    assert list(rows[0]) == list(table.columns())
    for name, values in table.columns().items():
        got = [row[name] for row in rows]
        if values.dtype == object:
            assert got == [value or "" for value in values]
        else:  # to the last bit
            np.testing.assert_array_equal(np.array(got, np.float32), values)
    assert [path.name for path in tmp_path.iterdir()] == ["faces.csv"]  # nothing temporary is left


def test_all_kinds_of_files_hold_the_same(predict_files: Command, faces: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    (tmp_path / "text.png").write_text("none")
    abstain = ("--abstain_below", 0.6, "--abstain_wider", 40)
    for kind in ("csv", "json", "jsonl", "parquet"):
        assert predict_files(faces, tmp_path / "text.png", "--out", tmp_path / f"out.{kind}", *abstain) == 0
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert json.loads((tmp_path / "out.json").read_text()) == lines
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
    assert lines[-1]["error"]
    assert lines[-1]["age"] is None


def test_parquet_is_written_a_part_at_a_time(
    predict_files: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr(predict, "_ROWS", 64)  # two batches of 32
    (tmp_path / "list").write_text("absent\n" * 150 + str(tmp_path / "face.png"))
    Image.new("RGB", (9, 9)).save(tmp_path / "face.png")
    assert predict_files("--list", tmp_path / "list", "--out", tmp_path / "out.parquet") == 0
    file = parquet.ParquetFile(tmp_path / "out.parquet")
    assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [64, 64, 23]
    assert file.read().column("error").to_pylist().count(None) == 1


def test_the_terminal_gets_csv_and_a_count(
    finished: Any, predict_files: Command, faces: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict_files(faces / "1.png", "absent") == 0
    printed = capsys.readouterr()
    rows = list(csv.DictReader(io.StringIO(printed.out, newline="")))
    assert [row["file"] for row in rows] == [str(faces / "1.png"), "absent"]
    assert "No such file" in rows[1]["error"]
    assert "1 prediction, 1 error" in printed.err
    assert (DISCLAIMER in printed.err) == finished.summary["synthetic"]


def test_nothing_predicted_is_exit_code_2(predict_files: Command, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert predict_files("absent", tmp_path / "empty", "--out", tmp_path / "out.csv") == 2
    assert all(row["error"] for row in rows_of(tmp_path / "out.csv"))


def test_folders_are_walked_in_order_and_hidden_files_left_out(predict_files: Command, tmp_path: Path) -> None:
    names = ["b/2.png", "b/c/1.png", "a/9.png", "10.png", "9.png", ".hidden/1.png", ".1.png", "__MACOSX/1.png"]
    for name in names:
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 9)).save(tmp_path / "in" / name)
    assert predict_files(tmp_path / "in", tmp_path / "in" / ".1.png", "--out", tmp_path / "out.csv") == 0
    expected = ["10.png", "9.png", "a/9.png", "b/2.png", "b/c/1.png", ".1.png"]
    assert [row["file"] for row in rows_of(tmp_path / "out.csv")] == [f"{tmp_path}/in/{name}" for name in expected]


@contextlib.contextmanager
def standard_input(content: bytes) -> Iterator[None]:
    """A pipe that holds this."""
    kept, (end, begin) = os.dup(0), os.pipe()
    os.write(begin, content)
    os.close(begin)
    os.dup2(end, 0)
    os.close(end)
    try:
        yield
    finally:
        os.dup2(kept, 0)
        os.close(kept)


def test_lists_and_pipes(predict_files: Command, faces: Path, tmp_path: Path) -> None:
    name = os.fsencode(tmp_path) + b"/\xe9.png"
    shutil.copy(faces / "1.png", name)
    content = b"\r\n".join([os.fsencode(faces / "3.png"), b"", os.fsencode(faces)]) + b"\n" + name
    (tmp_path / "list").write_bytes(content)
    for number, where in enumerate((tmp_path / "list", "-")):
        with standard_input(content):
            assert predict_files(faces / "0.png", "--list", where, "--out", tmp_path / f"{number}.csv") == 0
        stems = [Path(row["file"]).stem for row in rows_of(tmp_path / f"{number}.csv")]
        assert stems == ["0", "3", "0", "1", "2", "3", "4", "\\udce9"]


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ([], "--list"),
        (["x", "--out", "x.txt"], "x.txt"),
        (["x", "--out", "nowhere/x.csv"], "nowhere"),
        (["x", "--out", "HERE"], "here.csv"),
        (["--list", "nowhere"], "nowhere"),
        (["--list", "HERE", "--out", "NEW"], "here.csv"),
        (["x", "--margin", "0.1"], "--margin"),
        (["x", "--min_size", "50", "--no_detect"], "--min_size"),
    ],
)
def test_what_is_wrong_is_one_sentence(arguments: list[str], name: str, predict_files: Command, tmp_path: Path) -> None:
    (tmp_path / "here.csv").write_text("\n")
    paths = {"HERE": tmp_path / "here.csv", "NEW": tmp_path / "new.csv"}
    with pytest.raises(UserError, match=name) as error:
        predict_files(*[paths.get(argument, argument) for argument in arguments])
    assert len(str(error.value).splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["here.csv"]


def test_a_failure_leaves_nothing(
    predict_files: Command, faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(predict, "_plain", full)
    with pytest.raises(UserError, match=r"out\.json.*No space left"):
        predict_files(faces / "1.png", "--out", tmp_path / "out.json")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["out.csv", "out.json", "out.parquet"])
def test_a_disk_that_is_full_or_a_folder_that_goes_is_one_sentence(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In whatever call of the system it shows: writing rows, ending the file, or giving it its name."""
    table = {"file": np.array([f"{row}.jpg" for row in range(5000)], object)}

    def write(largest: int) -> None:
        with predict._writing(tmp_path / name) as add:
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest, before[1]))
            add(table)

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(UserError, match=name):
            write(100)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)

    def gone(*_: object) -> None:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    monkeypatch.setattr("os.replace", gone)
    with pytest.raises(UserError, match=name):
        write(before[0])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("out", ["out.csv", None])
def test_an_interruption_is_reported(
    out: str | None,
    predict_files: Command,
    faces: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    stream = Predictor.stream

    def interrupted(*arguments: Any, **options: Any) -> Iterator[Any]:
        yield next(iter(stream(*arguments, **options)))
        raise KeyboardInterrupt

    monkeypatch.setattr(Predictor, "stream", interrupted)
    assert predict_files(faces / "1.png", *(("--out", tmp_path / out) if out else ())) == 130
    printed = capsys.readouterr().err
    assert "interrupted after 1 files" in printed
    assert ("out.csv" in printed) is bool(out)
    assert list(tmp_path.iterdir()) == []


def test_what_fails_besides_writing_is_not_blamed_on_the_file(
    predict_files: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> Iterator[Any]:
        raise OSError(5, "Input/output error")
        yield

    monkeypatch.setattr(Predictor, "stream", broken)
    for kind in ("csv", "json", "parquet"):
        with pytest.raises(OSError, match="Input/output error"):
            predict_files("x", "--out", tmp_path / f"out.{kind}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_what_is_there_is_written_through_by_nobody(
    kind: str, predict_files: Command, faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even under the temporary name."""
    monkeypatch.setattr(atomic.uuid, "uuid4", lambda: uuid.UUID(int=7))
    (tmp_path / "mine").write_text("mine")
    (tmp_path / f".out.{kind}.{uuid.UUID(int=7).hex[:12]}.part").symlink_to("mine")
    with pytest.raises(UserError, match=rf"out\.{kind}"):
        predict_files(faces / "1.png", "--out", tmp_path / f"out.{kind}")
    assert (tmp_path / "mine").read_text() == "mine"


@pytest.mark.parametrize(
    "option",
    ["--abstain_wider=0", "--level=2", "--level=0", "--level=1", "--abstain_below=x", "--margin=-1", "--min_size=0"],
)
def test_options_out_of_range(option: str, predict_files: Command, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        predict_files("x", option)
    assert option.partition("=")[0] in capsys.readouterr().err


def test_the_bar_counts_files_that_are_done(
    predict_files: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Bar(contextlib.nullcontext):
        updates: ClassVar[list[int]] = []

        def __init__(self, total: int | None, **options: Any) -> None:
            super().__init__(self)
            assert total is None  # of a list
            self.updates.clear()

        def update(self, count: int) -> None:
            self.updates.append(count)

    monkeypatch.setattr("agegender_jax.commands.predict.progress_bar", Bar)
    (tmp_path / "list").write_text("absent\n" * 70)  # in batches of 32
    for options in ((), ("--detect",)):
        assert predict_files("--list", tmp_path / "list", "--out", tmp_path / f"out{len(options)}.csv", *options) == 2
        assert Bar.updates == [32, 32, 6]


def test_a_terminal_obeys_no_file_s_name(
    predict_files: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"{tmp_path}/a\x1b[2J.png"
    Image.new("RGB", (9, 9)).save(name)
    assert predict_files(name) == 0
    assert "\x1b[2J" in capsys.readouterr().out  # a file or another program gets the name itself
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert predict_files(name) == 0
    printed = capsys.readouterr().out
    assert "a\\x1b[2J.png" in printed
    assert "\x1b" not in printed


def test_detection_is_a_row_a_face(predict_files: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    face = np.pad(generate_face(np.random.default_rng(0), age=30, gender=0), ((60, 60), (60, 60), (0, 0)), "edge")
    Image.fromarray(np.concatenate([face, face[:, ::-1]], axis=1)).save(tmp_path / "two.png")
    Image.new("RGB", (60, 60)).save(tmp_path / "none.png")
    assert predict_files(tmp_path, "--detect", "--out", tmp_path / "out.csv", "--min_bytes", 10) == 0
    rows = rows_of(tmp_path / "out.csv")
    assert [Path(row["file"]).name for row in rows] == ["none.png", "two.png", "two.png"]
    assert [row["error"] for row in rows] == [WITHOUT_FACE, "", ""]
    assert sorted(int(row["x"]) // 320 for row in rows[1:]) == [0, 1]
    assert "2 predictions, 1 image without a face" in capsys.readouterr().err
    assert rows[0]["x"] == ""


def test_a_run_that_learned_from_cut_faces_cuts_them(
    cropped: Path, predict_files: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (60, 60)).save(tmp_path / "none.png")
    assert predict_files(tmp_path / "none.png", "--no_detect", "--out", tmp_path / "no.csv", workdir=cropped) == 0
    assert "--no_detect" not in capsys.readouterr().err
    arguments = (tmp_path / "none.png", "--min_size", 50, "--out", tmp_path / "out.csv")
    assert predict_files(*arguments, workdir=cropped) == 2
    assert "--no_detect" in capsys.readouterr().err
    assert [row["error"] for row in rows_of(tmp_path / "out.csv")] == [WITHOUT_FACE]


def test_names_are_no_formulas(
    predict_files: Command, faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = ["=1+1.png", "@x.png", "+1.png", "\tx.png", "two\r\nlines.png", os.fsdecode(b"\xe9.png")]
    for name in names:
        shutil.copy(faces / "1.png", name)
    shutil.copy(faces / "1.png", "-1.png")
    (tmp_path / "list").write_bytes(b"-1.png\n\xe9.png\n")
    assert predict_files(*names[:5], "--list", "list", "--out", "out.csv") == 0
    expected = ["'=1+1.png", "'@x.png", "'+1.png", "'\tx.png", "two\r\nlines.png", "'-1.png", "\\udce9.png"]
    rows = rows_of(tmp_path / "out.csv")
    assert [row["file"] for row in rows] == expected
    assert not any(row["error"] for row in rows)
