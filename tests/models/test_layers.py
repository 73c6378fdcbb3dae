"""Layers against SciPy, NumPy loops and each other."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy import signal

from agegender_jax.models import layers

FORMS = {"patches": layers._conv2d_patches, "direct": layers._conv2d_direct}
# kernel, stride, padding, height, width
CASES = [
    (1, 1, "SAME", 5, 7),
    (1, 2, "VALID", 6, 5),
    (3, 1, "SAME", 5, 7),
    (3, 1, "VALID", 6, 5),
    (3, 2, "SAME", 8, 7),
    (3, 4, "SAME", 9, 10),
    (5, 1, "SAME", 7, 9),
    (5, 2, "VALID", 9, 8),
    (5, 4, "SAME", 11, 13),
    (7, 1, "SAME", 7, 5),
    (7, 2, "SAME", 10, 9),
    (7, 4, "VALID", 19, 16),
    (3, 2, "SAME", 1, 3),
    (2, 1, "SAME", 5, 4),  # an even kernel is padded more below and to the right
]


def _drawn(kernel: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(kernel * 1000 + height * 10 + width)
    return (
        rng.normal(size=(2, height, width, 3)).astype(np.float32),
        rng.normal(size=(kernel, kernel, 3, 4)).astype(np.float32),
    )


def _scipy_conv2d(x: np.ndarray, kernel: np.ndarray, stride: int, padding: str) -> np.ndarray:
    """Float64, by scipy.signal.correlate on the padded image; SAME as TensorFlow defines it."""
    size = kernel.shape[0]
    x, kernel = x.astype(np.float64), kernel.astype(np.float64)
    if padding == "SAME":
        pads = []
        for edge in x.shape[1:3]:
            total = max((math.ceil(edge / stride) - 1) * stride + size - edge, 0)
            pads.append((total // 2, total - total // 2))
        x = np.pad(x, ((0, 0), *pads, (0, 0)))
    full = [
        [signal.correlate(image, kernel[..., o], mode="valid")[..., 0] for o in range(kernel.shape[-1])] for image in x
    ]
    return np.moveaxis(np.array(full), 1, -1)[:, ::stride, ::stride]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("kernel", "stride", "padding", "height", "width"), CASES)
def test_convolution_matches_scipy(
    form: str, kernel: int, stride: int, padding: layers.Padding, height: int, width: int
) -> None:
    x, weights = _drawn(kernel, height, width)
    got = jax.jit(FORMS[form], static_argnums=(2, 3))(x, weights, stride, padding)
    np.testing.assert_allclose(got, _scipy_conv2d(x, weights, stride, padding), rtol=1e-4, atol=1e-4)
    assert got.shape[1:3] == (
        layers.conv_output_size(height, kernel, stride, padding),
        layers.conv_output_size(width, kernel, stride, padding),
    )


def _gradients(form: Callable, x: np.ndarray, weights: np.ndarray, stride: int, padding: str) -> tuple:
    return jax.jit(jax.grad(lambda x, w: jnp.sum(jnp.sin(form(x, w, stride, padding))), (0, 1)))(x, weights)


@pytest.mark.parametrize(("kernel", "stride", "padding", "height", "width"), CASES[1::3])
def test_gradients_of_both_forms_agree(
    kernel: int, stride: int, padding: layers.Padding, height: int, width: int
) -> None:
    x, weights = _drawn(kernel, height, width)
    patches = _gradients(layers._conv2d_patches, x, weights, stride, padding)
    direct = _gradients(layers._conv2d_direct, x, weights, stride, padding)
    for a, b in zip(patches, direct, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * float(jnp.abs(b).max()))


def test_gradient_is_the_directional_derivative_in_float64() -> None:
    """The two forms could share a mistake: SciPy's convolution differenced along a direction cannot."""
    x, weights = _drawn(3, 6, 5)
    direction = np.random.default_rng(0).normal(size=weights.shape)
    step = 1e-5

    def objective(w: np.ndarray) -> float:
        return float(np.sin(_scipy_conv2d(x, w.astype(np.float64), 2, "SAME")).sum())

    slope = (objective(weights + step * direction) - objective(weights - step * direction)) / (2 * step)
    _, gradient = _gradients(layers._conv2d_patches, x, weights, 2, "SAME")
    assert float((np.asarray(gradient, np.float64) * direction).sum()) == pytest.approx(slope, rel=1e-3)


def test_the_backend_chooses_the_form(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weights = map(jnp.asarray, _drawn(3, 6, 6))

    def primitives(backend: str) -> str:
        monkeypatch.setattr(jax, "default_backend", lambda: backend)
        return str(jax.make_jaxpr(lambda x, w: layers.conv2d(x, w))(x, weights))

    assert "conv_general_dilated" not in primitives("cpu")
    assert "conv_general_dilated" in primitives("tpu")


def test_convolution_is_traced_once_for_one_shape() -> None:
    traces = []

    @jax.jit
    def forward(x: jax.Array, weights: jax.Array) -> jax.Array:
        traces.append(1)
        return layers.max_pool(layers.conv2d(x, weights))

    x, weights = map(jnp.asarray, _drawn(3, 6, 6))
    for factor in (1.0, 2.0, 3.0):
        forward(x * factor, weights)
    assert len(traces) == 1


def _loop_max_pool(x: np.ndarray, window: int, stride: int) -> np.ndarray:
    rows, columns = ((edge - window) // stride + 1 for edge in x.shape[1:3])
    out = np.empty((x.shape[0], rows, columns, x.shape[3]), x.dtype)
    for i in range(rows):
        for j in range(columns):
            out[:, i, j] = x[:, i * stride : i * stride + window, j * stride : j * stride + window].max((1, 2))
    return out


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
@pytest.mark.parametrize(("window", "stride"), [(2, 2), (3, 2), (2, 1)])
@pytest.mark.parametrize(("height", "width"), [(4, 6), (7, 5)])
def test_max_pool_matches_a_loop(
    monkeypatch: pytest.MonkeyPatch, backend: str, window: int, stride: int, height: int, width: int
) -> None:
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    x = np.random.default_rng(height).normal(size=(2, height, width, 3)).astype(np.float32) - 5  # no zero to win
    got = jax.jit(lambda x: layers.max_pool(x, window, stride))(x)
    np.testing.assert_array_equal(got, _loop_max_pool(x, window, stride))
    assert got.shape[1] == layers.pool_output_size(height, window, stride)


@pytest.mark.parametrize(("window", "stride"), [(2, 2), (3, 2)])
def test_max_pool_sends_the_gradient_to_the_maximum(window: int, stride: int) -> None:
    x = np.random.default_rng(3).permutation(49).astype(np.float32).reshape(1, 7, 7, 1)
    gradient = jax.jit(jax.grad(lambda x: layers.max_pool(x, window, stride).sum()))(x)
    expected = np.zeros(49)
    for value in _loop_max_pool(x, window, stride).ravel():
        expected[np.flatnonzero(x.ravel() == value)] += 1
    np.testing.assert_allclose(np.asarray(gradient).ravel(), expected, atol=1e-6)


@pytest.mark.parametrize(("window", "stride"), [(2, 2), (3, 2)])
def test_max_pool_gradient_of_ties_sums_to_one_a_window(window: int, stride: int) -> None:
    x = jnp.zeros((1, 7, 7, 1))  # what a ReLU leaves: everything ties
    gradient = jax.jit(jax.grad(lambda x: layers.max_pool(x, window, stride).sum()))(x)
    assert float(gradient.sum()) == pytest.approx(9.0, abs=1e-5)  # 3 x 3 windows


def test_local_response_norm_by_arithmetic() -> None:
    # Channels 1, 2, 3, 4 with size 3, alpha 3, beta 1, k 2: the sums of neighbouring squares are
    # 1+4=5, 1+4+9=14, 4+9+16=29, 9+16=25, so x / (2 + sum) = 1/7, 2/16, 3/31, 4/27.
    x = jnp.array([1.0, 2.0, 3.0, 4.0]).reshape(1, 1, 1, 4)
    got = layers.local_response_norm(x, size=3, alpha=3.0, beta=1.0, k=2.0)
    np.testing.assert_allclose(np.asarray(got).ravel(), [1 / 7, 2 / 16, 3 / 31, 4 / 27], rtol=1e-6)


def test_local_response_norm_defaults_match_a_loop() -> None:
    x = np.random.default_rng(0).normal(scale=200.0, size=(2, 3, 2, 9)).astype(np.float32)  # large: alpha is 1e-4
    expected = np.empty(x.shape)
    for channel in range(9):
        neighbours = x[..., max(0, channel - 2) : channel + 3].astype(np.float64)
        expected[..., channel] = x[..., channel] / (1.0 + 1e-4 / 5 * (neighbours**2).sum(-1)) ** 0.75
    np.testing.assert_allclose(layers.local_response_norm(jnp.asarray(x)), expected, rtol=1e-5)


def test_local_response_norm_keeps_bfloat16() -> None:
    x = jnp.full((1, 2, 2, 8), 300.0, jnp.bfloat16)
    assert layers.local_response_norm(x).dtype == jnp.bfloat16


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
