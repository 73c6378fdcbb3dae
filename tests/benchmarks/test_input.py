"""Decoding and the pipeline alone, made tiny."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks import input as pipeline


def test_smoke_without_a_peer(measured: Callable[..., Any], data_dir: Path) -> None:
    (row,) = measured(pipeline.main, "--no_peer", f"--data_dir={data_dir}").values()
    assert row["name"].startswith("utkface to 32x32, batch 8, ")
    assert row["unit"] == "images/s"
    assert row["ours"] > 0
    assert row["peer"] is None


def test_too_few_images_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    settings = ["dataset.synthetic=20", "train.batch_size=16", "dataset.image_size=32"]
    assert pipeline.main(["--no_peer", "--set", *settings]) == 2
    assert "--set" in capsys.readouterr().err
