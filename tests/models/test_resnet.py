"""ResNet: its blocks against PyTorch, and what training changes."""

import numpy as np
import pytest
from flax import nnx

from agegender_jax.models.backbones.resnet import Block
from tests.arrays import assert_close, fill, wave


def _filled(channels: int, width: int, kind: str, **options: object) -> Block:
    """A block whose n-th convolution (the shortcut is the last) holds waves that start at n."""
    block = nnx.eval_shape(lambda: Block(channels, width, kind, rngs=nnx.Rngs(0), **options))
    for n, pair in enumerate([*block.convs, *([block.shortcut] if block.shortcut else [])]):
        fill(pair.conv, pair.norm, n)
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
    got = nnx.jit(lambda block, x: block(x, train=False))(block, wave(1, *edges, channels))
    assert_close(got.ravel(), expected, 2e-5)


def test_training_normalises_by_the_batch_and_keeps_its_statistics() -> None:
    block = _filled(2, 2, "basic")
    x = wave(2, 3, 2, 2)
    step = nnx.jit(lambda block, x, train: block(x, train=train), static_argnames="train")
    before = np.asarray(step(block, x, train=False))
    mean = np.asarray(block.convs[0].norm.mean[...])
    trained = np.asarray(step(block, x, train=True))
    assert np.abs(trained - before).max() > 0.1
    activations = np.asarray(nnx.jit(lambda conv, x: conv(x))(block.convs[0].conv, x), np.float64)
    assert_close(block.convs[0].norm.mean[...], 0.9 * mean + 0.1 * activations.mean((0, 1, 2)))
