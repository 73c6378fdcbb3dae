"""`agegender report`, on a run that was trained."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from agegender_jax import cli
from agegender_jax.commands import report
from agegender_jax.labels import DISCLAIMER


@pytest.fixture(autouse=True)
def _keep_the_tests_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agegender_jax.compilation.cache_compilations", lambda: None)


def test_a_run_explains_itself(finished: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "page.html"
    assert cli.main(["report", str(finished.workdir), "--out", str(target)]) == 0
    assert re.fullmatch(rf"{target} \(\d\.\d\d MB\)\n", capsys.readouterr().out)
    numbers = json.loads((tmp_path / "page.json").read_text())
    for figure in ("gender/accuracy", "age_group/one_off", "age/mae"):
        assert numbers["test"]["metrics"][figure]["value"] == pytest.approx(finished.summary["test"][figure])
        assert numbers["baseline"][figure] == finished.summary["baseline"][figure]
    assert numbers["split"]["sha256"] == finished.summary["split_sha256"]
    text = target.read_text()
    assert "<img" not in text
    assert (DISCLAIMER in text) is finished.summary["synthetic"]
    assert "validation/gender/accuracy" in numbers["curves"]


def test_pictures_come_only_when_they_are_asked_for(
    finished: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "page.html"
    monkeypatch.setattr("agegender_jax.report.images.saliency_panels", lambda opened, rows: {})  # has tests of its own
    assert cli.main(["report", str(finished.workdir), "--with_images", "--out", str(target)]) == 0
    text = target.read_text()
    mistakes = json.loads((tmp_path / "page.json").read_text())["mistakes"]
    assert text.count("<img") == sum(len(rows) for kinds in mistakes.values() for rows in kinds.values()) > 0
    assert "cannot be decoded" not in text
    assert ("mind the terms" in capsys.readouterr().out) is not finished.summary["synthetic"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nowhere"], "holds no run"),
        (["RUN", "--manual_dir", "x"], "are for --with_images; leave them out"),
        (["RUN", "--out", "report.txt"], "report.txt does not end in .html"),
    ],
)
def test_what_is_wrong_is_one_sentence(
    arguments: list[str], sentence: str, finished: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [argument.replace("RUN", str(finished.workdir)) for argument in arguments]
    assert cli.main(["report", *arguments]) == 2
    error = capsys.readouterr().err.strip()
    assert sentence in error
    assert len(error.splitlines()) == 1


def test_a_run_without_predictions_says_how_to_get_them(
    finished: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "old"
    shutil.copytree(
        finished.workdir, copy, ignore=shutil.ignore_patterns("checkpoints", "tensorboard", "predictions.npz")
    )
    assert cli.main(["report", str(copy)]) == 2
    assert f"`agegender evaluate {copy}`" in capsys.readouterr().err
    assert not (copy / "report").exists()


def test_examples_are_of_this_command() -> None:
    assert all("agegender report " in line for line in report.EXAMPLES.splitlines()[1:])
