"""Optimizers and schedules against arithmetic."""

import math

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from agegender_jax import recipe as recipes
from agegender_jax.train.optimizer import decayed, learning_rate, make_optimizer

PARAMS = {
    "conv": {"kernel": np.array([[1.0, -2.0], [0.5, 4.0]]), "bias": np.array([3.0, -1.0])},
    "norm": {"scale": np.array([1.0, 2.0]), "bias": np.array([0.5, -0.5])},
}
GRADIENTS = [
    {
        "conv": {"kernel": np.array([[0.3, -0.1], [2.0, 0.0]]), "bias": np.array([-0.4, 0.2])},
        "norm": {"scale": np.array([0.05, -0.6]), "bias": np.array([1.0, 0.7])},
    },
    {
        "conv": {"kernel": np.array([[-0.2, 0.4], [1.0, 0.1]]), "bias": np.array([0.3, 0.2])},
        "norm": {"scale": np.array([0.15, 0.2]), "bias": np.array([-1.0, 0.1])},
    },
]
LEAVES = [("conv", "kernel"), ("conv", "bias"), ("norm", "scale"), ("norm", "bias")]


def _options(**changes: object) -> ConfigDict:
    options = recipes.base().optimizer
    options.update(learning_rate=0.1, **changes)
    return options


def _run(options: ConfigDict, total_steps: int = 10) -> list[dict]:
    """The parameters after each of two steps."""
    optimizer = make_optimizer(options, total_steps)
    params = {
        group: {name: jnp.asarray(leaf, jnp.float32) for name, leaf in leaves.items()}
        for group, leaves in PARAMS.items()
    }
    state, history = optimizer.init(params), []
    for gradient in GRADIENTS:
        gradient = {
            group: {name: jnp.asarray(leaf, jnp.float32) for name, leaf in leaves.items()}
            for group, leaves in gradient.items()
        }
        updates, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        history.append(params)
    return history


def _rates(schedule: str, warmup: float, total_steps: int) -> list[float]:
    rate = learning_rate(_options(schedule=schedule, warmup=warmup), total_steps)
    return [float(rate(step)) for step in range(total_steps + 1)]


def test_constant_rate() -> None:
    assert _rates("constant", 0.0, 5) == [pytest.approx(0.1)] * 6


def test_cosine_rate_by_arithmetic() -> None:
    # Half a cosine over four steps: (1 + cos(pi s / 4)) / 2 of the peak.
    expected = [0.1, 0.1 * (1 + math.sqrt(0.5)) / 2, 0.05, 0.1 * (1 - math.sqrt(0.5)) / 2, 0.0]
    np.testing.assert_allclose(_rates("cosine", 0.0, 4), expected, atol=1e-8)


def test_warmup_rises_in_equal_steps_from_above_zero() -> None:
    # Four of ten steps: 1/5, 2/5, 3/5, 4/5 of the peak, which the fifth step reaches.
    np.testing.assert_allclose(_rates("constant", 0.4, 10), [0.02, 0.04, 0.06, 0.08] + [0.1] * 7, rtol=1e-6)


def test_cosine_begins_where_the_warmup_ends_and_reaches_zero_with_the_run() -> None:
    rates = _rates("cosine", 0.2, 10)
    expected = [0.1 / 3, 0.2 / 3] + [0.05 * (1 + math.cos(math.pi * step / 8)) for step in range(9)]
    np.testing.assert_allclose(rates, expected, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(("warmup", "total_steps"), [(1.0, 4), (0.01, 4), (0.5, 1)])
@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_edges_of_the_schedule_stay_finite_and_within_the_peak(schedule: str, warmup: float, total_steps: int) -> None:
    rates = _rates(schedule, warmup, total_steps)[:-1]
    assert all(0 < rate <= 0.1 * (1 + 1e-6) for rate in rates)


def test_decay_is_of_kernels_alone() -> None:
    assert decayed(PARAMS) == {"conv": {"kernel": True, "bias": False}, "norm": {"scale": False, "bias": False}}


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_adam_by_arithmetic(name: str) -> None:
    """Kingma & Ba 2015, algorithm 1; decoupled decay after Loshchilov & Hutter 2019, algorithm 2."""
    b1, b2, decay, rate = 0.8, 0.95, 0.1 if name == "adamw" else 0.0, 0.1
    history = _run(_options(name=name, b1=b1, b2=b2, weight_decay=0.1))  # adam knows no decay
    for group, leaf in LEAVES:
        value = PARAMS[group][leaf].copy()
        m, v = np.zeros_like(value), np.zeros_like(value)
        for step, gradient in enumerate(GRADIENTS, start=1):
            g = gradient[group][leaf]
            m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
            update = m / (1 - b1**step) / (np.sqrt(v / (1 - b2**step)) + 1e-8)
            value = value - rate * (update + (decay * value if leaf == "kernel" else 0.0))
            np.testing.assert_allclose(history[step - 1][group][leaf], value, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_sgd_by_arithmetic(decay: float) -> None:
    """Nesterov's momentum as Sutskever et al. 2013 and PyTorch have it: buffer b = 0.9 b + g, step g + 0.9 b."""
    history = _run(_options(name="sgd", weight_decay=decay))
    for group, leaf in LEAVES:
        value = PARAMS[group][leaf].copy()
        buffer = np.zeros_like(value)
        for step, gradient in enumerate(GRADIENTS):
            g = gradient[group][leaf] + (decay * value if leaf == "kernel" else 0.0)
            buffer = 0.9 * buffer + g
            value = value - 0.1 * (g + 0.9 * buffer)
            np.testing.assert_allclose(history[step][group][leaf], value, rtol=1e-5, atol=1e-6)


def test_rate_follows_the_schedule() -> None:
    # Adam's first update is the gradient's sign, so the first step moves by the first rate: a fifth of 0.1.
    after = _run(_options(name="adam", warmup=0.4))[0]
    moved = after["norm"]["bias"] - PARAMS["norm"]["bias"]
    np.testing.assert_allclose(moved, [-0.02, -0.02], rtol=1e-4)


@pytest.mark.parametrize(("clip", "factor"), [(0.5, None), (100.0, 1.0), (0.0, 1.0)])
def test_gradient_is_clipped_by_its_norm_over_all_parameters(clip: float, factor: float | None) -> None:
    norm = math.sqrt(sum((GRADIENTS[0][group][leaf] ** 2).sum() for group, leaf in LEAVES))
    factor = clip / norm if factor is None else factor
    after = _run(_options(name="sgd", clip_norm=clip))[0]
    for group, leaf in LEAVES:  # the first step of SGD is 1.9 times the gradient
        expected = PARAMS[group][leaf] - 0.1 * 1.9 * factor * GRADIENTS[0][group][leaf]
        np.testing.assert_allclose(after[group][leaf], expected, rtol=1e-5, atol=1e-6)


def test_decay_is_not_clipped() -> None:
    clipped = _run(_options(name="adamw", clip_norm=1e-3, weight_decay=0.5))[0]["conv"]["kernel"]
    # Adam forgets the gradient's size, so the first step is its sign whether clipped or not (0 stays 0).
    kernel, sign = PARAMS["conv"]["kernel"], np.sign(GRADIENTS[0]["conv"]["kernel"])
    np.testing.assert_allclose(clipped, kernel - 0.1 * (sign + 0.5 * kernel), rtol=1e-3, atol=1e-4)
