"""Convolution, NHWC, in the form that is fast on the device.

On accelerators that is XLA's own convolution. On the CPU it is not: XLA's convolution gradients run at a third of the
speed of a matrix product, and inside `lax.scan` (which training uses to run several steps per dispatch) at a
hundredth. There a convolution is written as matrix products, in one of two forms:

- *patches*: every window as a row, times the kernels as a matrix;
- *Winograd*'s F(2x2, 3x3) (Lavin & Gray 2016, "Fast algorithms for convolutional neural networks", section 4.1), for
  3x3 kernels with stride 1 on maps that are large enough: 2.25 times fewer multiplications, and four values for each
  of the input where patches have nine. In float32 its error is that of the other forms; F(4x4, 3x3), with fewer
  multiplications still, has ten times their error and is not used, nor is any in bfloat16.

The choice is made once, when a function is traced, from the backend and the shapes.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

Padding = Literal["SAME", "VALID"] | int
"""`SAME` (zeros, output `ceil(size / stride)`), `VALID`, or so many pixels of zeros on every side, as in PyTorch."""

CONVOLVED = "convolved"
"""The name of a convolution's result, by which `compute.remat` keeps it and computes what follows again."""

_FEW_CHANNELS = 4  # as images have: the values of a window at one pixel are then a few bytes, copied one by one

_DIRECT = ContextVar("_DIRECT", default=False)


@contextmanager
def direct_form() -> Iterator[None]:
    """Makes layers take the accelerators' form on every backend: a convolution is then one operation of the program."""
    token = _DIRECT.set(True)
    try:
        yield
    finally:
        _DIRECT.reset(token)


def cpu_form() -> bool:
    """Returns whether layers take the forms that are fast on a CPU: on CPUs, except within `direct_form`."""
    return jax.default_backend() == "cpu" and not _DIRECT.get()


def conv2d(
    x: Float[Array, "batch h w in"], kernel: Float[Array, "kh kw in out"], *, stride: int = 1, padding: Padding = "SAME"
) -> Float[Array, "batch rows columns out"]:
    """Computes a two-dimensional convolution (cross-correlation), NHWC by HWIO.

    Inputs and kernel have one dtype; `stride` is in pixels, in both directions. All forms agree to rounding.

    >>> conv2d(jnp.ones((1, 3, 3, 1)), jnp.ones((3, 3, 1, 1)))[0, :, :, 0].tolist()
    [[4.0, 6.0, 4.0], [6.0, 9.0, 6.0], [4.0, 6.0, 4.0]]
    """
    if not cpu_form():
        out = _conv2d_direct(x, kernel, stride, padding)
    elif _suits_winograd(x, kernel, stride, pads := _pads(x, kernel.shape[:2], stride, padding)):
        out = _winograd(x, kernel, pads[0][0])
    else:
        out = _conv2d_patches(x, kernel, stride, padding)
    return checkpoint_name(out, CONVOLVED)


def _conv2d_direct(x: jax.Array, kernel: jax.Array, stride: int, padding: Padding, groups: int = 1) -> jax.Array:
    pads, layout = _pads(x, kernel.shape[:2], stride, padding), ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), pads, dimension_numbers=layout, feature_group_count=groups
    )


def _pads(x: jax.Array, window: tuple[int, ...], stride: int, padding: Padding) -> list[tuple[int, int]]:
    """Returns the numbers of zeros before and after, of height and width."""
    if isinstance(padding, int):
        return [(padding, padding)] * 2
    return list(lax.padtype_to_pads(x.shape[1:3], window, (stride, stride), padding))


def padded(x: jax.Array, pads: list[tuple[int, int]], value: float = 0.0) -> jax.Array:
    """Pads `x` by rows before and after, and by columns, of a value."""
    return jnp.pad(x, ((0, 0), *pads, (0, 0)), constant_values=value) if any(map(any, pads)) else x


def _conv2d_patches(x: jax.Array, kernel: jax.Array, stride: int, padding: Padding) -> jax.Array:
    x = padded(x, _pads(x, kernel.shape[:2], stride, padding))
    across = stride
    if stride > 1 and kernel.shape[1] > 1 and kernel.shape[2] <= _FEW_CHANNELS:
        x, kernel, across = *_folded(x, kernel, stride), 1
    height, width, channels, filters = kernel.shape
    windows = strided_windows(x, height, width, stride, across)
    batch, rows, columns, _ = windows[0].shape
    patches = windows[0] if len(windows) == 1 else jnp.concatenate(windows, axis=-1)
    out = patches.reshape(-1, height * width * channels) @ kernel.reshape(-1, filters)
    return out.reshape(batch, rows, columns, filters)


def _folded(x: jax.Array, kernel: jax.Array, stride: int) -> tuple[jax.Array, jax.Array]:
    """Makes the same convolution with `stride` columns as one of more channels: patches are fewer and longer copies.

    `x` is padded already. The kernel's last columns may be zeros that make its width a multiple of the stride.
    """
    height, width, channels, filters = kernel.shape
    columns, taps = (x.shape[2] - width) // stride + 1, -(-width // stride)
    wanted = (columns - 1 + taps) * stride
    x = x[:, :, :wanted] if wanted <= x.shape[2] else padded(x, [(0, 0), (0, wanted - x.shape[2])])
    kernel = jnp.pad(kernel, ((0, 0), (0, taps * stride - width), (0, 0), (0, 0)))
    return (
        x.reshape(*x.shape[:2], wanted // stride, stride * channels),
        kernel.reshape(height, taps, stride * channels, filters),
    )


def strided_windows(x: jax.Array, height: int, width: int, stride: int, across: int | None = None) -> list[jax.Array]:
    """Returns for each pixel of a window its values at all window positions: `[batch, rows, columns, channels]`.

    Windows are `stride` pixels apart from row to row, and `across` from column to column, by default `stride`.
    """
    across = stride if across is None else across
    rows = (x.shape[1] - height) // stride + 1
    columns = (x.shape[2] - width) // across + 1
    return [
        x[:, i : i + (rows - 1) * stride + 1 : stride, j : j + (columns - 1) * across + 1 : across]
        for i in range(height)
        for j in range(width)
    ]


_INPUT = np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]])
_OUTPUT = np.array([[1, 1, 1, 0], [0, 1, -1, -1]])
"""Lavin & Gray's equation (7): `B^T` and `A^T`; `G` is in `_transformed`."""

_CHUNK = 1024
"""Tiles of 2x2 outputs that are transformed at a time if there are many: intermediate values stay in the cache."""


def _suits_winograd(x: jax.Array, kernel: jax.Array, stride: int, pads: list[tuple[int, int]]) -> bool:
    height, width, channels, filters = kernel.shape
    (top, bottom), sides = pads
    edge = min(x.shape[1:3]) + 2 * top - 2
    # Below these sizes the transforms cost more than they save.
    large = channels >= 16 and filters >= 16 and edge >= 7
    plain = (height, width, stride) == (3, 3, 1) and top == bottom <= 2 and sides == pads[0]
    return plain and large and x.dtype == jnp.float32


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _winograd(x: jax.Array, kernel: jax.Array, padding: int) -> jax.Array:
    """Computes a 3x3 convolution with stride 1 and `padding` zeros on every side."""
    return _winograd_forward(x, kernel, padding)[0]


def _winograd_forward(x: jax.Array, kernel: jax.Array, padding: int) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    transformed = _transformed(_transformed(kernel, 0), 1)

    def convolve(images: jax.Array) -> jax.Array:
        products = [
            [tile @ matrix for tile, matrix in zip(*row, strict=True)]
            for row in zip(_input_tiles(images, padding), transformed, strict=True)
        ]
        return _from_tiles(products, images.shape, padding)

    size = _chunk(x, padding)
    if size == len(x):
        return convolve(x), (x, kernel)
    chunks = x.reshape(-1, size, *x.shape[1:])
    return jnp.concatenate(lax.map(convolve, chunks)), (x, kernel)


def _winograd_backward(
    padding: int, saved: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    # The transposed convolution is one of the gradient with the kernel turned.
    of_x = _winograd(gradient, kernel[::-1, ::-1].swapaxes(2, 3), 2 - padding)

    def correlate(images: jax.Array, slopes: jax.Array) -> jax.Array:
        inputs, outputs = _input_tiles(images, padding), _gradient_tiles(slopes)
        return jnp.stack(
            [
                jnp.stack([tile.T @ slope for tile, slope in zip(*row, strict=True)])
                for row in zip(inputs, outputs, strict=True)
            ]
        )

    size = _chunk(x, padding)
    if size == len(x):
        total = correlate(x, gradient)
    else:
        chunks = [values.reshape(-1, size, *values.shape[1:]) for values in (x, gradient)]
        zeros = jnp.zeros((4, 4, *kernel.shape[2:]), kernel.dtype)
        total, _ = lax.scan(lambda total, chunk: (total + correlate(*chunk), None), zeros, tuple(chunks))
    return of_x, _transformed_back(_transformed_back(total, 0), 1)


_winograd.defvjp(_winograd_forward, _winograd_backward)


def _transformed(kernel: jax.Array, axis: int) -> jax.Array:
    """Multiplies an axis of length 3 by `G`: 4 values. As sums, which take less time than a 4 by 3 matrix product."""
    first, second, third = (lax.index_in_dim(kernel, i, axis) for i in range(3))
    outer, middle = 0.5 * (first + third), 0.5 * second
    return jnp.concatenate([first, outer + middle, outer - middle, third], axis)


def _transformed_back(values: jax.Array, axis: int) -> jax.Array:
    """Multiplies an axis of length 4 by `G^T`: 3 values."""
    first, second, third, fourth = (lax.index_in_dim(values, i, axis) for i in range(4))
    added, taken = 0.5 * (second + third), 0.5 * (second - third)
    return jnp.concatenate([first + added, taken, added + fourth], axis)


def _tile_counts(x: jax.Array, padding: int) -> tuple[int, int]:
    return -(-(x.shape[1] + 2 * padding - 2) // 2), -(-(x.shape[2] + 2 * padding - 2) // 2)


def _chunk(x: jax.Array, padding: int) -> int:
    """Returns how many images are transformed at a time: all, or a divisor of their number."""
    rows, columns = _tile_counts(x, padding)
    # A batch that is split over the devices of a mesh is not cut: every chunk would lie on few of them.
    if len(x) * rows * columns <= 4 * _CHUNK or jax.sharding.get_abstract_mesh().size > 1:
        return len(x)
    return math.gcd(len(x), 2 ** max(0, round(math.log2(_CHUNK / (rows * columns)))))


def _combined(arrays: list[jax.Array], factors: np.ndarray) -> jax.Array:
    """Returns the sum of the arrays times factors of -1, 0 and 1."""
    added = [array for array, factor in zip(arrays, factors, strict=True) if factor > 0]
    taken = [array for array, factor in zip(arrays, factors, strict=True) if factor < 0]
    total = sum(added[1:], start=added[0]) if added else -taken.pop(0)
    return total - sum(taken[1:], start=taken[0]) if taken else total


def _input_tiles(x: jax.Array, padding: int) -> list[list[jax.Array]]:
    """Computes `B^T d B` of every 4x4 tile `d`, tiles 2 apart: 4 by 4 matrices `[tiles, channels]`."""
    rows, columns = _tile_counts(x, padding)
    x = padded(
        x, [(padding, 2 * n + 2 - edge - padding) for n, edge in zip((rows, columns), x.shape[1:3], strict=True)]
    )
    by_row = [x[:, i : i + 2 * rows - 1 : 2] for i in range(4)]
    tiles = []
    for factors in _INPUT:
        row = _combined(by_row, factors)
        by_column = [row[:, :, j : j + 2 * columns - 1 : 2] for j in range(4)]
        tiles.append([_combined(by_column, factors).reshape(-1, x.shape[-1]) for factors in _INPUT])
    return tiles


def _from_tiles(products: list[list[jax.Array]], shape: tuple[int, ...], padding: int) -> jax.Array:
    """Computes `A^T m A` of every tile's products `m`, and joins the tiles to the output."""
    height, width = (edge + 2 * padding - 2 for edge in shape[1:3])
    rows, columns = -(-height // 2), -(-width // 2)
    halves = [[_combined([m[j] for m in products], factors) for j in range(4)] for factors in _OUTPUT]
    tiles = [[_combined(half, factors).reshape(shape[0], rows, columns, -1) for factors in _OUTPUT] for half in halves]
    out = jnp.stack([jnp.stack(row, 3) for row in tiles], 2)
    return out.reshape(shape[0], 2 * rows, 2 * columns, -1)[:, :height, :width]


def _gradient_tiles(gradient: jax.Array) -> list[list[jax.Array]]:
    """Computes `A g A^T` of every 2x2 tile `g`: 4 by 4 matrices `[tiles, filters]`."""
    gradient = padded(gradient, [(0, gradient.shape[1] % 2), (0, gradient.shape[2] % 2)])
    filters = gradient.shape[-1]
    pixels = [[gradient[:, i::2, j::2].reshape(-1, filters) for j in range(2)] for i in range(2)]
    halves = [[_combined([row[j] for row in pixels], factors) for j in range(2)] for factors in _OUTPUT.T]
    return [[_combined(half, factors) for factors in _OUTPUT.T] for half in halves]


def depthwise_conv2d(x: jax.Array, kernel: jax.Array, *, stride: int = 1, padding: Padding = "SAME") -> jax.Array:
    """Computes `conv2d` of every channel with a kernel of its own, `[kernel_height, kernel_width, 1, channels]`.

    >>> depthwise_conv2d(jnp.ones((1, 3, 3, 1)), jnp.ones((3, 3, 1, 1)))[0, :, :, 0].tolist()
    [[4.0, 6.0, 4.0], [6.0, 9.0, 6.0], [4.0, 6.0, 4.0]]
    """
    if not cpu_form():
        return _conv2d_direct(x, kernel, stride, padding, groups=x.shape[-1])
    return _depthwise_windows(padded(x, _pads(x, kernel.shape[:2], stride, padding)), kernel, stride)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _depthwise_windows(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    height, width = kernel.shape[:2]
    out: jax.Array | float = 0.0
    for values, weight in zip(
        strided_windows(x, height, width, stride), kernel.reshape(height * width, -1), strict=True
    ):
        out = out + values * weight
    return jnp.asarray(out)


def _depthwise_backward(
    stride: int, saved: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    height, width = kernel.shape[:2]

    # XLA's sums over batch, rows and columns at once are five to twenty times slower than going through the batch.
    def add(sums: list[jax.Array], example: tuple[jax.Array, jax.Array]) -> tuple[list[jax.Array], None]:
        image, slope = example
        windows = strided_windows(image[None], height, width, stride)
        products = [window[0].astype(jnp.float32) * slope for window in windows]
        return [total + product for total, product in zip(sums, products, strict=True)], None

    sums, _ = lax.scan(add, [jnp.zeros(gradient.shape[1:], jnp.float32)] * (height * width), (x, gradient))
    of_kernel = jnp.stack([total.sum((0, 1)) for total in sums]).reshape(kernel.shape).astype(kernel.dtype)

    # The transposed convolution is one of the gradient, dilated by the stride, with the kernel turned.
    edges = []
    for axis, window in ((1, height), (2, width)):
        spread = (gradient.shape[axis] - 1) * stride + 1
        edges.append((window - 1, x.shape[axis] - spread, stride - 1))
    dilated = lax.pad(gradient, jnp.zeros((), gradient.dtype), ((0, 0, 0), *edges, (0, 0, 0)))
    return _depthwise_windows(dilated, kernel[::-1, ::-1], 1), of_kernel


_depthwise_windows.defvjp(
    lambda x, kernel, stride: (_depthwise_windows(x, kernel, stride), (x, kernel)), _depthwise_backward
)
