"""The small CNN: its numerics, and what differs between training and evaluation."""

import jax
import numpy as np
import pytest
from flax import nnx

from agegender_jax.models.backbones import BackboneOptions
from agegender_jax.models.backbones.small_cnn import VARIANTS, ConvBlock, SmallCNN, Variant
from tests.arrays import assert_close

IMAGES = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype(np.float32)


def test_training_and_evaluation_differ_as_they_should(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = Variant((ConvBlock(8, pool=(2, 2)), ConvBlock(16, pool=(3, 2))), hidden=(64,))
    monkeypatch.setitem(VARIANTS, "tiny", tiny)
    options = BackboneOptions(variant="tiny", image_size=8, outputs=1)
    graphdef, *arrays = nnx.split(nnx.jit(lambda: SmallCNN(options, nnx.Rngs(0)))(), nnx.Param, nnx.BatchStat)

    @jax.jit
    def train(arrays: list[nnx.State], key: jax.Array) -> tuple[jax.Array, nnx.State]:
        model = nnx.merge(graphdef, *arrays)
        return model(IMAGES, train=True, rngs=nnx.Rngs(dropout=key)), nnx.state(model, nnx.BatchStat)

    @jax.jit
    def evaluate(arrays: list[nnx.State], images: jax.Array) -> tuple[jax.Array, nnx.State]:  # without a random stream
        model = nnx.merge(graphdef, *arrays)
        return model(images), nnx.state(model, nnx.BatchStat)

    (first, updated), (again, _), (other, _) = (train(arrays, jax.random.key(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(np.asarray(first) == 0, np.asarray(other) == 0)  # other units are dropped

    plain, kept = evaluate(arrays, IMAGES)
    jax.tree.map(np.testing.assert_array_equal, nnx.to_pure_dict(kept), nnx.to_pure_dict(arrays[1]))
    # Without dropout or batch statistics an image's embedding is its own affair.
    assert_close(evaluate(arrays, IMAGES[::-1])[0][::-1], plain)

    # First normalisation: running mean = 0.9 * 0 + 0.1 * batch mean of what the first convolution and ReLU make.
    conv = nnx.merge(graphdef, *arrays).convs[0]
    activations = np.maximum(np.asarray(nnx.jit(lambda conv, x: conv(x))(conv, IMAGES), np.float64), 0)
    norm = nnx.to_pure_dict(updated)["norms"][0]
    assert_close(norm["mean"], 0.1 * activations.mean((0, 1, 2)))
    assert_close(norm["var"], 0.9 + 0.1 * activations.var((0, 1, 2)))
