"""Requests to another process."""

import sys

import pytest

from benchmarks.pipe_rpc import Child, ChildFailed


def test_a_child_survives_an_exception_but_not_its_end() -> None:
    child = Child(sys.executable, "tests.benchmarks.echo")
    try:
        assert child.ask("this", rows=[1, 2], name="ä\n") == {"do": "this", "rows": [1, 2], "name": "ä\n"}
        with pytest.raises(ChildFailed, match="ValueError"):
            child.ask("raise")
        assert child.ask("that") == {"do": "that"}
        with pytest.raises(ChildFailed, match="3"):
            child.ask("end")
        with pytest.raises(ChildFailed, match="3"):
            child.ask("this")
    finally:
        child.close()


def test_an_interpreter_that_is_not_there() -> None:
    with pytest.raises(ChildFailed, match="/no/python"):
        Child("/no/python", "tests.benchmarks.echo")
