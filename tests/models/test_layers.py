"""Layers against SciPy, PyTorch, NumPy loops and each other."""

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


def _wave(*shape: int, start: float = 0.0) -> np.ndarray:
    """Numbers that PyTorch was given too, in this layout: sin(start), sin(start + 1), ..."""
    return np.sin(start + np.arange(math.prod(shape))).reshape(shape).astype(np.float32)


@pytest.fixture(params=["cpu", "gpu"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both formulations, on the CPU."""
    monkeypatch.setattr(jax, "default_backend", lambda: request.param)
    return request.param


# PyTorch 2.13, float64: torch.nn.functional.conv2d(x, kernel, stride=stride, padding=padding), max_pool2d(x, 3, 2, 1),
# conv2d(..., groups=2) and adaptive_avg_pool2d, of the waves permuted to NCHW and OIHW; outputs permuted back to NHWC.
# fmt: off
CONVOLVED = {
    (3, 2, 1): [1.66587, 1.27339, 0.52318, 0.10045, -0.5362, -0.06046, 2.02987, -0.80981, 0.09993, -0.08514,
     -0.52808, 0.13668, -0.50443, -1.93635, -0.16437, 0.19781, -0.12473, 0.01486],
    (5, 3, 2): [-0.57656, -0.09147, -0.98206, 0.40604, 0.32545, -0.27841, 0.82711, -0.44727],
}
MAX_POOLED = [-4.0907, -4.15853, -4.00939, -4.34301, -4.01064, -4.34301, -4.08705, -4.00009, -4.00939, -4.00009]
MAX_POOLED += [-4.23744, -4.0362, -4.01337, -4.00009, -4.01337, -4.00009, -4.00713, -4.0362]
# Kernel, stride, padding: the first 2 x 3 pixels, sum and sum of squares of all. PyTorch has no SAME for strides, so
# there torch.nn.functional.pad came first with TensorFlow's zeros, the odd one below and to the right.
DEPTHWISE: dict[tuple[int, int, layers.Padding], tuple[list[float], float, float]] = {
    (3, 1, 1): (
        [-2.21058, -1.14282, 1.82705, 2.22127, 1.51591, 1.11719, -3.40569, -1.93389, 1.0526, 1.596, 3.65589, 3.19831],
        -8.88852,
        388.16024,
    ),
    (3, 2, 1): (
        [-2.21058, -1.14282, 1.51591, 1.11719, 1.05482, 1.50546, -3.09126, -1.47937, 4.60394, 4.4261, -2.68612,
         -2.13615],
        -0.59619,
        106.11309,
    ),
    (3, 2, "SAME"): (
        [1.82705, 2.22127, -3.08874, -3.1511, 0.80363, 2.02418, -1.52757, -0.93245, -2.30426, -2.75137, 1.94115,
         3.43074],
        -4.06189,
        85.09331,
    ),
    (5, 2, "SAME"): (
        [0.22, -0.68324, 0.15931, -0.12199, 0.36935, 0.22488, -0.73199, -1.24347, -0.80152, -0.53901, 1.56086,
         1.69569],
        0.40992,
        9.48851,
    ),
    (3, 2, "VALID"): (
        [1.0526, 1.596, -4.09538, -4.25794, -3.63069, -3.1697, 0.20646, -0.38557],
        -12.68422,
        61.97753,
    ),
}
AVERAGED = {
    (7, 5, 3): [-0.32348, 0.23805, 0.36609, 0.09466, -0.34834, -0.15702, 0.16462, 0.34652, -0.10259],
    (10, 9, 7): [0.17739, 0.05169, -0.12154, -0.11673, 0.10064, 0.18499, 0.09926, -0.18325, -0.1203, 0.05326, 0.14263,
     -0.02773, -0.16889, -0.15477, -0.16819, 0.05382, 0.22635, 0.0768, -0.2126, -0.20954, -0.01383],
}
# fmt: on


@pytest.mark.parametrize(("kernel", "stride", "padding"), CONVOLVED)
def test_convolution_with_so_many_pixels_of_padding_is_pytorchs(
    backend: str, kernel: int, stride: int, padding: int
) -> None:
    weights = _wave(kernel, kernel, 2, 2, start=1.0)
    got = jax.jit(lambda x: layers.conv2d(x, weights, stride=stride, padding=padding))(_wave(1, 5, 6, 2))
    np.testing.assert_allclose(got.ravel(), CONVOLVED[kernel, stride, padding], atol=2e-5)
    assert got.shape[1:3] == tuple(layers.conv_output_size(edge, kernel, stride, padding) for edge in (5, 6))


def test_max_pool_with_padding_is_pytorchs(backend: str) -> None:
    got = jax.jit(lambda x: layers.max_pool(x, 3, 2, padding=1))(_wave(1, 6, 5, 2) - 5)  # below the padding's zero
    assert got.shape == (1, 3, 3, 2)
    np.testing.assert_allclose(got.ravel(), MAX_POOLED, atol=2e-5)


@pytest.mark.parametrize(("kernel", "stride", "padding"), DEPTHWISE)
def test_depthwise_convolution_is_pytorchs(backend: str, kernel: int, stride: int, padding: layers.Padding) -> None:
    weights = _wave(kernel, kernel, 1, 2, start=1.0)
    got = jax.jit(lambda x: layers.depthwise_conv2d(x, weights, stride=stride, padding=padding))(_wave(1, 5, 6, 2))
    first, total, squares = DEPTHWISE[kernel, stride, padding]
    np.testing.assert_allclose(got[:, :2, :3].ravel(), first, atol=2e-5)
    assert float(got.sum()) == pytest.approx(total, abs=1e-4)
    assert float((got**2).sum()) == pytest.approx(squares, rel=1e-5)


@pytest.mark.parametrize(("kernel", "stride", "padding"), DEPTHWISE)
def test_gradients_of_both_depthwise_forms_agree(
    kernel: int, stride: int, padding: layers.Padding, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, weights = _wave(2, 6, 5, 4), _wave(kernel, kernel, 1, 4, start=1.0)
    gradients = []
    for name in ("cpu", "gpu"):
        monkeypatch.setattr(jax, "default_backend", lambda name=name: name)
        gradients.append(
            _gradients(
                lambda x, w, s, p: layers.depthwise_conv2d(x, w, stride=s, padding=p), x, weights, stride, padding
            )
        )
    for a, b in zip(*gradients, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * float(jnp.abs(b).max()))


@pytest.mark.parametrize(("height", "width", "size"), AVERAGED)
def test_average_to_is_pytorchs(height: int, width: int, size: int) -> None:
    got = jax.jit(lambda x: layers.average_to(x, size))(_wave(1, height, width, 1))
    assert got.shape == (1, size, size, 1)
    np.testing.assert_allclose(got[:, :3].ravel(), AVERAGED[height, width, size], atol=2e-5)


def test_average_to_leaves_a_smaller_map_as_it_is() -> None:
    x = _wave(1, 2, 3, 2)
    np.testing.assert_array_equal(layers.average_to(x, 3), x)


def test_a_map_smaller_than_the_window_is_one_window(backend: str) -> None:
    x = _wave(1, 2, 3, 1)
    np.testing.assert_array_equal(jax.jit(lambda x: layers.max_pool(x, 3, 2))(x).ravel(), [x[0, :, :2].max()])
    one = _wave(1, 1, 1, 3)
    np.testing.assert_array_equal(jax.jit(layers.max_pool)(one), one)
    np.testing.assert_array_equal(jax.jit(layers.average_pool)(one), one)


def test_conv_without_bias_has_none() -> None:
    conv = layers.Conv(2, 2, 3, use_bias=False, depthwise=True, rngs=nnx.Rngs(0))
    assert conv.bias is None
    assert [leaf.shape for leaf in jax.tree.leaves(nnx.state(conv, nnx.Param))] == [(3, 3, 1, 2)]
    conv.kernel[...] = jnp.asarray(_wave(3, 3, 1, 2, start=1.0))
    got = nnx.jit(lambda conv, x: conv(x))(conv, _wave(1, 5, 6, 2))  # stride 1: SAME is a padding of 1
    np.testing.assert_allclose(got[:, :2, :3].ravel(), DEPTHWISE[3, 1, 1][0], atol=2e-5)
