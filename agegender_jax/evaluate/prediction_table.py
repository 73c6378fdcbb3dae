"""What a user reads of a run: answers with their probabilities, intervals, and what could not be answered."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from agegender_jax.evaluate.calibration import interval
from agegender_jax.models.heads import ClassHead, Head
from agegender_jax.models.routed import RoutedHead
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
      things: the answers by what they are of, such as `gender`, `age_group` and `age`.
      distributions: what each head says, float32 `[n, ...]` by the head's name, NaN where there is no answer.
    """

    name: tuple[str, ...]
    error: tuple[str, ...]
    boxes: np.ndarray | None
    things: Mapping[str, ClassPredictions | AgePredictions]
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
        found = {"file": _texts(self.name)}
        if self.boxes is not None:
            found |= dict(zip(Box._fields, self.boxes.T, strict=True))
        for name, thing in self.things.items():
            if isinstance(thing, ClassPredictions):
                found[name] = _texts(thing.answer)
                found |= {f"{name}_{label}": thing.probability[:, i] for i, label in enumerate(thing.names)}
            else:
                found |= {name: thing.years, f"{name}_low": thing.low, f"{name}_high": thing.high}
        return found | {"error": _texts([reason or None for reason in self.error])}


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
    spread = {head: np.full((len(name), *said.shape[1:]), np.nan, np.float32) for head, said in distributions.items()}
    things: dict[str, ClassPredictions | AgePredictions] = {}
    for head_name, head in heads.items():
        said = distributions[head_name]
        spread[head_name][good] = said
        label = np.zeros((len(good), 2), np.float32)  # of nobody: only answers are taken apart
        for thing, (inner, answers, _) in head.apart(head_name, head.answers(said), label).items():
            if isinstance(inner, ClassHead):
                things[thing] = _classes(inner, answers, good, len(name), abstain_below)
            else:
                things[thing] = _years(answers, _over_years(head, said), good, len(name), level, abstain_wider)
    return PredictionTable(tuple(name), tuple(error), boxes, things, spread)


def confidence(answers: Mapping[str, np.ndarray]) -> np.ndarray:
    """The probability of the answered class, `[n]`; with an ordinal loss another may be more probable."""
    answered: np.ndarray = answers["probability"][np.arange(len(answers["class"])), answers["class"]]
    return answered


def concatenate(parts: Sequence[PredictionTable]) -> PredictionTable:
    """The rows of all parts, which are at least one, under each other."""
    first = parts[0]
    if len(parts) == 1:
        return first
    things: dict[str, ClassPredictions | AgePredictions] = {}
    for name, thing in first.things.items():
        each: list[Any] = [part.things[name] for part in parts]
        if isinstance(thing, ClassPredictions):
            probability = np.concatenate([one.probability for one in each])
            things[name] = ClassPredictions(
                thing.names, probability, tuple(itertools.chain(*(one.answer for one in each)))
            )
        else:
            columns = ("years", "low", "high")
            things[name] = AgePredictions(
                *(np.concatenate([getattr(one, column) for one in each]) for column in columns)
            )
    return PredictionTable(
        tuple(itertools.chain(*(part.name for part in parts))),
        tuple(itertools.chain(*(part.error for part in parts))),
        None if first.boxes is None else np.concatenate([part.boxes for part in parts if part.boxes is not None]),
        things,
        {name: np.concatenate([part.distributions[name] for part in parts]) for name in first.distributions},
    )


def _classes(
    head: ClassHead, answers: Mapping[str, np.ndarray], good: np.ndarray, count: int, abstain_below: float
) -> ClassPredictions:
    probability = np.full((count, head.class_count), np.nan, np.float32)
    probability[good] = answers["probability"]
    answer: list[str | None] = [None] * count
    sure = (confidence(answers) >= abstain_below).tolist()
    for row, number, is_sure in zip(good.tolist(), answers["class"].tolist(), sure, strict=True):
        answer[row] = head.names[number] if is_sure else None
    return ClassPredictions(head.names, probability, tuple(answer))


def _years(
    answers: Mapping[str, np.ndarray],
    distribution: np.ndarray,
    good: np.ndarray,
    count: int,
    level: float,
    wider: float,
) -> AgePredictions:
    years, low, high = (np.full(count, np.nan, np.float32) for _ in range(3))
    years[good] = answers["years"]
    if distribution.shape[-1] > 1 and len(good):
        low[good], high[good] = interval(distribution, level)
        years[high - low > wider] = np.nan
    return AgePredictions(years, low, high)


def _over_years(head: Head, distribution: np.ndarray) -> np.ndarray:
    """The part of a head's distribution that its answer in years comes from, `[n, years]`."""
    if not isinstance(head, RoutedHead):
        return distribution
    gender = head.answers(distribution)["gender"]
    nets = distribution[:, head.gender.size :].reshape(len(gender), 2, -1)
    found: np.ndarray = nets[np.arange(len(gender)), gender]
    return found


def _texts(values: Sequence[str | None]) -> np.ndarray:
    found = np.empty(len(values), object)
    found[:] = values
    return found
