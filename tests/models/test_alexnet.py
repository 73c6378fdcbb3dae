"""AlexNet: its published size and initialisation, and what it makes of an image."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from agegender_jax.models.backbones.alexnet import AlexNet, published_init
from agegender_jax.models.pooling import MLPPool, feature_map_shape


def _count(model: nnx.Module) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))


@pytest.fixture(scope="module")
def trunk() -> AlexNet:
    return nnx.eval_shape(lambda: AlexNet(rngs=nnx.Rngs(0)))


@pytest.mark.parametrize(("outputs", "total"), [(1000, 61_100_840), (10, 57_044_810)])
def test_parameters_count_what_torchvision_counts(trunk: AlexNet, outputs: int, total: int) -> None:
    top = nnx.eval_shape(lambda: MLPPool((6, 6, 256), 6, rngs=nnx.Rngs(0)))
    assert _count(trunk) + _count(top) + top.embedding_size * outputs + outputs == total


# 32: (32 + 2 * 2 - 11) // 4 + 1 = 7, pooled to 3, then 1; the last pooling finds one pixel and keeps it.
@pytest.mark.parametrize(("size", "edge"), [(224, 6), (32, 1)])
def test_feature_map(trunk: AlexNet, size: int, edge: int) -> None:
    assert feature_map_shape(trunk, size) == (edge, edge, 256)


def test_bfloat16_is_of_the_arithmetic_alone() -> None:
    model = nnx.eval_shape(lambda: AlexNet(dtype=jnp.bfloat16, rngs=nnx.Rngs(0)))
    out = nnx.eval_shape(lambda model, x: model(x), model, jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32))
    assert out.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(model))} == {jnp.dtype(jnp.float32)}


def test_published_initialisation() -> None:
    """Krizhevsky et al. (2012, section 5): deviation 0.01; biases of 1 in the 2nd, 4th and 5th and the dense layers."""
    dense = partial(MLPPool, kernel_init=published_init, bias_init=nnx.initializers.ones)

    def drawn() -> tuple[list, list]:
        convs = AlexNet(init="published", rngs=nnx.Rngs(0)).convs
        (layer,) = dense((1, 1, 64), 6, widths=(128,), rngs=nnx.Rngs(0)).dense
        parts = [*convs, layer]
        return [parts[n].kernel[...] for n in (0, 5)], [part.bias[...] for part in parts]

    kernels, biases = jax.jit(drawn)()
    for kernel in map(np.asarray, kernels):
        # Of n normal draws the deviation's relative error is 1 / sqrt(2 n) and the mean's is deviation / sqrt(n).
        assert kernel.std() == pytest.approx(0.01, rel=4 / np.sqrt(2 * kernel.size))
        assert abs(kernel.mean()) < 4 * 0.01 / np.sqrt(kernel.size)
    for got, bias in zip(biases, (0, 1, 0, 1, 1, 1), strict=True):
        np.testing.assert_array_equal(got, np.full(got.shape, bias))
