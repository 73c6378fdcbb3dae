"""What the tests of layers share."""

import jax
import pytest


@pytest.fixture(params=["cpu", "gpu"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both formulations, on the CPU."""
    monkeypatch.setattr(jax, "default_backend", lambda: request.param)
    return request.param
