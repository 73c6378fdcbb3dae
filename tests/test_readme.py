"""The commands of the README and of the first page of the guide: every one is run, made small."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from agegender_jax import cli

ROOT = Path(__file__).parents[1]
SMALL = {
    "train.epochs": 0.01,
    "train.steps_per_dispatch": 2,
    "train.batch_size": 8,
    "evaluate.batch_size": 32,
    "dataset.image_size": 32,
}


def commands(page: str, heading: str) -> list[list[str]]:
    """Returns the commands of the first block below a heading, without comments, in their order."""
    block = re.search(rf"## {heading}\n.*?```sh\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    lines = block.group(1).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines]


def demo_command() -> list[str]:
    """Returns what `make demo` runs once there is an environment."""
    recipe = re.search(r"^demo:.*\n\t\$\(BIN\)/python (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    return [".venv/bin/python", *shlex.split(recipe.group(1))]


@pytest.mark.slow
def test_first_commands(
    synthetic_dir: Path,
    data_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TFDS_DATA_DIR", str(data_dir))
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    (tmp_path / "DIR").symlink_to(synthetic_dir)
    photos = tmp_path / "PHOTOS"
    photos.mkdir()
    with tarfile.open(synthetic_dir / "UTKFace.tar.gz") as tar:
        for member in [member for member in tar if member.isfile()][:3]:
            file = tar.extractfile(member)
            with open(photos / Path(member.name).name, "wb") as photo:
                shutil.copyfileobj(file, photo)
    readme = commands("README.md", "Quickstart")
    assert readme[0] == ["make", "demo"]
    guide = commands("docs/GUIDE.md", "From images to predictions")
    for command in [demo_command(), *readme[1:], *guide]:
        program, *arguments = command
        if program == ".venv/bin/agegender":
            assert cli.main(arguments) == 0, command
        else:
            assert program == ".venv/bin/python"
            assert arguments[0] == "launch.py"
            small = [f"--config.{key}={value}" for key, value in SMALL.items()]
            synthetic = ["--config.dataset.synthetic=160"] if "quickstart" in command[3] else []
            environment = os.environ | {"JAX_NUM_CPU_DEVICES": "1", "PYTHONPATH": str(ROOT)}
            subprocess.run(
                [sys.executable, ROOT / "launch.py", *arguments[1:], *small, *synthetic],
                check=True, env=environment, stderr=subprocess.PIPE,
            )  # fmt: skip
    output = capsys.readouterr().out
    for name in ("quickstart", "cpu", "weighted"):
        assert (tmp_path / "runs" / name / "report" / "index.html").exists()
        assert name in output
    assert "data:image/jpeg" in (tmp_path / "runs" / "cpu" / "report" / "index.html").read_text()
    assert len((tmp_path / "predictions.csv").read_text().splitlines()) == 4
    assert (tmp_path / "maps" / "sheet.png").exists()
