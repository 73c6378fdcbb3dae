"""Age in years."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from agegender_jax import metrics
from agegender_jax.labels import UNKNOWN
from agegender_jax.metrics import Metric
from agegender_jax.models.heads.base import Columns, Head, example_weight, register
from agegender_jax.models.heads.decoding import DECODINGS, expectation, median
from agegender_jax.models.losses import LOSSES, refuse_label_smoothing


@register
@dataclasses.dataclass(frozen=True, eq=False)
class AgeYearsHead(Head):
    """Age in years: a distribution over the whole years 0 to 100, or a regression, as the loss has it.

    Predictions: `years` float32 `[n]`, decoded as asked, and with a distribution also its `expectation` and `median`.
    The expectation minimises the squared error and the median the absolute error, which is what is reported, so the
    median is the default.

    Attributes:
      decoding: a name of `DECODINGS`: how a distribution becomes `years`. A regression has nothing to decode.
      spread: standard deviation in years of the targets of `dldl`.
      label_smoothing: share of the target of `cross_entropy` that is spread over all years.
      class_weights: float32 `[101]`, by year, or None for ones.

    Raises:
      UserError: labels are to be smoothed for a loss that has none.
    """

    name = "age"
    options: ClassVar[dict[str, Any]] = {
        "weight": 1.0,
        "class_weights": False,  # by year
        "label_smoothing": 0.0,
        "loss": "cross_entropy",
        "spread": 2.0,  # years, of the targets of `dldl`
        "decoding": "median",
    }
    choices: ClassVar[Mapping[str, tuple[str, ...]]] = {"loss": tuple(LOSSES), "decoding": tuple(DECODINGS)}
    sees_gender = True

    decoding: str = "median"
    loss_name: str = "cross_entropy"
    spread: float = 2.0
    label_smoothing: float = 0.0
    weight: float = 1.0
    class_weights: np.ndarray | None = None
    only_gender: str | None = None

    def __post_init__(self) -> None:
        refuse_label_smoothing("age", self.loss_name, self.label_smoothing)

    @property
    def class_count(self) -> int:
        """Number of whole years."""
        return 101

    def column(self, examples: Columns) -> np.ndarray:
        return self.of_gender(examples["age"], examples, np.nan)

    def classes(self, label: np.ndarray) -> np.ndarray:
        """Returns the year of each label, int32 `[n]`, for counting: rounded, and over 100 as 100."""
        year = np.round(np.clip(np.nan_to_num(label), 0, self.class_count - 1))
        return np.where(np.isnan(label), UNKNOWN, year).astype(np.int32)

    def known(self, label: np.ndarray) -> np.ndarray:
        return ~np.isnan(label)

    def loss(self, logits: jax.Array, label: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Computes the loss; where years are weighted, that of the label's year is the example's weight."""
        known = ~jnp.isnan(label)
        age = jnp.where(known, label, 0)
        year = jnp.clip(jnp.round(age), 0, self.class_count - 1).astype(jnp.int32)
        options = {"dldl": {"spread": self.spread}, "cross_entropy": {"label_smoothing": self.label_smoothing}}
        weight = example_weight(self.loss_name, known, year, self.class_count, self.class_weights)
        return LOSSES[self.loss_name].loss(logits, age, **options.get(self.loss_name, {})), weight

    def decode(self, distribution: np.ndarray) -> dict[str, np.ndarray]:
        if distribution.shape[-1] == 1:
            return {"years": distribution[..., 0].astype(np.float32)}
        both = {"expectation": expectation(distribution), "median": median(distribution)}
        return {"years": DECODINGS[self.decoding](distribution), **both}

    @property
    def metrics(self) -> tuple[Metric, ...]:
        return metrics.YEARS_METRICS

    def statistics(
        self, predictions: Columns, label: np.ndarray, weights: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        known = self.known(label)
        return label[known], predictions["years"][known], None if weights is None else weights[..., known]

    def baseline(self, train_label: np.ndarray) -> tuple[str, dict[str, np.ndarray]]:
        centre = np.float32(np.nanmedian(train_label)) if np.isfinite(train_label).any() else np.float32("nan")
        return f"always {centre:g} years", {"years": np.array([centre])}

    def predicted(self, predictions: Columns) -> np.ndarray:
        return predictions["years"]

    def text(self, values: np.ndarray, row: int) -> str:
        return "?" if np.isnan(values[row]) else f"{values[row]:.0f}"
