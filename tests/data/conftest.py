"""What the tests of the data share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agegender_jax.data.dataset import ResidentDataset, StreamedDataset, read_columns
from agegender_jax.data.preprocess import ImagePreprocessor, PreprocessOptions
from agegender_jax.data.source import Prepared, locate
from tests.tfds_builders import files


@pytest.fixture
def prepared(synthetic_dir: Path, data_dir: Path) -> Prepared:
    """The synthetic faces, prepared once for all tests. Read only."""
    return locate("utkface", manual_dir=synthetic_dir, data_dir=data_dir, progress=False)


@pytest.fixture
def resident(prepared: Prepared) -> Callable[[int, Path], ResidentDataset]:
    """Opens the synthetic faces at a size, with their caches in a folder."""
    return lambda size, folder: ResidentDataset(*parts(prepared, size, folder), cache_dir=folder)


@pytest.fixture
def streamed(prepared: Prepared, data_dir: Path) -> StreamedDataset:
    """The synthetic faces at 32x32 pixels, to be streamed."""
    return StreamedDataset(*parts(prepared, 32, data_dir / "cache"))


def parts(prepared: Prepared, size: int, folder: Path) -> tuple[Any, ...]:
    return prepared, ImagePreprocessor(PreprocessOptions(size)), *read_columns(prepared, folder, progress=False)


@pytest.fixture(scope="session")
def members(synthetic_dir: Path) -> dict[str, bytes]:
    """The files of the synthetic archive by name."""
    return files.members(synthetic_dir)
