"""The small CNN: its published size, its numerics, and what differs between training and evaluation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from agegender_jax.errors import UserError
from agegender_jax.models.backbones.small_cnn import VARIANTS, ConvBlock, SmallCNN, Variant
from agegender_jax.models.heads import GenderHead
from tests.arrays import assert_close, count_parameters

# With heads of 8 and 2 outputs (512 * 10 + 10 = 5,130), or of 2 in the gender nets (128 * 2 + 2 = 258).
# Sums on paper of k * k * in * out + out for convolutions,
# 2 * width for batch normalisation and in * out + out for dense layers; `thin`, for instance, is
# 672 + 10,416 + 41,568 + 166,080 + 442,624 + 590,080 (convolutions) + 2 * 872 (normalisation)
# + 4,096 * 512 + 512 + 262,656 (dense) + 5,130.
HEADS = {"gender_four": 258, "gender_three": 258}
TOTALS = {
    "a": (256, 11_501_386),
    "b": (256, 11_546_570),
    "c": (256, 11_521_002),
    "d": (256, 11_459_306),
    "levi_hassner": (256, 11_416_074),
    "plain": (128, 9_045_322),  # 896 + 18,496 + 73,856 + 295,168, then 16,384 * 512 + 512 + 262,656 + 5,130
    # 896 + 18,496 + 73,856 + 295,168 (convolutions) + 8 * 8 * 256 * 128 + 128 (dense) + 258
    "gender_four": (128, 2_485_954),
    # 896 + 18,496 + 73,856 + 2 * 224 (normalisation) + 16 * 16 * 128 * 128 + 128 (dense) + 258
    "gender_three": (128, 4_288_386),
    "thin": (64, 3_618_634),
}


def test_every_variant_has_its_total_here() -> None:
    assert set(TOTALS) == set(VARIANTS)


@pytest.mark.parametrize("variant", TOTALS)
def test_parameters_count_what_is_published(variant: str) -> None:
    size, total = TOTALS[variant]
    model = nnx.eval_shape(lambda: SmallCNN(variant, image_size=size, rngs=nnx.Rngs(0)))
    assert count_parameters(model) + HEADS.get(variant, 5_130) == total


@pytest.mark.parametrize("variant", TOTALS)
def test_embedding_has_the_width_that_is_announced(variant: str) -> None:
    size, _ = TOTALS[variant]
    model = nnx.eval_shape(lambda: SmallCNN(variant, image_size=size, rngs=nnx.Rngs(0)))
    out = nnx.eval_shape(lambda model, x: model(x), model, jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32))
    width = 128 if variant.startswith("gender") else 512
    assert (out.shape, out.dtype) == ((2, width), jnp.float32)
    assert model.embedding_size == width


# Edges below which nothing is left, on paper: `a` and `b` pool five times and `thin` four. `a` halves, so 2**5;
# `b` takes 3x3 windows, which need an edge of 3: 3 <- 7 <- 15 <- 31 <- 63.
@pytest.mark.parametrize(("variant", "least"), [("a", 32), ("b", 63), ("thin", 16)])
def test_image_that_would_be_pooled_away_is_refused(variant: str, least: int) -> None:
    nnx.eval_shape(lambda: SmallCNN(variant, image_size=least, rngs=nnx.Rngs(0)))
    with pytest.raises(UserError, match=f"config.dataset.image_size={least - 1}"):
        nnx.eval_shape(lambda: SmallCNN(variant, image_size=least - 1, rngs=nnx.Rngs(0)))


def test_published_initialisation_of_levi_and_hassner() -> None:
    """Levi & Hassner (2015): deviation 0.01 in convolutions and 0.005 in dense layers; biases of 0 and of 1."""

    def initialised() -> tuple[list, list]:
        model = SmallCNN("levi_hassner", image_size=63, init="published", rngs=nnx.Rngs(0))
        parts = [*model.convs, *model.dense]
        return [(parts[n].kernel[...], deviation) for n, deviation in ((0, 0.01), (4, 0.005))], [
            part.bias[...] for part in parts
        ]

    kernels, biases = jax.jit(initialised)()
    for kernel, deviation in kernels:
        # Of n normal draws the deviation's relative error is 1 / sqrt(2 n) and the mean's is deviation / sqrt(n).
        assert float(kernel.std()) == pytest.approx(float(deviation), rel=4 / np.sqrt(2 * kernel.size))
        assert abs(float(kernel.mean())) < 4 * deviation / np.sqrt(kernel.size)
    for got, bias in zip(biases, (0, 1, 0, 1, 1), strict=True):
        np.testing.assert_array_equal(got, np.full(got.shape, bias))


def test_one_sigmoid_node_is_the_gender_head_with_a_first_logit_of_zero() -> None:
    logits = np.array([-3.0, -0.5, 0.0, 2.0], np.float32)
    distribution = GenderHead().distribution(np.stack([np.zeros(4, np.float32), logits], axis=-1))
    assert_close(distribution[:, 1], 1 / (1 + np.exp(-logits)))


Parts = tuple[nnx.GraphDef, nnx.State, nnx.State]


@pytest.fixture(scope="module")
def tiny() -> Parts:
    """Two blocks for 8x8 images, split; what is tested on it holds for each variant's blocks, and compiles soon."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(VARIANTS, "tiny", Variant((ConvBlock(8, pool=(2, 2)), ConvBlock(16, pool=(3, 2))), hidden=(64,)))
        model = nnx.jit(lambda: SmallCNN("tiny", image_size=8, rngs=nnx.Rngs(0)))()
        return nnx.split(model, nnx.Param, nnx.BatchStat)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype(np.float32)


def test_training_and_evaluation_differ_as_they_should(tiny: Parts, images: np.ndarray) -> None:
    graphdef, params, stats = tiny

    @jax.jit
    def train(params: nnx.State, stats: nnx.State, images: jax.Array, key: jax.Array) -> tuple[jax.Array, nnx.State]:
        model = nnx.merge(graphdef, params, stats)
        out = model(images, train=True, rngs=nnx.Rngs(dropout=key))
        return out, nnx.state(model, nnx.BatchStat)

    @jax.jit
    def evaluate(params: nnx.State, stats: nnx.State, images: jax.Array) -> tuple[jax.Array, nnx.State]:
        model = nnx.merge(graphdef, params, stats)
        return model(images), nnx.state(model, nnx.BatchStat)

    first, updated = train(params, stats, images, jax.random.key(1))
    again, _ = train(params, stats, images, jax.random.key(1))
    other, _ = train(params, stats, images, jax.random.key(2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(np.asarray(first) == 0, np.asarray(other) == 0)  # other units are dropped

    plain, kept = evaluate(params, stats, images)
    jax.tree.map(np.testing.assert_array_equal, nnx.to_pure_dict(kept), nnx.to_pure_dict(stats))
    # Without dropout or batch statistics an image's embedding is its own affair.
    assert_close(evaluate(params, stats, images[::-1])[0][::-1], plain)

    # First normalisation: running mean = 0.9 * 0 + 0.1 * batch mean of what the first convolution and ReLU make.
    conv = nnx.merge(graphdef, params, stats).convs[0]
    activations = np.maximum(np.asarray(nnx.jit(lambda conv, x: conv(x))(conv, images), np.float64), 0)
    norm = nnx.to_pure_dict(updated)["norms"][0]
    assert_close(norm["mean"], 0.1 * activations.mean((0, 1, 2)))
    assert_close(norm["var"], 0.9 + 0.1 * activations.var((0, 1, 2)))


def test_evaluation_needs_no_random_stream_and_traces_once(tiny: Parts, images: np.ndarray) -> None:
    graphdef, params, stats = tiny
    traces = []

    @jax.jit
    def evaluate(params: nnx.State, stats: nnx.State, x: jax.Array) -> jax.Array:
        traces.append(1)
        return nnx.merge(graphdef, params, stats)(x)

    evaluate(params, stats, images)
    assert np.isfinite(evaluate(params, stats, images + 1)).all()
    assert len(traces) == 1
