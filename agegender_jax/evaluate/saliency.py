"""Where in its input a model finds what it says: class activation maps of any backbone, and attention maps.

A class activation map is of a backbone's last convolutional map A, `[h, w, channels]`, and of a number S that the model
says, such as the logit of a class: it is large where A speaks for S. It is as coarse as A is (7x7 of a ResNet at 224
pixels, 2x2 at 64), and shows what raises S alone; what lowers it is cut off.

Grad-CAM and Grad-CAM++ weigh whole channels. That is right where A is averaged; where a dense layer reads each place
of A for itself, as in `small_cnn`, VGG and AlexNet, their maps may be empty or light up places that have no part in S
(Draelos & Carin 2020, "HiResCAM"). LayerCAM weighs each place, and is the default.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
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
    """Channels weighed by the mean of their gradient (Selvaraju et al. 2017, eq. 1 and 2 before the ReLU).

    Args:
      activation: A, `[batch, h, w, channels]`.
      gradient: dS / dA, of the same shape.

    Returns:
      `[batch, h, w]`, of either sign.
    """
    return (gradient.mean((1, 2), keepdims=True) * activation).sum(-1)


def grad_cam_pp(activation: jax.Array, gradient: jax.Array) -> jax.Array:
    """Channels weighed by positive gradients, so that small regions count as large ones (Chattopadhyay et al. 2018).

    Their weight of a channel is the sum over places of alpha * relu(g), alpha = g^2 / (2 g^2 + g^3 sum(A)), where
    Y = exp(S) (eq. 5 and 19). g^2 cancels, and where g is not above 0 nothing is left. Two factors of a whole map are
    left out: exp(S), and the number of places, as the mean takes the sum's place. Arguments and result are those of
    `grad_cam`; the activations are 0 and above.
    """
    positive = jax.nn.relu(gradient)
    weight = (positive / (2 + positive * activation.sum((1, 2), keepdims=True))).mean((1, 2), keepdims=True)
    return (weight * activation).sum(-1)


def layer_cam(activation: jax.Array, gradient: jax.Array) -> jax.Array:
    """Every place of every channel weighed by its own gradient, where that is positive (Jiang et al. 2021, eq. 5 to 7).

    Arguments and result are those of `grad_cam`.
    """
    return (jax.nn.relu(gradient) * activation).sum(-1)


CAMS: Mapping[str, Callable[[jax.Array, jax.Array], jax.Array]] = {
    "grad_cam": grad_cam,
    "grad_cam_pp": grad_cam_pp,
    "layer_cam": layer_cam,
}
"""Class activation maps by name."""

METHODS = (*CAMS, "attention")
"""What can be shown; attention only of a backbone that has it."""


def class_activation(
    model: Any, images: jax.Array, score: Callable[[Any], jax.Array], method: str = "layer_cam"
) -> jax.Array:
    """A class activation map of each image.

    Of a backbone of several nets the maps are added up before what is negative is cut off, as channels of one map would
    be; smaller ones are enlarged and keep their sum. Nets that have no part in S have no part in the map.

    Args:
      model: called with `images`; its backbone calls `layers.tap_features`.
      images: float32 `[batch, size, size, 3]`.
      score: S, float32 `[batch]`, from what the model returns.
      method: of `CAMS`.

    Returns:
      float32 `[batch, h, w]`, 0 and above; not normalised.

    Raises:
      UserError: the backbone has no map.
    """
    found: list[jax.Array] = []

    def keep(x: jax.Array) -> jax.Array:
        found.append(x)
        return x

    with intercept_features(keep):
        model(images)
    if not found:
        raise UserError(
            "This backbone has no map to show; pass its last convolutional map through `layers.tap_features`."
        )

    def total(activations: Sequence[jax.Array]) -> jax.Array:
        given = iter(activations)
        with intercept_features(lambda x: next(given).astype(x.dtype)):
            return score(model(images)).sum()  # no score depends on another image, so each has its own gradient

    activations = [x.astype(jnp.float32) for x in found]
    parts = list(map(CAMS[method], activations, jax.grad(total)(activations)))
    largest = max((part.shape for part in parts), key=math.prod)
    shares = [math.prod(part.shape) / math.prod(largest) for part in parts]
    enlarged = [share * jax.image.resize(part, largest, "linear") for share, part in zip(shares, parts, strict=True)]
    return jax.nn.relu(sum(enlarged[1:], start=enlarged[0]))


def score(head: ClassHead | AgeYearsHead, logits: jax.Array, classes: jax.Array) -> jax.Array:
    """The number that a map explains, float32 `[batch]`.

    Of exclusive classes that is the logit of one; of a regression the years. A distribution over ages has its
    expectation in years, and so have classes that are learned as thresholds theirs: these have no logit, and where a
    distribution is all one latent number wide the probability of the class in its middle has no slope.

    Args:
      head: whose logits they are.
      logits: `[batch, head.size]`.
      classes: int32 `[batch]`, which class; of no use but for exclusive classes.
    """
    if has_logits(head):
        return jnp.take_along_axis(logits, classes[:, None], -1)[:, 0]
    distribution = head.distribution(logits)
    if distribution.shape[-1] == 1:
        return years(logits)  # which has a slope below 0 too
    return distribution @ jnp.arange(distribution.shape[-1], dtype=jnp.float32)


def has_logits(head: ClassHead | AgeYearsHead) -> bool:
    """Whether each class of a head has a logit of its own."""
    return isinstance(head, ClassHead) and head.loss_name not in ORDINAL


@dataclasses.dataclass(frozen=True)
class Explained:
    """What a run says of some examples, and why.

    Attributes:
      answers: of the head, arrays `[n, ...]`.
      classes: int32 `[n]`, the class that each map is of; None where it is of no class.
      maps: float32 `[n, h, w]`, 0 and above: one, or with `attention` one a stage.
    """

    answers: Mapping[str, np.ndarray]
    classes: np.ndarray | None
    maps: list[np.ndarray]


class Explainer:
    """A finished run, asked for one thing that it says and where it sees it; it needs no dataset.

    Where the run's figures are averaged over each picture and its mirror image, so are answers and maps. The answers
    are the evaluator's, to the last bit.

    Args:
      model: the run.
      method: of `METHODS`.
      head: name of the head to explain; None is the first.
      class_name: the class that the maps are of; None is the answered one of each example.

    Attributes:
      model: the run.
      method: as given.
      head_name: name of the head.
      head: that is explained.

    Raises:
      UserError: the run has no such thing to show.
    """

    def __init__(
        self, model: LoadedModel, method: str = "layer_cam", head: str | None = None, class_name: str | None = None
    ) -> None:
        if method not in METHODS:
            raise UserError(f"There is no method {method!r}; choose one of: {', '.join(METHODS)}.")
        self.model, self.method, self._options = model, method, model.run.recipe.evaluate
        self.head_name, self.head = _named(model.heads, head, model)
        self._class = _class_number(self.head_name, self.head, class_name, method)
        if method == "attention":
            _check_attention(model)
        self._look = self._over_views(self._maps)

    def __call__(self, content: np.ndarray, *, progress: bool = False) -> Explained:
        """Answers and maps of some examples, at least one.

        Args:
          content: decoded by the preprocessor, `[n, *preprocessor.shape]`.
          progress: whether to draw a progress bar on a terminal.
        """
        mesh = self.model.mesh
        devices, sharding = mesh.shape["data"], by_batch(mesh)
        size = -(-min(self._options.batch_size, len(content)) // devices) * devices
        maps: list[list[np.ndarray]] = []
        bar = progress_bar(len(content), "Explaining", shown=progress)
        with jax.set_mesh(mesh), bar:
            distributions = self.model.distributions(ArrayLoader(content, mesh), np.arange(len(content)))
            answers = self.head.decode(distributions[self.head_name])
            classes = self._classes(answers, len(content))
            for start in range(0, len(content), size):
                some = np.minimum(np.arange(start, start + size), len(content) - 1)
                batch = put(content[some], sharding), put(classes[some], sharding)
                count = min(size, len(content) - start)
                maps.append([stage[:count] for stage in jax.device_get(self._look(self.model.model_state, *batch))])
                bar.update(count)
        stages = [np.concatenate(stage) for stage in zip(*maps, strict=True)]
        return Explained(answers, classes if self.of_a_class else None, stages)

    @property
    def of_a_class(self) -> bool:
        """Whether the maps are of a class, and not of an age or of whatever is asked."""
        return self.method in CAMS and has_logits(self.head)

    def _over_views(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The mean of the maps that a function of model and images returns, over the views of the examples."""
        views = (False, True) if self._options.flip else (False,)

        def mean(model_state: Any, content: jax.Array, *rest: jax.Array) -> Any:
            model = nnx.merge(self.model.graphdef, *model_state)
            found = []
            for mirrored in views:
                view = function(model, self.model.preprocessor.eval_transform(content, jnp.array(mirrored)), *rest)
                found.append([x[:, :, ::-1] for x in view] if mirrored else view)
            return jax.tree.map(lambda *each: jnp.stack(each).mean(0), *found)

        return jax.jit(mean)

    def _maps(self, model: Any, images: jax.Array, classes: jax.Array) -> list[jax.Array]:
        if self.method == "attention":
            trunk = attention_trunk(model.backbone)
            assert trunk is not None  # see _check_attention
            masks: list[jax.Array] = []
            trunk(images, masks=masks)
            return [mask.mean(-1) for mask in masks]

        def of(outputs: Mapping[str, jax.Array]) -> jax.Array:
            return score(self.head, outputs[self.head_name], classes)

        return [class_activation(model, images, of, self.method)]

    def _classes(self, answers: Mapping[str, np.ndarray], size: int) -> np.ndarray:
        """The class that each map shall be of, int32 `[size]`; 0 where it is of none."""
        if not has_logits(self.head):
            return np.zeros(size, np.int32)
        return answers["class"] if self._class is None else np.full(size, self._class, np.int32)


def _named(heads: Mapping[str, Any], name: str | None, model: LoadedModel) -> tuple[str, Any]:
    if name not in (None, *heads):
        raise UserError(f"{model.run.directory} has no head {name!r}; choose one of: {', '.join(heads)}.")
    name = name or next(iter(heads))
    return name, heads[name]


def _class_number(name: str, head: Any, class_name: str | None, method: str) -> int | None:
    if class_name is None:
        return None
    if method not in CAMS:
        raise UserError(f"Attention is not of a class; leave --class={class_name} out, or choose another --method.")
    if not has_logits(head):
        raise UserError(
            f"The head {name} says a number, whose maps show what raises it and are of no class; leave "
            f"--class={class_name} out."
        )
    if class_name not in head.names:
        raise UserError(f"The head {name} has no class {class_name!r}; choose one of: {', '.join(head.names)}.")
    return head.names.index(class_name)


def _check_attention(model: LoadedModel) -> None:
    if attention_trunk(nnx.merge(model.graphdef, *model.model_state).backbone) is None:
        run = model.run
        raise UserError(
            f"{run.directory} has no attention to show: its backbone is {run.recipe.model.backbone}; give a run of "
            "residual_attention or attention_ensemble, or choose another --method."
        )
