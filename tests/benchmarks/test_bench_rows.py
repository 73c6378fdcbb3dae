"""Numbers of paired windows, the table, and the file."""

import argparse
import doctest
import json
from pathlib import Path
from types import ModuleType

import pytest

from benchmarks import bench_rows, launch_runs
from benchmarks.reproduce import running, tables

ABOUT = {"versions": {"jax": "0.10.2", "torch": "2.13.0"}, "hardware": "cpu, 2 cores"}


def test_the_ratio_is_the_median_of_the_windows_own_ratios() -> None:
    # 10/5, 30/10, 20/40, 40/10, 50/20: in order 0.5, 2, 2.5, 3, 4. That of the medians would be 30/10.
    row = bench_rows.make_row("net", [10.0, 30.0, 20.0, 40.0, 50.0], [5.0, 10.0, 40.0, 10.0, 20.0], "images/s", ABOUT)
    assert (row.ours, row.peer) == (30.0, 10.0)
    assert (row.ratio_min, row.ratio_median, row.ratio_max) == (0.5, 2.5, 4.0)


def test_both_are_measured_in_each_window_and_begin_in_turn() -> None:
    order: list[str] = []

    def ours() -> float:
        order.append("ours")
        return 10.0 + len(order)

    def peer() -> float:
        order.append("peer")
        return 100.0 + len(order)

    mine, theirs = bench_rows.paired(ours, peer, 3)
    assert order == ["ours", "peer", "peer", "ours", "ours", "peer"]
    assert mine == [11.0, 14.0, 15.0]
    assert theirs == [102.0, 103.0, 106.0]


def test_the_table_names_what_was_measured_and_on_what() -> None:
    fast = bench_rows.make_row("step", [1234.5], [617.25], "images/s", ABOUT)
    alone = bench_rows.make_row("net", [1.0, 3.0, 8.0], None, "s", ABOUT)
    assert (alone.peer, alone.ratio_median, alone.ratio_min, alone.ratio_max) == (None,) * 4
    _, first, second, about = bench_rows.table([fast, alone]).splitlines()
    assert first.split() == ["step", "1,234", "617.2", "2.000", "2.000", "to", "2.000", "images/s"]
    assert second.split() == ["net", "3.000", "-", "-", "s"]
    assert about == "cpu, 2 cores; jax 0.10.2, torch 2.13.0"


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0.0000"), (3e-6, "3.00e-06"), (0.05, "0.0500"), (7.25, "7.250"), (75.5, "75.50"), (12345.6, "12,346")],
)
def test_numbers_are_short(value: float, text: str) -> None:
    row = bench_rows.make_row("x", [value], None, "s", ABOUT)
    assert bench_rows.table([row]).splitlines()[1].split()[1] == text


def test_rows_are_written_whole_and_over_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "rows.json"
    row = bench_rows.make_row("net", [2.0], [1.0], "images/s", ABOUT)
    assert bench_rows.run(lambda _: [row], argparse.Namespace(json=path)) == 0
    numbers = {"ours": 2.0, "peer": 1.0, "ratio_median": 2.0, "ratio_min": 2.0, "ratio_max": 2.0}
    assert json.loads(path.read_text()) == [{"name": "net", **numbers, "unit": "images/s", **ABOUT}]
    assert list(tmp_path.iterdir()) == [path]
    assert "net" in capsys.readouterr().out

    def never(_: argparse.Namespace) -> list[bench_rows.Row]:
        raise AssertionError("nothing is measured that cannot be written")

    for bad in (path, tmp_path / "none" / "rows.json"):
        assert bench_rows.run(never, argparse.Namespace(json=bad)) == 2
        error = capsys.readouterr().err
        assert "--json" in error
        assert error.count("\n") == 1


def test_fewer_than_five_windows_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    bench_rows.add_options(parser)
    assert parser.parse_args([]).windows == 7
    with pytest.raises(SystemExit):
        parser.parse_args(["--windows=4"])
    assert "--windows" in capsys.readouterr().err


@pytest.mark.parametrize("module", [bench_rows, launch_runs, running, tables])
def test_the_examples_in_the_docstrings(module: ModuleType) -> None:
    result = doctest.testmod(module)
    assert result.attempted
    assert not result.failed


def test_a_busy_machine_is_noted(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(bench_rows, "_load", lambda: 999.0)
    assert bench_rows.run(lambda _: [], argparse.Namespace(json=None)) == 0
    assert "999.0" in capsys.readouterr().err
