"""What a run says of its examples, as a file: against the summary, and damaged in every way."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agegender_jax.errors import UserError
from agegender_jax.evaluate.predictions import COLUMNS, METADATA, NAME, read_predictions, write_predictions


def arrays_of(finished: Any) -> dict[str, np.ndarray]:
    with np.load(finished.workdir / NAME) as file:
        return {name: file[name] for name in file.files}


def test_a_run_keeps_the_predictions_of_its_metrics(finished: Any) -> None:
    predictions = read_predictions(finished.workdir / NAME)
    split = json.loads((finished.workdir / "split.json").read_text())
    for part in ("validation", "test"):
        own = predictions.of(part)
        assert set(own.key.tolist()) == set(split["parts"][part])
        assert own.metrics() == finished.summary[part]
    assert len(predictions) == len(split["parts"]["validation"]) + len(split["parts"]["test"])
    assert predictions.metadata["split_sha256"] == split["sha256"]
    assert predictions.metadata["run"] == finished.workdir.name
    assert predictions.metadata["synthetic"] is finished.summary["synthetic"]
    names = [Path(key).name.split("_") for key in predictions.key.tolist()]
    np.testing.assert_array_equal(predictions.columns["age"], [float(name[0]) for name in names])
    np.testing.assert_array_equal(predictions.columns["gender"], [int(name[1]) for name in names])
    assert {name: column.dtype for name, column in predictions.columns.items()} == COLUMNS


def test_what_is_written_is_read(finished: Any, tmp_path: Path) -> None:
    predictions = read_predictions(finished.workdir / NAME)
    write_predictions(tmp_path / "again.npz", predictions.rows(np.array([5, 2])))
    again = read_predictions(tmp_path / "again.npz")
    np.testing.assert_array_equal(again.key, predictions.key[[5, 2]])
    for name, values in predictions.distributions.items():
        np.testing.assert_array_equal(again.distributions[name], values[[5, 2]])
    assert again.metadata == predictions.metadata
    assert set(again.metadata) == set(METADATA)
    assert [path.name for path in tmp_path.iterdir()] == ["again.npz"]


def _without(arrays: dict[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    return {key: values for key, values in arrays.items() if key != name}


def _with_metadata(arrays: dict[str, np.ndarray], **changes: Any) -> dict[str, np.ndarray]:
    return arrays | {"metadata": np.array(json.dumps(json.loads(str(arrays["metadata"])) | changes))}


@pytest.mark.parametrize(
    ("damage", "name"),
    [
        (lambda a: _without(a, "distribution_age"), "distribution_age"),
        (lambda a: _without(a, "column_cluster"), "column_cluster"),
        (lambda a: a | {"part": np.full(len(a["key"]), "elsewhere")}, "part"),
        (lambda a: a | {"distribution_gender": a["distribution_gender"][:-1]}, "distribution_gender"),
        (lambda a: a | {"distribution_gender": a["distribution_gender"] * np.nan}, "distribution_gender"),
        (lambda a: a | {"distribution_gender": a["distribution_age"]}, "distribution_gender"),
        (lambda a: a | {"column_age": a["column_age"].astype(np.float64)}, "column_age"),
        (lambda a: _with_metadata(a, synthetic="yes"), "synthetic"),
        (lambda a: _with_metadata(a, recipe={"train": 3}), "predictions"),
    ],
)
def test_a_damaged_file_is_a_sentence(finished: Any, tmp_path: Path, damage: Any, name: str) -> None:
    path = tmp_path / "damaged.npz"
    np.savez(path, **damage(arrays_of(finished)))
    with pytest.raises(UserError, match=name) as caught:
        read_predictions(path)
    assert "summary.json" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"other\.npz"):
        read_predictions(tmp_path / "other.npz")
