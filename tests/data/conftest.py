"""What the tests of the data share."""

from pathlib import Path

import pytest
from absl import logging

from agegender_jax.data.source import Prepared, locate


@pytest.fixture
def prepared(synthetic_dir: Path, data_dir: Path) -> Prepared:
    """The drawn faces, prepared once for all tests. Read only."""
    return locate("utkface", manual_dir=synthetic_dir, data_dir=data_dir, progress=False)


@pytest.fixture
def warnings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is warned of."""
    said: list[str] = []
    monkeypatch.setattr(logging, "warning", lambda text, *args: said.append(text % args))
    return said
