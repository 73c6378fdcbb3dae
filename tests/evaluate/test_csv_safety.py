"""Texts in tables: any name can be written, and none is a formula or an order to a terminal."""

import os

import pytest

from agegender_jax.evaluate.csv_safety import cell, text, visible


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@x", "\tx", "\rx"])
def test_a_formula_begins_with_an_apostrophe(name: str) -> None:
    assert cell(name) == f"'{name}"
    assert cell(f"x{name}") == f"x{name}"


def test_any_name_can_be_written() -> None:
    assert text(os.fsdecode(b"\xe9 \xc3\xa9")) == "\\udce9 é"
    assert text("é", "ascii") == "\\xe9"
    cell(os.fsdecode(b"=\xe9")).encode()
    assert (text(""), cell("")) == ("", "")


def test_a_terminal_is_told_nothing() -> None:
    assert visible("a\x1b[2J\n\x9b\u202e é") == "a\\x1b[2J\\n\\x9b\\u202e é"
