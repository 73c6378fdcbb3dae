"""What the tests of the commands share."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agegender_jax.commands import predict


@pytest.fixture
def predict_files(finished: Any) -> Callable[..., int]:
    """`agegender predict` with a finished run."""
    parser = argparse.ArgumentParser()
    predict.add_parser(parser.add_subparsers())

    def run(*arguments: object, workdir: Path = finished.workdir) -> int:
        parsed = parser.parse_args(["predict", str(workdir), *map(str, arguments)])
        return parsed.function(parsed)

    return run
