"""Columns and headers of a prepared dataset."""

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from agegender_jax.data.source import COLUMNS
from agegender_jax.describe.reading import read
from agegender_jax.errors import UserError

Make = Callable[..., dict[str, np.ndarray]]


def _prepared(values: dict[str, np.ndarray], contents: list[bytes], kind: str) -> Any:
    """What `read` needs of a prepared dataset."""
    rows = [{name: values[name][i].item() for name in COLUMNS} | {"content": each} for i, each in enumerate(contents)]
    return SimpleNamespace(kind=kind, directory="here", open=lambda: rows)


@pytest.mark.parametrize(
    ("kind", "names", "good"), [("image", ("width", "height"), (40, 30)), ("audio", ("seconds", "rate"), (1.0, 16000))]
)
def test_headers_are_read_and_damaged_ones_are_zero(
    kind: str, names: tuple[str, str], good: tuple[float, float], columns: Make, contents: Callable[..., Any]
) -> None:
    values = columns(3, age=[1, 2, np.nan], class_name=["male", "", "female_8"])
    content = contents(values, kind).source[0]["content"]
    dataset = read(_prepared(values, [content, b"RIFF", b""], kind), progress=False)
    assert {name: dataset.headers[name].tolist() for name in names} == {
        name: [value, 0, 0] for name, value in zip(names, good, strict=True)
    }
    assert dataset.headers["bytes"].tolist() == [len(content), 4, 0]
    assert dataset.columns["class_name"].tolist() == ["male", "", "female_8"]
    assert dataset.columns["age"].dtype == np.float32
    assert math.isnan(dataset.columns["age"][2])
    assert dataset.voices
    assert (dataset.sizes() == {"40×30": 1}) if kind == "image" else (dataset.rates() == {"16,000 Hz": 1})


def test_an_empty_dataset_is_an_error(columns: Make) -> None:
    with pytest.raises(UserError, match="here"):
        read(_prepared(columns(0), [], "image"), progress=False)


def test_faces_are_no_voices(columns: Make, contents: Callable[..., Any]) -> None:
    faces = contents(columns(2))
    assert not faces.voices
    assert contents(columns(2), "audio").voices
