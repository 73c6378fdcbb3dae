"""The backbones as the registry builds them: published sizes, initialisations, embeddings and dtypes."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from agegender_jax.errors import UserError
from agegender_jax.models import registry
from agegender_jax.models.backbones import BACKBONES, BackboneOptions, build_backbone, densenet, resnet
from agegender_jax.models.model import _Keys
from agegender_jax.models.pooling import feature_map_shape
from tests.arrays import count_parameters


def _options(size: int, **options: Any) -> BackboneOptions:
    return BackboneOptions(image_size=size, **{"outputs": 10, **options})


def _abstract(name: str, size: int, **options: Any) -> Any:
    return nnx.eval_shape(lambda: build_backbone(name, _options(size, **options), _Keys(jax.random.key(0))))


# Parameters that torchvision counts with a classifier of so many outputs, or that a paper counts.
@pytest.mark.parametrize(
    ("name", "pooling", "outputs", "total"),
    [
        ("alexnet", "default", 1000, 61_100_840),
        ("vgg16", "default", 1000, 138_357_544),
        ("vgg16", "max", 39, 14_735_719),  # Mansour & Abu-Naser (2022)
        ("resnet18", "default", 1000, 11_689_512),
        ("resnet50", "default", 1000, 25_557_032),
        ("resnet50", "max", 39, 23_592_039),  # Mansour & Abu-Naser (2022)
        pytest.param("densenet161", "default", 1000, 28_681_000, marks=pytest.mark.slow),
        ("efficientnet_lite0", "default", 1000, 4_652_008),
    ],
)
def test_parameters_count_what_is_published(name: str, pooling: str, outputs: int, total: int) -> None:
    net = _abstract(name, 224, pooling=pooling)
    assert count_parameters(net) + net.embedding_size * outputs + outputs == total


# Sums on paper without heads, and the width of the embedding: k * k * in * out + out for convolutions (cnn180: no
# bias), 2 * width for batch normalisation and in * out + out for dense layers. Of small_cnn, heads of 8 and 2 outputs
# (512 * 10 + 10 = 5,130), or of 2 in the gender nets (128 * 2 + 2 = 258), make the totals that its file names.
# `thin` is 672 + 10,416 + 41,568 + 166,080 + 442,624 + 590,080 + 2 * 872 + 4,096 * 512 + 512 + 262,656;
# `gender_three` is 896 + 18,496 + 73,856 + 2 * 224 + 16 * 16 * 128 * 128 + 128.
# `age` of cnn180 is 864 + 18,432 + 73,728 + 294,912 + 2 * 589,824 + 2 * 992 + 2 * 2 * 256 * 256 + 256 * 128 + 2 * 384.
ON_PAPER = {
    ("small_cnn", "a"): (256, 512, 11_501_386 - 5_130),
    ("small_cnn", "b"): (256, 512, 11_546_570 - 5_130),
    ("small_cnn", "c"): (256, 512, 11_521_002 - 5_130),
    ("small_cnn", "d"): (256, 512, 11_459_306 - 5_130),
    ("small_cnn", "levi_hassner"): (256, 512, 11_416_074 - 5_130),
    ("small_cnn", "plain"): (128, 512, 9_045_322 - 5_130),
    ("small_cnn", "gender_four"): (128, 128, 2_485_954 - 258),
    ("small_cnn", "gender_three"): (128, 128, 4_288_386 - 258),
    ("small_cnn", "thin"): (64, 512, 3_618_634 - 5_130),
    ("cnn180", "age"): (180, 128, 1_865_248),
    ("cnn180", "gender"): (180, 128, 2_651_168),
}


@pytest.mark.parametrize(("name", "variant"), ON_PAPER)
def test_every_variant_counts_what_it_does_on_paper(name: str, variant: str) -> None:
    size, width, total = ON_PAPER[name, variant]
    net = _abstract(name, size, variant=variant)
    assert count_parameters(net) == total
    out = nnx.eval_shape(lambda net, x: net(x), net, jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32))
    assert (out.shape, out.dtype, net.embedding_size) == ((2, width), jnp.float32, width)
    assert set(BACKBONES[name].variants) == {other for backbone, other in ON_PAPER if backbone == name}


# Edges below which nothing is left, on paper: `a` and `b` pool five times and `thin` four. `a` halves, so 2**5;
# `b` takes 3x3 windows, which need an edge of 3: 3 <- 7 <- 15 <- 31 <- 63.
@pytest.mark.parametrize(
    ("name", "variant", "least"),
    [("small_cnn", "a", 32), ("small_cnn", "b", 63), ("small_cnn", "thin", 16), ("cnn180", "age", 32)],
)
def test_image_that_would_be_pooled_away_is_refused(name: str, variant: str, least: int) -> None:
    _abstract(name, least, variant=variant)
    with pytest.raises(UserError, match=rf"config\.dataset\.image_size={least - 1}"):
        _abstract(name, least - 1, variant=variant)


# Krizhevsky et al. (2012, section 5): deviation 0.01; biases of 1 in the 2nd, 4th and 5th and the dense layers.
# Levi & Hassner (2015): 0.01 in convolutions and 0.005 in dense layers. Glorot & Bengio (2010): variance
# 2 / (fan in + fan out), which Simonyan & Zisserman recommend; He et al. (2015) of the backward pass: 2 / fan out.
@pytest.mark.parametrize(
    ("name", "options", "kernels", "biases"),
    [
        ("alexnet", {"init": "published"}, {0: 0.01, 5: 0.01}, (0, 1, 0, 1, 1, 1, 1)),
        (
            "small_cnn",
            {"variant": "levi_hassner", "init": "published"},
            {0: 0.01, 4: 0.005},
            (0, 1, 0, 1, 1),
        ),
        ("vgg11", {"init": "published", "width": 0.125}, {3: math.sqrt(2 / (9 * 64))}, (0,) * 10),
        ("vgg11", {"width": 0.125}, {3: math.sqrt(2 / (9 * 32))}, (0,) * 10),
    ],
)
def test_initialisation(name: str, options: dict, kernels: dict[int, float], biases: tuple[int, ...]) -> None:
    def initialised() -> tuple[list, list]:
        net = build_backbone(name, _options(63, **options), nnx.Rngs(0))
        net = [*net.convs, *net.dense] if name == "small_cnn" else [*net.trunk.convs, *net.top.dense]
        return [net[n].kernel[...] for n in kernels], [layer.bias[...] for layer in net]

    values, offsets = jax.jit(initialised)()
    for kernel, deviation in zip(map(np.asarray, values), kernels.values(), strict=True):
        # Of n normal numbers the deviation's relative error is 1 / sqrt(2 n) and the mean's is deviation / sqrt(n).
        assert kernel.std() == pytest.approx(deviation, rel=4 / np.sqrt(2 * kernel.size))
        assert abs(kernel.mean()) < 4 * deviation / np.sqrt(kernel.size)
    for offset, bias in zip(offsets, biases, strict=True):
        np.testing.assert_array_equal(offset, np.full(offset.shape, bias))


def test_width_scales_every_stage_and_normalisation_adds_two_numbers_a_channel() -> None:
    net = _abstract("vgg11", 32, width=0.5, pooling="max")
    filters = [conv.kernel.shape[-1] for conv in net.trunk.convs]
    assert filters == [32, 64, 128, 128, *[256] * 4]
    normalised = _abstract("vgg11_bn", 32, width=0.5, pooling="max")
    assert count_parameters(normalised) == count_parameters(net) + 2 * sum(filters)
    assert _abstract("vgg16_bn", 32, width=1e-4).trunk.convs[0].kernel.shape == (3, 3, 3, 1)  # a channel is left


# One of each file; the deep ones with a block of each kind.
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("alexnet", {}),
        ("vgg11_bn", {}),
        ("vgg11", {"pooling": "max_literal"}),
        ("resnet18", {"pooling": "max"}),
        ("densenet161", {}),
        ("efficientnet_lite0", {}),
        ("cnn180", {"variant": "gender"}),
        ("small_cnn", {"variant": "a"}),
        ("attention_ensemble", {"variant": "small"}),
        ("routed", {"variant": "bn"}),
    ],
)
def test_bfloat16_is_of_the_arithmetic_alone(name: str, options: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(densenet.DEPTHS, 161, (8, 16, (1, 1)))
    monkeypatch.setitem(resnet.DEPTHS, 18, ("basic", (1, 1)))

    def train(net: Any, x: jax.Array) -> tuple[jax.Array, nnx.State]:
        return net(x, train=True, rngs=nnx.Rngs(dropout=0)), nnx.state(net, (nnx.Param, nnx.BatchStat))

    net = _abstract(name, 32, **options, dtype=jnp.bfloat16)
    out, state = nnx.eval_shape(train, net, jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32))
    assert out.shape == (2, net.embedding_size)
    assert out.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(state)} == {jnp.dtype(jnp.float32)}


# Edges of the last feature map: AlexNet's (32 + 2 * 2 - 11) // 4 + 1 = 7 is pooled to 3, then 1. EfficientNet halves
# upwards: 61, 31, 16, 8, 4, 2.
@pytest.mark.parametrize(
    ("name", "channels", "edges"),
    [
        ("alexnet", 256, {224: 6, 32: 1}),
        ("vgg11", 512, {224: 7, 32: 1}),
        ("resnet18", 512, {224: 7, 32: 1}),
        ("efficientnet_lite0", 1280, {224: 7, 61: 2}),
    ],
)
def test_feature_map(name: str, channels: int, edges: dict[int, int]) -> None:
    trunk = _abstract(name, 32, pooling="average").trunk
    for size, edge in edges.items():
        assert feature_map_shape(trunk, size) == (edge, edge, channels)


def test_a_name_is_registered_once() -> None:
    with pytest.raises(ValueError, match="vgg16"):
        registry.register(BACKBONES["vgg16"])
