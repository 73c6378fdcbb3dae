"""The predictions of a run as a table: with probabilities, intervals, and why one is missing."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from agegender_jax.evaluate.calibration import interval
from agegender_jax.evaluate.targets import Target, make_targets
from agegender_jax.models.heads import AgeYearsHead, ClassHead, Head
from tfds_builders.faces import Box


@dataclasses.dataclass(frozen=True)
class ClassPredictions:
    """PredictionTable of one kind that are classes.

    Attributes:
      names: of the classes.
      probability: float32 `[n, classes]`, NaN where there is no answer.
      answer: the class's name, `[n]`; None where there is no answer or the run abstains.
    """

    names: tuple[str, ...]
    probability: np.ndarray
    answer: tuple[str | None, ...]


@dataclasses.dataclass(frozen=True)
class AgePredictions:
    """PredictionTable of one kind that are ages in years, float32 `[n]`, NaN where there is no answer.

    Attributes:
      years: as the run decodes them; also NaN where the run abstains.
      low: where the central interval begins; NaN where the run says a number and no distribution.
      high: where it ends.
    """

    years: np.ndarray
    low: np.ndarray
    high: np.ndarray


@dataclasses.dataclass(frozen=True)
class PredictionTable:
    """What a run says, a row an example: perceived age and gender as its training data's annotators saw them.

    Attributes:
      name: of each example `[n]`: its path, or the number of the array that it is.
      error: why there is no answer `[n]`, "" where there is.
      boxes: of the faces in their pictures, int32 `[n, 4]` (x, y, width, height), -1 where there is none; None where
        none were searched for.
      targets: the predictions by what is predicted, such as `gender`, `age_group` and `age`.
      distributions: what each head says, float32 `[n, ...]` by the head's name, NaN where there is no answer.
    """

    name: tuple[str, ...]
    error: tuple[str, ...]
    boxes: np.ndarray | None
    targets: Mapping[str, ClassPredictions | AgePredictions]
    distributions: Mapping[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.name)

    @property
    def answered(self) -> int:
        """How many rows have no error."""
        return self.error.count("")

    def columns(self) -> dict[str, np.ndarray]:
        """A table by column, `[n]`: texts (objects, None where there is none), float32 (NaN), int32 (-1).

        `file`; with detection `x`, `y`, `width`, `height`; for classes the answer under its own name and a probability
        for each class as `NAME_CLASS`; for ages `NAME`, `NAME_low` and `NAME_high`; `error`.
        """
        columns = {"file": _texts(self.name)}
        if self.boxes is not None:
            columns |= dict(zip(Box._fields, self.boxes.T, strict=True))
        for name, target in self.targets.items():
            if isinstance(target, ClassPredictions):
                columns[name] = _texts(target.answer)
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
    """What people read of what the heads say.

    Args:
      heads: by name.
      distributions: of every head, float32 `[m, ...]`, of the rows `good`.
      name: of all rows `[n]`, see `PredictionTable`; so are `error` and `boxes`.
      error: why there is no answer, "" where there is.
      boxes: of faces in their pictures, or None.
      good: rows without an error, int `[m]`.
      level: of the ages' central interval, above 0 and below 1.
      abstain_below: a class that is answered is left out where it is less probable than this.
      abstain_wider: an age is left out where its interval is wider than so many years.
    """
    spread = {}
    for head, distribution in distributions.items():
        spread[head] = np.full((len(name), *distribution.shape[1:]), np.nan, np.float32)
        spread[head][good] = distribution
    targets: dict[str, ClassPredictions | AgePredictions] = {}
    for target_name, target in make_targets(heads, distributions).items():
        if isinstance(target.head, ClassHead):
            targets[target_name] = _classes(target.head, target.predictions, good, len(name), abstain_below)
        elif isinstance(target.head, AgeYearsHead):
            targets[target_name] = _years(target, good, len(name), level, abstain_wider)
    return PredictionTable(tuple(name), tuple(error), boxes, targets, spread)


def confidence(predictions: Mapping[str, np.ndarray]) -> np.ndarray:
    """The probability of the answered class, `[n]`; with an ordinal loss another may be more probable."""
    answered: np.ndarray = predictions["probability"][np.arange(len(predictions["class"])), predictions["class"]]
    return answered


def concatenate(parts: Sequence[PredictionTable]) -> PredictionTable:
    """The rows of all parts, which are at least one, under each other."""
    first = parts[0]
    if len(parts) == 1:
        return first
    targets: dict[str, ClassPredictions | AgePredictions] = {}
    for name, target in first.targets.items():
        each: list[Any] = [part.targets[name] for part in parts]
        if isinstance(target, ClassPredictions):
            probability = np.concatenate([one.probability for one in each])
            targets[name] = ClassPredictions(
                target.names, probability, tuple(itertools.chain(*(one.answer for one in each)))
            )
        else:
            columns = ("years", "low", "high")
            targets[name] = AgePredictions(
                *(np.concatenate([getattr(one, column) for one in each]) for column in columns)
            )
    return PredictionTable(
        tuple(itertools.chain(*(part.name for part in parts))),
        tuple(itertools.chain(*(part.error for part in parts))),
        None if first.boxes is None else np.concatenate([part.boxes for part in parts if part.boxes is not None]),
        targets,
        {name: np.concatenate([part.distributions[name] for part in parts]) for name in first.distributions},
    )


def _classes(
    head: ClassHead, predictions: Mapping[str, np.ndarray], good: np.ndarray, count: int, abstain_below: float
) -> ClassPredictions:
    probability = np.full((count, head.class_count), np.nan, np.float32)
    probability[good] = predictions["probability"]
    answer: list[str | None] = [None] * count
    sure = (confidence(predictions) >= abstain_below).tolist()
    for row, number, is_sure in zip(good.tolist(), predictions["class"].tolist(), sure, strict=True):
        answer[row] = head.names[number] if is_sure else None
    return ClassPredictions(head.names, probability, tuple(answer))


def _years(
    target: Target,
    good: np.ndarray,
    count: int,
    level: float,
    wider: float,
) -> AgePredictions:
    years, low, high = (np.full(count, np.nan, np.float32) for _ in range(3))
    years[good] = target.predictions["years"]
    distribution = target.distribution
    assert distribution is not None
    if distribution.shape[-1] > 1 and len(good):
        low[good], high[good] = interval(distribution, level)
        years[high - low > wider] = np.nan
    return AgePredictions(years, low, high)


def _texts(values: Sequence[str | None]) -> np.ndarray:
    texts = np.empty(len(values), object)
    texts[:] = values
    return texts
