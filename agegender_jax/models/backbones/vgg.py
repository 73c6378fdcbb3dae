"""VGG (Simonyan & Zisserman 2015): 3x3 convolutions in five stages, each ended by 2x2 pooling.

Totals with the dense top at 224x224: VGG11 132,863,336 and VGG16 138,357,544 with 1,000 outputs; VGG16's convolutions
alone 14,714,688.
"""

import itertools
from collections.abc import Iterable
from functools import partial

import jax
from flax import nnx

from agegender_jax.models import layers, pooling
from agegender_jax.models.registry import CAFFE, BackboneOptions, BackboneSpec, WeightFormat, register, split_index

STAGES = {11: (1, 1, 2, 2, 2), 16: (2, 2, 3, 3, 3)}
"""Convolutions in each stage, by depth (configurations A and D of the paper)."""

published_init = nnx.initializers.glorot_normal()
"""Of every layer; the paper's remedy (section 3.1) for initialising deep nets by shallow ones."""

WIDTHS = (64, 128, 256, 512, 512)


class VGG(nnx.Module):
    """VGG's convolutions: `[batch, size, size, 3] -> [batch, size / 32, size / 32, 512 * width]`.

    The default initialisation is He et al.'s of the backward pass, as torchvision's. `norm` adds batch normalisation
    before each ReLU, which the paper predates and without which deep ones learn slowly. `depth` is a key of `STAGES`.
    """

    def __init__(self, depth: int, norm: bool, options: BackboneOptions, rngs: nnx.Rngs) -> None:
        self.stages, dtype = STAGES[depth], options.dtype
        kernel_init = published_init if options.init == "published" else layers.he_normal_out
        convs, norms, channels = [], [], 3
        for count, filters in zip(self.stages, (max(1, round(n * options.width)) for n in WIDTHS), strict=True):
            for _ in range(count):
                convs.append(layers.Conv(channels, filters, padding=1, kernel_init=kernel_init, dtype=dtype, rngs=rngs))
                channels = filters
                if norm:
                    norms.append(layers.BatchNorm(filters, dtype=dtype))
        self.convs, self.norms = nnx.List(convs), nnx.List(norms)

    def __call__(self, x: jax.Array, *, train: bool = False, rngs: nnx.Rngs | None = None) -> jax.Array:
        number = 0
        for count in self.stages:
            for _ in range(count):
                x = self.convs[number](x)
                if len(self.norms):
                    x = self.norms[number](x, train=train)
                x = nnx.relu(x)
                number += 1
            if number == len(self.convs):
                x = layers.tap_features(x)
            x = layers.max_pool(x)
        return x


def build(depth: int, norm: bool, options: BackboneOptions, rngs: nnx.Rngs) -> pooling.Backbone:
    """Builds a VGG with the pooling that the options name."""
    dense = partial(
        pooling.MLPPool,
        grid=7,
        widths=(max(1, round(4096 * options.width)),) * 2,
        kernel_init=published_init if options.init == "published" else layers.he_normal,
    )
    return pooling.with_pooling(VGG(depth, norm, options, rngs), options, dense, rngs=rngs)


def _torchvision(depth: int, norm: bool, path: tuple[str, ...]) -> Iterable[str]:
    """In torchvision's `features`, ReLUs, normalisations and poolings count too."""
    match path:
        case ("trunk", "convs" | "norms" as part, i):
            stage, _ = split_index(STAGES[depth], int(i))
            return (f"features.{int(i) * (3 if norm else 2) + stage + (part == 'norms')}",)
        case ("top", "dense", i):
            return (f"classifier.{3 * int(i)}", f"pre_logits.fc{int(i) + 1}")
    return ()


def _keras(path: tuple[str, ...]) -> Iterable[str]:
    match path:
        case ("trunk", "convs", i):
            stage, place = split_index(STAGES[16], int(i))
            return (f"block{stage + 1}_conv{place + 1}",)
        case ("top", "dense", i):
            return (f"fc{int(i) + 1}",)
    return ()


for _depth, _norm in itertools.product(STAGES, (False, True)):
    _name = f"vgg{_depth}_bn" if _norm else f"vgg{_depth}"
    register(
        BackboneSpec(
            name=_name,
            build=partial(build, _depth, _norm),
            options=("width",),
            dropout_poolings=("default", "average"),
            published_inits=("",),
            torch=WeightFormat(
                layer_names=partial(_torchvision, _depth, _norm),
                dense=("classifier.0", "classifier.3", "pre_logits.fc1", "pre_logits.fc2"),
                classifier=("classifier.6", "head.fc"),
                grid=7,
            ),
            keras=WeightFormat(
                layer_names=_keras, dense=("fc1", "fc2"), classifier=("predictions",), grid=7, normalization=CAFFE
            )
            if _name == "vgg16"
            else None,
            hub=f"timm/{_name}.tv_in1k",
        )
    )
