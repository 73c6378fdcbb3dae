"""Costs of a backbone: parameters, multiply-adds of a forward pass, and seconds of a training step on this machine."""

import math
import statistics
import time
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from agegender_jax import recipe as recipes
from agegender_jax.data.preprocess import Preprocessor, make_preprocessor
from agegender_jax.labels import GENDERS
from agegender_jax.mesh import by_batch, check_batch, make_mesh, replicated
from agegender_jax.models.backbones import find_backbone
from agegender_jax.models.costs import forward_costs
from agegender_jax.models.heads import Head, build_heads
from agegender_jax.models.model import ModelDef, define_model
from agegender_jax.recipe_options import TrainOptions, data_options, model_options, train_options
from agegender_jax.train.optimizer import make_optimizer
from agegender_jax.train.state import initial_state
from agegender_jax.train.step import jit_train_steps

WARM_UP = 2
"""Steps that are not timed: the first compiles, the second may find cold memory."""


def recipe_of(backbone: str, *, image_size: int, batch_size: int, dtype: str = "float32") -> ConfigDict:
    """Returns the default recipe with another backbone; the arguments are those of `profile_model`.

    Raises:
      UserError: an option is out of range.
    """
    recipe = recipes.base()
    recipe.model.update(backbone=backbone, dtype=dtype)
    recipe.dataset.image_size = image_size
    recipe.train.batch_size = batch_size
    recipes.check(recipe)
    return recipe


def profile_model(
    backbone: str, *, image_size: int, batch_size: int, dtype: str = "float32", step_time: bool = True
) -> dict[str, Any]:
    """Returns the costs of a backbone with the default heads.

    Args:
      backbone: a name of `models/backbones`.
      image_size: edge of the images, pixels.
      batch_size: images in a training step, over all devices.
      dtype: of the arithmetic.
      step_time: whether to time a training step, which must be compiled for it.

    Returns:
      `variant`, the entries of `forward_costs`, and `step_seconds` (None where no step is timed).

    Raises:
      UserError: an option is out of range, or the batch cannot be split over the devices.
    """
    recipe = recipe_of(backbone, image_size=image_size, batch_size=batch_size, dtype=dtype)
    options = model_options(recipe)
    heads = build_heads(options.heads)
    model = define_model(options, heads)
    preprocessor = make_preprocessor(data_options(recipe).preprocess, "image")
    return {
        "variant": find_backbone(backbone).variant(options.backbone_options.variant),
        **forward_costs(model, image_size),
        "step_seconds": step_seconds(model, heads, train_options(recipe), preprocessor) if step_time else None,
    }


def step_seconds(
    model: ModelDef, heads: Mapping[str, Head], options: TrainOptions, preprocessor: Preprocessor, repeats: int = 5
) -> float:
    """Returns the median seconds of a training step, dispatched by itself, on random images that lie on the devices.

    Args:
      model: traced.
      heads: of the model.
      options: `batch_size` is that over all devices.
      preprocessor: of images.
      repeats: number of steps that are timed.

    Raises:
      UserError: the batch cannot be split over the devices.
    """
    mesh, count = make_mesh(), options.batch_size
    check_batch(mesh, count)
    everywhere = replicated(mesh)
    optimizer = make_optimizer(options.optimizer, WARM_UP + repeats, 1.0)
    begin = partial(initial_state, optimizer=optimizer, average=bool(options.ema_decay))
    rng = np.random.default_rng(options.seed)
    images, columns = random_examples(count, preprocessor.shape[0], rng)
    labels = {name: head.column(columns) for name, head in heads.items()}
    with jax.set_mesh(mesh):
        params, stats = jax.device_put(random_values((model.params, model.stats), rng), everywhere)
        state = jax.jit(begin, out_shardings=everywhere)(params, stats)
        del params, stats
        data = jax.device_put({"content": images, "labels": labels}, everywhere)
        rows = jax.device_put(np.arange(count, dtype=np.int32)[None], by_batch(mesh, axis=1))
        train_steps = jit_train_steps(model.graphdef, heads, optimizer, options, preprocessor, mesh)
        seconds = []
        for _ in range(WARM_UP + repeats):
            start = time.perf_counter()
            state, metrics = train_steps(state, data, {"rows": rows})
            jax.block_until_ready((state, metrics))
            seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[WARM_UP:])


def random_values(shapes: Any, rng: np.random.Generator) -> Any:
    """Returns random values for parameters and statistics; the model's own initialisation would take long to compile.

    Kernels are scaled as in He et al. (2015), so that activations do not become subnormal numbers, which are slow.
    """

    def values(leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        if len(leaf.shape) < 2:
            return np.ones(leaf.shape, leaf.dtype)
        scale = math.sqrt(2 / math.prod(leaf.shape[:-1]))
        return np.float32(scale) * rng.standard_normal(leaf.shape, np.float32)

    return jax.tree.map(values, shapes)


def random_examples(count: int, size: int, rng: np.random.Generator) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Returns images of noise, uint8 `[count, size, size, 3]`, and the columns `[count]` that heads read."""
    age = rng.integers(0, 101, count).astype(np.float32)
    columns = {
        "gender": rng.integers(0, len(GENDERS), count).astype(np.int32),
        "age": age,
        "age_low": age,
        "age_high": age,
        "class_name": np.full(count, "unknown"),
    }
    return rng.integers(0, 256, (count, size, size, 3), dtype=np.uint8), columns
