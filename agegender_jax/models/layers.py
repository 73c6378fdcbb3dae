"""The layers that backbones are made of: convolution, pooling and normalisation, NHWC.

Every backbone calls these, so here and in `convolution.py` is what is known of which form is fast where.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from agegender_jax.models.convolution import Padding, conv2d, cpu_form, depthwise_conv2d, padded, strided_windows

FeatureMap = Float[Array, "batch height width channels"]

he_normal = nnx.initializers.he_normal()
"""Initialisation for layers before a ReLU (He et al. 2015)."""

he_normal_out = nnx.initializers.variance_scaling(2.0, "fan_out", "normal")
"""The same, of the backward pass: what torchvision gives VGG and ResNet."""

_AT_LAST_MAP: ContextVar[Callable[[jax.Array], jax.Array] | None] = ContextVar("_AT_LAST_MAP", default=None)


def tap_features(x: jax.Array) -> jax.Array:
    """Returns `x`, and marks it as the last convolutional map of a backbone, of which class activation maps are made.

    A backbone passes the map through here after its activation and before it is pooled or flattened; one that consists
    of several nets does so once for each. It adds nothing to the traced program except within `intercept_features`.
    """
    see = _AT_LAST_MAP.get()
    return x if see is None else see(x)


@contextmanager
def intercept_features(see: Callable[[jax.Array], jax.Array]) -> Iterator[None]:
    """Replaces, within the context, the last convolutional maps of backbones, `[batch, h, w, channels]`, by `see(map)`.

    >>> with intercept_features(lambda x: 2 * x):
    ...     print(tap_features(jnp.ones(2)))
    [2. 2.]
    """
    token = _AT_LAST_MAP.set(see)
    try:
        yield
    finally:
        _AT_LAST_MAP.reset(token)


def max_pool(x: FeatureMap, window: int = 2, stride: int = 2, padding: int = 0) -> FeatureMap:
    """Takes the maximum over square windows; an incomplete last window is dropped ("floor" pooling).

    Edges are in pixels; those of the padding are never the maximum. A map that is smaller than the window is one
    window. Where several inputs tie for the maximum, the first of them has the gradient.

    >>> max_pool(jnp.arange(16.0).reshape(1, 4, 4, 1))[0, :, :, 0].tolist()
    [[5.0, 7.0], [13.0, 15.0]]
    """
    window = min(window, x.shape[1] + 2 * padding, x.shape[2] + 2 * padding)
    if not cpu_form():
        return nnx.max_pool(x, (window, window), (stride, stride), [(padding, padding)] * 2)
    x = padded(x, [(padding, padding)] * 2, -jnp.inf)
    return _pooled(x, window, stride, x.shape[1:3])


@partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _pooled(x: jax.Array, window: int, stride: int, size: tuple[int, int]) -> jax.Array:
    return _pooled_forward(x, window, stride, size)[0]


def _pooled_forward(x: jax.Array, window: int, stride: int, size: tuple[int, int]) -> tuple[jax.Array, jax.Array]:
    first, *others = strided_windows(x, window, window, stride)
    out, place = first, jnp.zeros(first.shape, jnp.int8)
    for number, values in enumerate(others, start=1):
        place = jnp.where(values > out, jnp.int8(number), place)
        out = jnp.maximum(out, values)
    return out, place  # of the maximum in its window: a quarter of the memory that the input would take


def _pooled_backward(
    window: int, stride: int, size: tuple[int, int], place: jax.Array, gradient: jax.Array
) -> tuple[jax.Array]:
    shares = [jnp.where(place == number, gradient, 0) for number in range(window**2)]
    (batch, rows, columns, channels), (height, width) = place.shape, size
    if window == stride:
        columns_of = [jnp.stack(shares[i : i + window], 3) for i in range(0, len(shares), window)]
        whole = jnp.stack(columns_of, 2).reshape(batch, rows * window, columns * window, channels)
        return (padded(whole, [(0, height - rows * window), (0, width - columns * window)]),)
    total: jax.Array | float = 0.0
    for number, share in enumerate(shares):
        edges = [
            (at, size - at - (count - 1) * stride - 1, stride - 1)
            for at, size, count in zip(divmod(number, window), (height, width), (rows, columns), strict=True)
        ]
        total = total + lax.pad(share, jnp.zeros((), share.dtype), ((0, 0, 0), *edges, (0, 0, 0)))
    return (jnp.asarray(total),)


_pooled.defvjp(_pooled_forward, _pooled_backward)


def average_pool(x: FeatureMap, window: int = 2) -> FeatureMap:
    """Takes the mean over square windows side by side; an incomplete last window is dropped.

    A map that is smaller than the window is one window.

    >>> average_pool(jnp.arange(16.0).reshape(1, 4, 4, 1))[0, :, :, 0].tolist()
    [[2.5, 4.5], [10.5, 12.5]]
    """
    window = min(window, x.shape[1], x.shape[2])
    batch, height, width, channels = x.shape
    rows, columns = height // window, width // window
    x = x[:, : rows * window, : columns * window]
    return x.reshape(batch, rows, window, columns, window, channels).mean((2, 4))


def adaptive_average_pool(x: FeatureMap, size: int) -> FeatureMap:
    """Takes the mean over the cells of a grid of `size` by `size`, as PyTorch's `adaptive_avg_pool2d` does.

    A map that is smaller than the grid stays as it is: repeating its values would add parameters and no information.

    >>> adaptive_average_pool(jnp.arange(9.0).reshape(1, 3, 3, 1), 2)[0, :, :, 0].tolist()
    [[2.0, 3.0], [5.0, 6.0]]
    """
    for axis in (1, 2):
        length = x.shape[axis]
        if length > size:
            edges = [(cell * length // size, -(-(cell + 1) * length // size)) for cell in range(size)]
            cells = [lax.slice_in_dim(x, a, b, axis=axis).mean(axis, keepdims=True) for a, b in edges]
            x = jnp.concatenate(cells, axis)
    return x


def local_response_norm(
    x: Float[Array, "*batch channels"], size: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> Float[Array, "*batch channels"]:
    """Normalises across channels: local response normalisation (Krizhevsky et al. 2012, section 3.3, in Caffe's form).

    `x / (k + alpha / size * sum over the `size` neighbouring channels of x^2) ** beta`, as in Caffe and PyTorch.
    """
    squares = jnp.square(x.astype(jnp.float32))
    window = (1,) * (x.ndim - 1) + (size,)
    sums = lax.reduce_window(squares, 0.0, lax.add, window, (1,) * x.ndim, "SAME")
    return (x / (k + alpha / size * sums) ** beta).astype(x.dtype)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def _standardised(
    x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    return _standardised_forward(x, scale, bias, epsilon)[0]


def _standardised_forward(
    x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float
) -> tuple[tuple[jax.Array, jax.Array, jax.Array], tuple[jax.Array, ...]]:
    axes = tuple(range(x.ndim - 1))
    wide = x.astype(jnp.float32)
    mean = wide.mean(axes)
    variance = jnp.maximum(jnp.square(wide).mean(axes) - jnp.square(mean), 0)
    inverse = lax.rsqrt(variance + epsilon)
    out = ((wide - mean) * (inverse * scale) + bias).astype(x.dtype)
    return (out, mean, variance), (x, scale, mean, inverse)


def _standardised_backward(
    epsilon: float, saved: tuple[jax.Array, ...], gradients: tuple[jax.Array, jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array, jax.Array]:
    x, scale, mean, inverse = saved
    axes = tuple(range(x.ndim - 1))
    wide, slope = x.astype(jnp.float32), gradients[0].astype(jnp.float32)
    of_bias = slope.sum(axes)
    of_scale = ((slope * wide).sum(axes) - mean * of_bias) * inverse
    count = math.prod(x.shape[:-1])
    of_x = (scale * inverse) * (slope - of_bias / count - (wide - mean) * (inverse * of_scale / count))
    return of_x.astype(x.dtype), of_scale, of_bias


_standardised.defvjp(_standardised_forward, _standardised_backward)


class BatchNorm(nnx.Module):
    """Batch normalisation over all axes but the last (Ioffe & Szegedy 2015).

    The gradient is theirs (section 3), in closed form. One pass over the input finds mean and variance, one over input
    and gradient all that the backward pass needs, in float32 whatever the dtype; differentiating the forward pass takes
    twice as many on a CPU. The running statistics are of the biased variance, as in TensorFlow, and have no gradient.

    Args:
      momentum: share of the running statistics that stays at each step.
      dtype: of the result; parameters and statistics are float32.
    """

    def __init__(
        self, features: int, *, momentum: float = 0.9, epsilon: float = 1e-5, dtype: DTypeLike = jnp.float32
    ) -> None:
        self.scale, self.bias = nnx.Param(jnp.ones(features)), nnx.Param(jnp.zeros(features))
        self.mean, self.var = nnx.BatchStat(jnp.zeros(features)), nnx.BatchStat(jnp.ones(features))
        self.momentum, self.epsilon, self.dtype = momentum, epsilon, dtype

    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Standardises `x` by the batch's statistics if `train`, else the running ones; then scales and shifts it."""
        x = x.astype(self.dtype)
        scale, bias = self.scale[...], self.bias[...]
        if not train:
            factor = lax.rsqrt(self.var[...] + self.epsilon) * scale
            return ((x.astype(jnp.float32) - self.mean[...]) * factor + bias).astype(self.dtype)
        out, mean, variance = _standardised(x, scale, bias, self.epsilon)
        self.mean[...] = self.momentum * self.mean[...] + (1 - self.momentum) * lax.stop_gradient(mean)
        self.var[...] = self.momentum * self.var[...] + (1 - self.momentum) * lax.stop_gradient(variance)
        return out


class Conv(nnx.Module):
    """Convolution: `[batch, h, w, in] -> [batch, h', w', filters]`; parameters are float32, the arithmetic in `dtype`.

    With `depthwise` every channel has a kernel of its own, and `filters` is `in_features`.
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
        """Returns the convolution of `x`, in `dtype`."""
        form = depthwise_conv2d if self.depthwise else conv2d
        y = form(x.astype(self.dtype), self.kernel[...].astype(self.dtype), stride=self.stride, padding=self.padding)
        return y if self.bias is None else y + self.bias[...].astype(self.dtype)


def conv_output_size(size: int, kernel: int, stride: int, padding: Padding) -> int:
    """Returns the edge, in pixels, of what `conv2d` returns for an input of edge `size`.

    >>> conv_output_size(256, 7, 4, "VALID"), conv_output_size(31, 5, 1, "SAME")
    (63, 31)
    """
    if padding == "SAME":
        return math.ceil(size / stride)
    return (size + 2 * (padding if isinstance(padding, int) else 0) - kernel) // stride + 1


def pool_output_size(size: int, window: int, stride: int) -> int:
    """Returns the edge, in pixels, of what `max_pool` returns for an input of edge `size`.

    >>> pool_output_size(63, 3, 2), pool_output_size(5, 2, 2)
    (31, 2)
    """
    return (size - window) // stride + 1
