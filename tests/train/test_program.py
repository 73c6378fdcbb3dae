"""What compiled steps need of the memory, and what is said where it is too much."""

import types
from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from agegender_jax.errors import UserError
from agegender_jax.mesh import make_mesh
from agegender_jax.train import program


def _program() -> types.SimpleNamespace:
    """One whose step takes 1 GB of arguments, of which 0.4 are given back, and 2 GB on the way."""
    figures = types.SimpleNamespace(
        argument_size_in_bytes=10**9, temp_size_in_bytes=2 * 10**9, output_size_in_bytes=5 * 10**8,
        alias_size_in_bytes=4 * 10**8,
    )  # fmt: skip
    return types.SimpleNamespace(memory_analysis=lambda: figures)


def _array(count: int, *axes: str) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((count,), np.float32, sharding=NamedSharding(make_mesh(), PartitionSpec(*axes)))


def test_what_a_step_takes_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "memory", lambda: (4e9, "a card's memory"))
    text = program.memory_of(_program(), {"content": _array(10**8)}, [_array(16 * 10**7, "data")])
    assert text.strip() == (
        "a step takes 3.10 GB of a card's memory, 4.00 GB: 0.40 of data, 0.08 of state, 2.00 while it computes"
    )  # 1 + 2 + 0.5 - 0.4; the state is split over eight devices


def test_a_compiler_that_does_not_say_is_believed() -> None:
    assert program.memory_of(types.SimpleNamespace(memory_analysis=lambda: None), {}, []) == ""


@pytest.mark.parametrize(
    ("message", "error"), [("RESOURCE_EXHAUSTED: no", UserError), ("else", jax.errors.JaxRuntimeError)]
)
def test_what_the_compiler_refuses_is_a_sentence(message: str, error: type[Exception]) -> None:
    def lower(*_: object) -> object:
        raise jax.errors.JaxRuntimeError(message)

    steps: Any = types.SimpleNamespace(lower=lower)
    state: Any = None
    with pytest.raises(error):
        program.compile_steps(steps, state, {}, {})


def test_a_step_that_does_not_fit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "memory", lambda: (3e9, "a card's memory"))
    with pytest.raises(
        UserError, match=r"needs 3\.10 GB of a card's memory, 3\.00 GB.*Lower config\.train\.batch_size"
    ):
        program.memory_of(_program(), {}, [])
