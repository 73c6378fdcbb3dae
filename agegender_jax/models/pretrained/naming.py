"""What our layers are called in the files of other implementations.

Our layers are paths such as `trunk/blocks/3/convs/0/conv` (below `backbone/`). For each there are the names that the
file may use. Names of arrays within a layer are in `TORCH_LEAVES` and `KERAS_LEAVES`.
"""

from collections.abc import Callable, Iterable, Mapping
from itertools import accumulate
from typing import NamedTuple

from agegender_jax.models import densenet, resnet, vgg

TORCH_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
KERAS_LEAVES = {
    "kernel": "kernel",
    "scale": "gamma",
    "bias": "bias",
    "mean": "moving_mean",
    "var": "moving_variance",
}
"""PyTorch's and Keras' names of our arrays; `bias` of a normalisation is Keras' `beta`."""


class Names(NamedTuple):
    """How a backbone's layers are called in a file.

    Attributes:
      layer: from a layer's path to its possible names, none if the file's net has no such layer.
      dense: names of the dense layers before the classifier.
      classifier: names of the last layer.
      grid: edge of the map that the first dense layer sees.
    """

    layer: Callable[[tuple[str, ...]], Iterable[str]]
    dense: tuple[str, ...]
    classifier: tuple[str, ...]
    grid: int = 0


def _alexnet(path: tuple[str, ...]) -> Iterable[str]:
    match path:
        case ("trunk", "convs", i):
            return (f"features.{(0, 3, 6, 8, 10)[int(i)]}",)
        case ("top", "dense", i):
            return (f"classifier.{(1, 4)[int(i)]}",)
    return ()


def _vgg_positions(depth: int, norm: bool) -> list[int]:
    """Index of each convolution in torchvision's `features`, where ReLUs and poolings count too."""
    positions, position = [], 0
    for count in vgg.STAGES[depth]:
        for _ in range(count):
            positions.append(position)
            position += 3 if norm else 2
        position += 1
    return positions


def _vgg(depth: int, norm: bool) -> Callable[[tuple[str, ...]], Iterable[str]]:
    positions = _vgg_positions(depth, norm)

    def layer(path: tuple[str, ...]) -> Iterable[str]:
        match path:
            case ("trunk", "convs", i):
                return (f"features.{positions[int(i)]}",)
            case ("trunk", "norms", i):
                return (f"features.{positions[int(i)] + 1}",)
            case ("top", "dense", i):
                return (f"classifier.{3 * int(i)}", f"pre_logits.fc{int(i) + 1}")
        return ()

    return layer


def _nth(counts: Iterable[int], number: int) -> tuple[int, int]:
    """Group and place within the group of a running number, both from 0.

    >>> _nth((3, 4, 6), 3)
    (1, 0)
    """
    for group, end in enumerate(accumulate(counts := tuple(counts))):
        if number < end:
            return group, number - end + counts[group]
    raise IndexError(number)


def _resnet(depth: int) -> Callable[[tuple[str, ...]], Iterable[str]]:
    counts = resnet.DEPTHS[depth][1]

    def layer(path: tuple[str, ...]) -> Iterable[str]:
        match path:
            case ("trunk", "stem", part):
                return ({"conv": "conv1", "norm": "bn1"}[part],)
            case ("trunk", "blocks", number, *rest):
                stage, block = _nth(counts, int(number))
                start = f"layer{stage + 1}.{block}"
                if rest[0] == "shortcut":
                    return (f"{start}.downsample.{('conv', 'norm').index(rest[1])}",)
                return (f"{start}.{'conv' if rest[2] == 'conv' else 'bn'}{int(rest[1]) + 1}",)
        return ()

    return layer


def _densenet(depth: int) -> Callable[[tuple[str, ...]], Iterable[str]]:
    counts = densenet.DEPTHS[depth][2]

    def layer(path: tuple[str, ...]) -> Iterable[str]:
        match path:
            case ("trunk", "stem"):
                return ("features.conv0",)
            case ("trunk", "stem_norm"):
                return ("features.norm0",)
            case ("trunk", "last_norm"):
                return (f"features.norm{len(counts) + 1}",)
            case ("trunk", "layers", number, half, part):
                block, place = _nth(counts, int(number))
                if half == "transition":
                    return (f"features.transition{block + 1}.{part}",)
                start = f"features.denseblock{block + 1}.denselayer{place + 1}.{part}"
                order = 1 if half == "reduce" else 2
                return (f"{start}{order}", f"{start}.{order}")  # the second is torchvision's before 2018
        return ()

    return layer


def _efficientnet_lite(path: tuple[str, ...]) -> Iterable[str]:
    match path:
        case ("trunk", "stem"):
            return ("_conv_stem",)
        case ("trunk", "stem_norm"):
            return ("_bn0",)
        case ("trunk", "last"):
            return ("_conv_head",)
        case ("trunk", "last_norm"):
            return ("_bn1",)
        case ("trunk", "blocks", number, part):
            names = {
                "expand": "_expand_conv",
                "expand_norm": "_bn0",
                "depthwise": "_depthwise_conv",
                "depthwise_norm": "_bn1",
                "project": "_project_conv",
                "project_norm": "_bn2",
            }
            return (f"_blocks.{number}.{names[part]}",)
    return ()


def _keras_vgg(depth: int) -> Callable[[tuple[str, ...]], Iterable[str]]:
    def layer(path: tuple[str, ...]) -> Iterable[str]:
        match path:
            case ("trunk", "convs", number):
                stage, place = _nth(vgg.STAGES[depth], int(number))
                return (f"block{stage + 1}_conv{place + 1}",)
            case ("top", "dense", number):
                return (f"fc{int(number) + 1}",)
        return ()

    return layer


def _keras_resnet(depth: int) -> Callable[[tuple[str, ...]], Iterable[str]]:
    counts = resnet.DEPTHS[depth][1]

    def layer(path: tuple[str, ...]) -> Iterable[str]:
        match path:
            case ("trunk", "stem", part):
                return (f"conv1_{_keras_part(part)}",)
            case ("trunk", "blocks", number, *rest):
                stage, block = _nth(counts, int(number))
                place = 0 if rest[0] == "shortcut" else int(rest[1]) + 1
                return (f"conv{stage + 2}_block{block + 1}_{place}_{_keras_part(rest[-1])}",)
        return ()

    return layer


def _keras_part(part: str) -> str:
    return {"conv": "conv", "norm": "bn"}[part]


_VGG_DENSE = ("classifier.0", "classifier.3", "pre_logits.fc1", "pre_logits.fc2")
_VGG_CLASSIFIER = ("classifier.6", "head.fc")

TORCH: Mapping[str, Names] = {
    "alexnet": Names(_alexnet, ("classifier.1", "classifier.4"), ("classifier.6",), 6),
    "vgg11": Names(_vgg(11, False), _VGG_DENSE, _VGG_CLASSIFIER, 7),
    "vgg11_bn": Names(_vgg(11, True), _VGG_DENSE, _VGG_CLASSIFIER, 7),
    "vgg16": Names(_vgg(16, False), _VGG_DENSE, _VGG_CLASSIFIER, 7),
    "vgg16_bn": Names(_vgg(16, True), _VGG_DENSE, _VGG_CLASSIFIER, 7),
    "resnet18": Names(_resnet(18), (), ("fc",)),
    "resnet34": Names(_resnet(34), (), ("fc",)),
    "resnet50": Names(_resnet(50), (), ("fc",)),
    "resnet101": Names(_resnet(101), (), ("fc",)),
    "densenet161": Names(_densenet(161), (), ("classifier",)),
    "efficientnet_lite0": Names(_efficientnet_lite, (), ("_fc",)),
}
"""torchvision's names, and timm's where they differ, by our name of the backbone."""

KERAS: Mapping[str, Names] = {
    "vgg16": Names(_keras_vgg(16), ("fc1", "fc2"), ("predictions",), 7),
    "resnet50": Names(_keras_resnet(50), (), ("predictions",)),
    "resnet101": Names(_keras_resnet(101), (), ("predictions",)),
}
"""Names in `keras.applications`, by our name of the backbone."""
