"""DenseNet: a small one against PyTorch, and its feature map."""

import numpy as np
import pytest
from flax import nnx

from agegender_jax.models.backbones import densenet
from agegender_jax.models.pooling import feature_map_shape
from tests.arrays import assert_close, fill, wave


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> int:
    """A depth of growth 2, 3 filters in the stem, and blocks of two layers and of one."""
    monkeypatch.setitem(densenet.DEPTHS, 9, (2, 3, (2, 1)))
    return 9


def test_the_edge_is_halved_by_stem_pooling_and_each_transition(small: int) -> None:
    trunk = nnx.eval_shape(lambda: densenet.DenseNet(small, rngs=nnx.Rngs(0)))
    channels = (3 + 2 * 2) // 2 + 2  # the transition halves what the first block has grown to
    assert feature_map_shape(trunk, 224) == (28, 28, channels)
    assert feature_map_shape(trunk, 33) == (4, 4, channels)  # 17, 9, 4


@pytest.mark.slow
def test_small_net_is_pytorchs(small: int) -> None:
    net = nnx.eval_shape(lambda: densenet.DenseNet(small, rngs=nnx.Rngs(0)))
    fill(net.stem, net.stem_norm, 0)
    first, second, third = net.layers
    order = [first.reduce, first.grow, second.reduce, second.grow, second.transition, third.reduce, third.grow]
    for n, pair in enumerate(order, start=1):
        fill(pair.conv, pair.norm, n)
    fill(None, net.last_norm, 8)
    # PyTorch 2.13, float64, in evaluation: torch.nn.functional.conv2d, batch_norm, relu, max_pool2d(3, 2, 1), cat and
    # avg_pool2d(2) in the order of torchvision's DenseNet, on the same waves permuted to NCHW and OIHW.
    expected = [0.07477, 0.0, 0.0, 0.07002, 0.245, 0.05298, 0.0, 0.0, 0.00033, 0.05245]
    got = nnx.jit(lambda net, x: net(x))(net, wave(1, 16, 12, 3))
    assert got.shape == (1, 2, 1, 5)
    assert_close(got.ravel(), expected, 2e-5)
    step = nnx.jit(lambda net, x: net(x, train=True))
    assert np.abs(step(net, wave(1, 16, 12, 3)) - got).max() > 0.1  # by the batch's statistics
