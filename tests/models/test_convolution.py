"""Convolution against SciPy, PyTorch, and each form against the others."""

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import signal

from agegender_jax.mesh import make_mesh
from agegender_jax.models import convolution, layers
from tests.arrays import assert_close, wave

FORMS = {"patches": convolution._conv2d_patches, "direct": convolution._conv2d_direct}
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


def _random(kernel: int, height: int, width: int, channels: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(kernel * 1000 + height * 10 + width)
    shapes = (2, height, width, channels), (kernel, kernel, channels, 4)
    return tuple(rng.normal(size=shape).astype(np.float32) for shape in shapes)


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


STRIDED = [(3, 2, "SAME", 9, 8), (7, 4, "SAME", 11, 16), (1, 2, "SAME", 6, 5)]
# Columns are folded where there are few channels.
CHANNELS = [*((*case, 3) for case in CASES), *((*case, channels) for case in STRIDED for channels in (1, 4, 8))]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("kernel", "stride", "padding", "height", "width", "channels"), CHANNELS)
def test_convolution_matches_scipy(
    form: str, kernel: int, stride: int, padding: convolution.Padding, height: int, width: int, channels: int
) -> None:
    x, weights = _random(kernel, height, width, channels)
    got = jax.jit(FORMS[form], static_argnums=(2, 3))(x, weights, stride, padding)
    assert_close(got, _scipy_conv2d(x, weights, stride, padding))
    assert got.shape[1:3] == (
        layers.conv_output_size(height, kernel, stride, padding),
        layers.conv_output_size(width, kernel, stride, padding),
    )


def _gradients(form: Callable, x: np.ndarray, weights: np.ndarray, stride: int, padding: str) -> tuple:
    return jax.jit(jax.grad(lambda x, w: jnp.sum(jnp.sin(form(x, w, stride, padding))), (0, 1)))(x, weights)


@pytest.mark.parametrize(("kernel", "stride", "padding", "height", "width"), CASES[1::3])
def test_gradients_of_both_forms_agree(
    kernel: int, stride: int, padding: convolution.Padding, height: int, width: int
) -> None:
    x, weights = _random(kernel, height, width)
    patches = _gradients(convolution._conv2d_patches, x, weights, stride, padding)
    direct = _gradients(convolution._conv2d_direct, x, weights, stride, padding)
    for a, b in zip(patches, direct, strict=True):
        assert_close(a, b)


def _winograd(x: jax.Array, weights: jax.Array, padding: int) -> jax.Array:
    return convolution._winograd(x, weights, padding)


@pytest.mark.slow
@pytest.mark.parametrize("padding", [0, 1, 2])
@pytest.mark.parametrize(("height", "width"), [(8, 6), (7, 9), (3, 4)])  # odd ones leave half a tile over
def test_winograd_matches_scipy_and_the_gradients_of_the_direct_form(height: int, width: int, padding: int) -> None:
    x, weights = _random(3, height, width)
    got = jax.jit(_winograd, static_argnums=2)(x, weights, padding)
    wide = np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    assert_close(got, _scipy_conv2d(wide, weights, 1, "VALID"))
    gradients = _gradients(lambda x, w, _, p: _winograd(x, w, p), x, weights, 1, padding)
    for a, b in zip(gradients, _gradients(convolution._conv2d_direct, x, weights, 1, padding), strict=True):
        assert_close(a, b)


def test_winograd_rounds_as_the_other_forms_do() -> None:
    """At the size of a real layer: the error against float64, in units of the largest output's last place."""
    rng = np.random.default_rng(5)
    x = rng.normal(size=(2, 16, 16, 192)).astype(np.float32)
    weights = (rng.normal(size=(3, 3, 192, 64)) / math.sqrt(9 * 192)).astype(np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), (3, 3), (1, 2))
    exact = np.einsum("nhwcab,abco->nhwo", windows.astype(np.float64), weights.astype(np.float64), optimize=True)
    place = np.abs(exact).max() * np.finfo(np.float32).eps
    forms = partial(_winograd, padding=1), lambda x, w: convolution._conv2d_patches(x, w, 1, "SAME")
    winograd, patches = (np.abs(np.asarray(jax.jit(form)(x, weights)) - exact).max() / place for form in forms)
    assert winograd < 20
    assert winograd < 5 * max(patches, 1)


def test_winograd_in_chunks_is_winograd(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weights = _random(3, 8, 8)
    x = np.concatenate([x, x + 1, x - 1])  # 6 images of 16 tiles
    whole = _gradients(lambda x, w, _, p: _winograd(x, w, p), x, weights, 1, 1)
    monkeypatch.setattr(convolution, "_CHUNK", 20)  # fewer tiles than all, and about those of one image
    assert convolution._chunk(x, 1) == 1
    with jax.set_mesh(make_mesh()):  # whose devices share the batch
        assert convolution._chunk(x, 1) == 6
    monkeypatch.setattr(convolution, "_CHUNK", 23)
    assert convolution._chunk(x, 1) == 2
    chunked = _gradients(lambda x, w, _, p: _winograd(x, w, p), x, weights, 1, 1)
    for a, b in zip(chunked, whole, strict=True):
        assert_close(a, b)


@pytest.mark.parametrize(("channels", "edge", "kernel", "dtype", "chosen"), [
    (64, 16, 3, "float32", True),
    (64, 16, 3, "bfloat16", False),  # its rounding is not bfloat16's
    (64, 16, 5, "float32", False),
    (3, 64, 3, "float32", False),  # the first layer: nothing to save
    (256, 4, 3, "float32", False),  # small maps: nor here
])  # fmt: skip
def test_winograd_is_chosen_where_it_pays(channels: int, edge: int, kernel: int, dtype: str, chosen: bool) -> None:
    x = jax.ShapeDtypeStruct((2, edge, edge, channels), dtype)
    weights = jax.ShapeDtypeStruct((kernel, kernel, channels, 64), dtype)
    program = str(jax.make_jaxpr(convolution.conv2d)(x, weights))
    assert ("_winograd" in program) == chosen
    assert "_winograd" not in str(jax.make_jaxpr(partial(convolution.conv2d, stride=2))(x, weights))


def test_gradient_is_the_directional_derivative_in_float64() -> None:
    """The two forms could share a mistake: SciPy's convolution differenced along a direction cannot."""
    x, weights = _random(3, 6, 5)
    direction = np.random.default_rng(0).normal(size=weights.shape)
    step = 1e-5

    def objective(w: np.ndarray) -> float:
        return float(np.sin(_scipy_conv2d(x, w.astype(np.float64), 2, "SAME")).sum())

    slope = (objective(weights + step * direction) - objective(weights - step * direction)) / (2 * step)
    _, gradient = _gradients(convolution._conv2d_patches, x, weights, 2, "SAME")
    assert float((np.asarray(gradient, np.float64) * direction).sum()) == pytest.approx(slope, rel=1e-3)


def test_the_backend_chooses_the_form(backend: str) -> None:
    program = str(jax.make_jaxpr(lambda x, w: convolution.conv2d(x, w))(*_random(3, 6, 6)))
    assert ("conv_general_dilated" in program) == (backend == "gpu")


# PyTorch 2.13, float64: torch.nn.functional.conv2d(x, kernel, stride=stride, padding=padding) and conv2d(..., groups=2)
# of the waves permuted to NCHW and OIHW; outputs permuted back to NHWC.
# fmt: off
CONVOLVED = {
    (3, 2, 1): [1.66587, 1.27339, 0.52318, 0.10045, -0.5362, -0.06046, 2.02987, -0.80981, 0.09993, -0.08514,
     -0.52808, 0.13668, -0.50443, -1.93635, -0.16437, 0.19781, -0.12473, 0.01486],
    (5, 3, 2): [-0.57656, -0.09147, -0.98206, 0.40604, 0.32545, -0.27841, 0.82711, -0.44727],
}
# Kernel, stride, padding: the first 2 x 3 pixels, sum and sum of squares of all. PyTorch has no SAME for strides, so
# there torch.nn.functional.pad came first with TensorFlow's zeros, the odd one below and to the right.
DEPTHWISE: dict[tuple[int, int, convolution.Padding], tuple[list[float], float, float]] = {
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
# fmt: on


@pytest.mark.parametrize(("kernel", "stride", "padding"), CONVOLVED)
def test_convolution_with_so_many_pixels_of_padding_is_pytorchs(
    backend: str, kernel: int, stride: int, padding: int
) -> None:
    weights = wave(kernel, kernel, 2, 2, start=1.0)
    got = jax.jit(lambda x: convolution.conv2d(x, weights, stride=stride, padding=padding))(wave(1, 5, 6, 2))
    assert_close(got.ravel(), CONVOLVED[kernel, stride, padding])
    assert got.shape[1:3] == tuple(layers.conv_output_size(edge, kernel, stride, padding) for edge in (5, 6))


@pytest.mark.parametrize(("kernel", "stride", "padding"), DEPTHWISE)
def test_depthwise_convolution_is_pytorchs(
    backend: str, kernel: int, stride: int, padding: convolution.Padding
) -> None:
    weights = wave(kernel, kernel, 1, 2, start=1.0)
    got = jax.jit(lambda x: convolution.depthwise_conv2d(x, weights, stride=stride, padding=padding))(wave(1, 5, 6, 2))
    first, total, squares = DEPTHWISE[kernel, stride, padding]
    assert_close(got[:, :2, :3].ravel(), first)
    assert float(got.sum()) == pytest.approx(total, abs=1e-5 * squares)
    assert float((got**2).sum()) == pytest.approx(squares, rel=1e-5)


@pytest.mark.parametrize(("kernel", "stride", "padding"), DEPTHWISE)
def test_gradients_of_both_depthwise_forms_agree(
    kernel: int, stride: int, padding: convolution.Padding, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, weights = wave(2, 6, 5, 4), wave(kernel, kernel, 1, 4, start=1.0)
    gradients = []
    for name in ("cpu", "gpu"):
        monkeypatch.setattr(jax, "default_backend", lambda name=name: name)

        def form(x: jax.Array, weights: jax.Array, stride: int, padding: convolution.Padding) -> jax.Array:
            return convolution.depthwise_conv2d(x, weights, stride=stride, padding=padding)

        gradients.append(_gradients(form, x, weights, stride, padding))
    for a, b in zip(*gradients, strict=True):
        assert_close(a, b)
