"""VGG: its width, normalisation and initialisation."""

import math

import jax
import pytest
from flax import nnx

from agegender_jax.models.backbones.vgg import VGG
from tests.arrays import count_parameters


def _abstract(depth: int, **options: object) -> VGG:
    return nnx.eval_shape(lambda: VGG(depth, rngs=nnx.Rngs(0), **options))


def test_normalisation_adds_two_numbers_a_channel() -> None:
    channels = 64 + 128 + 2 * 256 + 4 * 512
    assert count_parameters(_abstract(11, norm=True)) == count_parameters(_abstract(11)) + 2 * channels


def test_width_scales_every_stage() -> None:
    assert [conv.kernel.shape[-1] for conv in _abstract(11, width=0.5).convs] == [32, 64, 128, 128, *[256] * 4]


# Glorot & Bengio (2010): variance 2 / (fan in + fan out), which Simonyan & Zisserman recommend; He et al. (2015) of the
# backward pass: 2 / fan out.
@pytest.mark.parametrize("init", ["published", "default"])
def test_initialisation(init: str) -> None:
    def initialised() -> tuple[jax.Array, list]:
        convs = VGG(11, width=0.125, init=init, rngs=nnx.Rngs(0)).convs
        return convs[3].kernel[...], [conv.bias[...] for conv in convs]

    kernel, biases = jax.jit(initialised)()
    assert not any(bias.any() for bias in biases)
    _, _, m, n = kernel.shape
    assert (m, n) == (32, 32)
    # Of n normal draws the deviation's relative error is 1 / sqrt(2 n) and the mean's is deviation / sqrt(n).
    deviation = math.sqrt(2 / (9 * (m + n if init == "published" else n)))
    assert float(kernel.std()) == pytest.approx(deviation, rel=4 / math.sqrt(2 * kernel.size))
    assert abs(float(kernel.mean())) < 4 * deviation / math.sqrt(kernel.size)
