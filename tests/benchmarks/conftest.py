"""Shared fixtures of the benchmarks' tests."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks import bench_rows, jax_side, launch_runs

KEYS = {"name", "ours", "peer", "ratio_median", "ratio_min", "ratio_max", "unit", "versions", "hardware"}


@pytest.fixture(autouse=True)
def _keep_the_tests_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax_side, "cache_compilations", lambda: None)


@pytest.fixture(autouse=True)
def _quiet_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_rows, "_load", lambda: 0.0)


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replaces `launch.py` by a script that writes metrics and trains nothing."""
    monkeypatch.setattr(launch_runs, "LAUNCH", Path(__file__).with_name("launch_stub.py"))


@pytest.fixture
def measured(tmp_path: Path) -> Callable[..., dict[str, dict[str, Any]]]:
    """Runs a benchmark's command with `--smoke` and returns the rows that it wrote, by name."""

    def run(main: Callable[[list[str]], int], *arguments: str) -> dict[str, dict[str, Any]]:
        path = tmp_path / "rows.json"
        assert main(["--smoke", f"--json={path}", *arguments]) == 0
        rows = json.loads(path.read_text())
        assert rows
        assert all(set(row) == KEYS for row in rows)
        return {row["name"]: row for row in rows}

    return run
