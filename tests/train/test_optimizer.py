"""Optimizers and schedules against arithmetic."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from agegender_jax import recipe as recipes
from agegender_jax.errors import UserError
from agegender_jax.train.optimizer import check_freeze, learning_rate, make_optimizer, weight_decay_mask

STEPS_PER_EPOCH = 4.0

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


def _history(options: ConfigDict, params: Any, gradients: list[Any], total_steps: int) -> list[Any]:
    """The parameters before the first step and after each."""
    optimizer = make_optimizer(options, total_steps, STEPS_PER_EPOCH)
    params, *gradients = (jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), x) for x in (params, *gradients))
    state, history = optimizer.init(params), [params]
    update = jax.jit(optimizer.update)
    for gradient in gradients:
        updates, state = update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        history.append(params)
    return history


def _run(options: ConfigDict) -> list[dict]:
    """The parameters after each of two steps."""
    return _history(options, PARAMS, GRADIENTS, 10)[1:]


def _rates(schedule: str, warmup: float, total_steps: int) -> list[float]:
    rate = learning_rate(_options(schedule=schedule, warmup=warmup), total_steps)
    return [float(rate(step)) for step in range(total_steps + 1)]


@pytest.mark.parametrize(
    ("schedule", "warmup", "expected"),
    [
        ("constant", 0.0, [0.1] * 6),
        # Half a cosine over four steps: (1 + cos(pi s / 4)) / 2 of the peak.
        ("cosine", 0.0, [0.1, 0.1 * (1 + math.sqrt(0.5)) / 2, 0.05, 0.1 * (1 - math.sqrt(0.5)) / 2, 0.0]),
        # Four of ten steps: 1/5, 2/5, 3/5, 4/5 of the peak, which the fifth step reaches.
        ("constant", 0.4, [0.02, 0.04, 0.06, 0.08] + [0.1] * 7),
        # The cosine begins where the warmup ends, and reaches zero with the run.
        ("cosine", 0.2, [0.1 / 3, 0.2 / 3] + [0.05 * (1 + math.cos(math.pi * step / 8)) for step in range(9)]),
    ],
)
def test_rates_by_arithmetic(schedule: str, warmup: float, expected: list[float]) -> None:
    np.testing.assert_allclose(_rates(schedule, warmup, len(expected) - 1), expected, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(("warmup", "total_steps"), [(1.0, 4), (0.01, 4), (0.5, 1)])
@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_edges_of_the_schedule_stay_finite_and_within_the_peak(schedule: str, warmup: float, total_steps: int) -> None:
    rates = _rates(schedule, warmup, total_steps)[:-1]
    assert all(0 < rate <= 0.1 * (1 + 1e-6) for rate in rates)


def _adamw(leaf: np.ndarray, gradients: list[np.ndarray], rates: list[float], decay: float) -> np.ndarray:
    """Loshchilov & Hutter 2019, algorithm 2, with a rate for each step; decay is of kernels alone."""
    m, v = np.zeros_like(leaf), np.zeros_like(leaf)
    for step, (g, rate) in enumerate(zip(gradients, rates, strict=True), start=1):
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        update = m / (1 - 0.9**step) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8)
        leaf = leaf - rate * (update + (decay * leaf if leaf.ndim > 1 else 0.0))
    return leaf


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_adam_by_arithmetic(name: str) -> None:
    """Kingma & Ba 2015, algorithm 1; decoupled decay after Loshchilov & Hutter 2019, algorithm 2."""
    decay = 0.1 if name == "adamw" else 0.0
    history = _run(_options(name=name, weight_decay=decay))
    for group, leaf in LEAVES:
        gradients = [gradient[group][leaf] for gradient in GRADIENTS]
        for steps in (1, 2):
            expected = _adamw(PARAMS[group][leaf], gradients[:steps], [0.1] * steps, decay)
            np.testing.assert_allclose(history[steps - 1][group][leaf], expected, rtol=2e-5, atol=1e-6)


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


NET = {
    "backbone": {
        "trunk": {
            "convs": {0: {"kernel": np.array([[2.0, -1.0]])}, 1: {"kernel": np.array([[0.5, 3.0]])}},
            "norms": {0: {"scale": np.array([1.0, 0.8])}, 1: {"scale": np.array([1.2, 0.6])}},
        }
    },
    "heads": {"gender": {"kernel": np.array([[-1.5, 1.0]]), "bias": np.array([0.2, -0.3])}},
}
FROZEN = [True, True, False, False, False, False]
"""Which of the leaves, in order, `convs` finds."""


def _net_gradients(count: int) -> list[Any]:
    rng = np.random.default_rng(0)
    return [jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), NET) for _ in range(count)]


def _train(options: ConfigDict, gradients: list[Any]) -> list[list[np.ndarray]]:
    """The net's leaves before the first step and after each."""
    return [[np.asarray(leaf) for leaf in jax.tree.leaves(tree)] for tree in _history(options, NET, gradients, 100)]


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_frozen_for_good_stays_exactly_as_it_is(name: str) -> None:
    options = _options(name=name, weight_decay=0.1, freeze="trunk/convs", clip_norm=1.0)
    history = _train(options, _net_gradients(6))
    for before, after, frozen in zip(history[0], history[-1], FROZEN, strict=True):
        assert np.array_equal(before, after) == frozen


def test_unfrozen_at_its_epoch_it_goes_on_as_a_parameter_group_whose_rate_was_zero() -> None:
    # Epoch 0.75 of four steps each begins after three steps.
    gradients = _net_gradients(6)
    options = _options(name="adamw", weight_decay=0.1, freeze="convs", unfreeze_epoch=0.75)
    history = _train(options, gradients)
    leaves = [jax.tree.leaves(tree) for tree in gradients]
    for i, (before, frozen) in enumerate(zip(jax.tree.leaves(NET), FROZEN, strict=True)):
        rates = [0.1 * (not frozen or step >= 3) for step in range(6)]
        assert np.array_equal(history[3][i], history[0][i]) == frozen
        expected = _adamw(before, [step[i] for step in leaves], rates, 0.1)
        np.testing.assert_allclose(history[-1][i], expected, rtol=1e-4, atol=1e-6)


def test_an_epoch_before_the_first_step_still_unfreezes() -> None:
    history = _train(_options(name="sgd", freeze="convs", unfreeze_epoch=0.01), _net_gradients(2))
    assert np.array_equal(history[1][0], history[0][0])
    assert not np.array_equal(history[2][0], history[0][0])


def test_the_norm_that_is_clipped_is_of_what_learns() -> None:
    gradient = _net_gradients(1)[0]
    gradient["backbone"]["trunk"]["convs"][0]["kernel"] *= 1e6  # frozen, so it must not quench the others
    leaves = jax.tree.leaves(gradient)
    norm = math.sqrt(sum((g**2).sum() for g, frozen in zip(leaves, FROZEN, strict=True) if not frozen))
    before, after = _train(_options(name="sgd", freeze="convs", clip_norm=0.5), [gradient])
    for i, g in enumerate(leaves):  # the first step of SGD is 1.9 times the gradient
        expected = before[i] - (0.0 if FROZEN[i] else 0.1 * 1.9 * 0.5 / norm * g)
        np.testing.assert_allclose(after[i], expected, rtol=1e-5, atol=1e-6)


def test_what_gathers_while_frozen_is_clipped_too() -> None:
    gradients = _net_gradients(2)
    for gradient in gradients:
        gradient["backbone"]["trunk"]["convs"][0]["kernel"] *= 1e6
    options = _options(name="sgd", freeze="convs", unfreeze_epoch=0.25, clip_norm=0.5)
    _, middle, after = _train(options, gradients)
    first, second = (jax.tree.leaves(gradient)[0] for gradient in gradients)
    # The huge gradient is its own norm: the buffer holds 0.9 of the first direction and all of the second.
    first, second = 0.5 * first / np.linalg.norm(first), 0.5 * second / np.linalg.norm(second)
    expected = middle[0] - 0.1 * (second + 0.9 * (0.9 * first + second))
    np.testing.assert_allclose(after[0], expected, rtol=1e-4, atol=1e-6)


def test_without_freezing_the_state_is_that_of_the_rule_alone() -> None:
    options = _options(name="adamw")
    plain: Any = jax.tree.structure(optax.adamw(learning_rate(options, 100), mask=weight_decay_mask).init(NET))
    assert plain == jax.tree.structure(make_optimizer(options, 100, 4.0).init(NET))


@pytest.mark.parametrize("freeze", ["convs/2", "kernel|scale|bias", "convs("])
def test_a_pattern_that_cannot_be_meant_is_refused(freeze: str) -> None:
    with pytest.raises(UserError, match=r"config\.optimizer\.freeze=") as refused:
        check_freeze(_options(freeze=freeze), NET)
    assert "\n" not in str(refused.value)
    with pytest.raises(UserError):
        make_optimizer(_options(freeze=freeze), 10, 4.0).init(NET)
