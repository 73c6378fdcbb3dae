"""Targets: what is predicted and reported, one head or several combined, with its predictions and labels."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from agegender_jax.metrics import Metric
from agegender_jax.models.heads import Columns, Head
from agegender_jax.models.heads.routing import combined_distributions, combined_heads, combined_labels


@dataclasses.dataclass(frozen=True)
class Target:
    """Something that is predicted of `n` examples.

    Attributes:
      head: what decodes and measures it.
      predictions: of `Head.decode`, arrays `[n, ...]` by name.
      label: `[n]`; None where the examples have no labels.
      distribution: float32 `[n, ...]`, what the predictions are decoded from; None where they are from elsewhere.
    """

    head: Head
    predictions: Columns
    label: np.ndarray | None = None
    distribution: np.ndarray | None = None

    @property
    def labels(self) -> np.ndarray:
        """The labels, `[n]`, of examples that have some."""
        assert self.label is not None
        return self.label

    @property
    def known(self) -> np.ndarray:
        """Which labels are known, bool `[n]`."""
        return self.head.known(self.labels)

    @property
    def main_metric(self) -> Metric:
        """The metric that stands for the target."""
        return self.head.metrics[0]

    def rows(self, rows: np.ndarray) -> "Target":
        """Returns the target of some rows, bool `[n]` or int `[m]`."""
        return dataclasses.replace(
            self,
            predictions={name: values[rows] for name, values in self.predictions.items()},
            label=None if self.label is None else self.label[rows],
            distribution=None if self.distribution is None else self.distribution[rows],
        )

    def measure(self, weights: np.ndarray | None = None) -> dict[str, Any]:
        """Computes all metrics by name, see `Head.measure`."""
        return self.head.measure(self.predictions, self.labels, weights)


def target_heads(heads: Mapping[str, Head]) -> dict[str, Head]:
    """Returns the head of every target by name: the heads themselves, and what is combined from them."""
    return {**heads, **combined_heads(heads)}


def target_labels(heads: Mapping[str, Head], labels: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the labels of every target, `[n]`, from those of the heads."""
    return {**labels, **combined_labels(heads, labels)}


def make_targets(
    heads: Mapping[str, Head], distributions: Mapping[str, np.ndarray], labels: Mapping[str, np.ndarray] | None = None
) -> dict[str, Target]:
    """Decodes the predictions of every target from distributions, float32 `[n, ...]`, by head.

    Without labels, `[n]` by head, there are none, nor targets that ask for some.
    """
    all_heads = target_heads(heads)
    all_labels = {} if labels is None else target_labels(heads, labels)
    all_distributions = {**distributions, **combined_distributions(heads, distributions, labels)}
    return {
        name: Target(head, head.decode(all_distributions[name]), all_labels.get(name), all_distributions[name])
        for name, head in all_heads.items()
        if name in all_distributions
    }


def measure_targets(targets: Mapping[str, Target]) -> dict[str, Any]:
    """Computes all metrics as `target/metric`, and `n`, the number of examples."""
    metrics = {
        f"{name}/{metric}": value for name, target in targets.items() for metric, value in target.measure().items()
    }
    return metrics | {"n": max((len(target.labels) for target in targets.values()), default=0)}


def fit_baseline(
    heads: Mapping[str, Head], train_labels: Mapping[str, np.ndarray]
) -> tuple[dict[str, str], dict[str, dict[str, list[Any]]]]:
    """Finds the best constant predictions for the training labels, `[n]` by head.

    Returns:
      By target the name of the prediction, and the predictions of one example as JSON values.
    """
    labels = target_labels(heads, train_labels)
    names, predictions = {}, {}
    for name, head in target_heads(heads).items():
        names[name], baseline = head.baseline(labels[name])
        predictions[name] = {key: values[0].tolist() for key, values in baseline.items()}
    return names, predictions


def baseline_targets(
    heads: Mapping[str, Head], predictions: Mapping[str, Mapping[str, Any]], labels: Mapping[str, np.ndarray]
) -> dict[str, Target]:
    """Returns targets of the predictions of `fit_baseline`, where None is NaN, and of labels, `[n]` by head."""
    targets, all_labels = {}, target_labels(heads, labels)
    for name, head in target_heads(heads).items():
        values = {key: np.nan if value is None else value for key, value in predictions[name].items()}
        repeated = {key: np.repeat([value], len(all_labels[name]), axis=0) for key, value in values.items()}
        targets[name] = Target(head, repeated, all_labels[name])
    return targets
