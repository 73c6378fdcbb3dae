"""Benchmarks that start `launch.py`: from a script that writes known metrics."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agegender_jax.errors import UserError
from benchmarks import launch_runs, scale, startup


@pytest.mark.usefixtures("stub")
def test_startup_reads_the_first_step_cold_and_cached(measured: Callable[..., Any]) -> None:
    rows = measured(startup.main, "--repeats=2")
    assert rows["quickstart.py, cold: first step"]["ours"] == 7.0
    assert rows["quickstart.py, cached: first step"]["ours"] == 2.0
    assert {row["unit"] for row in rows.values()} == {"s"}
    assert rows["quickstart.py, cold: whole command"]["ours"] > 0.02
    assert rows["quickstart.py, cold: first step"]["hardware"] == "cpu cpu x1, Z80, 2 cores"


@pytest.mark.usefixtures("stub")
def test_scale_compares_losses_and_moves_a_run(
    measured: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    rows = measured(scale.main)
    assert list(rows) == [
        "strong, 1 device",
        "strong, 2 devices",
        "strong, 2 devices: loss",
        "weak, 2 devices",
        "2 processes of 1 device",
        "2 processes of 1 device: loss",
        "moved: 2 devices, 1, 2 processes: loss",
    ]
    # The script's images a second are the batch times all devices; its losses differ by 1e-7 a device.
    assert rows["strong, 2 devices"]["ratio_median"] == 2.0
    assert rows["weak, 2 devices"]["ours"] == 32.0
    assert rows["weak, 2 devices"]["peer"] == 8.0
    for name in ("strong, 2 devices", "2 processes of 1 device", "moved: 2 devices, 1, 2 processes"):
        assert rows[f"{name}: loss"]["ours"] == pytest.approx(1e-7, rel=0.01)
    assert "Losses equal to 1e-05: all." in capsys.readouterr().out


@pytest.mark.usefixtures("stub")
@pytest.mark.parametrize(
    ("setting", "options", "names"),
    [
        ("fail=1", {"processes": 1}, "^[^\n]*--manual_dir"),
        ("fail=1", {"processes": 2}, "^[^\n]*--manual_dir"),
        ("train.epochs=0.2", {"stop_at": 9}, "0"),
    ],
)
def test_a_run_that_fails_or_ends_too_soon(setting: str, options: dict[str, int], names: str, tmp_path: Path) -> None:
    arguments = argparse.Namespace(config="c.py", set=[setting], data_dir=tmp_path, manual_dir=None)
    command = launch_runs.command(arguments, tmp_path / "run")
    with pytest.raises(UserError, match=names):
        launch_runs.run(command, tmp_path / "run", **options)
