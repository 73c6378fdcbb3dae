"""Heads: the things that are predicted.

A head owns its label, its size, its loss, how logits become an answer, and its metrics. The model, the step and the
evaluator know only the interface `Head`, so a new target is one new head and nothing else changes.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from agegender_jax import metrics
from agegender_jax.labels import GENDERS, UNDEFINED_GENDER, UNKNOWN, AgeGroups
from agegender_jax.metrics import Metric
from agegender_jax.models.losses import LOSSES, ORDINAL, refuse_label_smoothing

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

    def apart(self, name: str, answers: Columns, label: np.ndarray) -> "Apart":
        """What people look at, one thing at a time, by name; only a head that owns several labels is more than one."""

    def known(self, label: np.ndarray) -> np.ndarray:
        """Which labels are known, bool `[n]`: the examples that figures are of."""

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """What is measured; the first is the main one."""

    def statistics(self, answers: Columns, label: np.ndarray, weights: np.ndarray | None = None) -> tuple[Any, ...]:
        """What every metric's function is called with: of all examples whose label is known.

        Args:
          answers: of `answers`.
          label: `[n]`.
          weights: float `[..., n]`, how often each example counts, or None for once.
        """

    def constant(self, train_label: np.ndarray, count: int) -> tuple[str, dict[str, np.ndarray]]:
        """The best constant predictor fitted on the training labels: its name, and its answers for `count` examples."""


def measure(head: Head, answers: Columns, label: np.ndarray, weights: np.ndarray | None = None) -> dict[str, Any]:
    """Returns all metrics of a head by name, over the examples whose label is known.

    Of weights `[..., n]` each is an array `[...]`: an example of weight 2 counts as two, one of weight 0 as absent.
    """
    statistics = head.statistics(answers, label, weights)
    return {metric.name: metric.function(*statistics) for metric in head.metrics}


def metrics_table(heads: Mapping[str, Head]) -> dict[str, dict[str, Any]]:
    """Returns `Metric.metadata` of all metrics by `head/metric`, and `main`, whether it is its head's main metric."""
    return {
        f"{name}/{metric.name}": metric.metadata() | {"main": metric is head.metrics[0]}
        for name, head in heads.items()
        for metric in head.metrics
    }


Apart = dict[str, tuple[Any, Columns, np.ndarray]]
"""Heads with their answers and labels, by name."""


@dataclasses.dataclass(frozen=True, eq=False)
class ClassHead:
    """Mutually exclusive classes.

    Answers: `probability` float32 `[n, classes]` and `class` int32 `[n]`: the likeliest, or with an ordinal loss the
    one that lies in the middle of the distribution.

    Attributes:
      names: of the classes.
      ordered: whether being one class off is a smaller error ("1-off" accuracy is reported).
      weight: factor of the loss in the total.
      class_weights: float32 `[classes]`, or None for ones (`labels.class_weights` computes the usual ones).
      label_smoothing: share of the target that is spread over all classes.
      loss_name: a name of `LOSSES` that has probabilities; an ordinal one where the classes are ordered.
    """

    names: tuple[str, ...]
    ordered: bool = False
    weight: float = 1.0
    class_weights: np.ndarray | None = None
    label_smoothing: float = 0.0
    loss_name: str = "cross_entropy"

    @property
    def class_count(self) -> int:
        """Number of classes."""
        return len(self.names)

    @property
    def size(self) -> int:
        return LOSSES[self.loss_name].outputs(self.class_count)

    def layer(self, parts: Sequence[int], *, rngs: nnx.Rngs) -> nnx.Module:
        return _layer(self.loss_name, parts, self.size, rngs)

    def classes(self, label: np.ndarray) -> np.ndarray:
        """The class of each label, int32 `[n]`, for counting."""
        return label

    def known(self, label: np.ndarray) -> np.ndarray:
        return label != UNKNOWN

    def loss(self, logits: jax.Array, label: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The loss; where classes are weighted, w_i = E(m)/m_i is the example's weight (Uraimov & Yoo, eq. 1)."""
        known = label != UNKNOWN
        safe = jnp.where(known, label, 0)
        options = {"label_smoothing": self.label_smoothing} if self.label_smoothing else {}
        weight = _example_weight(self.loss_name, known, safe, self.class_count, self.class_weights)
        return LOSSES[self.loss_name].loss(logits, safe, **options), weight

    def distribution(self, logits: jax.Array) -> jax.Array:
        return LOSSES[self.loss_name].distribution(logits)

    def answers(self, distribution: np.ndarray) -> dict[str, np.ndarray]:
        decode = rank if self.loss_name in ORDINAL else mode
        return {"probability": distribution, "class": decode(distribution).astype(np.int32)}

    def apart(self, name: str, answers: Columns, label: np.ndarray) -> Apart:
        return {name: (self, answers, label)}

    @property
    def metrics(self) -> tuple[Metric, ...]:
        return metrics.ORDERED_CLASS_METRICS if self.ordered else metrics.CLASS_METRICS

    def statistics(self, answers: Columns, label: np.ndarray, weights: np.ndarray | None = None) -> tuple[np.ndarray]:
        return (self.confusion(answers, label, weights),)

    def confusion(self, answers: Columns, label: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
        """Confusion matrix over the examples whose label is known: row = label, column = answer."""
        known = self.known(label)
        chosen = None if weights is None else weights[..., known]
        return metrics.confusion_matrix(label[known], answers["class"][known], self.class_count, chosen)

    def constant(self, train_label: np.ndarray, count: int) -> tuple[str, dict[str, np.ndarray]]:
        counts = np.bincount(train_label[train_label != UNKNOWN], minlength=self.class_count)
        share, commonest = (counts / max(counts.sum(), 1)).astype(np.float32), counts.argmax()
        answers = {"probability": np.tile(share, (count, 1)), "class": np.full(count, commonest, np.int32)}
        return f"always {self.names[commonest]}", answers


@dataclasses.dataclass(frozen=True, eq=False)
class GenderHead(ClassHead):
    """Perceived gender as annotated. With `names` of `GENDERS` alone, "undefined" counts as unknown."""

    names: tuple[str, ...] = GENDERS

    def column(self, examples: Columns) -> np.ndarray:
        gender = np.asarray(examples["gender"])
        return np.where(gender < self.class_count, gender, UNKNOWN).astype(np.int32)


GENDERS_AND_UNDEFINED = (*GENDERS, UNDEFINED_GENDER)


@dataclasses.dataclass(frozen=True, eq=False)
class ClassNameHead(ClassHead):
    """The classes that a dataset names itself, such as one for each gender and age (`female_31`).

    Attributes:
      names: of the classes, as in the column `class_name`; kept with the run.
    """

    def column(self, examples: Columns) -> np.ndarray:
        index = {name: i for i, name in enumerate(self.names)}
        return np.array([index.get(name, UNKNOWN) for name in examples["class_name"].tolist()], np.int32)


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class AgeGroupHead(ClassHead):
    """Age group under a named scheme.

    Raises:
      UserError: labels are to be smoothed for a loss that has none.
    """

    scheme: AgeGroups
    names: tuple[str, ...] = dataclasses.field(init=False)
    ordered: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", self.scheme.names)
        refuse_label_smoothing("age_group", self.loss_name, self.label_smoothing)

    def column(self, examples: Columns) -> np.ndarray:
        return self.scheme.assign_range(examples["age_low"], examples["age_high"])


@dataclasses.dataclass(frozen=True, eq=False)
class AgeYearsHead:
    """Age in years: a distribution over the whole years 0 to 100, or a regression, as the loss has it.

    Answers: `years` float32 `[n]`, decoded as asked, and with a distribution also its `expectation` and its `median`.
    The expectation minimises the squared error and the median the absolute error, which is what is reported, so the
    median is the default.

    Attributes:
      decoding: a name of `DECODINGS`: how a distribution becomes `years`. A regression has nothing to decode.
      loss_name: a name of `LOSSES`.
      spread: standard deviation in years of the targets of `dldl`.
      label_smoothing: share of the target of `cross_entropy` that is spread over all years.
      weight: factor of the loss in the total.
      class_weights: float32 `[101]`, by year, or None for ones.

    Raises:
      UserError: labels are to be smoothed for a loss that has none.
    """

    decoding: str = "median"
    loss_name: str = "cross_entropy"
    spread: float = 2.0
    label_smoothing: float = 0.0
    weight: float = 1.0
    class_weights: np.ndarray | None = None

    def __post_init__(self) -> None:
        refuse_label_smoothing("age", self.loss_name, self.label_smoothing)

    @property
    def class_count(self) -> int:
        """Number of whole years."""
        return 101

    @property
    def size(self) -> int:
        return LOSSES[self.loss_name].outputs(self.class_count)

    def layer(self, parts: Sequence[int], *, rngs: nnx.Rngs) -> nnx.Module:
        return _layer(self.loss_name, parts, self.size, rngs)

    def column(self, examples: Columns) -> np.ndarray:
        return examples["age"]

    def classes(self, label: np.ndarray) -> np.ndarray:
        """The year of each label, int32 `[n]`, for counting: rounded, and over 100 as 100."""
        year = np.round(np.clip(np.nan_to_num(label), 0, self.class_count - 1))
        return np.where(np.isnan(label), UNKNOWN, year).astype(np.int32)

    def known(self, label: np.ndarray) -> np.ndarray:
        return ~np.isnan(label)

    def loss(self, logits: jax.Array, label: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The loss; where years are weighted, that of the label's year is the example's weight."""
        known = ~jnp.isnan(label)
        age = jnp.where(known, label, 0)
        year = jnp.clip(jnp.round(age), 0, self.class_count - 1).astype(jnp.int32)
        options = {"dldl": {"spread": self.spread}, "cross_entropy": {"label_smoothing": self.label_smoothing}}
        weight = _example_weight(self.loss_name, known, year, self.class_count, self.class_weights)
        return LOSSES[self.loss_name].loss(logits, age, **options.get(self.loss_name, {})), weight

    def distribution(self, logits: jax.Array) -> jax.Array:
        return LOSSES[self.loss_name].distribution(logits)

    def answers(self, distribution: np.ndarray) -> dict[str, np.ndarray]:
        if distribution.shape[-1] == 1:
            return {"years": distribution[..., 0].astype(np.float32)}
        both = {"expectation": expectation(distribution), "median": median(distribution)}
        return {"years": DECODINGS[self.decoding](distribution), **both}

    def apart(self, name: str, answers: Columns, label: np.ndarray) -> Apart:
        return {name: (self, answers, label)}

    @property
    def metrics(self) -> tuple[Metric, ...]:
        return metrics.YEARS_METRICS

    def statistics(
        self, answers: Columns, label: np.ndarray, weights: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        known = self.known(label)
        return label[known], answers["years"][known], None if weights is None else weights[..., known]

    def constant(self, train_label: np.ndarray, count: int) -> tuple[str, dict[str, np.ndarray]]:
        centre = np.float32(np.nanmedian(train_label)) if np.isfinite(train_label).any() else np.float32("nan")
        years = np.full(count, centre)
        return f"always {centre:g} years", {"years": years}


def _layer(loss_name: str, parts: Sequence[int], size: int, rngs: nnx.Rngs) -> nnx.Module:
    return LOSSES[loss_name].layer(sum(parts), size, rngs=rngs)


def _example_weight(
    loss_name: str, known: jax.Array, label: jax.Array, class_count: int, class_weights: np.ndarray | None
) -> jax.Array:
    """Weight of each example, float32 `[batch]`: the loss's own, times that of the example's class."""
    weight = known.astype(jnp.float32)
    if (own := LOSSES[loss_name].weight) is not None:
        weight = weight * own(label, class_count)
    return weight if class_weights is None else weight * jnp.asarray(class_weights)[label]


def expectation(probability: np.ndarray) -> np.ndarray:
    """Mean age, `[n, years] -> [n]` float32.

    >>> expectation(np.array([[0.5, 0.0, 0.5]])).tolist()
    [1.0]
    """
    return (probability @ np.arange(probability.shape[-1], dtype=np.float64)).astype(np.float32)


def median(probability: np.ndarray) -> np.ndarray:
    """Age below which half of the probability lies, `[n, years] -> [n]` float32.

    >>> median(np.array([[0.25, 0.5, 0.25], [0.0, 0.0, 1.0]])).tolist()
    [1.0, 2.0]
    """
    return quantile(probability, 0.5).astype(np.float32)


def quantile(probability: np.ndarray, share: float) -> np.ndarray:
    """The age below which a share of the probability lies, `[n, years] -> [n]` float64.

    Year k is taken to spread evenly over [k - 1/2, k + 1/2], so the answer is continuous.

    >>> quantile(np.array([[0.25, 0.5, 0.25]]), 0.75).tolist()
    [1.5]
    """
    cumulative = np.cumsum(probability, axis=-1, dtype=np.float64)
    cumulative /= cumulative[..., -1:]
    year = (cumulative < share).sum(-1)
    rows = np.arange(len(probability))
    mass = np.diff(cumulative, axis=-1, prepend=0.0)[rows, year]
    below = cumulative[rows, year] - mass
    return year - 0.5 + (share - below) / mass


def mode(probability: np.ndarray) -> np.ndarray:
    """Likeliest age, `[n, years] -> [n]` float32; of equal ones the lowest.

    >>> mode(np.array([[0.2, 0.5, 0.3]])).tolist()
    [1.0]
    """
    return probability.argmax(-1).astype(np.float32)


def rank(probability: np.ndarray) -> np.ndarray:
    """Number of the k with P(age > k) > 1/2, `[n, years] -> [n]` float32: how the ordinal losses are published.

    >>> rank(np.array([[0.25, 0.5, 0.25], [0.5, 0.5, 0.0]])).tolist()
    [1.0, 0.0]
    """
    cumulative = np.cumsum(probability, axis=-1, dtype=np.float64)
    cumulative /= cumulative[..., -1:]
    return (cumulative < 0.5).sum(-1).astype(np.float32)


DECODINGS: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "median": median,
    "expectation": expectation,
    "mode": mode,
    "rank": rank,
}
"""How a distribution over years becomes one number, by `heads.age.decoding`."""
