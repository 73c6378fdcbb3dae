"""The agegender command: what it prints, writes and returns."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agegender_jax import cli


@pytest.fixture(autouse=True)
def _keep_the_tests_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agegender_jax.compilation.cache_compilations", lambda: None)


def test_evaluate_prints_and_writes_the_run_s_figures(
    finished: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "figures.json"
    assert cli.main(["evaluate", str(finished.workdir), "--json", str(target)]) == 0
    written = json.loads(target.read_text())
    assert written["test"] == finished.summary["test"]
    assert [path.name for path in tmp_path.iterdir()] == ["figures.json"]  # nothing temporary is left
    printed = capsys.readouterr().out
    assert printed.startswith("finished: utkface, protocol disjoint, age groups nearest, split ")
    row = next(line for line in printed.splitlines() if line.startswith("age/mae"))
    assert row.split()[1:] == [f"{finished.summary[part]['age/mae']:.4f}" for part in ("test", "constant")]


@pytest.mark.parametrize(("split", "part"), [("val", "validation"), ("all", "all")])
def test_split_chooses_the_part(split: str, part: str, finished: Any, tmp_path: Path) -> None:
    target = tmp_path / "figures.json"
    assert cli.main(["evaluate", str(finished.workdir), "--split", split, "--json", str(target)]) == 0
    figures = json.loads(target.read_text())[part]
    assert figures["n"] == {"validation": finished.summary["validation"]["n"], "all": 600}[part]


def test_another_archive_is_measured_and_what_was_seen_is_counted(
    finished: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run's own archive given as another one: all but the test part was seen."""
    arguments = ["--manual_dir", str(finished.manual_dir), "--data_dir", str(finished.data_dir)]
    assert cli.main(["evaluate", str(finished.workdir), *arguments]) == 0  # where its own lies
    assert "left out" not in capsys.readouterr().out
    assert cli.main(["evaluate", str(finished.workdir), "--dataset", "utkface", *arguments]) == 0
    printed = capsys.readouterr().out
    assert "480 files were left out" in printed
    row = next(line for line in printed.splitlines() if line.startswith("age/mae"))
    assert row.split()[1] == f"{finished.summary['test']['age/mae']:.4f}"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nowhere"], "holds no run"),
        (["RUN", "--json", "RUN/recipe.json/x.json"], "cannot be written"),
        (["RUN", "--manual_dir", "nowhere"], "check the path of --manual_dir"),
        (["RUN", "--dataset", "faces"], "There is no dataset 'faces'; choose one of: "),
    ],
)
def test_what_is_wrong_is_one_sentence_and_exit_code_2(
    arguments: list[str], sentence: str, finished: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [argument.replace("RUN", str(finished.workdir)) for argument in arguments]
    assert cli.main(["evaluate", *arguments]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("agegender: ")
    assert sentence in error
    assert len(error.splitlines()) == 1


def test_an_incomplete_run_is_an_error(finished: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "recipe.json").write_text((finished.workdir / "recipe.json").read_text())
    assert cli.main(["evaluate", str(tmp_path)]) == 2
    assert "is not complete" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--help"], ["evaluate", "--help"]])
def test_help_shows_examples(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(arguments)
    assert end.value.code == 0
    assert "agegender evaluate runs/cpu --split validation" in capsys.readouterr().out


def test_a_mistyped_argument_is_an_error() -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(["evaluate", "run", "--split", "tset"])
    assert end.value.code == 2


def test_help_starts_without_jax() -> None:
    code = (
        "import sys; from agegender_jax import cli\ntry: cli.main(['--help'])\nfinally: assert 'jax' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
