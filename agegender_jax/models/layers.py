"""The layers that backbones are made of: convolution, pooling and normalisation, NHWC.

Every backbone calls `conv2d` and `max_pool`, so this is the one place that knows which formulation is fast where.
On accelerators that is XLA's own convolution. On the CPU it is not: XLA's convolution gradients run at a third of
the speed of a matrix product, and inside `lax.scan` (which training uses to run several steps per dispatch) at a
hundredth. There a convolution is written as patches times a matrix, and pooling as a maximum over slices.
The choice is made once, when a function is traced, from the backend.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.typing import DTypeLike

Padding = Literal["SAME", "VALID"] | int
"""`SAME` (zeros, output `ceil(size / stride)`), `VALID`, or so many pixels of zeros on every side, as in PyTorch."""

_DIRECT = ContextVar("_DIRECT", default=False)


@contextmanager
def direct_form() -> Iterator[None]:
    """Traces the accelerators' formulation on every backend: every convolution is then one operation of the program."""
    token = _DIRECT.set(True)
    try:
        yield
    finally:
        _DIRECT.reset(token)


def _patched() -> bool:
    return jax.default_backend() == "cpu" and not _DIRECT.get()


he_normal = nnx.initializers.he_normal()
"""Initialisation for layers before a ReLU (He et al. 2015)."""

he_normal_out = nnx.initializers.variance_scaling(2.0, "fan_out", "normal")
"""The same, of the backward pass: what torchvision gives VGG and ResNet."""


def conv2d(x: jax.Array, kernel: jax.Array, *, stride: int = 1, padding: Padding = "SAME") -> jax.Array:
    """Two-dimensional convolution (cross-correlation), NHWC by HWIO.

    Args:
      x: `[batch, height, width, in]`.
      kernel: `[kernel_height, kernel_width, in, out]`, the dtype of `x`.
      stride: pixels between outputs, in both directions.
      padding: see `Padding`.

    Returns:
      `[batch, out_height, out_width, out]`. Both formulations agree to rounding.

    >>> conv2d(jnp.ones((1, 3, 3, 1)), jnp.ones((3, 3, 1, 1)))[0, :, :, 0].tolist()
    [[4.0, 6.0, 4.0], [6.0, 9.0, 6.0], [4.0, 6.0, 4.0]]
    """
    form = _conv2d_patches if _patched() else _conv2d_direct
    return form(x, kernel, stride, padding)


def _conv2d_direct(x: jax.Array, kernel: jax.Array, stride: int, padding: Padding) -> jax.Array:
    pads = _pads(x, kernel.shape[:2], stride, padding)
    return lax.conv_general_dilated(x, kernel, (stride, stride), pads, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _pads(x: jax.Array, window: tuple[int, ...], stride: int, padding: Padding) -> list[tuple[int, int]]:
    """Zeros before and after, of height and width."""
    if isinstance(padding, int):
        return [(padding, padding)] * 2
    return list(lax.padtype_to_pads(x.shape[1:3], window, (stride, stride), padding))


def _padded(x: jax.Array, pads: list[tuple[int, int]], value: float = 0.0) -> jax.Array:
    return jnp.pad(x, ((0, 0), *pads, (0, 0)), constant_values=value) if any(map(any, pads)) else x


def _conv2d_patches(x: jax.Array, kernel: jax.Array, stride: int, padding: Padding) -> jax.Array:
    height, width, channels, filters = kernel.shape
    x = _padded(x, _pads(x, (height, width), stride, padding))
    windows = _strided_windows(x, height, width, stride)
    batch, rows, columns, _ = windows[0].shape
    patches = windows[0] if len(windows) == 1 else jnp.concatenate(windows, axis=-1)
    out = patches.reshape(-1, height * width * channels) @ kernel.reshape(-1, filters)
    return out.reshape(batch, rows, columns, filters)


def _strided_windows(x: jax.Array, height: int, width: int, stride: int) -> list[jax.Array]:
    """For each place in a window, the values that lie there for all window positions: `[batch, rows, columns, c]`."""
    rows = (x.shape[1] - height) // stride + 1
    columns = (x.shape[2] - width) // stride + 1
    return [
        x[:, i : i + (rows - 1) * stride + 1 : stride, j : j + (columns - 1) * stride + 1 : stride]
        for i in range(height)
        for j in range(width)
    ]


def depthwise_conv2d(x: jax.Array, kernel: jax.Array, *, stride: int = 1, padding: Padding = "SAME") -> jax.Array:
    """Convolution of every channel with a kernel of its own, NHWC.

    Args:
      x: `[batch, height, width, channels]`.
      kernel: `[kernel_height, kernel_width, 1, channels]`, the dtype of `x`.
      stride: pixels between outputs, in both directions.
      padding: see `Padding`.

    >>> depthwise_conv2d(jnp.ones((1, 3, 3, 1)), jnp.ones((3, 3, 1, 1)))[0, :, :, 0].tolist()
    [[4.0, 6.0, 4.0], [6.0, 9.0, 6.0], [4.0, 6.0, 4.0]]
    """
    pads = _pads(x, kernel.shape[:2], stride, padding)
    if not _patched():
        return lax.conv_general_dilated(
            x,
            kernel,
            (stride, stride),
            pads,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=x.shape[-1],
        )
    return _depthwise_windows(_padded(x, pads), kernel, stride)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _depthwise_windows(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    height, width = kernel.shape[:2]
    out: jax.Array | float = 0.0
    for values, weight in zip(
        _strided_windows(x, height, width, stride), kernel.reshape(height * width, -1), strict=True
    ):
        out = out + values * weight
    return jnp.asarray(out)


def _depthwise_forward(x: jax.Array, kernel: jax.Array, stride: int) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _depthwise_windows(x, kernel, stride), (x, kernel)


def _depthwise_backward(
    stride: int, saved: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    height, width = kernel.shape[:2]

    # XLA's sums over batch, rows and columns at once are five to twenty times slower than going through the batch.
    def add(sums: list[jax.Array], example: tuple[jax.Array, jax.Array]) -> tuple[list[jax.Array], None]:
        image, slope = example
        windows = _strided_windows(image[None], height, width, stride)
        products = [window[0].astype(jnp.float32) * slope for window in windows]
        return [total + product for total, product in zip(sums, products, strict=True)], None

    sums, _ = lax.scan(add, [jnp.zeros(gradient.shape[1:], jnp.float32)] * (height * width), (x, gradient))
    of_kernel = jnp.stack([total.sum((0, 1)) for total in sums]).reshape(kernel.shape).astype(kernel.dtype)

    # The transposed convolution is one of the gradient, its values apart by the stride, with the kernel turned.
    edges = []
    for axis, window in ((1, height), (2, width)):
        spread = (gradient.shape[axis] - 1) * stride + 1
        edges.append((window - 1, x.shape[axis] - spread, stride - 1))
    apart = lax.pad(gradient, jnp.zeros((), gradient.dtype), ((0, 0, 0), *edges, (0, 0, 0)))
    return _depthwise_windows(apart, kernel[::-1, ::-1], 1), of_kernel


_depthwise_windows.defvjp(_depthwise_forward, _depthwise_backward)


def max_pool(x: jax.Array, window: int = 2, stride: int = 2, padding: int = 0) -> jax.Array:
    """Maximum over square windows; an incomplete last window is dropped ("floor" pooling).

    A map that is smaller than the window is one window.

    Where several inputs tie for the maximum, the CPU form shares the gradient among them and the accelerator form
    gives it to the first: both are subgradients.

    Args:
      x: `[batch, height, width, channels]`.
      window: edge of the window, pixels.
      stride: pixels between windows.
      padding: pixels on every side, which are never the maximum.

    >>> max_pool(jnp.arange(16.0).reshape(1, 4, 4, 1))[0, :, :, 0].tolist()
    [[5.0, 7.0], [13.0, 15.0]]
    """
    window = min(window, x.shape[1] + 2 * padding, x.shape[2] + 2 * padding)
    if not _patched():
        return nnx.max_pool(x, (window, window), (stride, stride), [(padding, padding)] * 2)
    x = _padded(x, [(padding, padding)] * 2, -jnp.inf)
    batch, height, width, channels = x.shape
    if window == stride:
        rows, columns = height // window, width // window
        x = x[:, : rows * window, : columns * window]
        return x.reshape(batch, rows, window, columns, window, channels).max((2, 4))
    return jnp.stack(_strided_windows(x, window, window, stride)).max(0)


def average_pool(x: jax.Array, window: int = 2) -> jax.Array:
    """Mean over square windows side by side; an incomplete last window is dropped.

    A map that is smaller than the window is one window.

    >>> average_pool(jnp.arange(16.0).reshape(1, 4, 4, 1))[0, :, :, 0].tolist()
    [[2.5, 4.5], [10.5, 12.5]]
    """
    window = min(window, x.shape[1], x.shape[2])
    batch, height, width, channels = x.shape
    rows, columns = height // window, width // window
    x = x[:, : rows * window, : columns * window]
    return x.reshape(batch, rows, window, columns, window, channels).mean((2, 4))


def average_to(x: jax.Array, size: int) -> jax.Array:
    """Mean over the parts of a grid of `size` by `size`, as PyTorch's `adaptive_avg_pool2d` cuts them.

    A map that is smaller than the grid stays as it is: repeating its values would add parameters and no information.

    >>> average_to(jnp.arange(9.0).reshape(1, 3, 3, 1), 2)[0, :, :, 0].tolist()
    [[2.0, 3.0], [5.0, 6.0]]
    """
    for axis in (1, 2):
        length = x.shape[axis]
        if length > size:
            edges = [(part * length // size, -(-(part + 1) * length // size)) for part in range(size)]
            parts = [lax.slice_in_dim(x, a, b, axis=axis).mean(axis, keepdims=True) for a, b in edges]
            x = jnp.concatenate(parts, axis)
    return x


def local_response_norm(
    x: jax.Array, size: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> jax.Array:
    """Local response normalisation across channels (Krizhevsky et al. 2012, section 3.3, in Caffe's form).

    `x / (k + alpha / size * sum over the neighbouring channels of x^2) ** beta`.

    Args:
      x: `[..., channels]`.
      size: number of neighbouring channels, odd.
      alpha: scale, divided by `size` as Caffe and PyTorch do.
      beta: exponent.
      k: constant.
    """
    squares = jnp.square(x.astype(jnp.float32))
    window = (1,) * (x.ndim - 1) + (size,)
    sums = lax.reduce_window(squares, 0.0, lax.add, window, (1,) * x.ndim, "SAME")
    return (x / (k + alpha / size * sums) ** beta).astype(x.dtype)


class Conv(nnx.Module):
    """Convolution: `[batch, h, w, in] -> [batch, h', w', filters]`.

    With `depthwise` every channel has a kernel of its own, and `filters` is `in_features`.

    Parameters are float32; the arithmetic is in `dtype`.
    """

    def __init__(
        self,
        in_features: int,
        filters: int,
        kernel: int = 3,
        *,
        stride: int = 1,
        padding: Padding = "SAME",
        use_bias: bool = True,
        depthwise: bool = False,
        kernel_init: Callable = he_normal,
        bias_init: Callable = nnx.initializers.zeros,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        shape = (kernel, kernel, 1 if depthwise else in_features, filters)
        self.kernel = nnx.Param(kernel_init(rngs.params(), shape))
        self.bias = nnx.Param(bias_init(rngs.params(), (filters,))) if use_bias else None
        self.stride, self.padding, self.depthwise, self.dtype = stride, padding, depthwise, dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        """The convolution of `x`, in `dtype`."""
        form = depthwise_conv2d if self.depthwise else conv2d
        y = form(x.astype(self.dtype), self.kernel[...].astype(self.dtype), stride=self.stride, padding=self.padding)
        return y if self.bias is None else y + self.bias[...].astype(self.dtype)


def conv_output_size(size: int, kernel: int, stride: int, padding: Padding) -> int:
    """The edge, in pixels, of what `conv2d` returns for an input of edge `size`.

    >>> conv_output_size(256, 7, 4, "VALID"), conv_output_size(31, 5, 1, "SAME")
    (63, 31)
    """
    if padding == "SAME":
        return math.ceil(size / stride)
    return (size + 2 * (padding if isinstance(padding, int) else 0) - kernel) // stride + 1


def pool_output_size(size: int, window: int, stride: int) -> int:
    """The edge, in pixels, of what `max_pool` returns for an input of edge `size`.

    >>> pool_output_size(63, 3, 2), pool_output_size(5, 2, 2)
    (31, 2)
    """
    return (size - window) // stride + 1
