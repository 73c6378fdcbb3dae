"""ResNet: its published sizes, its blocks against PyTorch, and what it makes of an image."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from agegender_jax.models.backbones.resnet import Block, ResNet
from agegender_jax.models.pooling import GlobalMaxPool, feature_map_shape


def _count(model: nnx.Module) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))


def _abstract(depth: int, variant: str = "v1.5") -> ResNet:
    return nnx.eval_shape(lambda: ResNet(depth, variant=variant, rngs=nnx.Rngs(0)))


@pytest.mark.parametrize(
    ("depth", "channels", "outputs", "total"),
    [
        (18, 512, 1000, 11_689_512),
        (18, 512, 10, 11_181_642),
        (34, 512, 1000, 21_797_672),
        (101, 2048, 1000, 44_549_160),
    ],
)
def test_parameters_count_what_torchvision_counts(depth: int, channels: int, outputs: int, total: int) -> None:
    assert _count(_abstract(depth)) + channels * outputs + outputs == total


def test_resnet50_counts_what_is_published_with_each_head() -> None:
    base = _count(_abstract(50))
    assert base == 23_508_032
    assert base + 2048 * 1000 + 1000 == 25_557_032
    assert base + 2048 * 10 + 10 == 23_528_522
    top = nnx.eval_shape(lambda: GlobalMaxPool(2048, rngs=nnx.Rngs(0)))
    assert base + _count(top) + 2048 * 39 + 39 == 23_592_039  # the voice paper's head
    assert _count(_abstract(50, "v1")) == base  # only strides differ


@pytest.mark.parametrize(("depth", "channels"), [(18, 512), (50, 2048)])
def test_feature_map(depth: int, channels: int) -> None:
    trunk = _abstract(depth)
    for size, edge in ((224, 7), (32, 1)):
        assert feature_map_shape(trunk, size) == (edge, edge, channels)


def test_bfloat16_is_of_the_arithmetic_alone() -> None:
    def train(model: ResNet, x: jax.Array) -> tuple[jax.Array, nnx.State]:
        return model(x, train=True), nnx.state(model)

    model = nnx.eval_shape(lambda: ResNet(18, dtype=jnp.bfloat16, rngs=nnx.Rngs(0)))
    out, state = nnx.eval_shape(train, model, jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32))
    assert out.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(state)} == {jnp.dtype(jnp.float32)}


def _wave(*shape: int, start: float = 0.0) -> np.ndarray:
    """Numbers that PyTorch was given too, in this layout: sin(start), sin(start + 1), ..."""
    return np.sin(start + np.arange(math.prod(shape))).reshape(shape).astype(np.float32)


def _filled(channels: int, width: int, kind: str, **options: object) -> Block:
    """A block whose n-th convolution (the shortcut is the last) holds waves that start at n."""
    block = nnx.eval_shape(lambda: Block(channels, width, kind, rngs=nnx.Rngs(0), **options))
    for n, part in enumerate([*block.convs, *([block.shortcut] if block.shortcut else [])]):
        part.conv.kernel = nnx.Param(_wave(*part.conv.kernel.shape, start=n) / 4)
        size = part.conv.kernel.shape[-1]
        part.norm.scale, part.norm.bias = (
            nnx.Param(1 + _wave(size, start=n + 1) / 4),
            nnx.Param(_wave(size, start=n + 2) / 4),
        )
        part.norm.mean, part.norm.var = (
            nnx.BatchStat(_wave(size, start=n + 3) / 8),
            nnx.BatchStat(1 + _wave(size, start=n + 4) / 2),
        )
    return block


# PyTorch 2.13, float64, in evaluation: torch.nn.functional.conv2d (padding kernel // 2), batch_norm and relu in the
# order of torchvision's BasicBlock and Bottleneck, on the same waves permuted to NCHW and OIHW.
# Input's edges, channels, width, kind, options; output.
GOLDEN = [
    (
        (3, 2), 2, 2, "basic", {},
        [0.0, 0.71173, 1.3497, 0.2774, 0.0, 0.0, 0.06926, 0.77284, 0.8656, 0.17231, 0.0, 0.0],
    ),
    (
        (3, 4), 2, 3, "basic", {"stride": 2},
        [0.0, 0.0, 0.0, 0.37745, 0.0, 0.0, 0.44764, 0.0, 0.0, 0.08682, 0.0, 0.0],
    ),
    (
        (2, 2), 4, 1, "bottleneck", {},
        [0.0, 0.62716, 0.78433, 0.19363, 0.0, 0.0, 0.0, 0.66242, 1.03107, 0.20646, 0.0, 0.0, 0.0, 0.20898, 0.85082,
         0.67724],
    ),
    (
        (3, 4), 2, 1, "bottleneck", {"stride": 2},
        [0.0, 0.0, 0.0, 0.05709, 0.0, 0.0, 0.0, 0.42952, 0.0, 0.0, 0.0, 0.3824, 0.0, 0.0, 0.0, 0.0],
    ),
    (
        (3, 4), 2, 1, "bottleneck", {"stride": 2, "variant": "v1"},
        [0.0, 0.0, 0.00187, 0.06289, 0.0, 0.0, 0.0, 0.43746, 0.0, 0.0, 0.0, 0.37686, 0.0, 0.0, 0.0, 0.0],
    ),
]  # fmt: skip


@pytest.mark.parametrize(("edges", "channels", "width", "kind", "options", "expected"), GOLDEN)
def test_block_is_pytorchs(
    edges: tuple[int, int], channels: int, width: int, kind: str, options: dict, expected: list[float]
) -> None:
    block = _filled(channels, width, kind, **options)
    got = nnx.jit(lambda block, x: block(x, train=False))(block, _wave(1, *edges, channels))
    np.testing.assert_allclose(got.ravel(), expected, atol=2e-5)


def test_training_normalises_by_the_batch_and_keeps_its_statistics() -> None:
    block = _filled(2, 2, "basic")
    x = _wave(2, 3, 2, 2)
    step = nnx.jit(lambda block, x, train: block(x, train=train), static_argnames="train")
    before = np.asarray(step(block, x, train=False))
    mean = np.asarray(block.convs[0].norm.mean[...])
    trained = np.asarray(step(block, x, train=True))
    assert np.abs(trained - before).max() > 0.1
    activations = np.asarray(nnx.jit(lambda conv, x: conv(x))(block.convs[0].conv, x), np.float64)
    np.testing.assert_allclose(
        block.convs[0].norm.mean[...], 0.9 * mean + 0.1 * activations.mean((0, 1, 2)), rtol=1e-4, atol=1e-6
    )
