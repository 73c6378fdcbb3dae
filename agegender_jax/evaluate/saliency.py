"""Where in its input a prediction comes from: class activation maps of any backbone, and attention maps.

A class activation map is of a backbone's last convolutional map A, `[h, w, channels]`, and of a number S that the model
computes, such as the logit of a class: it is large where A speaks for S. It is as coarse as A (7x7 of a ResNet at 224
pixels, 2x2 at 64), and shows what raises S alone; what lowers it is cut off.

Grad-CAM and Grad-CAM++ weigh whole channels. That is right where A is averaged; where a dense layer reads each place
of A for itself, as in `small_cnn`, VGG and AlexNet, their maps may be empty or light up places that have no part in S
(Draelos & Carin 2020, "HiResCAM"). LayerCAM weighs each place, and is the default.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from agegender_jax.data.loader import ArrayLoader
from agegender_jax.errors import UserError
from agegender_jax.evaluate.loaded import LoadedModel
from agegender_jax.mesh import by_batch, put
from agegender_jax.models.backbones.attention import attention_trunk
from agegender_jax.models.heads import AgeYearsHead, ClassHead
from agegender_jax.models.layers import intercept_features
from agegender_jax.models.losses import ORDINAL, years
from agegender_jax.progress import progress_bar


def grad_cam(activation: jax.Array, gradient: jax.Array) -> jax.Array:
    """Weighs channels by the mean of their gradient (Selvaraju et al. 2017, eq. 1 and 2 before the ReLU).

    Args:
      activation: A, `[batch, h, w, channels]`.
      gradient: dS / dA, of the same shape.

    Returns:
      `[batch, h, w]`, of either sign.
    """
    return (gradient.mean((1, 2), keepdims=True) * activation).sum(-1)


def grad_cam_pp(activation: jax.Array, gradient: jax.Array) -> jax.Array:
    """Weighs channels by positive gradients, so that small regions count as large ones (Chattopadhyay et al. 2018).

    Their weight of a channel is the sum over places of alpha * relu(g), alpha = g^2 / (2 g^2 + g^3 sum(A)), where
    Y = exp(S) (eq. 5 and 19). g^2 cancels, and where g is not above 0 nothing is left. Two factors of a whole map are
    left out: exp(S), and the number of places, as the mean takes the sum's place. Arguments and result are those of
    `grad_cam`; the activations are 0 and above.
    """
    positive = jax.nn.relu(gradient)
    weight = (positive / (2 + positive * activation.sum((1, 2), keepdims=True))).mean((1, 2), keepdims=True)
    return (weight * activation).sum(-1)


def layer_cam(activation: jax.Array, gradient: jax.Array) -> jax.Array:
    """Weighs every place of every channel by its own gradient, where that is positive (Jiang et al. 2021, eq. 5 to 7).

    Arguments and result are those of `grad_cam`.
    """
    return (jax.nn.relu(gradient) * activation).sum(-1)


CAMS: Mapping[str, Callable[[jax.Array, jax.Array], jax.Array]] = {
    "grad_cam": grad_cam,
    "grad_cam_pp": grad_cam_pp,
    "layer_cam": layer_cam,
}

METHODS = (*CAMS, "attention")
"""What can be shown; attention only of a backbone that has it."""


def class_activation(
    model: Any, images: jax.Array, score: Callable[[Any], jax.Array], method: str = "layer_cam"
) -> jax.Array:
    """Computes a class activation map of each image.

    Of a backbone of several nets the maps are added up before what is negative is cut off, as channels of one map would
    be; smaller ones are enlarged and keep their sum. Nets that have no part in S have no part in the map.

    `model` is called with `images`, float32 `[batch, size, size, 3]`, and its backbone calls `layers.tap_features`;
    `score` gives S, float32 `[batch]`, of what the model returns.

    Returns:
      float32 `[batch, h, w]`, 0 and above; not normalised.

    Raises:
      UserError: the backbone has no map.
    """
    taps: list[jax.Array] = []

    def keep(x: jax.Array) -> jax.Array:
        taps.append(x)
        return x

    with intercept_features(keep):
        model(images)
    if not taps:
        raise UserError(
            "This backbone has no map to show; pass its last convolutional map through `layers.tap_features`."
        )

    def total(activations: Sequence[jax.Array]) -> jax.Array:
        given = iter(activations)
        with intercept_features(lambda x: next(given).astype(x.dtype)):
            return score(model(images)).sum()  # no score depends on another image, so each has its own gradient

    activations = [x.astype(jnp.float32) for x in taps]
    maps = list(map(CAMS[method], activations, jax.grad(total)(activations)))
    largest = max((each.shape for each in maps), key=math.prod)
    shares = [math.prod(each.shape) / math.prod(largest) for each in maps]
    enlarged = [share * jax.image.resize(each, largest, "linear") for share, each in zip(shares, maps, strict=True)]
    return jax.nn.relu(sum(enlarged[1:], start=enlarged[0]))


def score(head: ClassHead | AgeYearsHead, logits: jax.Array, classes: jax.Array) -> jax.Array:
    """Returns the number that a map explains, float32 `[batch]`.

    Of exclusive classes that is the logit of one; of a regression the years. A distribution over ages has its
    expectation in years, and so have classes that are learned as thresholds theirs: these have no logit, and where a
    distribution is all one latent number wide the probability of the class in its middle has no slope.

    `logits` are `[batch, head.size]`; `classes`, int32 `[batch]`, are of use for exclusive classes alone.
    """
    if has_logits(head):
        return jnp.take_along_axis(logits, classes[:, None], -1)[:, 0]
    distribution = head.distribution(logits)
    if distribution.shape[-1] == 1:
        return years(logits)  # which has a slope below 0 too
    return distribution @ jnp.arange(distribution.shape[-1], dtype=jnp.float32)


def has_logits(head: ClassHead | AgeYearsHead) -> bool:
    """Returns whether each class of a head has a logit of its own."""
    return isinstance(head, ClassHead) and head.loss_name not in ORDINAL


@dataclasses.dataclass(frozen=True)
class Explained:
    """Predictions of some examples, and where they come from.

    Attributes:
      predictions: of the head, arrays `[n, ...]`.
      classes: int32 `[n]`, the class that each map is of; None where it is of no class.
      maps: float32 `[n, h, w]`, 0 and above: one, or with `attention` one a stage.
    """

    predictions: Mapping[str, np.ndarray]
    classes: np.ndarray | None
    maps: list[np.ndarray]


class Explainer:
    """Computes predictions of one head of a finished run and their maps; it needs no dataset.

    Where the run's metrics average over each image and its mirror image, so do predictions and maps. The predictions
    are the evaluator's, to the last bit.

    `head` is the name of the head to explain, None the first; `class_name` the class that the maps are of, None the
    predicted one of each example.

    Raises:
      UserError: there is no such method, head or class, or the backbone has no attention.
    """

    def __init__(
        self, model: LoadedModel, method: str = "layer_cam", head: str | None = None, class_name: str | None = None
    ) -> None:
        if method not in METHODS:
            raise UserError(f"There is no method {method!r}; choose one of: {', '.join(METHODS)}.")
        if head not in (None, *model.heads):
            raise UserError(f"{model.run.directory} has no head {head!r}; choose one of: {', '.join(model.heads)}.")
        self.model, self.method, self._options = model, method, model.run.recipe.evaluate
        self.head_name = head or next(iter(model.heads))
        self.head: Any = model.heads[self.head_name]
        self._class = None if class_name is None else self._class_number(class_name)
        if method == "attention" and attention_trunk(nnx.merge(model.graphdef, *model.model_state).backbone) is None:
            raise UserError(
                f"{model.run.directory} has no attention: its backbone is {model.run.recipe.model.backbone}; give a "
                "run of residual_attention or attention_ensemble, or choose another --method."
            )
        self._mean_maps = jax.jit(self._over_views)

    def __call__(self, content: np.ndarray, *, progress: bool = False) -> Explained:
        """Computes predictions and maps of at least one example that the preprocessor decoded, `[n, ...]`."""
        mesh, count = self.model.mesh, len(content)
        devices, sharding = mesh.shape["data"], by_batch(mesh)
        size = -(-min(self._options.batch_size, count) // devices) * devices
        maps: list[list[np.ndarray]] = []
        of_class = has_logits(self.head)
        with jax.set_mesh(mesh), progress_bar(count, "Explaining", shown=progress) as bar:
            distributions = self.model.distributions(ArrayLoader(content, mesh), np.arange(count))
            predictions = self.head.decode(distributions[self.head_name])
            classes = np.full(count, self._class or 0, np.int32)
            if of_class and self._class is None:
                classes = predictions["class"]
            for start in range(0, count, size):
                rows = np.minimum(np.arange(start, start + size), count - 1)
                batch = put(content[rows], sharding), put(classes[rows], sharding)
                kept = min(size, count - start)
                stages = jax.device_get(self._mean_maps(self.model.model_state, *batch))
                maps.append([stage[:kept] for stage in stages])
                bar.update(kept)
        stages = [np.concatenate(stage) for stage in zip(*maps, strict=True)]
        return Explained(predictions, classes if of_class and self.method in CAMS else None, stages)

    def _over_views(self, model_state: Any, content: jax.Array, classes: jax.Array) -> list[jax.Array]:
        """Returns the mean of the maps over the views of the examples."""
        model = nnx.merge(self.model.graphdef, *model_state)
        views = []
        for mirrored in (False, True) if self._options.flip else (False,):
            images = self.model.preprocessor.eval_transform(content, jnp.array(mirrored))
            maps = self._maps(model, images, classes)
            views.append([x[:, :, ::-1] for x in maps] if mirrored else maps)
        return jax.tree.map(lambda *each: jnp.stack(each).mean(0), *views)

    def _maps(self, model: Any, images: jax.Array, classes: jax.Array) -> list[jax.Array]:
        if self.method == "attention":
            trunk = attention_trunk(model.backbone)
            assert trunk is not None
            masks: list[jax.Array] = []
            trunk(images, masks=masks)
            return [mask.mean(-1) for mask in masks]
        number = partial(score, self.head, classes=classes)
        return [class_activation(model, images, lambda outputs: number(outputs[self.head_name]), self.method)]

    def _class_number(self, class_name: str) -> int:
        if self.method not in CAMS:
            raise UserError(f"Attention is not of a class; leave --class={class_name} out, or choose another --method.")
        if not has_logits(self.head):
            raise UserError(
                f"The head {self.head_name} predicts a number, whose maps show what raises it and are of no class; "
                f"leave --class={class_name} out."
            )
        names = self.head.names
        if class_name not in names:
            raise UserError(
                f"The head {self.head_name} has no class {class_name!r}; choose one of: {', '.join(names)}."
            )
        return names.index(class_name)
