"""`agegender compare`: what it takes, and what it says."""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from agegender_jax.commands import compare
from agegender_jax.errors import UserError


@pytest.fixture
def parser(monkeypatch: pytest.MonkeyPatch) -> argparse.ArgumentParser:
    monkeypatch.setattr("agegender_jax.compilation.cache_compilations", lambda: None)  # the tests' own cache stays
    parser = argparse.ArgumentParser()
    compare.add_parser(parser.add_subparsers())
    return parser


@pytest.fixture
def pair(finished: Any, tmp_path: Path) -> list[str]:
    """Directories of two runs that say the same."""
    copy = tmp_path / "copy"
    copy.mkdir()
    shutil.copy(finished.workdir / "predictions.npz", copy)
    return [str(finished.workdir), str(copy)]


def test_two_runs(
    pair: list[str], parser: argparse.ArgumentParser, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "compared.json"
    arguments = parser.parse_args(["compare", *pair, "--json", str(file)])
    assert arguments.function(arguments) == 0
    said = capsys.readouterr().out
    assert "part test: 120 examples" in said
    assert "gender: no figure differs beyond chance, which does not show that they are equal." in said
    found = json.loads(file.read_text())
    assert found["runs"] == ["finished", "copy"]
    assert {each["value"] for each in found["metrics"].values()} == {0.0}
    with pytest.raises(UserError, match="is there already"):
        arguments.function(arguments)


def test_the_validation_part(
    pair: list[str], parser: argparse.ArgumentParser, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = parser.parse_args(["compare", *pair, "--split", "validation"])
    assert arguments.function(arguments) == 0
    assert "part validation: 72 examples" in capsys.readouterr().out


def test_one_run_is_not_compared_with_itself(finished: Any, parser: argparse.ArgumentParser) -> None:
    twice = [str(finished.workdir), str(finished.workdir / ".." / finished.workdir.name)]
    arguments = parser.parse_args(["compare", *twice])
    with pytest.raises(UserError, match="is named twice; name two runs"):
        arguments.function(arguments)


def test_a_folder_without_a_run(pair: list[str], parser: argparse.ArgumentParser, tmp_path: Path) -> None:
    arguments = parser.parse_args(["compare", pair[0], str(tmp_path)])
    with pytest.raises(UserError, match=r"holds no run \(no recipe\.json\)"):
        arguments.function(arguments)


def test_help_has_examples(parser: argparse.ArgumentParser, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parser.parse_args(["compare", "--help"])
    assert "agegender compare runs/small runs/resnet --split validation" in capsys.readouterr().out
