"""AlexNet: its published initialisation."""

from functools import partial

import jax
import numpy as np
import pytest
from flax import nnx

from agegender_jax.models.backbones.alexnet import AlexNet, published_init
from agegender_jax.models.pooling import MLPPool


def test_published_initialisation() -> None:
    """Krizhevsky et al. (2012, section 5): deviation 0.01; biases of 1 in the 2nd, 4th and 5th and the dense layers."""
    dense = partial(MLPPool, kernel_init=published_init, bias_init=nnx.initializers.ones)

    def initialised() -> tuple[list, list]:
        convs = AlexNet(init="published", rngs=nnx.Rngs(0)).convs
        (layer,) = dense((1, 1, 64), 6, widths=(128,), rngs=nnx.Rngs(0)).dense
        parts = [*convs, layer]
        return [parts[n].kernel[...] for n in (0, 5)], [part.bias[...] for part in parts]

    kernels, biases = jax.jit(initialised)()
    for kernel in map(np.asarray, kernels):
        # Of n normal draws the deviation's relative error is 1 / sqrt(2 n) and the mean's is deviation / sqrt(n).
        assert kernel.std() == pytest.approx(0.01, rel=4 / np.sqrt(2 * kernel.size))
        assert abs(kernel.mean()) < 4 * 0.01 / np.sqrt(kernel.size)
    for got, bias in zip(biases, (0, 1, 0, 1, 1, 1), strict=True):
        np.testing.assert_array_equal(got, np.full(got.shape, bias))
