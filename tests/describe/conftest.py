"""Small made-up columns, and a dataset around them."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image

from agegender_jax.data.source import COLUMNS, Prepared
from agegender_jax.describe.reading import Contents

_UNKNOWN = {"age": np.nan, "gender": -1, "race": -1, "subject": -1, "group": -1, "fold": -1, "class_name": ""}


def _columns(n: int, **given: Any) -> dict[str, np.ndarray]:
    values = {name: [value] * n for name, value in _UNKNOWN.items()}
    values |= {"key": [f"file_{i:04}" for i in range(n)], "sha256": [f"{i:064x}" for i in range(n)]} | given
    for name in ("age_low", "age_high"):
        values.setdefault(name, values["age"])
    return {name: np.asarray(values[name], kind) for name, kind in COLUMNS.items()}


@pytest.fixture(scope="session")
def columns() -> Callable[..., dict[str, np.ndarray]]:
    """Makes columns of n rows; columns that are not given are unknown, and no two files are identical."""
    return _columns


@pytest.fixture(scope="session")
def contents() -> Callable[..., Contents]:
    """Makes a dataset of grey images or of hums around columns."""

    def make(columns: dict[str, np.ndarray], kind: str = "image", **metadata: Any) -> Contents:
        n, file = len(columns["key"]), io.BytesIO()
        if kind == "image":
            Image.new("RGB", (40, 30), "grey").save(file, "JPEG")
            headers = {"width": np.full(n, 40), "height": np.full(n, 30)}
        else:
            soundfile.write(file, 0.1 * np.sin(np.arange(16000) / 20), 16000, format="WAV")
            headers = {"seconds": np.ones(n), "rate": np.full(n, 16000)}
        content = file.getvalue()

        class Source(list[dict[str, Any]]):
            terms = str(metadata.get("terms", ""))

        source: Any = Source({"content": content} for _ in range(n))
        source.metadata = metadata
        prepared = Prepared("made_up", Path("data/made_up/tiny/1.0.0"), "0", kind)
        return Contents(prepared, source, columns, headers | {"bytes": np.full(n, len(content))})

    return make
