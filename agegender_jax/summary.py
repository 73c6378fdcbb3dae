"""The summary of a complete run: its final metrics, and how it came to them."""

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class Summary:
    """What `summary.json` holds.

    Attributes:
      leaky: whether somebody, or a file, may be both learned from and tested on.
      subjects: counts of identified subjects, see `train/setup.py`.
      data_sha256: hash of which files the examples are.
      split_sha256: hash of which example is in which part.
      flip_average: whether the metrics average over each image and its mirror image.
      test: metrics by `head/metric`.
      metrics: what each metric is, by `head/metric`; see `metrics_metadata`.
      intervals: 95 % intervals by part and metric.
      baseline: metrics of the best constant predictors on the test part.
      baseline_names: what they predict, by head.
      baseline_predictions: their predictions for any one example, by head.
      evaluated_step: of the checkpoint that the metrics are of.
      seconds: of all starts together, each since it had compiled and decoded.
      seconds_of: of the last start, from the compilation to the last checkpoint, by what they went to.
      images_per_second: median over dispatches; None with fewer than two.
      first_step_seconds: from the command to the end of the first dispatch; None where nothing was left to train.
      peak_memory_bytes: of the host, since the last start.
      hardware: that the last start ran on.
    """

    run: str
    dataset: str
    synthetic: bool
    protocol: str
    leaky: bool
    train_examples: int
    subjects: Mapping[str, int]
    data_sha256: str
    split_sha256: str
    age_groups: str
    flip_average: bool
    test: Mapping[str, float]
    validation: Mapping[str, float]
    metrics: Mapping[str, Any]
    intervals: Mapping[str, Any]
    baseline: Mapping[str, float]
    baseline_names: Mapping[str, str]
    baseline_predictions: Mapping[str, Any]
    parameters: int
    steps: int
    evaluated_step: int
    epochs: float
    seconds: float
    seconds_of: Mapping[str, float]
    images_per_second: float | None
    first_step_seconds: float | None
    peak_memory_bytes: int
    versions: Mapping[str, str]
    hardware: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Returns JSON values; `from_dict` reads them back."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Summary":
        """Reads the values of `to_dict`.

        Raises:
          ValueError: one is missing, or unknown.
        """
        names = {field.name for field in dataclasses.fields(cls)}
        if names != values.keys():
            raise ValueError(f"it lacks or adds {', '.join(sorted(names ^ values.keys()))}")
        return cls(**values)
