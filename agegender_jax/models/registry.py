"""The registry of backbones: what the file of a backbone declares, and how a backbone is built by its name.

A backbone is one file in `agegender_jax/models/backbones/`: the net, and a `BackboneSpec` of it that is given to
`register`. Every list of backbones, variants and pretrained weights is derived from `BACKBONES`.
"""

import dataclasses
import importlib
import pkgutil
from collections.abc import Callable, Collection, Iterable
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from agegender_jax.errors import UserError

Normalization = tuple[tuple[float, float, float], tuple[float, float, float]]
"""Mean and standard deviation of red, green and blue, as fractions of full scale."""

IMAGENET: Normalization = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""What torchvision and timm (its `tv_in1k`) trained with."""

CAFFE: Normalization = ((123.68 / 255, 116.779 / 255, 103.939 / 255), (1 / 255, 1 / 255, 1 / 255))
"""Keras' VGG and ResNet: 0 to 255 less the mean. They see blue first; loading reverses their first kernel."""

POOLINGS = ("default", "average", "max", "max_literal")
"""Values of `config.model.pooling`: how `pooling.with_pooling` makes an embedding of a feature map; `default` is the
backbone's own."""

INITS = ("default", "published")
"""Values of `config.model.init`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class BackboneOptions:
    """Options that a backbone is built with: those of `config.model`, and what it has to fit.

    Attributes:
      image_size: edge of the images, pixels.
      outputs: logits of all heads together.
      variant: of `BackboneSpec.variants`; "" is the first.
      width: factor of the number of channels.
      pooling: of `POOLINGS`.
      init: of `INITS`.
      dropout: rate at the dense layers, or behind average pooling.
      spatial_dropout: rate of whole channels.
      drop_path: rate of whole residual branches (stochastic depth).
      dtype: of the arithmetic; parameters and statistics are float32.
    """

    image_size: int
    outputs: int
    variant: str = ""
    width: float = 1.0
    pooling: str = "default"
    init: str = "default"
    dropout: float = 0.5
    spatial_dropout: float = 0.15
    drop_path: float = 0.0
    dtype: DTypeLike = jnp.float32


@dataclasses.dataclass(frozen=True, kw_only=True)
class WeightFormat:
    """How the layers of a backbone are named in the weight files of another library.

    Attributes:
      layer_names: the names that a file may use for one of our layers, none if the library's net does not have it. Our
        layer is a path below `backbone/`, such as `("trunk", "blocks", "3", "convs", "0", "conv")`.
      dense: names of the dense layers before the classifier.
      classifier: names of the last layer, which the heads replace.
      grid: edge, in pixels, of the feature map that the first dense layer sees.
      variant: of the backbone, that the files are of; "" if there is one only.
      normalization: of the input, that the weights were trained with.
    """

    layer_names: Callable[[tuple[str, ...]], Iterable[str]]
    dense: tuple[str, ...] = ()
    classifier: tuple[str, ...]
    grid: int = 0
    variant: str = ""
    normalization: Normalization = IMAGENET


@dataclasses.dataclass(frozen=True, kw_only=True)
class BackboneSpec:
    """What the registry knows of a backbone.

    Attributes:
      name: value of `config.model.backbone`.
      build: makes the net with fresh parameters from its options and the stream `params`: a module
        `[batch, image_size, image_size, 3] -> [batch, embedding_size]` with the attribute `embedding_size`.
      variants: values of `config.model.variant`, the first of which is the default.
      options: fields of `BackboneOptions` that `build` reads, of `width`, `spatial_dropout` and `drop_path`.
      poolings: values of `config.model.pooling`.
      dropout_poolings: those of `poolings` with which `build` reads `dropout`.
      published_inits: variants ("" if there are none) with a published initialisation that is not the default.
      torch: names in the files of torchvision and timm, or None if none are known.
      keras: names in the files of `keras.applications`, or None.
      hub: repository of published weights on the Hugging Face hub, `OWNER/NAME`, or "".
      package: module of an installed package with published weights, and the file within it; or None.
    """

    name: str
    build: Callable[[BackboneOptions, nnx.Rngs], Any]
    variants: Collection[str] = ()
    options: Collection[str] = ()
    poolings: Collection[str] = POOLINGS
    dropout_poolings: Collection[str] = ()
    published_inits: Collection[str] = ()
    torch: WeightFormat | None = None
    keras: WeightFormat | None = None
    hub: str = ""
    package: tuple[str, str] | None = None

    def variant(self, name: str = "") -> str:
        """Returns the variant of this name, the default for "", or "" without variants; raises UserError for others."""
        if name and name not in self.variants:
            known = f"choose one of: {', '.join(self.variants)}" if self.variants else "leave it empty"
            raise UserError(f"config.model.variant={name!r} is not a variant of {self.name}; {known}.")
        return name or next(iter(self.variants), "")

    def check(self, options: BackboneOptions) -> None:
        """Raises UserError where there is no such variant, or an option that is not its default has no effect."""
        variant = self.variant(options.variant)
        has_effect = {
            "variant": bool(self.variants),
            "pooling": len(self.poolings) > 1,
            "dropout": options.pooling in self.dropout_poolings,
            "init": variant in self.published_inits,
            **dict.fromkeys(("image_size", "outputs", "dtype", *self.options), True),
        }
        for field in dataclasses.fields(options):
            value = getattr(options, field.name)
            if not has_effect.get(field.name) and value != field.default:
                net = f"{self.name} {variant}".rstrip()
                raise UserError(
                    f"config.model.{field.name}={value!r} has no effect on the backbone {net} with "
                    f"config.model.pooling={options.pooling!r}; leave it at {field.default!r}."
                )


BACKBONES: dict[str, BackboneSpec] = {}
"""Specs by name. Import it from `agegender_jax.models.backbones`, which registers them all."""


def register(spec: BackboneSpec) -> None:
    """Adds a backbone to `BACKBONES`; raises ValueError where the name is taken."""
    if spec.name in BACKBONES:
        raise ValueError(f"A backbone {spec.name!r} is already registered.")
    BACKBONES[spec.name] = spec


def import_modules(paths: Iterable[str], package: str) -> None:
    """Imports every module of a package, so that each registers what it holds."""
    for module in pkgutil.iter_modules(paths, f"{package}."):
        importlib.import_module(module.name)


def find_backbone(name: str) -> BackboneSpec:
    """Returns the spec of a backbone; raises UserError where there is none of this name."""
    if name not in BACKBONES:
        raise UserError(f"config.model.backbone={name!r} is not known; choose one of: {', '.join(BACKBONES)}.")
    return BACKBONES[name]


def build_backbone(name: str, options: BackboneOptions, rngs: nnx.Rngs) -> Any:
    """Builds a backbone with fresh parameters, as `BackboneSpec.build` does; `options.variant` may be "".

    Raises:
      UserError: there is no such backbone or variant, an option has no effect, or the image is too small.
    """
    spec = find_backbone(name)
    spec.check(options)
    return spec.build(dataclasses.replace(options, variant=spec.variant(options.variant)), rngs)


def split_index(counts: Iterable[int], number: int) -> tuple[int, int]:
    """Converts a running number to its group and its place within the group, all from 0.

    >>> split_index((3, 4, 6), 3)
    (1, 0)
    """
    for group, count in enumerate(counts):
        if number < count:
            return group, number
        number -= count
    raise IndexError(number)
