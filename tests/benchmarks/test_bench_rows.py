"""Figures of paired windows, the table, and the file."""

import argparse
import doctest
import json
from pathlib import Path

import pytest

from agegender_jax.errors import UserError
from benchmarks import bench_rows, launch_runs

ABOUT = {"versions": {"jax": "0.10.2", "torch": "2.13.0"}, "hardware": "cpu, 2 cores"}


def test_the_ratio_is_the_median_of_the_windows_own_ratios() -> None:
    # 10/5, 30/10, 20/40, 40/10, 50/20: in order 0.5, 2, 2.5, 3, 4. That of the medians would be 30/10.
    row = bench_rows.make_row("net", [10.0, 30.0, 20.0, 40.0, 50.0], [5.0, 10.0, 40.0, 10.0, 20.0], "images/s", ABOUT)
    assert (row.ours, row.peer) == (30.0, 10.0)
    assert (row.ratio_min, row.ratio_median, row.ratio_max) == (0.5, 2.5, 4.0)


def test_without_a_peer_its_columns_are_empty() -> None:
    row = bench_rows.make_row("net", [1.0, 3.0, 8.0], None, "s", ABOUT)
    assert row.ours == 3.0
    assert (row.peer, row.ratio_median, row.ratio_min, row.ratio_max) == (None,) * 4
    assert bench_rows.table([row]).splitlines()[1].split() == ["net", "3.000", "-", "-", "s"]


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
    other = bench_rows.make_row("share", [0.4321], [0.2], "of the product", ABOUT)
    head, first, second, about = bench_rows.table([fast, other]).splitlines()
    assert head.split() == ["ours", "peer", "ratio,", "median", "of", "the", "windows", "unit"]
    assert first.split() == ["step", "1,234", "617.2", "2.000", "2.000", "to", "2.000", "images/s"]
    assert second.split()[:4] == ["share", "0.4321", "0.2000", "2.160"]
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
    arguments = argparse.Namespace(json=path)
    row = bench_rows.make_row("net", [2.0], [1.0], "images/s", ABOUT)
    assert bench_rows.run(lambda _: [row], arguments) == 0
    (found,) = json.loads(path.read_text())
    assert found == {
        "name": "net", "ours": 2.0, "peer": 1.0, "ratio_median": 2.0, "ratio_min": 2.0, "ratio_max": 2.0,
        "unit": "images/s", **ABOUT,
    }  # fmt: skip
    assert list(tmp_path.iterdir()) == [path]
    assert "net" in capsys.readouterr().out

    def never(_: argparse.Namespace) -> list[bench_rows.Row]:
        raise AssertionError("what cannot be written must not be measured")

    assert bench_rows.run(never, arguments) == 2
    assert "nothing is overwritten" in capsys.readouterr().err
    assert bench_rows.run(never, argparse.Namespace(json=tmp_path / "none" / "rows.json")) == 2
    assert "no folder" in capsys.readouterr().err


def test_what_the_user_can_mend_is_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    def bad(_: argparse.Namespace) -> list[bench_rows.Row]:
        raise UserError("There is no net 'x'; choose another.")

    assert bench_rows.run(bad, argparse.Namespace(json=None)) == 2
    assert capsys.readouterr().err == "There is no net 'x'; choose another.\n"


def test_fewer_than_five_windows_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    bench_rows.add_options(parser)
    assert parser.parse_args([]).windows == 7
    with pytest.raises(SystemExit):
        parser.parse_args(["--windows=4"])
    assert "from 5 on" in capsys.readouterr().err


def test_the_examples_in_the_docstrings() -> None:
    for module in (bench_rows, launch_runs):
        found = doctest.testmod(module)
        assert found.attempted
        assert not found.failed


def test_a_machine_in_use_is_told_of(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(bench_rows, "_load", lambda: 999.0)
    assert bench_rows.run(lambda _: [], argparse.Namespace(json=None)) == 0
    assert "Others use this machine (load 999.0)" in capsys.readouterr().err
