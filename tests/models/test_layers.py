"""Layers against PyTorch, NumPy loops and arithmetic."""

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from agegender_jax.models import layers
from agegender_jax.models.model import split_model
from tests.arrays import assert_close, wave


def _loop_max_pool(x: np.ndarray, window: int, stride: int) -> np.ndarray:
    rows, columns = ((edge - window) // stride + 1 for edge in x.shape[1:3])
    out = np.empty((x.shape[0], rows, columns, x.shape[3]), x.dtype)
    for i in range(rows):
        for j in range(columns):
            out[:, i, j] = x[:, i * stride : i * stride + window, j * stride : j * stride + window].max((1, 2))
    return out


@pytest.mark.parametrize(("window", "stride"), [(2, 2), (3, 2), (2, 1)])
@pytest.mark.parametrize(("height", "width"), [(4, 6), (7, 5)])
def test_max_pool_matches_a_loop(backend: str, window: int, stride: int, height: int, width: int) -> None:
    x = np.random.default_rng(height).normal(size=(2, height, width, 3)).astype(np.float32) - 5  # no zero to win
    got = jax.jit(lambda x: layers.max_pool(x, window, stride))(x)
    np.testing.assert_array_equal(got, _loop_max_pool(x, window, stride))
    assert got.shape[1] == layers.pool_output_size(height, window, stride)


def test_max_pool_gives_the_gradient_of_a_tie_to_the_first(backend: str) -> None:
    x = jnp.zeros((1, 5, 5, 1))  # what a ReLU leaves: everything ties
    for window, first in ((2, [0, 2]), (3, [0, 2])):  # the top left corner of each of 2 x 2 windows
        gradient = jax.jit(jax.grad(lambda x, window=window: layers.max_pool(x, window, 2).sum()))(x)
        expected = np.zeros((5, 5))
        expected[np.ix_(first, first)] = 1
        np.testing.assert_array_equal(gradient[0, :, :, 0], expected)


@pytest.mark.parametrize(("window", "stride", "padding"), [(2, 2, 0), (3, 2, 1), (3, 1, 0)])
def test_max_pool_has_xlas_gradient(window: int, stride: int, padding: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x = jnp.maximum(wave(2, 7, 6, 3), 0)  # with ties
    gradients = []
    for name in ("cpu", "gpu"):
        monkeypatch.setattr(jax, "default_backend", lambda name=name: name)
        pool = partial(layers.max_pool, window=window, stride=stride, padding=padding)
        gradients.append(jax.jit(jax.grad(lambda x, pool=pool: jnp.sin(pool(x) * jnp.arange(3)).sum()))(x))
    assert_close(*gradients)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("shape", [(4, 5, 3, 6), (16, 6)])
def test_batch_norm_is_flaxs(shape: tuple[int, ...], dtype: str) -> None:
    x = (3 * wave(*shape) + 1).astype(dtype)
    ours = layers.BatchNorm(6, momentum=0.8, epsilon=1e-3, dtype=jnp.dtype(dtype))
    theirs = nnx.BatchNorm(6, momentum=0.8, epsilon=1e-3, dtype=jnp.dtype(dtype), rngs=nnx.Rngs(0))
    assert jax.tree.map(jnp.shape, nnx.to_pure_dict(nnx.state(ours))) == jax.tree.map(
        jnp.shape, nnx.to_pure_dict(nnx.state(theirs))
    )
    for norm in (ours, theirs):
        norm.scale[...], norm.bias[...] = jnp.arange(6) - 2.0, jnp.arange(6) / 3

    def trained(norm: nnx.Module, call: Callable) -> tuple:
        graphdef, params, stats = split_model(norm)

        def loss(params: dict, x: jax.Array) -> tuple[jax.Array, tuple]:
            merged = nnx.merge(graphdef, params, stats)
            y = call(merged, x)
            assert y.dtype == x.dtype
            return jnp.sin(y.astype(jnp.float32)).sum(), (y, nnx.to_pure_dict(nnx.state(merged, nnx.BatchStat)))

        gradients, (y, new) = jax.jit(jax.grad(loss, (0, 1), has_aux=True))(params, x)
        return y, new, *gradients

    tolerance = 1e-5 if dtype == "float32" else 0.03
    got = trained(ours, lambda norm, x: norm(x, train=True))
    expected = trained(theirs, lambda norm, x: norm(x, use_running_average=False))
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert_close(a, b, tolerance)
    ours.mean[...], ours.var[...] = theirs.mean[...], theirs.var[...] = jnp.ones(6), jnp.arange(1.0, 7.0)
    assert_close(ours(x), theirs(x, use_running_average=True), tolerance)


def test_batch_norm_of_a_constant_is_its_bias() -> None:
    graphdef, *state = split_model(layers.BatchNorm(2))
    for constant, tolerance in ((3.0, 0.0), (1000.1, 1.0)):  # the latter has no exact square: a variance of rounding
        y, gradient = jax.vjp(lambda x: nnx.merge(graphdef, *state)(x, train=True), jnp.full((8, 2), constant))
        np.testing.assert_allclose(y, np.zeros((8, 2)), atol=tolerance)
        assert bool(jnp.isfinite(gradient(y)[0]).all())


def test_local_response_norm_defaults_match_a_loop() -> None:
    x = np.random.default_rng(0).normal(scale=200.0, size=(2, 3, 2, 9)).astype(np.float32)  # large: alpha is 1e-4
    expected = np.empty(x.shape)
    for channel in range(9):
        neighbours = x[..., max(0, channel - 2) : channel + 3].astype(np.float64)
        expected[..., channel] = x[..., channel] / (1.0 + 1e-4 / 5 * (neighbours**2).sum(-1)) ** 0.75
    assert_close(layers.local_response_norm(jnp.asarray(x)), expected)
    assert layers.local_response_norm(jnp.asarray(x, jnp.bfloat16)).dtype == jnp.bfloat16


def test_conv_adds_its_bias_and_computes_in_its_dtype() -> None:
    conv = layers.Conv(3, 4, bias_init=nnx.initializers.constant(2.5), dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    out = conv(jnp.zeros((1, 5, 5, 3)))
    assert out.dtype == jnp.bfloat16
    np.testing.assert_array_equal(out.astype(jnp.float32), np.full((1, 5, 5, 4), 2.5))
    assert conv.kernel[...].dtype == conv.bias[...].dtype == jnp.float32


def test_conv_is_initialised_as_he_et_al_say() -> None:
    kernel = layers.Conv(64, 128, 3, rngs=nnx.Rngs(0)).kernel[...]
    assert float(kernel.std()) == pytest.approx(math.sqrt(2 / (3 * 3 * 64)), rel=0.02)
    assert float(kernel.mean()) == pytest.approx(0.0, abs=0.001)


# PyTorch 2.13, float64: torch.nn.functional.max_pool2d(x, 3, 2, 1) and adaptive_avg_pool2d, of the waves permuted to
# NCHW; outputs permuted back to NHWC.
# fmt: off
MAX_POOLED = [-4.0907, -4.15853, -4.00939, -4.34301, -4.01064, -4.34301, -4.08705, -4.00009, -4.00939, -4.00009]
MAX_POOLED += [-4.23744, -4.0362, -4.01337, -4.00009, -4.01337, -4.00009, -4.00713, -4.0362]
AVERAGED = {
    (7, 5, 3): [-0.32348, 0.23805, 0.36609, 0.09466, -0.34834, -0.15702, 0.16462, 0.34652, -0.10259],
    (10, 9, 7): [0.17739, 0.05169, -0.12154, -0.11673, 0.10064, 0.18499, 0.09926, -0.18325, -0.1203, 0.05326, 0.14263,
     -0.02773, -0.16889, -0.15477, -0.16819, 0.05382, 0.22635, 0.0768, -0.2126, -0.20954, -0.01383],
}
# fmt: on


def test_max_pool_with_padding_is_pytorchs(backend: str) -> None:
    got = jax.jit(lambda x: layers.max_pool(x, 3, 2, padding=1))(wave(1, 6, 5, 2) - 5)  # below the padding's zero
    assert got.shape == (1, 3, 3, 2)
    assert_close(got.ravel(), MAX_POOLED)


@pytest.mark.parametrize(("height", "width", "size"), AVERAGED)
def test_average_to_is_pytorchs(height: int, width: int, size: int) -> None:
    got = jax.jit(lambda x: layers.adaptive_average_pool(x, size))(wave(1, height, width, 1))
    assert got.shape == (1, size, size, 1)
    assert_close(got[:, :3].ravel(), AVERAGED[height, width, size], 3e-5)


def test_average_to_leaves_a_smaller_map_as_it_is() -> None:
    x = wave(1, 2, 3, 2)
    np.testing.assert_array_equal(layers.adaptive_average_pool(x, 3), x)


def test_a_map_smaller_than_the_window_is_one_window(backend: str) -> None:
    x = wave(1, 2, 3, 1)
    np.testing.assert_array_equal(jax.jit(lambda x: layers.max_pool(x, 3, 2))(x).ravel(), [x[0, :, :2].max()])
    one = wave(1, 1, 1, 3)
    np.testing.assert_array_equal(jax.jit(layers.max_pool)(one), one)
    np.testing.assert_array_equal(jax.jit(layers.average_pool)(one), one)


def test_conv_without_bias_has_none() -> None:
    conv = layers.Conv(2, 2, 3, use_bias=False, depthwise=True, rngs=nnx.Rngs(0))
    assert conv.bias is None
    assert [leaf.shape for leaf in jax.tree.leaves(nnx.state(conv, nnx.Param))] == [(3, 3, 1, 2)]
    x = wave(1, 5, 6, 2)
    np.testing.assert_array_equal(conv(x), layers.depthwise_conv2d(x, conv.kernel[...]))
