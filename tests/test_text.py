"""Text for terminals and tables."""

import os

import pytest

from agegender_jax.text import Table, by_row, csv_cell, duration, encodable, plain, printable


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@x", "\tx", "\rx"])
def test_a_formula_begins_with_an_apostrophe(name: str) -> None:
    assert csv_cell(name) == f"'{name}"
    assert csv_cell(f"x{name}") == f"x{name}"


def test_any_name_can_be_written() -> None:
    assert encodable(os.fsdecode(b"\xe9 \xc3\xa9")) == "\\udce9 é"
    assert encodable("é", "ascii") == "\\xe9"
    csv_cell(os.fsdecode(b"=\xe9")).encode()
    assert (encodable(""), csv_cell("")) == ("", "")


def test_control_characters_are_escaped() -> None:
    assert printable("a\x1b[2J\n\x9b\u202e é") == "a\\x1b[2J\\n\\x9b\\u202e é"
    assert printable("a\nb\r", keep="\n") == "a\nb\\r"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.4, "59 s"), (59.7, "1 min 00 s"), (119.7, "2 min 00 s"), (3599.8, "1 h 00 min")],
)
def test_times_are_rounded_before_they_are_cut(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_columns_of_numbers_are_aligned_right_and_text_left() -> None:
    rows = [("a", "1.5", "x", "-"), ("heading",), ("long name", "−12.25 years", "", "< 0.1")]
    assert plain(Table(("", "value", "note", "p"), rows, "caption")).splitlines() == [
        "caption",
        "                  value  note      p",
        "a                   1.5  x         -",
        "heading",
        "long name  −12.25 years        < 0.1",
    ]


def test_a_table_is_plain_unwrapped_and_takes_no_markup(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"COLUMNS": "20", "FORCE_COLOR": "1", "TTY_COMPATIBLE": "1", "TERM": "xterm-256color"}.items():
        monkeypatch.setenv(name, value)
    cells = ["[red]x[/red]", "\x1b[2J", ":smile:", "https://example.org", "y" * 60] + [f"cell {i}" for i in range(20)]
    lines = plain(Table([f"title {i}" for i in range(25)], [cells])).splitlines()
    assert len(lines) == 2
    for cell in cells[2:]:
        assert cell in lines[1]
    assert lines[1].startswith("[red]x[/red]  \\x1b[2J")
    assert "\x1b" not in lines[0] + lines[1]


def test_long_cells_are_wrapped_inside_their_column() -> None:
    lines = plain(Table(("name", "value"), [("odd", "word " * 30), ("n", "3")])).splitlines()
    assert max(map(len, lines)) <= 72
    assert all(line.startswith(("name", "odd ", "n   ", "      word")) for line in lines)
    assert plain(Table((), [("y" * 100,)])).splitlines() == ["y" * 66, "y" * 34]


def test_columns_side_by_side_keep_the_order_of_the_keys() -> None:
    columns = {"a": {"x": "1", "y": "2"}, "b": {"z": "3", "x": "4"}}
    assert by_row(columns) == Table(("", "a", "b"), [("x", "1", "4"), ("y", "2", ""), ("z", "", "3")])
    assert by_row(columns, ["y"]).rows == [("y", "2", "")]
