"""Class activation maps: the formulas on paper, and beside those that PyTorch finds."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from agegender_jax.evaluate.saliency import CAMS, class_activation
from agegender_jax.models import layers

ACTIVATION = np.array([[[1, 0], [0, 3]], [[2, 1], [1, 0]]], np.float32)[None]  # channels 1 0 / 2 1 and 0 3 / 1 0
GRADIENT = np.array([[[0.4, -1], [0, -0.5]], [[-0.2, 0.5], [0.2, 0]]], np.float32)[None]


@pytest.mark.parametrize(
    ("method", "right"),
    [
        # Weights 0.1 and -0.25: the means of the gradients.
        ("grad_cam", [[0.1, -0.75], [-0.05, 0.1]]),
        # Both channels sum to 4. Weights (0.4 / 3.6 + 0.2 / 2.8) / 4 and 0.5 / 4 / 4.
        ("grad_cam_pp", [[0.0456349, 0.09375], [0.1225198, 0.0456349]]),
        # 0.4 x 1, nothing, 0.5 x 1, 0.2 x 1.
        ("layer_cam", [[0.4, 0.0], [0.5, 0.2]]),
    ],
)
def test_the_formulas_on_paper(method: str, right: list[list[float]]) -> None:
    maps = CAMS[method](jnp.asarray(ACTIVATION), jnp.asarray(GRADIENT))
    np.testing.assert_allclose(maps[0], right, rtol=1e-5)


def waves(*shape: int, phase: float) -> jax.Array:
    return jnp.asarray(np.sin(1.7 * np.arange(math.prod(shape)) + phase).reshape(shape), jnp.float32)


class Small(nnx.Module):
    """One convolution, pooling, and two numbers."""

    def __init__(self) -> None:
        self.conv = layers.Conv(3, 4, rngs=nnx.Rngs(params=0))
        self.conv.kernel[...] = waves(3, 3, 3, 4, phase=1.0) / 3
        self.conv.bias[...] = waves(4, phase=2.0) / 4
        self.dense = waves(36, 2, phase=3.0) / 3

    def __call__(self, x: jax.Array) -> jax.Array:
        x = layers.max_pool(layers.tap_features(nnx.relu(self.conv(x))))
        return x.reshape(len(x), -1) @ self.dense


GOLDEN = {
    "grad_cam": [
        [0.00228, 0.0, 0.00061, 0.0, 0.00455, 0.0],
        [0.00487, 0.0037, 0.0, 0.00706, 0.00673, 0.0],
        [0.00161, 0.0, 0.00335, 0.01049, 0.0, 0.0],
    ],
    "grad_cam_pp": [
        [0.1872, 0.06205, 0.19883, 0.16287, 0.25125, 0.01146],
        [0.14594, 0.25745, 0.20326, 0.33568, 0.22993, 0.11673],
        [0.06771, 0.18387, 0.32642, 0.26022, 0.11256, 0.13048],
    ],
    "layer_cam": [
        [0.09688, 0.0, 0.09849, 0.0, 0.08142, 0.0],
        [0.0, 0.01836, 0.0, 0.26102, 0.0, 0.03526],
        [0.00783, 0.0, 0.16909, 0.0, 0.07492, 0.15656],
    ],
}
"""The upper half of each map of 6x6, by PyTorch 2 in float64, with `waves` and the names of `Small`:

    x, kernel = waves(1, 6, 6, 3, phase=0.0).permute(0, 3, 1, 2), (waves(3, 3, 3, 4, phase=1.0) / 3).permute(3, 2, 0, 1)
    a = torch.relu(torch.nn.functional.conv2d(x, kernel, waves(4, phase=2.0) / 4, padding=1)).requires_grad_()
    pooled = torch.nn.functional.max_pool2d(a, 2).permute(0, 2, 3, 1).reshape(1, -1)
    (g,) = torch.autograd.grad((pooled @ (waves(36, 2, phase=3.0) / 3))[0, 0], a)
    alpha = g**2 / (2 * g**2 + a.sum((2, 3), keepdim=True) * g**3)
    weight = {
        "grad_cam": g.mean((2, 3), keepdim=True),
        "grad_cam_pp": (torch.nan_to_num(alpha) * torch.relu(g)).sum((2, 3), keepdim=True),
        "layer_cam": torch.relu(g),
    }
    maps = {name: torch.relu((w * a).sum(1))[0] for name, w in weight.items()}
"""


@pytest.mark.parametrize("method", GOLDEN)
def test_maps_of_a_net_are_those_that_pytorch_finds(method: str) -> None:
    """By torch.autograd and the published formulas, alpha of Grad-CAM++ written out, in float64."""
    image = waves(1, 6, 6, 3, phase=0.0)
    maps = jax.jit(lambda x: class_activation(Small(), x, lambda logits: logits[:, 0], method))(image)
    factor = 36 if method == "grad_cam_pp" else 1  # our mean over the places is their sum
    np.testing.assert_allclose(factor * maps[0, :3], GOLDEN[method], atol=2e-5)
