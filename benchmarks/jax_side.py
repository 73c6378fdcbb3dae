"""Our side of the benchmarks: recipes, a training step on data that lie on the device, and what the device can do."""

import os
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh
from ml_collections import ConfigDict

from agegender_jax import recipe as recipes
from agegender_jax.compilation import cache_compilations
from agegender_jax.data.loader import ResidentLoader
from agegender_jax.data.preprocess import make_preprocessor
from agegender_jax.data.sampler import BatchSampler
from agegender_jax.errors import quiet_libraries
from agegender_jax.flags import read_recipe
from agegender_jax.mesh import check_batch, replicated
from agegender_jax.models.heads import build_heads
from agegender_jax.models.model import define_model
from agegender_jax.recipe_options import data_options, model_options, train_options
from agegender_jax.train.model_profile import random_examples, random_values
from agegender_jax.train.optimizer import make_optimizer
from agegender_jax.train.setup import environment
from agegender_jax.train.state import initial_state
from agegender_jax.train.step import jit_train_steps
from benchmarks.launch_runs import hardware

AUGMENTATION = {
    "flip": True,
    "shift": 0.06,
    "zoom": 0.1,
    "brightness": 0.1,
    "contrast": 0.2,
    "saturation": 0.2,
    "erase": 0.25,
}
"""The augmentation of `configs/utkface_small.py:cpu`."""

_WARM_UP = 2  # dispatches that are not timed: the first compiles, the second may find cold memory
_MATRIX = {"cpu": 2048}  # edge of the peak's matrices, by backend; larger is no faster there
_ACCELERATOR_MATRIX = 8192


def prepare(*, share: bool = False) -> None:
    """Keeps compiled programs and, with `share`, leaves device memory to the peer; to be called before JAX is used."""
    if share:
        os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.45")
    quiet_libraries()
    cache_compilations()


def about() -> dict[str, Any]:
    """Returns our `versions`, and `hardware` as a line of text."""
    metadata = environment()
    return {"versions": dict(metadata["versions"]), "hardware": hardware(metadata["hardware"])}


def load_recipe(config: str, settings: Sequence[str]) -> ConfigDict:
    """Returns a recipe as `launch.py` reads it, checked.

    Args:
      config: `FILE.py` or `FILE.py:ARGUMENT`.
      settings: values that are set, `KEY=VALUE` each.

    Raises:
      UserError: there is no such recipe, key or value.
    """
    recipe = read_recipe(config, settings)
    recipes.check(recipe)
    return recipe


class Steps:
    """Training steps of a recipe on random images that lie on the devices, several a dispatch: what training does.

    Args:
      recipe: its `dataset.image_size`, `train.batch_size` and `train.steps_per_dispatch`.
      mesh: of devices.
    """

    def __init__(self, recipe: ConfigDict, mesh: Mesh) -> None:
        check_batch(mesh, recipe.train.batch_size)
        self._mesh, self._count, self._step = mesh, recipe.train.steps_per_dispatch, 0
        self.images = self._count * recipe.train.batch_size  # in a dispatch
        options = model_options(recipe)
        heads = build_heads(options.heads)
        self.outputs = {name: head.size for name, head in heads.items()}
        model, training = define_model(options, heads), train_options(recipe)
        self.parameters = sum(leaf.size for leaf in jax.tree.leaves(model.params))
        optimizer = make_optimizer(training.optimizer, 1_000_000, 1000.0)
        begin = partial(initial_state, optimizer=optimizer, average=bool(recipe.train.ema_decay))
        rng, examples = np.random.default_rng(0), 2 * recipe.train.batch_size
        images, columns = random_examples(examples, recipe.dataset.image_size, rng)
        with jax.set_mesh(mesh):
            params, stats = jax.device_put(random_values([model.params, model.stats], rng), replicated(mesh))
            self._state = jax.jit(begin, out_shardings=replicated(mesh))(params, stats)
            self._loader = ResidentLoader(
                images,
                mesh,
                {name: head.column(columns) for name, head in heads.items()},
                BatchSampler(np.arange(examples), recipe.train.batch_size, recipe.seed),
            )
            preprocessor = make_preprocessor(data_options(recipe).preprocess, "image")
            self._train = jit_train_steps(model.graphdef, heads, optimizer, training, preprocessor, mesh)
        self.run(_WARM_UP)

    def dispatch(self) -> dict[str, jax.Array]:
        """Gives the devices the next steps; returns their metrics, which may not be computed yet."""
        with jax.set_mesh(self._mesh):
            batches = self._loader.train_batches(self._step, self._count)
            self._state, metrics = self._train(self._state, self._loader.data, batches)
        self._step += self._count
        return metrics

    def run(self, dispatches: int) -> float:
        """Returns the seconds of so many dispatches, each given to the devices while they work on the one before."""
        began = time.perf_counter()
        for _ in range(dispatches):
            metrics = self.dispatch()
        jax.block_until_ready((self._state, metrics))
        return time.perf_counter() - began


def one_device() -> Mesh:
    """Returns a mesh of the first device alone."""
    return jax.make_mesh((1, 1), ("data", "model"), axis_types=(AxisType.Auto,) * 2, devices=jax.devices()[:1])


def matmul_peak(dtype: str, edge: int = 0) -> float:
    """Measures the floating-point operations a second of a product of two square matrices, the best of several tries.

    Args:
      dtype: of the matrices, and of the result.
      edge: of the matrices; 0 is large enough for the backend.
    """
    edge = edge or matrix_edge()
    left, right = (jax.random.normal(jax.random.key(seed), (edge, edge), dtype) for seed in (0, 1))
    product = jax.jit(jnp.matmul)
    product(left, right).block_until_ready()
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        jax.block_until_ready([product(left, right) for _ in range(4)])
        seconds.append((time.perf_counter() - began) / 4)
    return 2 * edge**3 / min(seconds)


def matrix_edge() -> int:
    """Returns the edge of the matrices whose product is called the peak."""
    return _MATRIX.get(jax.default_backend(), _ACCELERATOR_MATRIX)
