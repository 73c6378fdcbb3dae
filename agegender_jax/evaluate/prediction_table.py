"""Predictions of new examples, which have no labels, for users and `agegender predict`: `PredictionTable`."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from agegender_jax.evaluate.calibration import interval
from agegender_jax.evaluate.targets import make_targets
from agegender_jax.models.heads import AgeYearsHead, ClassHead, Head
from tfds_builders.faces import Box


@dataclasses.dataclass(frozen=True)
class ClassPredictions:
    """Predicted classes.

    Attributes:
      probability: float32 `[n, classes]`, NaN where there is no prediction.
      prediction: the class's name, `[n]`; None where there is no prediction or the run abstains.
    """

    names: tuple[str, ...]
    probability: np.ndarray
    prediction: tuple[str | None, ...]


@dataclasses.dataclass(frozen=True)
class AgePredictions:
    """Predicted ages in years, float32 `[n]`, NaN where there is no prediction.

    Attributes:
      years: as the run decodes them; also NaN where the run abstains.
      low: where the central interval begins; NaN where the head is a regression.
      high: where it ends.
    """

    years: np.ndarray
    low: np.ndarray
    high: np.ndarray


@dataclasses.dataclass(frozen=True)
class PredictionTable:
    """The predictions of a run, a row an example: perceived age and gender as its training data's annotators saw them.

    Attributes:
      name: of each example `[n]`: its path, or the number of the array that it is.
      error: why there is no prediction `[n]`, "" where there is.
      boxes: of the faces in their images, int32 `[n, 4]` (x, y, width, height), -1 where there is none; None where
        none were searched for.
      targets: by target, such as `gender`, `age_group` and `age`.
      distributions: by head, float32 `[n, ...]`, NaN where there is no prediction.
    """

    name: tuple[str, ...]
    error: tuple[str, ...]
    boxes: np.ndarray | None
    targets: Mapping[str, ClassPredictions | AgePredictions]
    distributions: Mapping[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.name)

    @property
    def predicted(self) -> int:
        """How many rows have no error."""
        return self.error.count("")

    def columns(self) -> dict[str, np.ndarray]:
        """Returns a table by column, `[n]`: texts (objects, None where there is none), float32 (NaN), int32 (-1).

        `file`; with detection `x`, `y`, `width`, `height`; for classes the prediction under its own name and a
        probability for each class as `NAME_CLASS`; for ages `NAME`, `NAME_low` and `NAME_high`; `error`.
        """
        columns = {"file": _texts(self.name)}
        if self.boxes is not None:
            columns |= dict(zip(Box._fields, self.boxes.T, strict=True))
        for name, target in self.targets.items():
            if isinstance(target, ClassPredictions):
                columns[name] = _texts(target.prediction)
                columns |= {f"{name}_{label}": target.probability[:, i] for i, label in enumerate(target.names)}
            else:
                columns |= {name: target.years, f"{name}_low": target.low, f"{name}_high": target.high}
        return columns | {"error": _texts([reason or None for reason in self.error])}


def make_prediction_table(
    heads: Mapping[str, Head],
    distributions: Mapping[str, np.ndarray],
    name: Sequence[str],
    error: Sequence[str],
    good: np.ndarray,
    *,
    boxes: np.ndarray | None = None,
    level: float = 0.9,
    abstain_below: float = 0.0,
    abstain_wider: float = np.inf,
) -> PredictionTable:
    """Decodes distributions into a table.

    `distributions` are of the rows `good` alone, int `[m]`: those without an error. `name`, `error` and `boxes` are
    of all rows, `[n]`, see `PredictionTable`; the options are those of `Predictor.stream`.
    """

    def spread(values: np.ndarray) -> np.ndarray:
        """Puts values of the good rows in their places; NaN elsewhere."""
        whole = np.full((len(name), *values.shape[1:]), np.nan, np.float32)
        whole[good] = values
        return whole

    targets: dict[str, ClassPredictions | AgePredictions] = {}
    for target_name, target in make_targets(heads, distributions).items():
        predictions, distribution = target.predictions, target.distribution
        if isinstance(target.head, ClassHead):
            names: list[str | None] = [None] * len(name)
            sure = good[confidence(predictions) >= abstain_below] if len(good) else good
            predicted = dict(zip(good.tolist(), predictions["class"].tolist(), strict=True))
            for row in sure.tolist():
                names[row] = target.head.names[predicted[row]]
            targets[target_name] = ClassPredictions(target.head.names, spread(predictions["probability"]), tuple(names))
        elif isinstance(target.head, AgeYearsHead):
            years, low, high = spread(predictions["years"]), *(np.full(len(name), np.nan, np.float32) for _ in range(2))
            assert distribution is not None
            if distribution.shape[-1] > 1 and len(good):
                low, high = map(spread, interval(distribution, level))
                years[high - low > abstain_wider] = np.nan
            targets[target_name] = AgePredictions(years, low, high)
    return PredictionTable(
        tuple(name), tuple(error), boxes, targets, {head: spread(each) for head, each in distributions.items()}
    )


def confidence(predictions: Mapping[str, np.ndarray]) -> np.ndarray:
    """Returns the probability of the predicted class, `[n]`; with an ordinal loss another may be more probable."""
    probability: np.ndarray = predictions["probability"][np.arange(len(predictions["class"])), predictions["class"]]
    return probability


def concatenate(tables: Sequence[PredictionTable]) -> PredictionTable:
    """Returns the rows of all tables, at least one, under each other."""
    first = tables[0]
    if len(tables) == 1:
        return first

    def joined(values: Sequence[Any]) -> Any:
        if isinstance(values[0], tuple):
            return tuple(itertools.chain(*values))
        return np.concatenate(values)

    targets: dict[str, ClassPredictions | AgePredictions] = {}
    for name, target in first.targets.items():
        fields = [field.name for field in dataclasses.fields(target) if field.name != "names"]
        each = [table.targets[name] for table in tables]
        changes = {field: joined([getattr(one, field) for one in each]) for field in fields}
        targets[name] = dataclasses.replace(target, **changes)
    return PredictionTable(
        joined([table.name for table in tables]),
        joined([table.error for table in tables]),
        None if first.boxes is None else joined([table.boxes for table in tables]),
        targets,
        {name: joined([table.distributions[name] for table in tables]) for name in first.distributions},
    )


def _texts(values: Sequence[str | None]) -> np.ndarray:
    texts = np.empty(len(values), object)
    texts[:] = values
    return texts
