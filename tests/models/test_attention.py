"""Residual attention: its layers are the published ones, and its mask is where it should be."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from agegender_jax.models import pooling
from agegender_jax.models.backbones.attention import (
    VARIANTS,
    AttentionEnsemble,
    AttentionModule,
    ResidualAttention,
    ResidualUnit,
    attention_trunk,
    enlarge,
)
from agegender_jax.models.backbones.resnet import ResNet
from agegender_jax.models.model import split_model
from tests.arrays import assert_close, count_parameters


def unit(m: int, n: int) -> int:
    """A bottleneck's convolutions, and the scales and offsets of its three normalisations."""
    width = n // 4
    return m * width + 9 * width**2 + width * n + (m != n) * m * n + 2 * (m + 2 * width)


def test_attention_56_has_the_published_number_of_parameters() -> None:
    """The authors' prototxt has 31,738,024 in convolutions and classifier, and normalisations of 36,352 channels."""
    net = nnx.eval_shape(lambda: ResidualAttention(rngs=nnx.Rngs(params=0)))
    assert count_parameters(net) + 2048 * 1000 + 1000 == 31_738_024 + 2 * 36_352
    stats = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(net, nnx.BatchStat)))
    assert stats == 2 * 36_352  # which Caffe keeps with the weights: the table's 31.9 M
    total = 7 * 7 * 3 * 64 + 2 * 64  # stem
    # First and last unit, two of the trunk, and of the mask two at the bottom and three for each further halving.
    for channels, units in ((256, 12), (512, 9), (1024, 6)):
        total += units * unit(channels, channels) + 2 * channels**2 + 2 * 2 * channels
    total += unit(64, 256) + unit(256, 512) + unit(512, 1024) + unit(1024, 2048) + 2 * unit(2048, 2048)
    assert count_parameters(net) == total + 2 * 2048


@pytest.mark.parametrize(
    ("variant", "size", "edges"),
    [("56", 224, (56, 28, 14, 7)), ("56", 45, (12, 6, 3, 2)), ("small", 64, (16, 8, 4))],
)
def test_maps_shrink_as_published_and_any_size_works(variant: str, size: int, edges: tuple[int, ...]) -> None:
    def run(trunk: ResidualAttention, x: jax.Array) -> tuple[jax.Array, list[jax.Array]]:
        masks: list[jax.Array] = []
        return trunk(x, masks=masks), masks

    trunk = nnx.eval_shape(lambda: ResidualAttention(variant, dtype=jnp.bfloat16, rngs=nnx.Rngs(params=0)))
    out, masks = nnx.eval_shape(run, trunk, jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32))
    shapes = [(*mask.shape, mask.dtype) for mask in masks] + [(*out.shape, out.dtype)]
    dtypes = [jnp.float32] * len(masks) + [jnp.bfloat16]
    channels = VARIANTS[variant].channels
    assert shapes == [(2, e, e, c, d) for e, c, d in zip(edges, channels, dtypes, strict=True)]


def value(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """A parameter made of its path: both implementations know it."""
    seed = sum((i + 1) * ord(c) for i, c in enumerate(name))
    values = np.cos(seed + 1.7 * np.arange(np.prod(shape))).reshape(shape)
    if name.endswith("kernel"):
        return values * 1.4 / np.sqrt(np.prod(shape[:-1]))
    if name.endswith("scale"):
        return 1 + 0.2 * values
    return 1 + 0.5 * values if name.endswith("var") else 0.1 * values


def filled(module: nnx.Module) -> nnx.Module:
    def named(path: tuple, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        return jnp.asarray(value("/".join(str(key.key) for key in path), leaf.shape), jnp.float32)

    graphdef, *state = split_model(module)
    return nnx.merge(graphdef, *(jax.tree.map_with_path(named, tree) for tree in state))


def wave(*shape: int) -> jax.Array:
    return jnp.asarray(np.sin(0.9 * np.arange(np.prod(shape))).reshape(shape), jnp.float32)


# The golden values are PyTorch 2.13's, in float64: the module written with torch.nn.functional (batch_norm with the
# same statistics, conv2d, MaxPool2d(3, 2, 1), interpolate(mode="bilinear", align_corners=True)) after the authors'
# Attention-56-deploy.prototxt, with 8 channels and two halvings, on 7x9 pixels.
def test_an_attention_module_is_pytorch_s() -> None:
    module = filled(AttentionModule(8, 2, 1, 2, dtype=jnp.float32, rngs=nnx.Rngs(params=0)))
    out, mask = nnx.jit(lambda module, x: module(x, train=False))(module, wave(1, 7, 9, 8))
    places = (0, [0, 3, 6], [0, 4, 8], slice(4))
    assert_close(
        out[places],
        [
            [-0.99053, 2.18676, 2.64547, -0.53975],
            [-0.26727, -1.27536, -1.33318, -0.46718],
            [-0.77658, 2.12369, 2.46954, -0.78199],
        ],
        2e-5,
    )
    assert_close(
        mask[places],
        [
            [0.30453, 0.52203, 0.69064, 0.42675],
            [0.36091, 0.52428, 0.63329, 0.44078],
            [0.43164, 0.49466, 0.56971, 0.48726],
        ],
        2e-5,
    )
    assert_close(out.mean(), -0.023169, 1e-2)
    assert_close(mask.std(), 0.103639, 1e-3)


def test_a_striding_unit_is_pytorch_s() -> None:
    class Holder(nnx.Module):
        def __init__(self) -> None:
            self.down = ResidualUnit(8, 16, stride=2, dtype=jnp.float32, rngs=nnx.Rngs(params=0))

    out = nnx.jit(lambda holder, x: holder.down(x, train=False))(filled(Holder()), wave(1, 7, 9, 8))
    assert out.shape == (1, 4, 5, 16)
    golden = [[-0.354, 0.11366, 0.32471, -0.19734], [-0.46189, 0.78317, 0.26008, -0.85019]]
    assert_close(out[0, [0, 3], [0, 4], :4], golden, 2e-5)


def test_enlarging_keeps_corners_and_a_single_pixel_fills_the_map() -> None:
    x = jnp.array([[1.0, 3.0], [5.0, 7.0]]).reshape(1, 2, 2, 1)
    assert enlarge(x, (3, 2))[0, :, :, 0].tolist() == [[1, 3], [3, 5], [5, 7]]
    assert enlarge(x[:, :1, :1], (2, 3)).ravel().tolist() == [1] * 6
    assert enlarge(x.astype(jnp.bfloat16), (5, 5)).dtype == jnp.bfloat16


def test_the_ensemble_sets_two_embeddings_side_by_side() -> None:
    def make() -> AttentionEnsemble:
        rngs = nnx.Rngs(params=0)
        return AttentionEnsemble(
            pooling.Backbone(ResidualAttention("small", rngs=rngs), pooling.AveragePool(256)),
            pooling.Backbone(ResNet(18, rngs=rngs), pooling.AveragePool(512)),
        )

    backbone = nnx.eval_shape(make)
    assert backbone.embedding_size == 256 + 512
    image = jax.ShapeDtypeStruct((2, 33, 33, 3), jnp.float32)
    assert nnx.eval_shape(lambda net, x: net(x, train=True), backbone, image).shape == (2, 768)
    assert attention_trunk(backbone) is backbone.attention.trunk
    assert attention_trunk(backbone.attention) is backbone.attention.trunk
    assert attention_trunk(backbone.residual) is None
    assert attention_trunk(nnx.Linear(1, 1, rngs=nnx.Rngs(params=0))) is None
