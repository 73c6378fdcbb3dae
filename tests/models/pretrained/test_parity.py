"""The converted nets against the original implementations: stored logits, and with `pytest -m parity` new ones."""

import dataclasses
import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx
from ml_collections import ConfigDict

from agegender_jax import recipe as recipes
from agegender_jax.models.backbones import build_backbone
from agegender_jax.models.model import _Keys, split_model
from agegender_jax.models.pretrained import loading
from agegender_jax.models.pretrained.sources import Weights
from agegender_jax.models.registry import CAFFE, IMAGENET
from agegender_jax.recipe_options import model_options

HERE = Path(__file__).parent


def _script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_parity", HERE / "make_parity.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


script = _script()
slow = pytest.mark.slow


def _classified(arrays: dict[str, np.ndarray], keras: bool, embedding: np.ndarray) -> np.ndarray:
    """The file's own classifier on our embedding."""
    if keras:
        return embedding @ arrays["predictions/kernel"] + arrays["predictions/bias"]
    name = next(name for name, array in arrays.items() if array.ndim == 2 and len(array) == script.CLASSES)
    return embedding @ arrays[name].T + arrays[name.replace("weight", "bias")]


class _Headless(nnx.Module):
    """A model without heads, whose arrays have a model's paths."""

    def __init__(self, recipe: ConfigDict) -> None:
        rngs: Any = _Keys(jax.random.key(0))
        options = dataclasses.replace(model_options(recipe).backbone_options, outputs=script.CLASSES)
        self.backbone = build_backbone(recipe.model.backbone, options, rngs)


def ours(case: Any, shapes: dict[str, list[int]], seed: int) -> np.ndarray:
    """Our logits, with the weights and the images of this seed."""
    keras = case.library == "keras"
    recipe = recipes.base()
    recipe.dataset.image_size = case.size
    recipe.model.backbone = case.net
    recipe.model.variant = "v1" if case.name == "keras_resnet50" else ""
    graphdef, params, stats = split_model(nnx.eval_shape(lambda: _Headless(recipe)))
    arrays = script.weights(case, shapes, seed)
    weights = Weights("", "keras" if keras else "torch", Path("weights"))
    params, stats = loading.put(arrays, weights, case.net, params, stats)
    mean, std = (np.float32(value) for value in (CAFFE if keras else IMAGENET))
    x = (script.images(case, seed) - mean) / std
    forward = jax.jit(lambda params, stats, x: nnx.merge(graphdef, params, stats).backbone(x))
    # It runs once: compiling it well would take longer than running it.
    compiled = forward.lower(params, stats, x).compile(compiler_options={"xla_backend_optimization_level": 0})
    return _classified(arrays, keras, np.asarray(compiled(params, stats, x)))


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(one, id=one.name, marks=() if one.name in ("torchvision_resnet18", "keras_resnet50") else slow)
        for one in script.CASES
    ],
)
def test_logits_are_the_original_implementations(case: Any) -> None:
    with np.load(HERE / "parity" / f"{case.name}.npz", allow_pickle=False) as stored:
        shapes, logits = json.loads(stored["shapes"].tobytes()), stored["logits"]

    assert logits.std() > 0.5
    np.testing.assert_allclose(ours(case, shapes, script.SEED), logits, rtol=0, atol=1e-4)


@pytest.mark.parity
@pytest.mark.parametrize("case", script.CASES, ids=lambda case: case.name)
def test_logits_are_the_original_implementations_on_other_weights(case: Any) -> None:
    pytest.importorskip("torch", reason="needs the extra parity")
    pytest.importorskip(case.library, reason="needs the extra parity")
    shapes, logits = script.original(case, script.SEED + 1)
    np.testing.assert_allclose(ours(case, shapes, script.SEED + 1), logits, rtol=0, atol=1e-4)
