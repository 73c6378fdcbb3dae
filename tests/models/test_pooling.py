"""Tops: by arithmetic, and what differs between training and evaluation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from agegender_jax.models import pooling
from tests.arrays import assert_close

FEATURES = np.random.default_rng(0).normal(size=(4, 3, 3, 6)).astype(np.float32)


def _train(top: nnx.Module, x: np.ndarray, seed: int) -> jax.Array:
    return nnx.jit(lambda top, x: top(x, train=True, rngs=nnx.Rngs(dropout=seed)))(top, x)


def test_average_drops_in_training_alone() -> None:
    top = pooling.AveragePool(6, dropout=0.5)
    assert_close(jax.jit(top)(FEATURES), FEATURES.mean((1, 2)))
    first = np.asarray(_train(top, FEATURES, 1))
    kept = first != 0
    assert 0 < kept.sum() < kept.size
    assert_close(first[kept], 2 * FEATURES.mean((1, 2))[kept])  # 1 / (1 - 0.5)
    np.testing.assert_array_equal(_train(top, FEATURES, 1), first)
    assert not np.array_equal(np.asarray(_train(top, FEATURES, 2)) != 0, kept)


@pytest.mark.parametrize(
    ("shape", "grid", "inputs"), [((3, 3, 6), 2, 24), ((3, 3, 6), 7, 54), ((2, 1, 6), 7, 12), ((7, 7, 6), 7, 294)]
)
def test_dense_reads_the_grid_or_a_smaller_map_as_it_is(shape: tuple[int, int, int], grid: int, inputs: int) -> None:
    top = nnx.eval_shape(lambda: pooling.MLPPool(shape, grid, widths=(8, 5), rngs=nnx.Rngs(0)))
    assert [dense.kernel.shape for dense in top.dense] == [(inputs, 8), (8, 5)]
    assert top.embedding_size == 5
    out = nnx.eval_shape(lambda top, x: top(x), top, jax.ShapeDtypeStruct((2, *shape), jnp.float32))
    assert out.shape == (2, 5)


@pytest.mark.parametrize("dropout_first", [True, False])
def test_dense_drops_before_or_after_its_layers(dropout_first: bool) -> None:
    """With weights and a bias of 1 an output of 0 can only have been dropped after the layer."""
    ones = nnx.initializers.ones
    top = pooling.MLPPool(
        (3, 3, 6), 1, widths=(64,), dropout_first=dropout_first, kernel_init=ones, bias_init=ones, rngs=nnx.Rngs(0)
    )
    x = np.ones_like(FEATURES)
    assert_close(nnx.jit(lambda top, x: top(x))(top, x), np.full((4, 64), 7.0))  # 6 inputs and the bias
    out = np.asarray(_train(top, x, 0))
    if dropout_first:  # each input is 0 or 2, and all outputs of an example see the same inputs
        assert set(out.ravel().tolist()) <= {1.0, 3.0, 5.0, 7.0, 9.0, 11.0, 13.0}
        np.testing.assert_array_equal(out, np.repeat(out[:, :1], 64, axis=1))
    else:
        assert set(out.ravel().tolist()) == {0.0, 14.0}


def test_global_max_normalises_the_largest_of_each_channel() -> None:
    top = pooling.GlobalMaxPool(6, rngs=nnx.Rngs(0))
    largest = FEATURES.max((1, 2)).astype(np.float64)
    plain = nnx.jit(lambda top, x: top(x))(top, FEATURES)  # running mean 0 and variance 1
    assert_close(plain, np.maximum(largest / np.sqrt(1 + 1e-5), 0))
    trained = _train(top, FEATURES, 0)
    standard = (largest - largest.mean(0)) / np.sqrt(largest.var(0) + 1e-5)
    assert_close(trained, np.maximum(standard, 0))
    assert_close(top.norm.mean[...], 0.1 * largest.mean(0))


def test_global_max_literal_is_a_softmax_then_normalised() -> None:
    top = pooling.GlobalMaxPoolLiteral(6, 3, rngs=nnx.Rngs(0))
    assert top.embedding_size == 3
    top.dense.kernel[...] = jnp.zeros((6, 3))
    top.dense.bias[...] = jnp.log(jnp.array([1.0, 2.0, 5.0]))  # the softmax is 1/8, 2/8, 5/8 whatever the image
    out = nnx.jit(lambda top, x: top(x))(top, FEATURES)
    assert_close(out, np.tile([0.125, 0.25, 0.625], (4, 1)) / np.sqrt(1 + 1e-5))


def test_backbone_passes_train_and_the_random_stream_on() -> None:
    class Double(nnx.Module):
        """A trunk without parameters."""

        def __call__(self, x: jax.Array, *, train: bool, rngs: nnx.Rngs | None) -> jax.Array:
            return 2 * x

    backbone = pooling.Backbone(Double(), pooling.AveragePool(6, dropout=0.5))
    assert backbone.embedding_size == 6
    assert_close(jax.jit(backbone)(FEATURES), 2 * FEATURES.mean((1, 2)))
    assert (np.asarray(_train(backbone, FEATURES, 0)) == 0).any()
