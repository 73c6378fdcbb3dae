"""`agegender explain`: what it takes, and what it says."""

import argparse
from pathlib import Path
from typing import Any

import jax
import pytest
from jax.sharding import AxisType
from PIL import Image

from agegender_jax.commands import explain
from agegender_jax.evaluate.saliency import METHODS


@pytest.fixture
def parser(monkeypatch: pytest.MonkeyPatch) -> argparse.ArgumentParser:
    monkeypatch.setattr("agegender_jax.compilation.cache_compilations", lambda: None)  # the tests' own cache stays
    mesh = jax.make_mesh((1, 1), ("data", "model"), (AxisType.Auto,) * 2, devices=jax.devices()[:1])
    monkeypatch.setattr("agegender_jax.evaluate.loaded.make_mesh", lambda: mesh)
    parser = argparse.ArgumentParser()
    explain.add_parser(parser.add_subparsers())
    return parser


def test_files(
    finished: Any, parser: argparse.ArgumentParser, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ("red.png", "blue.png", "text.png", "green.png")
    for name in names:
        Image.new("RGB", (50, 40), name.removesuffix(".png").replace("text", "black")).save(tmp_path / name)
    (tmp_path / "text.png").write_text("none")
    files = [str(tmp_path / name) for name in names]
    arguments = parser.parse_args(["explain", str(finished.workdir), *files, "--out", str(tmp_path / "out")])
    assert arguments.function(arguments) == 0
    said = capsys.readouterr()
    assert said.out == (
        f"{tmp_path}/out: 3 pictures, and all of them in {tmp_path}/out/sheet.png.\n"
        "The maps are 2x2: enlarged, they show no more than that.\n"
    )
    assert "agegender: skipped " in said.err
    assert "text.png: is no image that can be decoded" in said.err
    assert (tmp_path / "out" / "001.png").exists()


def test_a_folder_of_one_file(
    finished: Any, parser: argparse.ArgumentParser, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "album").mkdir()
    Image.new("RGB", (50, 40), "red").save(tmp_path / "album" / "red.png")
    out = tmp_path / "out"
    arguments = parser.parse_args(["explain", str(finished.workdir), str(tmp_path / "album"), "--out", str(out)])
    assert arguments.function(arguments) == 0
    assert f"{out}: 1 picture, and {out}/sheet.png.\n" in capsys.readouterr().out


def test_examples_come_with_the_datasets_terms(
    finished: Any, parser: argparse.ArgumentParser, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--count", "3", "--split", "val", "--head", "gender", "--class", "male", "--method", "layer_cam"]
    arguments = parser.parse_args(["explain", str(finished.workdir), "--out", str(tmp_path / "out"), *options])
    assert arguments.function(arguments) == 0
    assert "They show people: share them only as the dataset's terms allow." in capsys.readouterr().out
    assert (tmp_path / "out" / "examples.csv").read_text().count(",male\n") == 3


def test_options(parser: argparse.ArgumentParser, capsys: pytest.CaptureFixture[str]) -> None:
    assert parser.parse_args(["explain", "run"]).out == Path("maps")
    for method in METHODS:
        assert parser.parse_args(["explain", "run", "a.jpg", "--method", method]).method == method
    with pytest.raises(SystemExit):
        parser.parse_args(["explain", "run", "--method", "lime"])
    assert "choose from " + ", ".join(map(repr, METHODS)) in capsys.readouterr().err
    with pytest.raises(SystemExit):
        parser.parse_args(["explain", "run", "--count", "0"])
    assert "'0' is no whole number from 1 on" in capsys.readouterr().err
