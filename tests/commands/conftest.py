"""What the tests of the commands share."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agegender_jax.commands import predict


@pytest.fixture
def predict_files(finished: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """`agegender predict` with a finished run."""
    monkeypatch.setattr("agegender_jax.compilation.cache_compilations", lambda: None)  # the tests' own cache stays
    parser = argparse.ArgumentParser()
    predict.add_parser(parser.add_subparsers())

    def run(*arguments: object, workdir: Path = finished.workdir) -> int:
        parsed = parser.parse_args(["predict", str(workdir), *map(str, arguments)])
        return parsed.function(parsed)

    return run
