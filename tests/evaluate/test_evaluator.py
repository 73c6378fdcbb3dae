"""Every example counts exactly once, on any number of devices, with the distributions of the model itself."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.metrics
from flax import nnx
from jax.sharding import Mesh
from ml_collections import ConfigDict

from agegender_jax.data.loader import DeviceLoader, ResidentLoader, StreamingLoader
from agegender_jax.data.preprocess import ImagePreprocessor
from agegender_jax.evaluate.evaluator import Evaluator, head_distributions
from agegender_jax.evaluate.targets import fit_baseline, make_targets, measure_targets
from agegender_jax.mesh import replicated
from agegender_jax.models.heads import Head, build_heads
from agegender_jax.models.model import split_model
from agegender_jax.recipe_options import data_options, model_options
from tests.runs import mesh_of

SIZE = 8  # pixels
IMAGES = np.random.default_rng(0).integers(0, 256, (70, SIZE, SIZE, 3), np.uint8)
traces: list[tuple[int, ...]] = []


class Linear(nnx.Module):
    """A model in place of the convolutional ones: its outputs can be computed with NumPy."""

    def __init__(self, heads: Mapping[str, Head]) -> None:
        rng = np.random.default_rng(1)
        sizes = {name: head.size for name, head in heads.items()}
        self.kernels = nnx.Dict(
            {
                name: nnx.Param(jnp.asarray(rng.normal(size=(SIZE * SIZE * 3, size)) / 6, jnp.float32))
                for name, size in sizes.items()
            }
        )

    def __call__(self, x: jax.Array) -> dict[str, jax.Array]:
        traces.append(x.shape)
        return {name: x.reshape(len(x), -1) @ kernel[...] for name, kernel in self.kernels.items()}


def make(recipe: ConfigDict, mesh: Mesh) -> tuple[Evaluator, Any, DeviceLoader]:
    heads = build_heads(model_options(recipe).heads)
    graphdef, params, stats = split_model(Linear(heads))
    state = jax.device_put((params, stats), replicated(mesh))
    loader = ResidentLoader(IMAGES, mesh, {}, None)
    preprocessor = ImagePreprocessor(data_options(recipe).preprocess)
    evaluator = Evaluator(graphdef, head_distributions(heads), recipe.evaluate.batch_size, preprocessor, mesh)
    return evaluator, state, loader


def by_numpy(recipe: ConfigDict, state: Any, images: np.ndarray) -> dict[str, np.ndarray]:
    x = (images.astype(np.float64) / 255 - recipe.preprocess.mean) / recipe.preprocess.std
    result = {}
    for name, kernel in state[0]["kernels"].items():
        logits = x.reshape(len(x), SIZE * SIZE * 3) @ np.asarray(kernel, np.float64)
        exponential = np.exp(logits - logits.max(-1, keepdims=True))
        result[name] = exponential / exponential.sum(-1, keepdims=True)
    return result


@pytest.mark.parametrize(("devices", "model"), [(1, 1), (2, 1), (3, 1), (8, 1), (8, 2)])
def test_every_example_counts_once_with_the_models_own_distribution(
    small_recipe: ConfigDict, devices: int, model: int
) -> None:
    small_recipe.evaluate.batch_size = 16  # rounded up to 18 on three devices
    evaluator, state, feed = make(small_recipe, mesh_of(devices, model))
    order = np.random.default_rng(2).permutation(len(IMAGES))
    traces.clear()
    for count in (0, 1, 15, 16, 17, 18, 19, 70):
        rows = order[:count]
        distributions = evaluator.distributions(state, feed, rows)
        expected = by_numpy(small_recipe, state, IMAGES[rows])
        assert set(distributions) == {"gender", "age_group", "age"}
        for name, distribution in distributions.items():
            assert distribution.shape == expected[name].shape
            np.testing.assert_allclose(distribution, expected[name], rtol=2e-4, atol=1e-6)
    assert len(traces) == 1  # one program for every number of examples


class Asked:
    """A dataset that is streamed, and notes which rows were wanted."""

    def __init__(self) -> None:
        self.rows: set[int] = set()

    def reader(self) -> "Asked":
        return self

    def read(self, rows: np.ndarray) -> np.ndarray:
        self.rows |= set(rows.ravel().tolist())
        return IMAGES[rows]


def test_padding_decodes_no_other_example(small_recipe: ConfigDict) -> None:
    small_recipe.evaluate.batch_size = 16
    mesh = mesh_of(8)
    evaluator, state, _ = make(small_recipe, mesh)
    dataset: Any = Asked()
    rows = np.arange(50, 69)
    distributions = evaluator.distributions(state, StreamingLoader(dataset, mesh, {}, None, 0), rows)
    assert dataset.rows == set(rows.tolist())
    np.testing.assert_allclose(
        distributions["age"], by_numpy(small_recipe, state, IMAGES[rows])["age"], rtol=2e-4, atol=1e-6
    )


def test_an_example_asked_for_twice_is_computed_twice(small_recipe: ConfigDict) -> None:
    evaluator, state, feed = make(small_recipe, mesh_of(8))
    distributions = evaluator.distributions(state, feed, np.array([5, 3, 5]))
    np.testing.assert_array_equal(distributions["age"][0], distributions["age"][2])
    assert np.abs(distributions["age"][0] - distributions["age"][1]).max() > 1e-3


def test_a_flipped_view_is_averaged_in(small_recipe: ConfigDict) -> None:
    evaluator, state, feed = make(small_recipe, mesh_of(8))
    rows = np.arange(37)
    traces.clear()
    plain = evaluator.distributions(state, feed, rows)
    both = evaluator.distributions(state, feed, rows, flip_average=True)
    assert len(traces) == 1
    mirrored = by_numpy(small_recipe, state, IMAGES[rows][:, :, ::-1])
    for name in both:
        expected = (by_numpy(small_recipe, state, IMAGES[rows])[name] + mirrored[name]) / 2
        np.testing.assert_allclose(both[name], expected, rtol=2e-4, atol=1e-6)
        assert np.abs(both[name] - plain[name]).max() > 1e-3
        np.testing.assert_allclose(both[name].sum(-1), 1, rtol=1e-5)


def test_metrics_are_scikit_learns(small_recipe: ConfigDict) -> None:
    heads = build_heads(model_options(small_recipe).heads)
    evaluator, state, feed = make(small_recipe, mesh_of(8))
    rng = np.random.default_rng(3)
    n = len(IMAGES)
    labels = {
        "gender": np.where(rng.random(n) < 0.1, -1, rng.integers(0, 2, n)).astype(np.int32),
        "age_group": np.where(rng.random(n) < 0.2, -1, rng.integers(0, 6, n)).astype(np.int32),
        "age": np.where(rng.random(n) < 0.3, np.nan, rng.integers(0, 90, n)).astype(np.float32),
    }
    targets = make_targets(heads, evaluator.distributions(state, feed, np.arange(n)), labels)
    got = measure_targets(targets)
    assert got["n"] == n
    for name in ("gender", "age_group"):
        known = labels[name] >= 0
        true, predicted = labels[name][known], targets[name].predictions["class"][known]
        assert got[f"{name}/n"] == known.sum() < n
        assert got[f"{name}/accuracy"] == pytest.approx(sklearn.metrics.accuracy_score(true, predicted))
        recall = sklearn.metrics.recall_score(true, predicted, labels=np.unique(true), average="macro")
        assert got[f"{name}/balanced_accuracy"] == pytest.approx(recall)
    known = ~np.isnan(labels["age"])
    true, predicted = labels["age"][known], targets["age"].predictions["years"][known]
    assert got["age/mae"] == pytest.approx(sklearn.metrics.mean_absolute_error(true, predicted))
    assert got["age/cs5"] == pytest.approx(np.mean([abs(a - b) <= 5 for a, b in zip(true, predicted, strict=True)]))


def test_constants_are_those_of_the_training_labels(small_recipe: ConfigDict) -> None:
    heads = build_heads(model_options(small_recipe).heads)
    train = {
        "gender": np.array([1, 1, 0, -1], np.int32),
        "age_group": np.array([4, 4, 4, 0], np.int32),
        "age": np.array([20, 30, 70, np.nan], np.float32),
    }
    names, predictions = fit_baseline(heads, train)
    assert names == {"gender": "always female", "age_group": "always 25-32", "age": "always 30 years"}
    assert (predictions["gender"]["class"], predictions["age_group"]["class"]) == (1, 4)
    assert predictions["age"]["years"] == 30.0
