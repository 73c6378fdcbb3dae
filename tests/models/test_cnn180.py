"""The 180x180 CNN: its size on paper, and what differs between training and evaluation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from agegender_jax.errors import UserError
from agegender_jax.models.backbones import cnn180
from agegender_jax.models.backbones.cnn180 import CNN180
from tests.arrays import assert_close

# On paper, at 180x180: 9 * in * out for convolutions: 864 + 18,432 + 73,728 + 294,912 + 589,824 (+ 589,824 for age);
# 2 a channel for normalisation: 2 * 736 (2 * 992) and 2 * 384 in the dense layers; dense layers of 5 * 5 * 256 * 256
# (2 * 2 * 256 * 256) and 256 * 128.
TOTALS = {"age": 1_865_248, "gender": 2_651_168}


def _abstract(variant: str, size: int, **options: object) -> CNN180:
    return nnx.eval_shape(lambda: CNN180(variant, image_size=size, rngs=nnx.Rngs(0), **options))


def test_every_variant_has_its_total_here() -> None:
    assert list(TOTALS) == list(cnn180.VARIANTS)


@pytest.mark.parametrize("variant", TOTALS)
def test_parameters_count_what_they_do_on_paper(variant: str) -> None:
    state = nnx.state(_abstract(variant, 180), nnx.Param)
    assert sum(leaf.size for leaf in jax.tree.leaves(state)) == TOTALS[variant]


@pytest.mark.parametrize("variant", TOTALS)
@pytest.mark.parametrize("size", [180, 63, 32])
def test_embedding_has_the_width_that_is_announced(variant: str, size: int) -> None:
    model = _abstract(variant, size)
    out = nnx.eval_shape(lambda model, x: model(x), model, jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32))
    assert (out.shape, out.dtype) == ((2, 128), jnp.float32)
    assert model.embedding_size == 128


@pytest.mark.parametrize("variant", TOTALS)
def test_image_that_would_be_pooled_away_is_refused(variant: str) -> None:
    with pytest.raises(UserError, match=r"config\.dataset\.image_size=31"):
        _abstract(variant, 31)


Parts = tuple[nnx.GraphDef, nnx.State, nnx.State]


def _tiny(monkeypatch: pytest.MonkeyPatch, variant: str, **rates: float) -> Parts:
    """A net of two blocks for 32x32 images, with a deeper one or without, and drawn parameters."""
    monkeypatch.setattr(cnn180, "VARIANTS", {"deep": (2, 8), "shallow": (2, 7)})
    monkeypatch.setattr(cnn180, "DEEP", 8)
    monkeypatch.setattr(cnn180, "HIDDEN", (16, 16))
    graphdef, params, stats = nnx.split(_abstract(variant, 32, **rates), nnx.Param, nnx.BatchStat)
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), params)
    return graphdef, params, jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), stats)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(4, 32, 32, 3)).astype(np.float32)


@pytest.mark.parametrize(
    ("variant", "dropout", "spatial", "random"),
    [("deep", 0.0, 0.5, True), ("shallow", 0.0, 0.5, False), ("shallow", 0.5, 0.0, True)],
)
def test_each_dropout_is_where_it_belongs(
    monkeypatch: pytest.MonkeyPatch, images: np.ndarray, variant: str, dropout: float, spatial: float, random: bool
) -> None:
    graphdef, *arrays = _tiny(monkeypatch, variant, dropout=dropout, spatial_dropout=spatial)

    @jax.jit
    def train(arrays: list[nnx.State], key: jax.Array) -> tuple[jax.Array, nnx.State]:
        model = nnx.merge(graphdef, *arrays)
        return model(images, train=True, rngs=nnx.Rngs(dropout=key)), nnx.state(model, nnx.BatchStat)

    (first, updated), (again, _), (other, _) = (train(arrays, jax.random.key(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert np.array_equal(first, other) != random
    assert all((leaf != 1).all() for leaf in jax.tree.leaves(updated))  # every normalisation saw the batch


def test_evaluation_sees_each_image_alone(monkeypatch: pytest.MonkeyPatch, images: np.ndarray) -> None:
    graphdef, *arrays = _tiny(monkeypatch, "deep", dropout=0.5, spatial_dropout=0.5)
    evaluate = jax.jit(lambda arrays, images: nnx.merge(graphdef, *arrays)(images))
    plain = np.asarray(evaluate(arrays, images))
    assert plain.any()
    assert_close(evaluate(arrays, images[::-1])[::-1], plain)


def test_spatial_dropout_drops_whole_channels() -> None:
    dropout = _abstract("age", 32, spatial_dropout=0.5).spatial_dropout
    out = jax.jit(lambda x: dropout(x, deterministic=False, rngs=nnx.Rngs(dropout=0)))(jnp.ones((4, 3, 3, 16)))
    channels = np.asarray(out).transpose(0, 3, 1, 2).reshape(64, 9)
    assert set(channels.ravel().tolist()) == {0.0, 2.0}
    np.testing.assert_array_equal(channels, np.repeat(channels[:, :1], 9, axis=1))
