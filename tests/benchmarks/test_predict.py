"""`predict` beside the evaluator, made tiny."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from agegender_jax.errors import UserError
from benchmarks import predict


@pytest.mark.slow
def test_smoke(measured: Callable[..., Any], finished: Any, capsys: pytest.CaptureFixture[str]) -> None:
    rows = measured(predict.main, str(finished.workdir))
    assert "the same bits" in capsys.readouterr().err
    name = "utkface, 20 files"
    names = [key.removeprefix(f"{name}: ") for key in rows]
    assert names[:3] == ["streamed evaluator", "resident evaluator", "whole command"]
    assert all(rows[f"{name}: {feed} evaluator"]["ratio_median"] > 0 for feed in ("streamed", "resident"))
    if memory := rows.get(f"{name}: whole command, memory"):  # Linux
        assert 100 < memory["ours"] < 100_000  # JAX alone needs more, and no machine of the tests has as much


def test_different_predictions_are_no_result(
    finished: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own = predict._predicted

    def other(*arguments: Any) -> dict[str, np.ndarray]:
        return {name: np.nextafter(values, np.float32(2)) for name, values in own(*arguments).items()}

    monkeypatch.setattr(predict, "_predicted", other)
    assert predict.main([str(finished.workdir), "--smoke"]) == UserError.exit_code
    assert "streamed" in capsys.readouterr().err


def test_a_folder_without_a_run_is_refused(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert predict.main([str(tmp_path), "--smoke"]) == UserError.exit_code
    assert str(tmp_path) in capsys.readouterr().err
