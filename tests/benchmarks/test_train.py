"""Training end to end, made tiny; and the metrics that a run's own lines give."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks import launch_runs, train


def _line(step: int, seconds: float, rate: float) -> dict[str, float]:
    return {"step": step, "train/loss": 1.0, "seconds": seconds, "images_per_second": rate}


# Dispatches of 40 images. The first epoch's evaluation and checkpoint take 3 of the 4 s between steps 4 and 6.
LINES = [
    _line(2, 5.0, 8.0),
    _line(4, 6.0, 40.0),
    {"step": 4, "seconds": 8.0, "validation/n": 10},
    _line(6, 10.0, 40.0),
    _line(8, 12.0, 20.0),
    {"step": 8, "seconds": 13.0, "validation/n": 10},
    _line(10, 15.0, 20.0),
]


def test_the_second_epoch_without_and_with_the_evaluation() -> None:
    # Training takes 40/40 + 40/20 = 3 s for 80 images; from the end of step 4 to that of step 8 pass 6 s.
    assert train.second_epoch(LINES, 40) == (pytest.approx(80 / 3), pytest.approx(80 / 6))


def test_a_cold_epoch_begins_with_the_command() -> None:
    summary = {"first_step_seconds": 9.0, "train_examples": 100, "epochs": 1.2}
    # 9 s until step 2 is done, and 1 s from there to step 4.
    assert train.first_epoch(launch_runs.Finished(summary, LINES[:2], 0.0)) == pytest.approx(120 / 10)


@pytest.mark.slow
@pytest.mark.usefixtures("tiny")
def test_smoke(measured: Callable[..., Any], data_dir: Path) -> None:
    rows = measured(train.main, "--loaders=stream", f"--data_dir={data_dir}")
    name = "small_cnn:thin 32x32, batch 8"
    assert list(rows) == [f"{name}, stream: epoch", f"{name}, stream: with evaluation", f"{name}: host, of a dispatch"]
    for row in rows.values():
        assert row["ours"] > 0
        assert row["ratio_median"] > 0
    assert rows[f"{name}, stream: with evaluation"]["ours"] < rows[f"{name}, stream: epoch"]["ours"]
