"""Spectrogram images beside librosa's, made tiny."""

from collections.abc import Callable
from typing import Any

import pytest

from benchmarks import spectrogram


def test_smoke(measured: Callable[..., Any]) -> None:
    pytest.importorskip("librosa", reason="needs the extra `test`")
    (row,) = measured(spectrogram.main).values()
    assert row["unit"] == "clips/s"
    assert row["peer"] > 0
