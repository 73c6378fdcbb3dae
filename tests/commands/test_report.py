"""`agegender report`, on a run that was trained."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from agegender_jax import cli


def test_the_report_of_a_training(finished: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "page.html"
    assert cli.main(["report", str(finished.workdir), "--out", str(path)]) == 0
    assert re.fullmatch(rf"{path} \(\d\.\d\d MB\)\n", capsys.readouterr().out)
    numbers = json.loads((tmp_path / "page.json").read_text())
    for name in ("gender/accuracy", "age_group/one_off", "age/mae"):
        assert numbers["test"]["metrics"][name]["value"] == pytest.approx(finished.summary["test"][name])
        assert numbers["baseline"][name] == finished.summary["baseline"][name]
    assert numbers["split"]["sha256"] == finished.summary["split_sha256"]
    assert "validation/gender/accuracy" in numbers["curves"]
    assert "<img" not in path.read_text()


def test_with_images(finished: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "page.html"
    monkeypatch.setattr("agegender_jax.report.images.saliency_panels", lambda opened, rows: {})  # has tests of its own
    assert cli.main(["report", str(finished.workdir), "--with_images", "--out", str(path)]) == 0
    text = path.read_text()
    mistakes = json.loads((tmp_path / "page.json").read_text())["mistakes"]
    assert text.count("<img") == sum(len(rows) for kinds in mistakes.values() for rows in kinds.values()) > 0
    assert "cannot be decoded" not in text


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["nowhere"], "nowhere"),
        (["RUN", "--manual_dir", "x"], "--with_images"),
        (["RUN", "--out", "report.txt"], "report.txt"),
        (["OTHER"], "summary.json"),  # a run without predictions
    ],
)
def test_bad_arguments_are_one_sentence(
    arguments: list[str], name: str, finished: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ignored = shutil.ignore_patterns("checkpoints", "tensorboard", "predictions.npz", "report")
    shutil.copytree(finished.workdir, tmp_path / "other", ignore=ignored)
    paths = {"RUN": str(finished.workdir), "OTHER": str(tmp_path / "other")}
    assert cli.main(["report", *(paths.get(argument, argument) for argument in arguments)]) == 2
    error = capsys.readouterr().err.strip()
    assert name in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "other" / "report").exists()
