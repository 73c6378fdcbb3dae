"""Where the time goes, on a clock that the test sets."""

from contextlib import suppress

import pytest

from agegender_jax.train import throughput


def test_spent_counts_what_it_is_told_and_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(throughput.time, "monotonic", lambda: now)
    spent = throughput.TimeBreakdown()
    for what, seconds in (("input", 2.0), ("step", 5.0), ("input", 1.0)):
        with spent.on(what):
            now += seconds
        now += 0.5
    with suppress(ZeroDivisionError), spent.on("checkpoint"):
        now += 4.0
        _ = 1 / 0
    assert spent.seconds == {
        "compilation": 0.0, "input": 3.0, "step": 5.0, "evaluation": 0.0, "checkpoint": 4.0, "idle": 1.5
    }  # fmt: skip


def test_spent_knows_its_kinds() -> None:
    with pytest.raises(KeyError), throughput.TimeBreakdown().on("coffee"):
        pass
