"""A gender net that routes each picture to one of two age nets (Imamdin et al., after Raman et al. 2022).

One head that owns gender and age (`RoutedHead`), for the backbone of three nets (`backbones/routed.py`). The age is
reported three ways, on the same examples: from the net of the *true* gender (no system can know it: the cost of wrong
routing is the difference to the next), from the net of the *predicted* gender, and as the *soft* mixture
sum_g P(g | x) p_g(age | x).
What gender-specific nets are worth shows against one net of as many parameters, which needs nothing of this file.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from agegender_jax.errors import UserError
from agegender_jax.labels import GENDERS, UNKNOWN
from agegender_jax.metrics import Metric
from agegender_jax.models.heads import Apart, ClassHead, Columns, GenderHead, Head

WAYS = ("true", "predicted", "soft")
"""The ways to choose among the age nets, prefixes of the figures."""


class RoutedLayer(nnx.Module):
    """Logits of the gender from the first part, of the age from each further one: `[batch, sum(parts)] -> [batch, n]`.

    Args:
      gender: the gender's layer.
      male: the age layer of `GENDERS[0]`.
      female: the age layer of `GENDERS[1]`.
      parts: sizes of the three embeddings.
    """

    def __init__(self, gender: Any, male: Any, female: Any, parts: tuple[int, int, int]) -> None:
        self.gender, self.male, self.female = gender, male, female
        self.ends = (parts[0], parts[0] + parts[1])

    def __call__(self, embedding: jax.Array) -> jax.Array:
        """The logits side by side."""
        gender, male, female = jnp.split(embedding, self.ends, axis=-1)
        return jnp.concatenate([self.gender(gender), self.male(male), self.female(female)], -1)


@dataclasses.dataclass(frozen=True, eq=False)
class RoutedHead:
    """Gender, and the age as `inner` understands it once for either gender.

    Label: float32 `[n, 2]`, the gender's class and the inner head's label.

    Answers, for `n` examples: `gender` int32 `[n]` and `gender_probability` float32 `[n, 2]`; the inner head's answers
    by their own names from the net of the predicted gender, and with the prefixes `soft_` (the mixture), `male_` and
    `female_` (either net).

    Figures: the gender head's as `gender_*`, over the examples whose gender is known; the inner head's as `true_*`,
    `predicted_*` and `soft_*`, all over the `n` examples of which gender and age are known.

    Attributes:
      inner: what either age net predicts; its own weight plays no part.
      weight: factor of the loss in the total.
      gender: what the routing net predicts; likewise.
    """

    inner: Head
    weight: float = 1.0
    gender: GenderHead = dataclasses.field(default_factory=GenderHead)

    @property
    def size(self) -> int:
        """Number of logits: the gender's, then the inner head's for each gender in the order of `GENDERS`."""
        return self.gender.size + len(GENDERS) * self.inner.size

    def layer(self, parts: Sequence[int], *, rngs: nnx.Rngs) -> nnx.Module:
        """The module that makes the logits; `parts` are the sizes of `Routed`'s three embeddings."""
        gender, male, female = parts
        return RoutedLayer(
            self.gender.layer((gender,), rngs=rngs),
            self.inner.layer((male,), rngs=rngs),
            self.inner.layer((female,), rngs=rngs),
            (gender, male, female),
        )

    def column(self, examples: Columns) -> np.ndarray:
        """The label of every row."""
        return np.stack([self.gender.column(examples), self.inner.column(examples)], -1).astype(np.float32)

    def loss(self, logits: jax.Array, label: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The gender's loss plus the age loss of the net of the true gender; the weight is 0 where that is unknown.

        Each of the two is divided by its own sum of weights over the batch, as two heads would be, so the age counts as
        much as in one net with two heads whatever share of the ages is known and however the inner head weights its
        examples. The other gender's net gets no gradient from an example.
        """
        genders, ages = self._labels(label)
        gender, male, female = self._apart(logits, self.inner.size)
        own = jnp.where((genders == GENDERS.index("female"))[:, None], female, male)
        gender_loss, gender_weight = self.gender.loss(gender, genders)
        age_loss, age_weight = self.inner.loss(own, ages)
        known = (genders != UNKNOWN).astype(jnp.float32)
        both = _shares(gender_weight) * gender_loss + _shares(age_weight * known) * age_loss
        return both * known.sum(), known

    def distribution(self, logits: jax.Array) -> jax.Array:
        """The gender's probabilities and either net's distribution side by side, each averaged for itself."""
        gender, male, female = self._apart(logits, self.inner.size)
        nets = [self.inner.distribution(net) for net in (male, female)]
        return jnp.concatenate([self.gender.distribution(gender), *nets], -1)

    def answers(self, distribution: np.ndarray) -> dict[str, np.ndarray]:
        """What a user reads: see the class."""
        gender, *nets = self._apart(distribution, (distribution.shape[-1] - self.gender.size) // len(GENDERS))
        soft = sum(gender[:, i, None] * net for i, net in enumerate(nets))
        said = self.gender.answers(gender)
        return self._answers(said, [self.inner.answers(net) for net in nets], self.inner.answers(np.asarray(soft)))

    def known(self, label: np.ndarray) -> np.ndarray:
        """Of which the gender is known: there is no figure of others."""
        return self.gender.known(self._labels(label)[0])

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """All metrics: see the class."""
        of_gender = [_part(metric, "gender", 0) for metric in self.gender.metrics if metric.unit != "count"]
        of_ages = [
            _part(metric, way, number)
            for number, way in enumerate(WAYS, start=1)
            for metric in self.inner.metrics
            if metric.unit != "count"
        ]
        (count,) = (metric for metric in self.inner.metrics if metric.unit == "count")
        return (*of_gender, *of_ages, dataclasses.replace(count, function=lambda *parts: count.function(*parts[-1])))

    def statistics(self, answers: Columns, label: np.ndarray, weights: np.ndarray | None = None) -> tuple[Any, ...]:
        """Those of the gender head, and of the inner head in each of `WAYS`."""
        genders, ages = self._labels(label)
        said = {"class": answers["gender"], "probability": answers["gender_probability"]}
        known = self.known(label)
        own = None if weights is None else weights[..., known]
        by_gender = [_prefixed(answers, f"{name}_") for name in GENDERS]
        soft = _prefixed(answers, "soft_")
        predicted = {name: answers[name] for name in soft}
        return (
            self.gender.statistics(said, genders, weights),
            *(
                self.inner.statistics({name: values[known] for name, values in chosen.items()}, ages[known], own)
                for chosen in (_routed(by_gender, genders), predicted, soft)
            ),
        )

    def constant(self, train_label: np.ndarray, count: int) -> tuple[str, dict[str, np.ndarray]]:
        """The best constants of gender and age, the latter whatever the gender."""
        genders, ages = self._labels(train_label)
        gender_name, gender = self.gender.constant(genders, count)
        age_name, age = self.inner.constant(ages, count)
        return f"{gender_name}, {age_name}", self._answers(gender, [age] * len(GENDERS), age)

    def apart(self, name: str, answers: Columns, label: np.ndarray) -> Apart:
        """The gender head and the inner head, each with its answers under predicted routing and its label."""
        predicted = {name: answers[name] for name in _prefixed(answers, "soft_")}
        gender = {"class": answers["gender"], "probability": answers["gender_probability"]}
        of_both = zip((gender, predicted), self._labels(label), strict=True)
        return {name: (head, *found) for (name, head), found in zip(self.heads.items(), of_both, strict=True)}

    @property
    def heads(self) -> dict[str, Head]:
        """The gender head and the inner head, by the names that `apart` gives them."""
        return {"gender": self.gender, "age_group" if isinstance(self.inner, ClassHead) else "age": self.inner}

    def logits_apart(self, logits: jax.Array) -> dict[str, jax.Array]:
        """The logits of each of `heads`, those of the age from the net of the predicted gender."""
        gender, male, female = self._apart(logits, self.inner.size)
        said = gender.argmax(-1, keepdims=True) == GENDERS.index("female")
        return dict(zip(self.heads, (gender, jnp.where(said, female, male)), strict=True))

    def _answers(self, gender: Columns, by_gender: list, soft: Columns) -> dict[str, np.ndarray]:
        found = {"gender": gender["class"], "gender_probability": gender["probability"]}
        found |= _routed(by_gender, gender["class"])
        for prefix, answers in (("soft", soft), *zip(GENDERS, by_gender, strict=True)):
            found |= {f"{prefix}_{name}": values for name, values in answers.items()}
        return found

    def _labels(self, label: Any) -> tuple[Any, Any]:
        """The two labels of a column, classes as integers again."""
        ages = label[:, 1]
        return label[:, 0].astype(np.int32), ages.astype(np.int32) if isinstance(self.inner, ClassHead) else ages

    def _apart(self, values: Any, inner: int) -> tuple[Any, Any, Any]:
        """The gender's, the male net's and the female net's columns of `values`, `inner` of them a net."""
        start = self.gender.size
        return values[:, :start], values[:, start : start + inner], values[:, start + inner :]


def check(recipe: ConfigDict) -> None:
    """Checks that a recipe has the routed head if and only if it has the nets for it, and nothing beside it.

    Raises:
      UserError: names the keys to set.
    """
    options = recipe.heads
    routed = recipe.model.backbone == "routed"
    if routed != bool(options.routed.weight):
        raise UserError(
            f"config.heads.routed.weight={options.routed.weight} does not go with config.model.backbone="
            f"{recipe.model.backbone!r}: the head routed and the backbone routed need each other."
        )
    if not routed:
        return
    for name, head in options.items():
        if name != "routed" and head.weight:
            raise UserError(
                f"config.heads.{name}.weight={head.weight} is not for the backbone routed, whose age nets learn from "
                "one gender each; set it to 0: the head routed predicts gender and age."
            )
        if head.get("class_weights"):
            raise UserError(f"config.heads.{name}.class_weights is not for the head routed; set it to False.")
    if options.gender.undefined:
        raise UserError("config.heads.gender.undefined is not for the head routed, which has a net for either gender.")
    if recipe.model.gender_to_age != "off":
        raise UserError(
            f"config.model.gender_to_age={recipe.model.gender_to_age!r} is not for the backbone routed, whose age nets "
            "know the gender already; set it to off."
        )


def _part(metric: Metric, prefix: str, number: int) -> Metric:
    """A metric of one part of the statistics."""
    function = metric.function
    return dataclasses.replace(metric, name=f"{prefix}_{metric.name}", function=lambda *parts: function(*parts[number]))


def _shares(weight: jax.Array) -> jax.Array:
    """Weights divided by their sum, or zeros."""
    return weight / jnp.maximum(weight.sum(), 1e-9)


def _prefixed(answers: Columns, prefix: str) -> dict[str, np.ndarray]:
    """The answers whose names begin so, by the rest of their names."""
    return {name.removeprefix(prefix): values for name, values in answers.items() if name.startswith(prefix)}


def _routed(by_gender: list, gender: np.ndarray) -> dict[str, np.ndarray]:
    """For each example the answer of its gender's net; where the gender is unknown, anyone's."""
    rows = np.arange(len(gender))
    return {name: np.stack([answers[name] for answers in by_gender])[gender, rows] for name in by_gender[0]}
