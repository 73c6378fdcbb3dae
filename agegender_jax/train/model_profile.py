"""What a backbone costs: parameters, multiply-adds of a forward pass, and seconds of a training step here."""

import math
import statistics
import time
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.extend.core import ClosedJaxpr, Jaxpr
from ml_collections import ConfigDict

from agegender_jax import recipe as recipes
from agegender_jax.data.preprocess import make_preprocessor
from agegender_jax.labels import GENDERS
from agegender_jax.mesh import by_batch, check_batch, make_mesh, replicated
from agegender_jax.models.backbones import find_backbone
from agegender_jax.models.convolution import direct_form
from agegender_jax.models.heads import build_heads
from agegender_jax.models.model import model_structure
from agegender_jax.recipe_options import preprocess_options
from agegender_jax.train.optimizer import make_optimizer
from agegender_jax.train.options import OptimizerOptions, TrainOptions
from agegender_jax.train.state import initial_state
from agegender_jax.train.step import jit_train_steps

WARM_UP = 2
"""Steps that are not timed: the first compiles, the second may find cold memory."""


def recipe_of(backbone: str, *, image_size: int, batch_size: int, dtype: str = "float32") -> ConfigDict:
    """The default recipe with another backbone, and the heads that it needs.

    Args:
      backbone: a name of `models/backbones`.
      image_size: edge of the pictures, pixels.
      batch_size: pictures in a step.
      dtype: of the arithmetic.

    Raises:
      UserError: one of these is out of range.
    """
    recipe = recipes.base()
    recipe.model.update(backbone=backbone, dtype=dtype)
    recipe.dataset.image_size = image_size
    recipe.train.batch_size = batch_size
    recipes.check(recipe)
    return recipe


def profile_model(recipe: ConfigDict, *, step_time: bool = True) -> dict[str, Any]:
    """All costs of a recipe's model.

    Args:
      recipe: the run's.
      step_time: whether to time a training step, which must be compiled for it.

    Returns:
      `variant`, what `forward_costs` returns, and `step_seconds` (None where no step is timed).
    """
    return {
        "variant": find_backbone(recipe.model.backbone).variant(recipe.model.variant),
        **forward_costs(recipe),
        "step_seconds": step_seconds(recipe) if step_time else None,
    }


def forward_costs(recipe: ConfigDict) -> dict[str, int]:
    """What can be told without computing anything.

    Returns:
      `parameters` in all, of these `backbone_parameters`, and `multiply_adds` of one picture's forward pass, as papers
      count them: of convolutions and matrix products alone, the padding's zeros included.
    """
    size = recipe.dataset.image_size
    graphdef, params, stats = model_structure(recipe, build_heads(recipe))

    def forward(params: Any, stats: Any, images: jax.Array) -> Any:
        return nnx.merge(graphdef, params, stats)(images)

    image = jax.ShapeDtypeStruct((1, size, size, 3), np.float32)
    with direct_form():
        program = jax.make_jaxpr(forward)(params, stats, image)
    return {
        "parameters": _size(params),
        "backbone_parameters": _size(params["backbone"]),
        "multiply_adds": count_multiply_adds(program.jaxpr),
    }


def _size(tree: Any) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def count_multiply_adds(program: Jaxpr) -> int:
    """Multiply-adds of the convolutions and matrix products of a traced program.

    A `scan` counts as often as it runs, a `cond` as its dearest branch, a `while`, whose length is unknown, once.

    >>> import jax.numpy as jnp
    >>> a, b = jnp.ones((2, 3)), jnp.ones((3, 5))
    >>> count_multiply_adds(jax.make_jaxpr(jnp.matmul)(a, b).jaxpr)
    30
    """
    return sum(_of_equation(equation) for equation in program.eqns)


def _of_equation(equation: Any) -> int:
    name, options = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = options["dimension_numbers"]
        left = equation.invars[0].aval.shape
        return math.prod(equation.outvars[0].aval.shape) * math.prod(left[axis] for axis in contracted)
    if name == "conv_general_dilated":
        kernel = equation.invars[1].aval.shape  # whose inputs are those of one group
        filters = kernel[options["dimension_numbers"].rhs_spec[0]]
        return math.prod(equation.outvars[0].aval.shape) * math.prod(kernel) // filters
    inner = [count_multiply_adds(program) for program in _programs(options)]
    if name == "cond":
        return max(inner)
    return sum(inner) * (options["length"] if name == "scan" else 1)


def _programs(options: Mapping[str, Any]) -> Iterator[Jaxpr]:
    """The programs inside an operation, such as the body of a loop."""
    for value in options.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            if isinstance(item, ClosedJaxpr):
                yield item.jaxpr
            elif isinstance(item, Jaxpr):
                yield item


def step_seconds(recipe: ConfigDict, repeats: int = 5) -> float:
    """Seconds of one training step, the median of several: the real step, on random pictures that lie on the devices.

    Each is dispatched by itself and waited for, which costs a fraction of a millisecond that training in blocks of
    `train.steps_per_dispatch` saves.

    Args:
      recipe: pictures of `dataset.image_size`, batches of `train.batch_size` over all devices.
      repeats: how many are timed.

    Raises:
      UserError: the batch cannot be dealt out to the devices.
    """
    mesh = make_mesh()
    check_batch(mesh, recipe.train.batch_size)
    everywhere = replicated(mesh)
    heads = build_heads(recipe)
    graphdef, *shapes = model_structure(recipe, heads)
    optimizer = make_optimizer(OptimizerOptions.from_recipe(recipe), WARM_UP + repeats, 1.0)
    begin = partial(initial_state, optimizer=optimizer, average=bool(recipe.train.ema_decay))
    rng = np.random.default_rng(recipe.seed)
    pictures, columns = random_examples(recipe.train.batch_size, recipe.dataset.image_size, rng)
    labels = {name: head.column(columns) for name, head in heads.items()}
    with jax.set_mesh(mesh):
        params, stats = jax.device_put(random_values(shapes, rng), everywhere)
        state = jax.jit(begin, out_shardings=everywhere)(params, stats)
        del params, stats
        data = jax.device_put({"content": pictures, "labels": labels}, everywhere)
        rows = jax.device_put(np.arange(recipe.train.batch_size, dtype=np.int32)[None], by_batch(mesh, axis=1))
        preprocessor = make_preprocessor(preprocess_options(recipe), "image")
        train_steps = jit_train_steps(graphdef, heads, optimizer, TrainOptions.from_recipe(recipe), preprocessor, mesh)
        seconds = []
        for _ in range(WARM_UP + repeats):
            start = time.perf_counter()
            state, figures = train_steps(state, data, {"rows": rows})
            jax.block_until_ready((state, figures))
            seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[WARM_UP:])


def random_values(shapes: Any, rng: np.random.Generator) -> Any:
    """Values for parameters and statistics; the model's own initialisation would take long to compile.

    Kernels are scaled as He et al. (2015) do, lest activations shrink to subnormal numbers, which are slow.

    Args:
      shapes: a tree of `jax.ShapeDtypeStruct`.
      rng: what draws them.

    Returns:
      The same tree of arrays.
    """

    def values(leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        if len(leaf.shape) < 2:
            return np.ones(leaf.shape, leaf.dtype)
        scale = math.sqrt(2 / math.prod(leaf.shape[:-1]))
        return np.float32(scale) * rng.standard_normal(leaf.shape, np.float32)

    return jax.tree.map(values, shapes)


def random_examples(count: int, size: int, rng: np.random.Generator) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Pictures of noise, and labels for them.

    Args:
      count: how many.
      size: edge of the pictures, pixels.
      rng: what draws them.

    Returns:
      uint8 `[count, size, size, 3]`, and of the columns `[count]` of `source.COLUMNS` those that heads need.
    """
    age = rng.integers(0, 101, count).astype(np.float32)
    columns = {
        "gender": rng.integers(0, len(GENDERS), count).astype(np.int32),
        "age": age,
        "age_low": age,
        "age_high": age,
        "class_name": np.full(count, "unknown"),
    }
    return rng.integers(0, 256, (count, size, size, 3), dtype=np.uint8), columns
