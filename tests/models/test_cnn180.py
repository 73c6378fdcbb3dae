"""The 180x180 CNN: what differs between training and evaluation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from agegender_jax.models.backbones import BackboneOptions, cnn180
from agegender_jax.models.backbones.cnn180 import CNN180
from tests.arrays import assert_close

IMAGES = np.random.default_rng(1).normal(size=(4, 32, 32, 3)).astype(np.float32)


def _tiny(monkeypatch: pytest.MonkeyPatch, variant: str, **rates: float) -> tuple[nnx.GraphDef, nnx.State, nnx.State]:
    """A net of two blocks for 32x32 images, with a deeper one or without, and random parameters."""
    monkeypatch.setattr(cnn180, "VARIANTS", {"deep": (2, 8), "shallow": (2, 7)})
    monkeypatch.setattr(cnn180, "DEEP", 8)
    monkeypatch.setattr(cnn180, "HIDDEN", (16, 16))
    options = BackboneOptions(variant=variant, image_size=32, outputs=1, **rates)
    graphdef, params, stats = nnx.split(nnx.eval_shape(lambda: CNN180(options, nnx.Rngs(0))), nnx.Param, nnx.BatchStat)
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), params)
    return graphdef, params, jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), stats)


@pytest.mark.parametrize(
    ("variant", "dropout", "spatial", "random"),
    [("deep", 0.0, 0.5, True), ("shallow", 0.0, 0.5, False), ("shallow", 0.5, 0.0, True)],
)
def test_each_dropout_is_where_it_belongs(
    monkeypatch: pytest.MonkeyPatch, variant: str, dropout: float, spatial: float, random: bool
) -> None:
    graphdef, *arrays = _tiny(monkeypatch, variant, dropout=dropout, spatial_dropout=spatial)

    @jax.jit
    def train(arrays: list[nnx.State], key: jax.Array) -> tuple[jax.Array, nnx.State]:
        model = nnx.merge(graphdef, *arrays)
        return model(IMAGES, train=True, rngs=nnx.Rngs(dropout=key)), nnx.state(model, nnx.BatchStat)

    (first, updated), (again, _), (other, _) = (train(arrays, jax.random.key(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert np.array_equal(first, other) != random
    assert all((leaf != 1).all() for leaf in jax.tree.leaves(updated))  # every normalisation saw the batch


def test_evaluation_sees_each_image_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    graphdef, *arrays = _tiny(monkeypatch, "deep", dropout=0.5, spatial_dropout=0.5)
    evaluate = jax.jit(lambda arrays, images: nnx.merge(graphdef, *arrays)(images))
    plain = np.asarray(evaluate(arrays, IMAGES))
    assert plain.any()
    assert_close(evaluate(arrays, IMAGES[::-1])[::-1], plain)


def test_spatial_dropout_drops_whole_channels() -> None:
    options = BackboneOptions(variant="age", image_size=32, outputs=1, spatial_dropout=0.5)
    dropout = nnx.eval_shape(lambda: CNN180(options, nnx.Rngs(0))).spatial_dropout
    out = jax.jit(lambda x: dropout(x, deterministic=False, rngs=nnx.Rngs(dropout=0)))(jnp.ones((4, 3, 3, 16)))
    channels = np.asarray(out).transpose(0, 3, 1, 2).reshape(64, 9)
    assert set(channels.ravel().tolist()) == {0.0, 2.0}
    np.testing.assert_array_equal(channels, np.repeat(channels[:, :1], 9, axis=1))
