"""Benchmarks that start `launch.py`: what they make of what it leaves, from a script that leaves known figures."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agegender_jax.errors import UserError
from benchmarks import launch_runs, scale, startup


@pytest.mark.usefixtures("stub")
def test_startup_reads_the_first_step_cold_and_cached(measured: Callable[..., Any]) -> None:
    found = measured(startup.main, "--repeats=2")
    assert found["quickstart.py, cold: first step"]["ours"] == 7.0
    assert found["quickstart.py, cached: first step"]["ours"] == 2.0
    assert {row["unit"] for row in found.values()} == {"s"}
    assert found["quickstart.py, cold: whole command"]["ours"] > 0.02
    assert found["quickstart.py, cold: first step"]["hardware"] == "cpu cpu x1, Z80, 2 cores"


@pytest.mark.usefixtures("stub")
def test_scale_compares_losses_and_moves_a_run(
    measured: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    found = measured(scale.main)
    assert list(found) == [
        "strong, 1 device",
        "strong, 2 devices",
        "strong, 2 devices: loss",
        "weak, 2 devices",
        "2 processes of 1 device",
        "2 processes of 1 device: loss",
        "moved: 2 devices, 1, 2 processes: loss",
    ]
    # The script's images a second are the batch times all devices; its losses differ by 1e-7 a device.
    assert found["strong, 2 devices"]["ratio_median"] == 2.0
    assert found["weak, 2 devices"]["ours"] == 32.0
    assert found["weak, 2 devices"]["peer"] == 8.0
    for name in ("strong, 2 devices", "2 processes of 1 device", "moved: 2 devices, 1, 2 processes"):
        assert found[f"{name}: loss"]["ours"] == pytest.approx(1e-7, rel=0.01)
    assert "Losses equal to 1e-05: all." in capsys.readouterr().out


def _arguments(tmp_path: Path, *settings: str) -> argparse.Namespace:
    return argparse.Namespace(config="c.py", set=list(settings), data_dir=tmp_path, manual_dir=None)


@pytest.mark.usefixtures("stub")
def test_a_run_that_fails_says_why(tmp_path: Path) -> None:
    command = launch_runs.command(_arguments(tmp_path, "fail=1"), tmp_path / "run")
    for processes in (1, 2):
        with pytest.raises(UserError, match=r"^The data are missing; give --manual_dir\.$"):
            launch_runs.run(command, tmp_path / "run", processes=processes)


@pytest.mark.usefixtures("stub")
def test_a_run_that_ends_too_soon_was_not_stopped(tmp_path: Path) -> None:
    command = launch_runs.command(_arguments(tmp_path, "train.epochs=0.2"), tmp_path / "run")
    with pytest.raises(UserError, match="ended with 0"):
        launch_runs.run(command, tmp_path / "run", stop_at=9)
