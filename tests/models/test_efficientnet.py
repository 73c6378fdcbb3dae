"""EfficientNet-Lite0: its blocks against PyTorch, and stochastic depth."""

import jax
import numpy as np
import pytest
from flax import nnx

from agegender_jax.models.backbones.efficientnet import EfficientNetLite0, MBConv
from tests.arrays import assert_close, fill, wave


def test_blocks_are_those_of_efficientnet_b0() -> None:
    """Tan & Le (2019), table 1: kernels and channels of the sixteen blocks; stochastic depth grows with depth."""
    trunk = nnx.eval_shape(lambda: EfficientNetLite0(drop_path=0.2, rngs=nnx.Rngs(0)))
    assert [block.drop_path.rate for block in trunk.blocks] == pytest.approx([0.2 * n / 16 for n in range(16)])
    kernels = [block.depthwise.kernel.shape[0] for block in trunk.blocks]
    assert kernels == [3, *[3] * 2, *[5] * 2, *[3] * 3, *[5] * 3, *[5] * 4, 3]
    filters = [block.project.kernel.shape[-1] for block in trunk.blocks]
    assert filters == [16, *[24] * 2, *[40] * 2, *[80] * 3, *[112] * 3, *[192] * 4, 320]
    assert [n for n, block in enumerate(trunk.blocks) if block.depthwise.stride == 2] == [1, 3, 5, 11]
    assert [n for n, block in enumerate(trunk.blocks) if not block.residual] == [0, 1, 3, 5, 8, 11, 15]
    assert [n for n, block in enumerate(trunk.blocks) if block.expand is None] == [0]


def _filled(channels: int, filters: int, kernel: int, **options: object) -> MBConv:
    """A block with waves that start at 0 in its expansion, 1 in its depthwise convolution and 2 in its projection."""
    block = nnx.eval_shape(lambda: MBConv(channels, filters, kernel, rngs=nnx.Rngs(0), **options))
    for n, name in enumerate(("expand", "depthwise", "project")):
        if getattr(block, name) is not None:
            fill(getattr(block, name), getattr(block, f"{name}_norm"), n, 2)
    return block


# PyTorch 2.13, float64, in evaluation: torch.nn.functional.conv2d (with groups, after pad with TensorFlow's SAME
# zeros), batch_norm (eps 1e-3) and relu6 in the order of efficientnet-lite-pytorch 0.1.0's MBConvBlock, on the same
# waves permuted to NCHW and OIHW. Input's edges, channels, filters, kernel, options; output.
GOLDEN = [
    (
        (3, 2), 2, 2, 3, {"expansion": 2},
        [-0.05549, 0.6263, 0.80206, 0.06835, 1.71805, -0.78969, -2.60165, 3.80149, 0.98996, 0.36617, -5.8456, -3.70075],
    ),
    (
        (4, 5), 2, 3, 5, {"expansion": 3, "stride": 2},
        [-10.35231, -5.56888, 0.50275, -6.54364, -5.00844, -1.08431, 0.79386, -1.50898, -1.83022, 13.69697, 3.68166,
         -4.06205, 11.02424, 2.5561, -3.64788, -0.10088, 0.35934, 0.45322],
    ),
    (
        (2, 3), 2, 3, 3, {"expansion": 1},
        [-0.05549, -0.21517, -0.12091, 0.04745, -1.24121, -1.15846, -3.62269, -1.11019, 1.01197, -0.05549, -0.21517,
         -0.12091, 2.63201, -0.71596, -2.09698, -0.68273, -1.00629, -0.52713],
    ),
]  # fmt: skip


@pytest.mark.parametrize(("edges", "channels", "filters", "kernel", "options", "expected"), GOLDEN)
def test_block_is_pytorchs(
    edges: tuple[int, int], channels: int, filters: int, kernel: int, options: dict, expected: list[float]
) -> None:
    block = _filled(channels, filters, kernel, **options)
    got = nnx.jit(lambda block, x: block(x, train=False))(block, wave(1, *edges, channels))
    assert_close(got.ravel(), expected, 3e-5)


def test_stochastic_depth_leaves_out_the_branch_of_whole_examples() -> None:
    block = _filled(2, 2, 3, expansion=2, drop_path=0.5)
    x = np.tile(wave(1, 3, 2, 2), (16, 1, 1, 1))

    def train(block: MBConv, x: np.ndarray) -> jax.Array:
        return block(x, train=True, rngs=nnx.Rngs(dropout=0)) - x

    branches = np.asarray(nnx.jit(train)(block, x))
    whole = max(branches, key=lambda branch: np.abs(branch).max())  # equal examples have equal branches
    left_out = [not branch.any() for branch in branches]
    assert 0 < sum(left_out) < 16
    for branch, out in zip(branches, left_out, strict=True):
        assert_close(branch, np.zeros_like(whole) if out else whole)
