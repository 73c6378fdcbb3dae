"""Embeddings as a file: what is in it, against the model called by hand."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

from agegender_jax.errors import UserError
from agegender_jax.evaluate.evaluate_run import open_data
from agegender_jax.evaluate.features import METADATA, read_features, write_features
from agegender_jax.evaluate.loaded import LoadedModel


@pytest.fixture(scope="module")
def model(finished: Any) -> LoadedModel:
    """A run whose recipe holds a path."""
    model = LoadedModel.load(finished.workdir)
    model.run.recipe.model.pretrained = "/home/me/weights.safetensors"
    return model


@pytest.fixture(scope="module")
def file(model: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("features") / "features.npz"
    write_features(model, path, progress=False)
    return path


def test_embeddings_are_what_the_heads_see(model: LoadedModel, file: Path) -> None:
    params, stats = model.model_state
    features = read_features(file)
    call = jax.jit(
        lambda content: nnx.merge(model.graphdef, params, stats)(
            model.preprocessor.eval_transform(content, np.array(False))
        )
    )
    logits = call(open_data(model, progress=False).data.read(np.arange(50)))
    for name in ("gender", "age"):
        layer = params["heads"][name]
        by_hand = features.embedding[:50] @ np.asarray(layer["kernel"]) + np.asarray(layer["bias"])
        np.testing.assert_allclose(by_hand, logits[name], rtol=1e-4, atol=1e-4)


def test_keys_parts_and_labels_are_the_run_s(finished: Any, model: LoadedModel, file: Path) -> None:
    features = read_features(file)
    parts = json.loads((finished.workdir / "split.json").read_text())["parts"]
    for part, keys in parts.items():
        assert set(features.key[features.part == part].tolist()) == set(keys)
    assert len(features.key) == 600 == len(features.embedding)
    names = [Path(key).name.split("_") for key in features.key.tolist()]
    full = np.array([len(name) == 4 for name in names])
    ages = [float(name[0]) for name in names]
    genders = [int(name[1]) for name in names]
    np.testing.assert_array_equal(features.labels["age"][full], np.array(ages)[full])
    np.testing.assert_array_equal(features.labels["gender"][full], np.array(genders)[full])
    assert features.labels["age_group"].dtype == np.int32
    columns = open_data(model, progress=False).data.columns
    contents = dict(zip(columns["key"].tolist(), columns["sha256"].tolist(), strict=True))
    same: dict[str, set[int]] = {}
    for key, cluster in zip(features.key.tolist(), features.cluster.tolist(), strict=True):
        same.setdefault(contents[key], set()).add(cluster)
    assert all(len(clusters) == 1 for clusters in same.values())  # identical files are one cluster,
    assert len(same) == len(set(features.cluster.tolist()))  # and nobody is identified in synthetic faces


def test_metadata_of_the_embeddings(finished: Any, file: Path) -> None:
    metadata = read_features(file).metadata
    assert metadata.keys() == METADATA.keys()
    assert (metadata["run"], metadata["evaluated_step"], metadata["synthetic"]) == ("finished", 52, False)
    assert (metadata["protocol"], metadata["leaky"]) == ("disjoint", False)
    assert metadata["split_sha256"] == finished.summary["split_sha256"]
    assert not any(
        path in json.dumps(metadata) for path in ("/home/me", str(finished.manual_dir), str(finished.workdir))
    )


def test_a_part_alone_is_those_rows_of_the_whole(model: LoadedModel, file: Path, tmp_path: Path) -> None:
    metadata, shape = write_features(model, tmp_path / "test.npz", split="test", progress=False)
    whole, part = read_features(file), read_features(tmp_path / "test.npz")
    assert metadata == whole.metadata
    assert shape == part.embedding.shape
    rows = whole.part == "test"
    np.testing.assert_array_equal(part.key, whole.key[rows])
    np.testing.assert_allclose(part.embedding, whole.embedding[rows], rtol=1e-5, atol=1e-6)
    assert [path.name for path in tmp_path.iterdir()] == ["test.npz"]  # nothing temporary is left


def test_nothing_is_overwritten(model: LoadedModel, tmp_path: Path) -> None:
    (tmp_path / "mine.npz").write_text("mine")
    with pytest.raises(UserError, match=r"mine\.npz"):
        write_features(model, tmp_path / "mine.npz", progress=False)
    assert (tmp_path / "mine.npz").read_text() == "mine"


def test_features_are_of_the_run_s_own_data(model: LoadedModel, synthetic_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="finished"):
        write_features(model, tmp_path / "new.npz", manual_dir=synthetic_dir, progress=False)
    with pytest.raises(UserError, match="parquet"):
        write_features(model, tmp_path / "new.parquet", progress=False)
    with pytest.raises(UserError, match="'half'"):
        write_features(model, tmp_path / "new.npz", split="half", progress=False)
    assert not list(tmp_path.iterdir())
