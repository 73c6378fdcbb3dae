"""A run that is killed with SIGKILL, also while it saves, and started again ends in the bits of a run left alone."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.runs import assert_same_bits

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


def _start(workdir: Path, data_dir: Path) -> subprocess.Popen[str]:
    settings = {
        "dataset.synthetic": 160, "dataset.image_size": 32, "train.batch_size": 16, "train.steps_per_dispatch": 1,
        "train.epochs": 4.0, "evaluate.every_epochs": 0.5, "evaluate.report": False,
    }  # fmt: skip
    command = [sys.executable, "launch.py", "--config=configs/quickstart.py", f"--data_dir={data_dir}"]
    command += [f"--config.{key}={value}" for key, value in settings.items()]
    return subprocess.Popen(
        [*command, f"--workdir={workdir}"], cwd=ROOT, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )


def _names(folder: Path) -> set[str]:
    """Whole checkpoints (numbers), and those being written."""
    return set(os.listdir(folder)) if folder.exists() else set()


def test_a_killed_run_ends_in_the_same_bits(tmp_path: Path, data_dir: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    process = _start(whole, data_dir)
    assert process.wait() == 0, process.communicate()[1]
    # The first kill comes after a checkpoint, for something to resume from; then while one is written, or a bit later.
    for kill, delay in enumerate((0.0, 0.0, 0.2)):
        before, process = _names(killed / "checkpoints"), _start(killed, data_dir)
        while process.poll() is None:
            new = _names(killed / "checkpoints") - before
            if any(name.isdigit() for name in new) or (kill and new):
                break
            time.sleep(0.002)
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, process.communicate()[1]
    process = _start(killed, data_dir)
    assert process.wait() == 0, process.communicate()[1]
    assert_same_bits(killed, whole)
