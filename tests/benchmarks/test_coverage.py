"""How often intervals hold the truth: the command. That they do is in `tests/evaluate/test_uncertainty.py`."""

import json
from pathlib import Path

import pytest

from benchmarks import coverage, results


def test_the_command_writes_what_the_page_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cases = [case for case in coverage.CASES if case.name in ("accuracy, 300 examples", "MAE, 10 speakers of 10")]
    monkeypatch.setattr(coverage, "CASES", cases)
    path = tmp_path / "results" / "covered.json"
    path.parent.mkdir()
    command = ["--tests", "3", "--draws", "40", f"--json={path}"]
    assert coverage.main(command) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3
    written = json.loads(path.read_text())
    assert [row["name"] for row in written["rows"]] == [case.name for case in cases]
    (path.parent / "RESULTS.md.in").write_text("<!-- table: covered -->\n")
    page = results.fill(path.parent)
    assert "3 simulated tests a row, 40 draws in each." in page
    assert "| accuracy, 300 examples | " in page
    assert coverage.main(command) == 2  # nothing is overwritten
    assert "--json" in capsys.readouterr().err
