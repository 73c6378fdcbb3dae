"""The same comparison with the original implementations at work, on other weights: `pytest -m parity`."""

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest


def _module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


stored = _module("test_parity")


@pytest.mark.parity
@pytest.mark.parametrize("case", stored.script.CASES, ids=lambda case: case.name)
def test_logits_are_the_original_implementations_on_other_weights(case: Any) -> None:
    pytest.importorskip("torch", reason="needs the extra parity")
    pytest.importorskip(case.library, reason="needs the extra parity")
    seed = stored.script.SEED + 1

    shapes, logits = stored.script.original(case, seed)

    np.testing.assert_allclose(stored.ours(case, shapes, seed), logits, rtol=0, atol=1e-4)
