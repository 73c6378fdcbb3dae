"""VGG: its published sizes and initialisation, and what it makes of an image."""

import math

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from agegender_jax.models.backbones.vgg import VGG
from agegender_jax.models.pooling import GlobalMaxPool, MLPPool, feature_map_shape


def _count(model: nnx.Module) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))


def _abstract(depth: int, **options: object) -> VGG:
    return nnx.eval_shape(lambda: VGG(depth, rngs=nnx.Rngs(0), **options))


@pytest.mark.parametrize(
    ("depth", "outputs", "total"),
    [(11, 1000, 132_863_336), (11, 10, 128_807_306), (16, 1000, 138_357_544), (16, 10, 134_301_514)],
)
def test_parameters_count_what_is_published(depth: int, outputs: int, total: int) -> None:
    top = nnx.eval_shape(lambda: MLPPool((7, 7, 512), 7, rngs=nnx.Rngs(0)))
    assert _count(_abstract(depth)) + _count(top) + top.embedding_size * outputs + outputs == total


def test_the_voice_paper_trains_14_735_719() -> None:
    """Mansour & Abu-Naser (2022): the convolutions, a normalisation of 512 channels, 512 * 39 + 39 of the softmax."""
    base = _count(_abstract(16))
    assert base == 14_714_688
    top = nnx.eval_shape(lambda: GlobalMaxPool(512, rngs=nnx.Rngs(0)))
    assert base + _count(top) + 512 * 39 + 39 == 14_735_719


def test_normalisation_adds_two_numbers_a_channel() -> None:
    channels = 64 + 128 + 2 * 256 + 4 * 512
    assert _count(_abstract(11, norm=True)) == _count(_abstract(11)) + 2 * channels


@pytest.mark.parametrize("depth", [11, 16])
@pytest.mark.parametrize(("size", "edge"), [(224, 7), (32, 1)])
def test_feature_map(depth: int, size: int, edge: int) -> None:
    assert feature_map_shape(_abstract(depth), size) == (edge, edge, 512)


def test_width_scales_every_stage() -> None:
    assert [conv.kernel.shape[-1] for conv in _abstract(11, width=0.5).convs] == [32, 64, 128, 128, *[256] * 4]


def test_bfloat16_is_of_the_arithmetic_alone() -> None:
    def train(model: VGG, x: jax.Array) -> tuple[jax.Array, nnx.State]:
        return model(x, train=True), nnx.state(model)

    model = _abstract(11, norm=True, dtype=jnp.bfloat16)
    out, state = nnx.eval_shape(train, model, jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32))
    assert out.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(state)} == {jnp.dtype(jnp.float32)}


# Glorot & Bengio (2010): variance 2 / (fan in + fan out), which Simonyan & Zisserman recommend; He et al. (2015) of the
# backward pass: 2 / fan out.
@pytest.mark.parametrize("init", ["published", "default"])
def test_initialisation(init: str) -> None:
    def drawn() -> tuple[jax.Array, list]:
        convs = VGG(11, width=0.125, init=init, rngs=nnx.Rngs(0)).convs
        return convs[3].kernel[...], [conv.bias[...] for conv in convs]

    kernel, biases = jax.jit(drawn)()
    assert not any(bias.any() for bias in biases)
    _, _, m, n = kernel.shape
    assert (m, n) == (32, 32)
    # Of n normal draws the deviation's relative error is 1 / sqrt(2 n) and the mean's is deviation / sqrt(n).
    deviation = math.sqrt(2 / (9 * (m + n if init == "published" else n)))
    assert float(kernel.std()) == pytest.approx(deviation, rel=4 / math.sqrt(2 * kernel.size))
    assert abs(float(kernel.mean())) < 4 * deviation / math.sqrt(kernel.size)
