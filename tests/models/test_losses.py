"""The losses of age against PyTorch and coral-pytorch, and their probabilities against both's published predictions."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from agegender_jax.models.heads.decoding import rank
from agegender_jax.models.losses import LOSSES, CoralLayer, coral_probability, corn, corn_probability, corn_terms
from tests.arrays import assert_close


def _logits(rows: int, columns: int) -> np.ndarray:
    """Numbers between -2.5 and 2.5 that any program can make again."""
    return ((np.arange(rows * columns).reshape(rows, columns) * 37 % 101 - 50) / 20).astype(np.float32)


CLASSES = np.array([0, 2, 5, 3])
YEARS = np.array([1, 26, 100, 57, 0])

# Made by PyTorch 2.13 and coral-pytorch 1.4, rounded to six decimals; `l` are the logits, `y` the labels:
#   cross_entropy  F.cross_entropy(l, y, reduction="none"); smoothed: label_smoothing=0.1
#   l1, huber      F.l1_loss, F.huber_loss(50 + 25 * out, age, reduction="none", delta=1.0)
#   dldl           t = exp(-(c - age)^2 / (2 * 1.5^2)), over its sum; F.kl_div(F.log_softmax(l, 1), t, reduction="none")
#                  .sum(1), plus t's entropy -(t * t.log()).sum(1)
#   mean_variance  p = softmax(l, 1), m = (p * c).sum(1):
#                  F.cross_entropy + 0.2 * (m - y)^2 / 2 + 0.05 * (p * (c - m)^2).sum(1), as public code writes it
#   coral          coral_loss(l, levels_from_labelbatch(y, K), reduction=None)
#   corn           corn_loss(l, y, K); by example: of one row at a time
GOLDEN = {
    "cross_entropy": (_logits(4, 6), CLASSES, {}, [4.841251, 0.400473, 3.85473, 1.778538]),
    "cross_entropy smoothed": (
        _logits(4, 6),
        CLASSES,
        {"label_smoothing": 0.1},
        [4.631251, 0.64464, 3.728064, 1.871038],
    ),
    "l1": (np.array([[-1.2], [0.3], [1.9], [-0.8]]), np.array([20, 57, 116, 30.4]), {}, [0, 0.5, 18.5, 0.4]),
    "huber": (np.array([[-1.2], [0.3], [1.9], [-0.8]]), np.array([20, 57, 116, 30.4]), {}, [0, 0.125, 18, 0.08]),
    "dldl": (_logits(4, 6), np.array([0, 2.4, 5, 3]), {"spread": 1.5}, [3.516033, 2.331884, 2.539347, 2.933737]),
    "mean_variance": (_logits(4, 6), CLASSES, {}, [6.319774, 0.451657, 4.465494, 2.084293]),
    "coral": (_logits(4, 5), CLASSES, {}, [2.710113, 5.370926, 5.997578, 5.83486]),
    "corn": (_logits(4, 5), CLASSES, {}, [0.07889, 0.917527, 1.199516, 0.848442]),
    "cross_entropy of years": (_logits(5, 101), YEARS, {}, [6.164198, 5.364198, 4.814198, 3.564198, 8.014198]),
    "coral of years": (_logits(5, 100), YEARS, {}, [94.909546, 94.937653, 93.391632, 93.664597, 93.337059]),
}


@pytest.mark.parametrize("case", GOLDEN)
def test_losses_match_pytorch(case: str) -> None:
    logits, age, options, expected = GOLDEN[case]
    for kind in (np.float32, np.int32) if age.dtype == np.int64 else (np.float32,):
        loss = jax.jit(partial(LOSSES[case.split()[0]].loss, **options))
        got = loss(logits.astype(np.float32), age.astype(kind))
        assert got.dtype == jnp.float32
        assert_close(got, expected)


@pytest.mark.parametrize(("classes", "label", "expected"), [(6, CLASSES, 0.940217), (101, YEARS, 0.943238)])
def test_corn_with_its_weights_is_coral_pytorch_s_mean_over_all_terms(
    classes: int, label: np.ndarray, expected: float
) -> None:
    logits = _logits(len(label), classes - 1)
    loss, weight = jax.jit(lambda x, y: (corn(x, y), corn_terms(y, classes)))(logits, label)
    assert weight.tolist() == np.minimum(label + 1, classes - 1).tolist()
    assert float((loss * weight).sum() / weight.sum()) == pytest.approx(expected, abs=1e-5)


GRADIENTS = {  # of the batch's loss with respect to the logits, by PyTorch's autograd
    "mean_variance": [
        [-0.252291, -0.009304, -0.017708, 0.001294, 0.023118, 0.25489],
        [0.004531, 0.025541, -0.091628, 0.006973, 0.051977, 0.002607],
        [0.031039, 0.14438, 0.004045, 0.016066, 0.053726, -0.249255],
        [0.038106, 0.176509, 0.005175, -0.22571, 0.000811, 0.00511],
    ],
    "coral": [
        [0.018965, 0.085747, 0.192131, 0.029801, 0.115643],
        [-0.038616, -0.204394, 0.146654, 0.225062, 0.067235],
        [-0.074858, -0.228234, -0.155615, -0.051468, -0.216032],
        [-0.125, -0.033968, -0.198532, 0.155615, 0.228234],
    ],
    "corn": [
        [0.005835, 0.0, 0.0, 0.0, 0.0],
        [-0.011882, -0.06289, 0.045124, 0.0, 0.0],
        [-0.023033, -0.070226, -0.047881, -0.015836, -0.066471],
        [-0.038462, -0.010452, -0.061087, 0.047881, 0.0],
    ],
}


@pytest.mark.parametrize("name", GRADIENTS)
def test_gradients_match_pytorch(name: str) -> None:
    expected = np.array(GRADIENTS[name])

    def total(logits: jax.Array) -> jax.Array:
        loss = LOSSES[name].loss(logits, jnp.asarray(CLASSES))
        weight = corn_terms(jnp.asarray(CLASSES), 6) if name == "corn" else jnp.ones(4)
        return (loss * weight).sum() / weight.sum()

    assert_close(jax.jit(jax.grad(total))(jnp.asarray(_logits(*expected.shape))), expected)


def test_ages_over_the_last_class_count_as_the_last_and_regression_keeps_them() -> None:
    for name in ("cross_entropy", "dldl", "mean_variance", "coral", "corn"):
        loss = jax.jit(LOSSES[name].loss)
        logits = _logits(2, LOSSES[name].outputs(6))[:1]
        assert float(loss(logits, np.array([9.0]))[0]) == float(loss(logits, np.array([5.0]))[0])
    assert float(jax.jit(LOSSES["l1"].loss)(np.array([[2.0]]), np.array([116.0]))[0]) == 16.0


@pytest.mark.parametrize("name", LOSSES)
def test_extreme_logits_give_finite_losses_gradients_and_distributions(name: str) -> None:
    size = LOSSES[name].outputs(101)
    sign = np.where(np.arange(size) % 2, 1.0, -1.0)
    logits = (1e4 * np.stack([sign, -sign, np.ones(size), -np.ones(size)])).astype(np.float32)
    age = np.array([0.0, 50.0, 100.0, 30.0], np.float32)
    run = jax.value_and_grad(lambda x: (LOSSES[name].loss(x, age).sum(), LOSSES[name].distribution(x)), has_aux=True)
    (loss, distribution), gradient = jax.device_get(jax.jit(run)(logits))
    assert np.isfinite(loss)
    assert np.isfinite(gradient).all()
    assert np.isfinite(distribution).all()
    assert (distribution >= 0).all()
    if distribution.shape[-1] > 1:
        assert_close(distribution.sum(-1), np.ones(4))


def test_ranks_are_those_of_coral_pytorch() -> None:
    logits = _logits(8, 5)  # not in order
    # proba_to_label(torch.sigmoid(l)) and corn_label_from_logits(l + 1.5)
    assert rank(np.asarray(jax.jit(coral_probability)(logits))).tolist() == [1, 3, 2, 3, 2, 3, 2, 3]
    assert rank(np.asarray(jax.jit(corn_probability)(logits + 1.5))).tolist() == [0, 1, 1, 2, 2, 0, 3, 1]


def test_ordinal_probabilities_add_up_to_pytorch_s_probability_of_being_older() -> None:
    def older(probability: jax.Array) -> np.ndarray:
        assert probability.dtype == jnp.float32
        assert probability.shape == (2, 6)
        return 1 - np.cumsum(np.asarray(probability, np.float64), -1)[:, :-1]

    logits = _logits(2, 5)
    # torch.sigmoid(l.sort(1, descending=True).values) and torch.cumprod(torch.sigmoid(l + 1.5), 1)
    expected = [[0.768525, 0.46257, 0.34299, 0.119203, 0.075858], [0.90025, 0.845535, 0.586618, 0.268941, 0.182426]]
    assert_close(older(jax.jit(coral_probability)(logits)), expected)
    expected = [[0.268941, 0.188412, 0.176547, 0.066654, 0.052932], [0.960834, 0.480417, 0.415141, 0.405125, 0.252174]]
    assert_close(older(jax.jit(corn_probability)(logits + 1.5)), expected)


def test_coral_layer_is_coral_pytorch_s() -> None:
    layer = CoralLayer(3, 5, rngs=nnx.Rngs(0))
    assert layer.kernel[...].shape == (3, 1)
    assert_close(layer.bias[...], [1.0, 0.8, 0.6, 0.4, 0.2])  # CoralLayer(3, 6).coral_bias
    layer.kernel[...] = jnp.array([[0.5], [-1.0], [2.0]])
    out = layer(jnp.array([[1.0, 2.0, 3.0], [0.0, -1.0, 0.5]]))
    assert_close(out, [[5.5, 5.3, 5.1, 4.9, 4.7], [3.0, 2.8, 2.6, 2.4, 2.2]])
