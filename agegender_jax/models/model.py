"""A model: a backbone and its heads."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from agegender_jax.errors import UserError
from agegender_jax.models.backbones import BackboneOptions, build_backbone
from agegender_jax.models.heads import Head, HeadOptions

GENDER_TO_AGE = ("off", "joined", "stopped")
"""Values of `config.model.gender_to_age`, see `Model`."""

DTYPES = ("float32", "bfloat16")
"""Values of `config.model.dtype`: of the arithmetic."""


@dataclasses.dataclass(frozen=True)
class ModelOptions:
    """Options that a model is built with.

    Attributes:
      seed: of the parameters.
      backbone_options: `outputs` is 0 until the heads are built.
      gender_to_age: of `GENDER_TO_AGE`.
      pretrained: `config.model.pretrained`, the weights to start from, or "".
      pretrained_leaky: whether these may come from a run that has seen validation or test examples.
    """

    seed: int
    backbone: str
    backbone_options: BackboneOptions
    gender_to_age: str
    pretrained: str
    pretrained_leaky: bool
    heads: HeadOptions


class Model(nnx.Module):
    """Images in, logits by head out: `[batch, size, size, 3] -> {head: float32 [batch, head.size]}`.

    Args:
      backbone: image in, embedding out. One that consists of several nets has a method `embedding_slice`, which returns
        the slice of the embedding that a head of `Head.only_gender` reads.
      heads: what is predicted from the embedding, by name.
      gender_to_age: `joined` puts the gender's logits beside the embedding that the age heads see (Abdolrashidi et al.
        2020); `stopped` does so without a gradient through them; `off` does not.
    """

    def __init__(self, backbone: Any, heads: Mapping[str, Head], *, gender_to_age: str = "off", rngs: nnx.Rngs) -> None:
        self.backbone = backbone
        joined = gender_to_age != "off"
        self.joined = tuple(name for name, head in heads.items() if head.sees_gender and joined)
        self.stopped = gender_to_age == "stopped"
        if joined and not (self.joined and "gender" in heads):
            raise UserError(
                f"config.model.gender_to_age={gender_to_age!r} needs the head gender and a head of age; set their "
                "weights above 0, or it to off."
            )
        if joined and hasattr(backbone, "embedding_slice"):
            raise UserError(
                f"config.model.gender_to_age={gender_to_age!r} is not for a backbone with a net for either gender; set "
                "it to off."
            )
        sizes = dict.fromkeys(heads, backbone.embedding_size)
        self.slices: tuple[tuple[str, int, int], ...] = ()
        if hasattr(backbone, "embedding_slice"):
            slices = {name: backbone.embedding_slice(head.only_gender) for name, head in heads.items()}
            self.slices = tuple((name, each.start, each.stop) for name, each in slices.items())
            sizes = {name: each.stop - each.start for name, each in slices.items()}
        sizes |= {name: sizes[name] + heads["gender"].size for name in self.joined}
        self.heads = nnx.Dict({name: head.layer(sizes[name], rngs=rngs) for name, head in heads.items()})

    def __call__(self, x: jax.Array, *, train: bool = False, rngs: nnx.Rngs | None = None) -> dict[str, jax.Array]:
        """Returns the logits; `rngs` holds the stream `dropout`, needed where `train`."""
        embedding = self.backbone(x, train=train, rngs=rngs).astype(jnp.float32)
        inputs = dict.fromkeys(self.heads, embedding) | {name: embedding[:, i:j] for name, i, j in self.slices}
        logits = {name: layer(inputs[name]) for name, layer in self.heads.items() if name not in self.joined}
        if self.joined:
            gender = logits["gender"]
            embedding = jnp.concatenate([embedding, jax.lax.stop_gradient(gender) if self.stopped else gender], -1)
            logits |= {name: self.heads[name](embedding) for name in self.joined}
        return logits


def key_streams(seed: int) -> tuple[jax.Array, jax.Array]:
    """Returns the keys that initialisation and training derive theirs from: no key is used twice."""
    init, train = jax.random.split(jax.random.key(seed))
    return init, train


class _Keys:
    """Keys of the stream `params`, counted in Python.

    Counted in an `nnx` variable, as in `nnx.Rngs`, they cost DenseNet-161 most of the time that it takes to be traced.
    """

    def __init__(self, key: jax.Array) -> None:
        self._key, self._count = key, 0

    def params(self) -> jax.Array:
        """Returns the next key."""
        self._count += 1
        return jax.random.fold_in(self._key, self._count - 1)


def build_model(options: ModelOptions, heads: Mapping[str, Head]) -> Model:
    """Builds the model with fresh parameters, a pure function of the seed."""
    rngs: Any = _Keys(key_streams(options.seed)[0])
    outputs = sum(head.size for head in heads.values())
    backbone = build_backbone(options.backbone, dataclasses.replace(options.backbone_options, outputs=outputs), rngs)
    return Model(backbone, heads, gender_to_age=options.gender_to_age, rngs=rngs)


def split_model(model: nnx.Module) -> tuple[Any, Any, Any]:
    """Splits a model into its structure and dictionaries of parameters and statistics: `(graphdef, params, stats)`.

    Plain dictionaries cross the boundary of a jitted function several times faster than `nnx.State` does.
    `nnx.merge(graphdef, params, stats)` is the model again.
    """
    split: Any = nnx.split(model, nnx.Param, nnx.BatchStat)
    graphdef, params, stats = split
    return graphdef, nnx.to_pure_dict(params), nnx.to_pure_dict(stats)


@dataclasses.dataclass(frozen=True)
class ModelDef:
    """A model before it has values, traced once.

    Attributes:
      graphdef: its structure; `nnx.merge(graphdef, params, stats)` is the model.
      params: shapes of the parameters, a tree of `jax.ShapeDtypeStruct`.
      stats: shapes of the normalisation statistics, likewise.
      init: returns fresh `(params, stats)`; jitted, and traced already.
    """

    graphdef: Any
    params: Any
    stats: Any
    init: Callable[[], tuple[Any, Any]]


def define_model(options: ModelOptions, heads: Mapping[str, Head]) -> ModelDef:
    """Traces a model and its initialisation; computes nothing."""
    graphdefs: list[Any] = []

    def init() -> tuple[Any, Any]:
        graphdef, params, stats = split_model(build_model(options, heads))
        graphdefs.append(graphdef)
        return params, stats

    jitted = jax.jit(init)  # which keeps the trace, also where it is called by another jitted function
    params, stats = jax.eval_shape(jitted)
    return ModelDef(graphdefs[0], params, stats, jitted)
