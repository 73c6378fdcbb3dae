"""What a run says of its examples, as a file: against the summary, and damaged in every way."""

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agegender_jax.errors import UserError
from agegender_jax.evaluate.predictions import COLUMNS, METADATA, NAME, read_predictions, write_predictions
from agegender_jax.models.heads import AgeYearsHead, ClassHead


def arrays_of(finished: Any) -> dict[str, np.ndarray]:
    with np.load(finished.workdir / NAME) as file:
        return {name: file[name] for name in file.files}


def test_a_run_keeps_what_its_figures_are_of(finished: Any) -> None:
    found = read_predictions(finished.workdir / NAME)
    split = json.loads((finished.workdir / "split.json").read_text())
    for part in ("validation", "test"):
        own = found.of(part)
        assert set(own.key.tolist()) == set(split["parts"][part])
        assert own.metrics() == finished.summary[part]
    assert len(found) == len(split["parts"]["validation"]) + len(split["parts"]["test"])
    assert found.metadata["split_sha256"] == split["sha256"]
    assert found.metadata["run"] == finished.workdir.name
    assert found.metadata["synthetic"] is finished.summary["synthetic"]
    names = [Path(key).name.split("_") for key in found.key.tolist()]
    np.testing.assert_array_equal(found.columns["age"], [float(name[0]) for name in names])
    np.testing.assert_array_equal(found.columns["gender"], [int(name[1]) for name in names])
    assert {name: column.dtype for name, column in found.columns.items()} == COLUMNS


def test_targets_are_what_people_look_at(finished: Any) -> None:
    targets = read_predictions(finished.workdir / NAME).of("test").targets()
    assert isinstance(targets["gender"].head, ClassHead)
    assert isinstance(targets["age"].head, AgeYearsHead)
    right = targets["gender"].predictions["class"] == targets["gender"].labels
    assert right[targets["gender"].known].mean() == finished.summary["test"]["gender/accuracy"]


def test_what_is_written_is_read(finished: Any, tmp_path: Path) -> None:
    found = read_predictions(finished.workdir / NAME)
    write_predictions(tmp_path / "again.npz", found.rows(np.array([5, 2])))
    again = read_predictions(tmp_path / "again.npz")
    np.testing.assert_array_equal(again.key, found.key[[5, 2]])
    for name, values in found.distributions.items():
        np.testing.assert_array_equal(again.distributions[name], values[[5, 2]])
    assert again.metadata == found.metadata
    assert set(again.metadata) == set(METADATA)
    assert [path.name for path in tmp_path.iterdir()] == ["again.npz"]


def _without(arrays: dict[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    return {key: values for key, values in arrays.items() if key != name}


def _facts(arrays: dict[str, np.ndarray], **changes: Any) -> dict[str, np.ndarray]:
    return arrays | {"metadata": np.array(json.dumps(json.loads(str(arrays["metadata"])) | changes))}


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda a: _without(a, "key"), "it holds no key"),
        (lambda a: _without(a, "distribution_age"), "it holds no distribution_age"),
        (lambda a: _without(a, "column_cluster"), "it holds no column_cluster"),
        (lambda a: a | {"part": np.full(len(a["key"]), "elsewhere")}, "part is something else than"),
        (lambda a: a | {"label_gender": a["label_gender"] + 7}, "label_gender is something else than a class a row"),
        (lambda a: a | {"distribution_gender": a["distribution_gender"][:-1]}, "is not of every row"),
        (lambda a: a | {"distribution_gender": a["distribution_gender"] * np.nan}, "is not finite everywhere"),
        (lambda a: a | {"distribution_gender": a["distribution_age"]}, "is of other classes"),
        (lambda a: a | {"column_age": a["column_age"].astype(np.float64)}, "column_age is of another kind"),
        (lambda a: a | {"metadata": np.array("[]")}, "metadata are no JSON object"),
        (lambda a: _facts(a, synthetic="yes"), "metadata hold no drawn"),
        (lambda a: _facts(a, recipe={"train": 3}), "holds no predictions of this version"),
    ],
)
def test_a_damaged_file_is_a_sentence(finished: Any, tmp_path: Path, damage: Any, reason: str) -> None:
    path = tmp_path / "damaged.npz"
    np.savez(path, **damage(arrays_of(finished)))
    with pytest.raises(UserError, match=reason) as caught:
        read_predictions(path)
    assert "agegender evaluate" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_another_kind_of_file_is_a_sentence(finished: Any, tmp_path: Path) -> None:
    path = tmp_path / "other.npz"
    with pytest.raises(UserError, match="is not there"):
        read_predictions(path)
    path.write_bytes(b"PK not a zip")
    with pytest.raises(UserError, match="holds no predictions"):
        read_predictions(path)
    np.savez(path, **arrays_of(finished) | {"key": np.array([{"a": 1}], dtype=object)})  # which would be unpickled
    with pytest.raises(UserError, match="holds no predictions"):
        read_predictions(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("key.npy", bytes(1_000_000))
    with pytest.raises(UserError, match="its arrays are compressed"):
        read_predictions(path)
