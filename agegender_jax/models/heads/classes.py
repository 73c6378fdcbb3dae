"""Heads of mutually exclusive classes."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from agegender_jax import metrics
from agegender_jax.labels import UNKNOWN
from agegender_jax.metrics import Metric
from agegender_jax.models.heads.base import Columns, Head, example_weight
from agegender_jax.models.heads.decoding import mode, rank
from agegender_jax.models.losses import LOSSES, ORDINAL


@dataclasses.dataclass(frozen=True, eq=False)
class ClassHead(Head):
    """Mutually exclusive classes.

    Predictions: `probability` float32 `[n, classes]` and `class` int32 `[n]`: the likeliest, or with an ordinal loss
    the one that lies in the middle of the distribution.

    Attributes:
      ordered: whether being one class off is a smaller error ("1-off" accuracy is reported).
      class_weights: float32 `[classes]`, or None for ones (`labels.class_weights` computes the usual ones).
      label_smoothing: share of the target that is spread over all classes.
      loss_name: a name of `LOSSES` that has probabilities; an ordinal one where the classes are ordered.
    """

    options: ClassVar[dict[str, Any]] = {"weight": 0.0, "class_weights": False, "label_smoothing": 0.0}

    names: tuple[str, ...]
    ordered: bool = False
    weight: float = 1.0
    class_weights: np.ndarray | None = None
    label_smoothing: float = 0.0
    loss_name: str = "cross_entropy"

    @property
    def class_count(self) -> int:
        return len(self.names)

    def classes(self, label: np.ndarray) -> np.ndarray:
        """Returns the class of each label, int32 `[n]`, for counting."""
        return label

    def known(self, label: np.ndarray) -> np.ndarray:
        return label != UNKNOWN

    def loss(self, logits: jax.Array, label: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Computes the loss; where classes are weighted, w_i = E(m)/m_i is the weight (Uraimov & Yoo, eq. 1)."""
        known = label != UNKNOWN
        safe = jnp.where(known, label, 0)
        options = {"label_smoothing": self.label_smoothing} if self.label_smoothing else {}
        weight = example_weight(self.loss_name, known, safe, self.class_count, self.class_weights)
        return LOSSES[self.loss_name].loss(logits, safe, **options), weight

    def decode(self, distribution: np.ndarray) -> dict[str, np.ndarray]:
        choose = rank if self.loss_name in ORDINAL else mode
        return {"probability": distribution, "class": choose(distribution).astype(np.int32)}

    @property
    def metrics(self) -> tuple[Metric, ...]:
        return metrics.ORDERED_CLASS_METRICS if self.ordered else metrics.CLASS_METRICS

    def statistics(
        self, predictions: Columns, label: np.ndarray, weights: np.ndarray | None = None
    ) -> tuple[np.ndarray]:
        return (self.confusion(predictions, label, weights),)

    def confusion(self, predictions: Columns, label: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
        """Counts the examples whose label is known: row = label, column = predicted class."""
        known = self.known(label)
        chosen = None if weights is None else weights[..., known]
        return metrics.confusion_matrix(label[known], predictions["class"][known], self.class_count, chosen)

    def baseline(self, train_label: np.ndarray) -> tuple[str, dict[str, np.ndarray]]:
        counts = np.bincount(train_label[train_label != UNKNOWN], minlength=self.class_count)
        share, commonest = (counts / max(counts.sum(), 1)).astype(np.float32), counts.argmax()
        predictions = {"probability": share[None], "class": np.array([commonest], np.int32)}
        return f"always {self.names[commonest]}", predictions

    def predicted(self, predictions: Columns) -> np.ndarray:
        return predictions["class"]

    def text(self, values: np.ndarray, row: int) -> str:
        return self.names[values[row]] if values[row] != UNKNOWN else "?"
