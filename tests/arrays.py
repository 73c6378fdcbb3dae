"""What tests of arrays share: closeness by the scale of an array, waves that other implementations were given too."""

import math
from typing import Any

import jax
import numpy as np
from flax import nnx


def assert_close(actual: Any, expected: Any, tolerance: float = 1e-5) -> None:
    """Asserts that no value differs by more than `tolerance` times the largest absolute expected value.

    Rounding of a sum is relative to its largest terms, so that a tolerance relative to each value, or an absolute one,
    holds on some processors and not on others.
    """
    actual, expected = (np.asarray(array).astype(np.float64) for array in (actual, expected))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * max(np.abs(expected).max(initial=0), 1e-30))


def wave(*shape: int, start: float = 0.0) -> np.ndarray:
    """Returns sin(start), sin(start + 1), ...; PyTorch was given the same numbers in this layout."""
    return np.sin(start + np.arange(math.prod(shape))).reshape(shape).astype(np.float32)


def count_parameters(model: nnx.Module) -> int:
    """Returns the number of a model's trained parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))


def fill(conv: nnx.Module | None, norm: nnx.Module, start: int, gain: float = 0.25) -> None:
    """Puts waves, the kernel times `gain`, into a convolution and a normalisation; PyTorch was given the same."""
    if conv is not None:
        conv.kernel = nnx.Param(wave(*conv.kernel.shape, start=start) * np.float32(gain))
    (size,) = norm.scale.shape
    norm.scale, norm.bias = nnx.Param(1 + wave(size, start=start + 1) / 4), nnx.Param(wave(size, start=start + 2) / 4)
    norm.mean = nnx.BatchStat(wave(size, start=start + 3) / 8)
    norm.var = nnx.BatchStat(1 + wave(size, start=start + 4) / 2)
