"""The backbones as the registry builds them: published sizes, embeddings and dtypes."""

from typing import Any

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from agegender_jax.models import registry
from agegender_jax.models.backbones import BACKBONES, BackboneOptions, build_backbone, densenet, resnet
from agegender_jax.models.pooling import feature_map_shape
from tests.arrays import count_parameters


def _abstract(name: str, size: int, **options: Any) -> Any:
    options = {"outputs": 10, **options}
    return nnx.eval_shape(lambda: build_backbone(name, BackboneOptions(image_size=size, **options), nnx.Rngs(0)))


# Parameters that torchvision counts with a classifier of so many outputs, or that a paper counts.
@pytest.mark.parametrize(
    ("name", "pooling", "outputs", "total"),
    [
        ("alexnet", "published", 1000, 61_100_840),
        ("vgg16", "published", 1000, 138_357_544),
        ("vgg16", "max", 39, 14_735_719),  # Mansour & Abu-Naser (2022)
        ("resnet18", "published", 1000, 11_689_512),
        ("resnet50", "published", 1000, 25_557_032),
        ("resnet50", "max", 39, 23_592_039),  # Mansour & Abu-Naser (2022)
        ("densenet161", "published", 1000, 28_681_000),
        ("efficientnet_lite0", "published", 1000, 4_652_008),
    ],
)
def test_parameters_count_what_is_published(name: str, pooling: str, outputs: int, total: int) -> None:
    net = _abstract(name, 224, pooling=pooling)
    assert count_parameters(net) + net.embedding_size * outputs + outputs == total


# One of each file; the deep ones with a block of each kind.
@pytest.mark.parametrize(
    ("name", "variant"),
    [
        ("alexnet", ""),
        ("vgg11_bn", ""),
        ("resnet18", ""),
        ("densenet161", ""),
        ("efficientnet_lite0", ""),
        ("cnn180", "gender"),
        ("small_cnn", "a"),
        ("attention_ensemble", "small"),
        ("routed", "bn"),
    ],
)
def test_bfloat16_is_of_the_arithmetic_alone(name: str, variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(densenet.DEPTHS, 161, (8, 16, (1, 1)))
    monkeypatch.setitem(resnet.DEPTHS, 18, ("basic", (1, 1)))

    def train(net: Any, x: jax.Array) -> tuple[jax.Array, nnx.State]:
        return net(x, train=True, rngs=nnx.Rngs(dropout=0)), nnx.state(net, (nnx.Param, nnx.BatchStat))

    net = _abstract(name, 32, variant=variant, dtype=jnp.bfloat16)
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
