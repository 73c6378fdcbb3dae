"""launch.py: whatever a user can get wrong ends in one sentence, exit code 2, and nothing half-written."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ml_collections import ConfigDict

from agegender_jax.errors import UserError
from agegender_jax.flags import read_recipe
from agegender_jax.train import command as train
from tests.tfds_builders.files import jpeg, pack, png_header

ROOT = Path(__file__).parents[1]
NAME = "26_1_2_20170116174525125.jpg.chip.jpg"


def launch(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "launch.py", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )


def truncate(path: Path) -> None:
    pack(path, [(f"UTKFace/{i}_{NAME[3:]}", jpeg(90) + os.urandom(3000)) for i in range(20, 60)])
    path.write_bytes(path.read_bytes()[:40_000])


FACE = ("UTKFace/" + NAME, jpeg(90))
ARCHIVES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no archive": (lambda path: None, "UTKFace.tar.gz"),
    "truncated": (truncate, "UTKFace.tar.gz"),
    "no archive at all": (lambda path: path.write_bytes(b"<html>Quota exceeded</html>"), "UTKFace.tar.gz"),
    "a member leaving its folder": (lambda path: pack(path, [FACE, ("../../" + NAME, jpeg(90))]), NAME),
    "a file that is no image": (
        lambda path: pack(path, [FACE, ("UTKFace/27" + NAME[2:], b"text" * 99)]),
        "27" + NAME[2:],
    ),
    "a header of 60,000 x 60,000": (
        lambda path: pack(path, [FACE, ("UTKFace/27" + NAME[2:], png_header(60_000, 60_000))]),
        "27" + NAME[2:],
    ),
    "no usable face": (lambda path: pack(path, [("UTKFace/readme.jpg", jpeg(90))]), "AGE_GENDER_RACE_TIME"),
    "too few faces": (lambda path: pack(path, [FACE]), "at least three"),
}


def sentence_of(error: str) -> str:
    """The last line, after the description of the data; there is no traceback."""
    assert "Traceback" not in error
    return error.strip().splitlines()[-1]


@pytest.mark.parametrize("case", ARCHIVES)
def test_a_bad_archive(case: str, small_recipe: ConfigDict, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make, expected = ARCHIVES[case]
    manual_dir, workdir, data_dir = (tmp_path / name for name in ("manual", "run", "data"))
    manual_dir.mkdir()
    make(manual_dir / "UTKFace.tar.gz")
    code = train.command(small_recipe, workdir=workdir, manual_dir=manual_dir, data_dir=data_dir)
    assert code == 2
    error = capsys.readouterr().err
    assert expected in sentence_of(error)
    if case != "too few faces":  # its data are good
        assert len(error.strip().splitlines()) == 1
        assert not [path for path in data_dir.rglob("*") if path.is_file()]
    assert not list(data_dir.rglob("*.part"))
    assert not list(data_dir.rglob("*incomplete*"))
    assert not workdir.exists()


@pytest.mark.parametrize(("which", "count"), [("workdir", 0), ("data_dir", 0), ("data_dir", 30)])
def test_a_directory_that_cannot_be_written(
    which: str,
    count: int,
    small_recipe: ConfigDict,
    synthetic_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Also where synthetic faces are made."""
    small_recipe.dataset.synthetic = count
    (tmp_path / "file").write_text("")  # below a regular file not even root can write
    paths: dict[str, Any] = {"workdir": tmp_path / "run", "data_dir": tmp_path / "data"} | {
        which: tmp_path / "file" / "below"
    }
    assert train.command(small_recipe, manual_dir=None if count else synthetic_dir, **paths) == 2
    assert str(tmp_path / "file") in sentence_of(capsys.readouterr().err)
    assert (tmp_path / "file").read_text() == ""


def test_a_foreign_directory_is_left_alone(
    small_recipe: ConfigDict, synthetic_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("x")
    code = train.command(small_recipe, workdir=tmp_path / "run", manual_dir=synthetic_dir, data_dir=tmp_path / "data")
    assert code == 2
    assert str(tmp_path / "run") in sentence_of(capsys.readouterr().err)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["thesis.tex"]
    assert not (tmp_path / "data").exists()


def test_nothing_prepared_and_no_archive_given(
    small_recipe: ConfigDict, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train.command(small_recipe, workdir=tmp_path / "run", data_dir=tmp_path / "data") == 2
    assert "--manual_dir" in sentence_of(capsys.readouterr().err)


@pytest.mark.usefixtures("eight_devices")
def test_a_batch_that_the_devices_cannot_share(
    small_recipe: ConfigDict, synthetic_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small_recipe.train.batch_size = 12
    code = train.command(small_recipe, workdir=tmp_path / "run", manual_dir=synthetic_dir, data_dir=tmp_path / "data")
    assert code == 2
    assert "config.train.batch_size" in sentence_of(capsys.readouterr().err)
    assert not list(tmp_path.iterdir())


def test_a_dry_run_says_what_it_would_do_and_leaves_no_run(
    small_recipe: ConfigDict, synthetic_dir: Path, data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = train.command(
        small_recipe, workdir=tmp_path / "run", manual_dir=synthetic_dir, data_dir=data_dir, dry_run=True
    )
    assert code == 0
    printed = capsys.readouterr().out
    for part in (
        '"batch_size": 16',
        "160 images at 32x32",
        "convs",
        "Model: small_cnn thin, ",
        "28 steps of batch size 16",
        "8 cpu device(s)",
    ):
        assert part in printed
    assert not list(tmp_path.iterdir())


QUICKSTART = "--config=configs/quickstart.py"

MISTYPED: list[tuple[list[str], str]] = [
    ([QUICKSTART, "--workdir=WORKDIR", "--config.trian.epochs=1"], "trian"),
    ([QUICKSTART, "--workdir=WORKDIR", "--config.train.foo=1"], "foo"),
    ([QUICKSTART, "--workdir=WORKDIR", "--config.train.epochs=abc"], "train.epochs"),
    (["--config=configs/nowhere.py", "--workdir=WORKDIR"], "configs/nowhere.py"),
    (["--config=configs/utkface_small.py:huge", "--workdir=WORKDIR"], "'huge'"),
    ([QUICKSTART + ":cpu", "--workdir=WORKDIR"], "get_config"),
    ([QUICKSTART], "--workdir"),
    (["--workdir=WORKDIR"], "--config"),
    ([QUICKSTART, "--workdir=WORKDIR", "train"], "'train'"),
    ([QUICKSTART, "--wokrdir=WORKDIR"], "wokrdir"),
    ([QUICKSTART, "--workdir=WORKDIR", "--config.model.dropout=2.0"], "config.model.dropout=2.0"),
]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [  # Each starts a process.
        pytest.param(*case, marks=() if case[1] in ("trian", "'huge'", "--workdir") else pytest.mark.slow)
        for case in MISTYPED
    ],
)
def test_mistyped_flags(arguments: list[str], expected: str, tmp_path: Path) -> None:
    workdir = tmp_path / "run"
    done = launch(*(argument.replace("WORKDIR", str(workdir)) for argument in arguments))
    assert done.returncode == 2, done.stderr
    assert expected in sentence_of(done.stderr)
    assert len(done.stderr.strip().splitlines()) == 1
    assert not workdir.exists()


@pytest.mark.parametrize(
    ("config", "change", "parts"),
    [
        ("configs/quickstart.py", "train.epoch=1", ("'epoch'", "'epochs'")),
        ("configs/quickstart.py", "train.foo=1", ("'foo'",)),
        ("configs/nowhere.py", "train.epochs=1", ("configs/nowhere.py",)),
    ],
)
def test_what_is_wrong_with_a_recipe_is_said_in_one_plain_sentence(
    config: str, change: str, parts: tuple[str, ...]
) -> None:
    with pytest.raises(UserError) as raised:
        read_recipe(config, [change])
    message = str(raised.value)
    assert all(part in message for part in parts)
    assert message.count(config) == 1
    for garbled in ("Errno", "''", '"'):
        assert garbled not in message


def test_help_lists_examples() -> None:
    done = launch("--help")
    assert done.returncode == 0
    text = done.stdout + done.stderr
    assert "python launch.py --config configs/quickstart.py --workdir runs/quickstart" in text
    for flag in ("--workdir", "--manual_dir", "--data_dir", "--[no]dry_run"):
        assert flag in text
    assert "Traceback" not in text
