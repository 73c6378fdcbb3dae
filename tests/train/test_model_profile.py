"""Costs of backbones, against published counts."""

from typing import Any

import jax
import jax.numpy as jnp
import pytest

from agegender_jax.errors import UserError
from agegender_jax.models import convolution
from agegender_jax.models.costs import count_multiply_adds
from agegender_jax.train.model_profile import profile_model

OUTPUTS = 2 + 8 + 101
"""Logits of the default heads: gender, age group, age."""


def _count(function: Any, *shapes: tuple[int, ...]) -> int:
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return count_multiply_adds(jax.make_jaxpr(function)(*arguments).jaxpr)


# Billions at 224x224 with 1,000 outputs: `_ops` in torchvision's weights (torchvision 0.20); embeddings by the papers.
@pytest.mark.parametrize(
    ("backbone", "embedding", "published"),
    [("alexnet", 4096, 0.714), ("vgg11", 4096, 7.609), ("vgg16", 4096, 15.47), ("resnet18", 512, 1.814)],
)
def test_multiply_adds_are_the_published_ones(backbone: str, embedding: int, published: float) -> None:
    costs = profile_model(backbone, image_size=224, batch_size=32, step_time=False)
    if backbone == "resnet18":  # 11,689,512 with 1,000 outputs (torchvision), 512 x 1,000 and 1,000 of the last layer
        assert costs["backbone_parameters"] == 11_689_512 - 513_000
        assert costs["parameters"] - costs["backbone_parameters"] == 513 * OUTPUTS
    as_published = costs["multiply_adds"] + embedding * (1000 - OUTPUTS)
    assert as_published / 1e9 == pytest.approx(published, abs=0.005 if published > 10 else 0.0005)


def test_convolutions_count_as_their_operation_on_every_backend() -> None:
    def both(x: jax.Array, kernel: jax.Array, single: jax.Array) -> jax.Array:
        x = convolution.conv2d(x, kernel, stride=2, padding=1)
        return convolution.depthwise_conv2d(x, single, padding=1)

    with convolution.direct_form():
        count = _count(both, (2, 8, 8, 3), (3, 3, 3, 5), (3, 3, 1, 5))
    # 2 images of 4x4 outputs with 5 channels, each of 3x3x3 products, then each of 3x3.
    assert count == 2 * 4 * 4 * 5 * 27 + 2 * 4 * 4 * 5 * 9


def test_a_batched_product_counts_each_of_the_batch() -> None:
    assert _count(lambda a, b: jnp.einsum("bij,bjk->bik", a, b), (7, 2, 3), (7, 3, 5)) == 7 * 2 * 3 * 5


def test_what_is_inside_counts_too() -> None:
    @jax.jit
    def square(x: jax.Array) -> jax.Array:
        return x @ x

    def repeated(x: jax.Array) -> jax.Array:
        return jax.lax.scan(lambda carry, _: (jax.checkpoint(square)(carry), None), x, length=4)[0]

    def either(x: jax.Array) -> jax.Array:
        return jax.lax.cond(x[0, 0] > 0, lambda x: x, lambda x: square(square(x)), x)

    assert _count(repeated, (3, 3)) == 4 * 27
    assert _count(either, (3, 3)) == 2 * 27


@pytest.mark.usefixtures("tiny")
def test_a_step_takes_time() -> None:
    costs = profile_model("small_cnn", image_size=32, batch_size=8)
    assert costs["variant"] == "a"
    assert costs["multiply_adds"] == 3 * 4 + 4 * OUTPUTS
    assert costs["backbone_parameters"] == 4 * 4 + 8
    assert 0 < costs["step_seconds"] < 10
    untimed = profile_model("small_cnn", image_size=32, batch_size=8, step_time=False)
    assert untimed["step_seconds"] is None


def test_a_batch_that_cannot_be_dealt_out_is_refused() -> None:
    with pytest.raises(UserError, match=r"config\.train\.batch_size"):
        profile_model("small_cnn", image_size=32, batch_size=9)
