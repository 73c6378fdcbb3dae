"""Metrics by group, from a report to the page of results."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import groups, results


def row(gender: str | None, race: str | None, band: str | None, n: int, accuracy: float) -> dict[str, Any]:
    metrics = {"accuracy": {"value": accuracy, "low": accuracy - 0.1, "high": accuracy + 0.05}, "f1": {"value": 0.5}}
    return {"gender": gender, "race": race, "age_band": band, "n": n, "clusters": n, **metrics}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with a report of two genders, one of them small."""
    crossed = [row("male", "Asian", "20-29", 40, 0.9), row("female", "Asian", "20-29", 9, 0.5)]
    worst = {**row("male", None, None, 50, 0.75), "value": 0.75, "low": 0.65, "high": 0.8, "metric": "accuracy"}
    report = {
        **{"run": "mine", "dataset": "utkface", "synthetic": False, "protocol": "disjoint", "age_groups": "nearest"},
        **{"versions": {"jax": "1"}, "hardware": {}, "command": "/home/me/launch.py"},
        "metrics": {
            "gender/f1": {"target": "gender", "name": "f1", "unit": "share", "main": False},
            "gender/accuracy": {"target": "gender", "name": "accuracy", "unit": "share", "main": True},
        },
        "mistakes": {"gender": [{"key": "somebody.jpg"}]},
        "test": {
            **{"n": 59, "clusters": 58, "least": 30, "least_clusters": 10},
            "worst": {"gender": {"gender": worst}},
            "gap": {"gender": {"gender": {"value": 0.125, "low": 0.05, "high": 0.2}}},
            "groups": {"gender": [row("male", None, None, 50, 0.75), *crossed]},
        },
    }
    (tmp_path / "run" / "report").mkdir(parents=True)
    (tmp_path / "run" / "report" / "report.json").write_text(json.dumps(report))
    return tmp_path / "run"


def test_the_page_takes_what_was_kept_and_nobody_is_named_in_it(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "results"
    folder.mkdir()
    (folder / "RESULTS.md.in").write_text("By group:\n\n<!-- table: mine -->\n")
    assert groups.main([str(run), "--json", str(folder / "mine.json")]) == 0
    kept = (folder / "mine.json").read_text()
    assert "somebody" not in kept
    assert "/home/me" not in kept
    printed = capsys.readouterr().out
    assert printed.strip() in results.fill(folder)
    assert "| gender accuracy, % | gender | male | 50 | 75.0 | 65.0 to 80.0 | 12.5 | 5.0 to 20.0 |" in printed
    assert "| male, Asian | 90.0 (40) |" in printed
    assert "| female, Asian | [50.0 (9)] |" in printed
    assert groups.main([str(run), "--json", str(folder / "mine.json")]) == 2  # nothing is overwritten


def test_a_run_without_a_report_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert groups.main([str(tmp_path)]) == 2
    assert "report.json" in capsys.readouterr().err
