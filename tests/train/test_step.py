"""The training step: its loss, its arithmetic, and one device against eight."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType
from ml_collections import ConfigDict

from agegender_jax import recipe as recipes
from agegender_jax.data.order import BatchOrder
from agegender_jax.data.resident import place
from agegender_jax.mesh import by_batch, replicated
from agegender_jax.models import layers
from agegender_jax.models.model import build_model, split_model
from agegender_jax.train.experiment import Experiment, set_up
from agegender_jax.train.optimizer import make_optimizer
from agegender_jax.train.state import TrainState, initial_state
from agegender_jax.train.step import make_train_steps, total_loss

BATCH = 16


def logits_head(weight: float, losses: list[float], weights: list[float]) -> Any:
    """A head with given per-example losses and weights."""

    @dataclasses.dataclass
    class Fixed:
        weight: float

        def loss(self, logits: jax.Array, label: jax.Array) -> tuple[jax.Array, jax.Array]:
            return jnp.array(losses), jnp.array(weights)

    return Fixed(weight)


def test_loss_is_the_weighted_sum_of_the_heads_weighted_means() -> None:
    heads = {"a": logits_head(2.0, [1.0, 2.0, 3.0], [1.0, 0.0, 3.0]), "b": logits_head(0.5, [4.0, 6.0], [1.0, 1.0])}
    nothing = {name: jnp.zeros(1) for name in heads}
    total, losses = total_loss(heads, nothing, nothing)
    assert float(losses["a"]) == pytest.approx((1 * 1 + 0 * 2 + 3 * 3) / 4)  # 2.5
    assert float(losses["b"]) == pytest.approx(5.0)
    assert float(total) == pytest.approx(2.0 * 2.5 + 0.5 * 5.0)


def test_a_head_without_a_known_label_costs_nothing() -> None:
    heads = {"a": logits_head(1.0, [7.0, 7.0], [0.0, 0.0])}
    total, losses = total_loss(heads, {"a": jnp.zeros(1)}, {"a": jnp.zeros(1)})
    assert float(total) == 0 == float(losses["a"])


@dataclasses.dataclass
class Setup:
    """Jitted steps on some devices, and all that they need."""

    mesh: jax.sharding.Mesh
    steps: Any
    state: TrainState
    data: Mapping[str, Any]
    order: BatchOrder
    traces: list[int]

    def run(self, state: TrainState, start: int, count: int) -> tuple[TrainState, dict[str, np.ndarray]]:
        rows = jax.device_put(self.order.batches(start, count), by_batch(self.mesh, axis=1))
        with jax.set_mesh(self.mesh):
            state, figures = self.steps(jax.device_put(state, replicated(self.mesh)), self.data, rows)
        return state, {name: np.asarray(value) for name, value in figures.items()}


def plain(**model: Any) -> ConfigDict:
    """The plain recipe (the defaults: Adam, 1e-4, dropout 0.5), made small."""
    recipe = recipes.base()
    recipe.dataset.image_size = 32
    recipe.model.update(variant="thin", **model)
    recipe.train.batch_size = BATCH
    return recipe


@pytest.fixture(scope="module")
def experiment(drawn_dir: Path, data_dir: Path) -> Experiment:
    return set_up(plain(), manual_dir=drawn_dir, data_dir=data_dir, run=None, progress=False)


def make_setup(recipe: ConfigDict, experiment: Experiment, devices: int = 8, average: bool = False) -> Setup:
    mesh = jax.make_mesh(
        (devices, 1), ("data", "model"), axis_types=(AxisType.Auto, AxisType.Auto), devices=jax.devices()[:devices]
    )
    optimizer = make_optimizer(recipe.optimizer, 50, 10.0)
    graphdef, params, stats = split_model(build_model(recipe, experiment.heads))
    everywhere, traces = replicated(mesh), []
    function = make_train_steps(
        graphdef,
        experiment.heads,
        optimizer,
        recipe,
        experiment.inputs,
        lambda x: jax.lax.with_sharding_constraint(x, by_batch(mesh)),
    )

    def traced(*arguments: Any) -> Any:
        traces.append(1)
        return function(*arguments)

    return Setup(
        mesh,
        jax.jit(traced, out_shardings=(everywhere, everywhere)),
        jax.device_put(initial_state(params, stats, optimizer, average=average), everywhere),
        place(experiment.data, experiment.labels, everywhere),
        BatchOrder(experiment.split.train, recipe.train.batch_size, recipe.seed),
        traces,
    )


@pytest.fixture(scope="module")
def eight(experiment: Experiment) -> Setup:
    """The plain recipe with an average, on eight devices."""
    recipe = plain()
    recipe.train.ema_decay = 0.5
    return make_setup(recipe, experiment, average=True)


def leaves(tree: Any) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def test_one_compiled_function_serves_every_step(eight: Setup) -> None:
    state = eight.state
    for start in range(0, 12, 4):
        state, _ = eight.run(state, start, 4)
    assert int(state.step) == 12
    assert len(eight.traces) == 1 == eight.steps._cache_size()


def test_the_same_seed_and_step_give_the_same_figures_bit_for_bit(eight: Setup) -> None:
    first, figures = eight.run(eight.state, 0, 4)
    again, same = eight.run(eight.state, 0, 4)
    for name, values in figures.items():
        np.testing.assert_array_equal(values, same[name])
    for a, b in zip(leaves(first), leaves(again), strict=True):
        np.testing.assert_array_equal(a, b)
    # Another step draws another dropout mask for the very same examples and parameters.
    later = dataclasses.replace(eight.state, step=eight.state.step + 1)
    _, other = eight.run(later, 0, 4)
    assert abs(other["loss"][0] - figures["loss"][0]) > 1e-3


def test_eight_steps_at_once_are_two_times_four(eight: Setup) -> None:
    """The same arithmetic in a loop of another length: equal but for how the compiler orders sums, 1e-6 of a loss."""
    at_once, figures = eight.run(eight.state, 0, 8)
    state, first = eight.run(eight.state, 0, 4)
    state, second = eight.run(state, 4, 4)
    np.testing.assert_allclose(np.concatenate([first["loss"], second["loss"]]), figures["loss"], rtol=1e-6)
    assert int(state.step) == int(at_once.step) == 8
    for a, b in zip(leaves(state.params), leaves(at_once.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)  # 1 % of one Adam step of 1e-4


def test_the_average_is_the_exponential_moving_average(eight: Setup) -> None:
    """Against NumPy: decay min(0.5, (1 + t) / (10 + t)), from parameters that single steps gave."""
    state, average = eight.state, [leaf.astype(np.float64) for leaf in leaves(eight.state.average)]
    for step in range(4):
        before = state
        state, _ = eight.run(before, step, 1)
        decay = min(0.5, (1 + step) / (10 + step))
        new = leaves((state.params, state.stats))
        average = [decay * old + (1 - decay) * now for old, now in zip(average, new, strict=True)]
    for found, expected in zip(leaves(state.average), average, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)
    moved = [np.abs(a - b).max() for a, b in zip(leaves(state.average), leaves(eight.state.average), strict=True)]
    assert max(moved) > 1e-4  # it does move


def test_bfloat16_is_for_the_arithmetic_alone(experiment: Experiment, eight: Setup) -> None:
    recipe = plain(dtype="bfloat16")
    setup = make_setup(recipe, experiment)
    state, figures = setup.run(setup.state, 0, 1)
    floating = [leaf for leaf in leaves(state) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    assert floating
    assert {leaf.dtype for leaf in floating} == {np.dtype(np.float32)}
    assert {values.dtype for values in figures.values()} == {np.dtype(np.float32)}
    _, exact = eight.run(eight.state, 0, 1)
    difference = np.abs(figures["loss"] - exact["loss"]) / exact["loss"]
    assert 0 < difference[0] < 0.02  # it is in use: 8 bits of mantissa, not 24


def losses_of(setup: Setup, steps: int = 50) -> np.ndarray:
    """The losses of so many steps, one after the other, float64 `[steps]`."""
    state, losses = setup.state, []
    for step in range(steps):
        state, figures = setup.run(state, step, 1)
        losses.append(float(figures["loss"][0]))
    return np.array(losses)


def test_one_device_and_eight_find_the_same_loss_at_each_of_fifty_states(experiment: Experiment, eight: Setup) -> None:
    """Training on one device, and at every step the eight are given the one's state: loss and gradient agree.

    Left to themselves the two drift apart in float32, and must: see the next test.
    """
    recipe = plain()
    recipe.train.ema_decay = 0.5
    one = make_setup(recipe, experiment, devices=1, average=True)
    state, losses, norms = one.state, [], []
    for step in range(50):
        _, many = eight.run(state, step, 1)
        state, single = one.run(state, step, 1)
        losses.append((float(single["loss"][0]), float(many["loss"][0])))
        norms.append((float(single["gradient_norm"][0]), float(many["gradient_norm"][0])))
    single_loss, many_loss = np.array(losses).T
    np.testing.assert_allclose(many_loss, single_loss, rtol=1e-5)
    assert single_loss[-10:].mean() < 0.8 * single_loss[:10].mean()  # it trained meanwhile


def test_one_device_and_eight_give_the_same_fifty_losses(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fifty free steps of the plain recipe to 1e-5, of a net without kinks.

    The gradient of ReLU and of max-pooling jumps where an activation crosses zero or two pixels tie. Sums over eight
    devices round differently in the last bit, sooner or later (here after ten steps) that bit puts one activation of
    one example on the other side, the gradient is another by a thousandth, and training takes it from there to a
    thousandth of the loss. That is the arithmetic and no defect; the same net with SiLU and average pooling has no
    such places, and everything else that could differ by device (batch statistics, sums of the loss, dropout masks,
    the gradient's reduction) it shares.
    """
    monkeypatch.setattr(nnx, "relu", nnx.silu)
    monkeypatch.setattr(layers, "max_pool", average_pool)
    one, many = (losses_of(make_setup(plain(), experiment, devices)) for devices in (1, 8))
    np.testing.assert_allclose(many, one, rtol=1e-5)
    assert one[-10:].mean() < 0.9 * one[:10].mean()


def average_pool(x: jax.Array, window: int = 2, stride: int = 2) -> jax.Array:
    total = jax.lax.reduce_window(x, 0.0, jax.lax.add, (1, window, window, 1), (1, stride, stride, 1), "VALID")
    return total / window**2
