"""Heads: the things that are predicted.

A head owns its label, its size, its loss, how logits become an answer, and its metrics. The model, the step and the
evaluator know only the interface `Head`, so a new target is one new head and nothing else changes.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from agegender_jax import metrics
from agegender_jax.labels import GENDERS, UNDEFINED_GENDER, UNKNOWN, AgeGroups

Columns = Mapping[str, np.ndarray]


class Head(Protocol):
    """What the model, the step and the evaluator know of a head."""

    @property
    def weight(self) -> float:
        """Factor of this head's loss in the total."""

    @property
    def size(self) -> int:
        """Number of logits."""

    def layer(self, parts: Sequence[int], *, rngs: nnx.Rngs) -> nnx.Module:
        """The module that makes the logits, float32 `[batch, sum(parts)] -> [batch, size]`.

        `parts` are the sizes of the embeddings that stand side by side: most models have one.
        """

    def column(self, examples: Columns) -> np.ndarray:
        """This head's label for every row of a table of examples, `[n]`; unknown is -1 (classes) or NaN (numbers)."""

    def loss(self, logits: jax.Array, label: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Per-example loss and its weight, both float32 `[batch]`; the weight is 0 where the label is unknown."""

    def distribution(self, logits: jax.Array) -> jax.Array:
        """What may be averaged over views of an example or over models, float32 `[batch, ...]`."""

    def answers(self, distribution: np.ndarray) -> dict[str, np.ndarray]:
        """What a user reads, from `distribution`: arrays `[n, ...]`."""

    def metrics(self, answers: Columns, label: np.ndarray) -> dict[str, float]:
        """Figures over all examples whose label is known; `n` is their number."""

    def constant(self, train_label: np.ndarray, count: int) -> tuple[str, dict[str, np.ndarray]]:
        """The best constant predictor fitted on the training labels: its name, and its answers for `count` examples."""


@dataclasses.dataclass(frozen=True, eq=False)
class ClassHead:
    """Mutually exclusive classes: softmax cross-entropy, optionally weighted by class.

    Answers: `probability` float32 `[n, classes]` and `class` int32 `[n]`.

    Attributes:
      names: of the classes.
      ordered: whether being one class off is a smaller error ("1-off" accuracy is reported).
      weight: factor of the loss in the total.
      class_weights: float32 `[classes]`, or None for ones (`labels.class_weights` computes the usual ones).
    """

    names: tuple[str, ...]
    ordered: bool = False
    weight: float = 1.0
    class_weights: np.ndarray | None = None

    @property
    def size(self) -> int:
        return len(self.names)

    def layer(self, parts: Sequence[int], *, rngs: nnx.Rngs) -> nnx.Module:
        return nnx.Linear(sum(parts), self.size, rngs=rngs)

    def loss(self, logits: jax.Array, label: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Cross-entropy; where classes are weighted, w_i = E(m)/m_i is the example's weight (Uraimov & Yoo, eq. 1)."""
        known = label != UNKNOWN
        safe = jnp.where(known, label, 0)
        weight = known.astype(jnp.float32)
        if self.class_weights is not None:
            weight = weight * jnp.asarray(self.class_weights)[safe]
        return optax.losses.softmax_cross_entropy_with_integer_labels(logits, safe), weight

    def distribution(self, logits: jax.Array) -> jax.Array:
        return jax.nn.softmax(logits)

    def answers(self, distribution: np.ndarray) -> dict[str, np.ndarray]:
        return {"probability": distribution, "class": distribution.argmax(-1).astype(np.int32)}

    def metrics(self, answers: Columns, label: np.ndarray) -> dict[str, float]:
        confusion = self.confusion(answers, label)
        figures = {
            "accuracy": metrics.accuracy(confusion),
            "balanced_accuracy": metrics.balanced_accuracy(confusion),
            "n": int(confusion.sum()),
        }
        if self.ordered:
            figures["one_off"] = metrics.one_off_accuracy(confusion)
        return figures

    def confusion(self, answers: Columns, label: np.ndarray) -> np.ndarray:
        """Confusion matrix over the examples whose label is known: row = label, column = answer."""
        known = label != UNKNOWN
        return metrics.confusion_matrix(label[known], answers["class"][known], self.size)

    def constant(self, train_label: np.ndarray, count: int) -> tuple[str, dict[str, np.ndarray]]:
        counts = np.bincount(train_label[train_label != UNKNOWN], minlength=self.size)
        share = (counts / max(counts.sum(), 1)).astype(np.float32)
        return f"always {self.names[counts.argmax()]}", self.answers(np.tile(share, (count, 1)))


@dataclasses.dataclass(frozen=True, eq=False)
class GenderHead(ClassHead):
    """Perceived gender as annotated. With `names` of `GENDERS` alone, "undefined" counts as unknown."""

    names: tuple[str, ...] = GENDERS

    def column(self, examples: Columns) -> np.ndarray:
        gender = np.asarray(examples["gender"])
        return np.where(gender < self.size, gender, UNKNOWN).astype(np.int32)


GENDERS_AND_UNDEFINED = (*GENDERS, UNDEFINED_GENDER)


@dataclasses.dataclass(frozen=True, eq=False)
class JointClassHead(ClassHead):
    """The classes that a dataset names itself, such as one for each gender and age (`female_31`).

    Attributes:
      names: of the classes, as in the column `class_name`; kept with the run.
    """

    def column(self, examples: Columns) -> np.ndarray:
        index = {name: i for i, name in enumerate(self.names)}
        return np.array([index.get(name, UNKNOWN) for name in examples["class_name"].tolist()], np.int32)


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class AgeGroupHead(ClassHead):
    """Age group under a named scheme."""

    scheme: AgeGroups
    names: tuple[str, ...] = dataclasses.field(init=False)
    ordered: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", self.scheme.names)

    def column(self, examples: Columns) -> np.ndarray:
        return self.scheme.assign_range(examples["age_low"], examples["age_high"])


@dataclasses.dataclass(frozen=True, eq=False)
class AgeYearsHead:
    """Age in years, 0 to 100, as a distribution over whole years (101-way softmax, Rothe et al. 2015, "DEX").

    Answers: `years` float32 `[n]`, decoded as asked, and `expectation` and `median` float32 `[n]`. The expectation
    minimises the squared error and the median the absolute error, which is what is reported, so the median is the
    default.

    Attributes:
      decoding: which of `median` and `expectation` is `years`.
      spread: standard deviation in years of the Gaussian that the target is spread over (Gao et al. 2017, "DLDL",
        eq. 2); 0 gives plain cross-entropy.
      weight: factor of the loss in the total.
    """

    decoding: str = "median"
    spread: float = 0.0
    weight: float = 1.0

    @property
    def size(self) -> int:
        return 101

    def layer(self, parts: Sequence[int], *, rngs: nnx.Rngs) -> nnx.Module:
        return nnx.Linear(sum(parts), self.size, rngs=rngs)

    def column(self, examples: Columns) -> np.ndarray:
        return examples["age"]

    def loss(self, logits: jax.Array, label: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Cross-entropy against the label's year, or a Gaussian around it; ages over 100 count as 100."""
        known = ~jnp.isnan(label)
        age = jnp.clip(jnp.where(known, label, 0), 0, self.size - 1)
        years = jnp.arange(self.size, dtype=jnp.float32)
        if self.spread:
            target = jax.nn.softmax(-0.5 * jnp.square((years - age[:, None]) / self.spread))
        else:
            target = jax.nn.one_hot(jnp.round(age).astype(jnp.int32), self.size)
        return optax.losses.softmax_cross_entropy(logits, target), known.astype(jnp.float32)

    def distribution(self, logits: jax.Array) -> jax.Array:
        return jax.nn.softmax(logits)

    def answers(self, distribution: np.ndarray) -> dict[str, np.ndarray]:
        both = {"expectation": expectation(distribution), "median": median(distribution)}
        return {"years": both[self.decoding], **both}

    def metrics(self, answers: Columns, label: np.ndarray) -> dict[str, float]:
        known = ~np.isnan(label)
        truth, years = label[known], answers["years"][known]
        return {
            "mae": metrics.mean_absolute_error(truth, years),
            "cs5": metrics.cumulative_score(truth, years, 5.0),
            "n": int(known.sum()),
        }

    def constant(self, train_label: np.ndarray, count: int) -> tuple[str, dict[str, np.ndarray]]:
        centre = np.float32(np.nanmedian(train_label)) if np.isfinite(train_label).any() else np.float32("nan")
        years = np.full(count, centre)
        return f"always {centre:g} years", {"years": years, "expectation": years, "median": years}


def expectation(probability: np.ndarray) -> np.ndarray:
    """Mean age, `[n, years] -> [n]` float32.

    >>> expectation(np.array([[0.5, 0.0, 0.5]])).tolist()
    [1.0]
    """
    return (probability @ np.arange(probability.shape[-1], dtype=np.float64)).astype(np.float32)


def median(probability: np.ndarray) -> np.ndarray:
    """Age below which half of the probability lies, `[n, years] -> [n]` float32.

    Year k is taken to spread evenly over [k - 1/2, k + 1/2], so the answer is continuous.

    >>> median(np.array([[0.25, 0.5, 0.25], [0.0, 0.0, 1.0]])).tolist()
    [1.0, 2.0]
    """
    cumulative = np.cumsum(probability, axis=-1, dtype=np.float64)
    cumulative /= cumulative[..., -1:]
    year = (cumulative < 0.5).sum(-1)
    rows = np.arange(len(probability))
    mass = np.diff(cumulative, axis=-1, prepend=0.0)[rows, year]
    below = cumulative[rows, year] - mass
    return (year - 0.5 + (0.5 - below) / mass).astype(np.float32)
