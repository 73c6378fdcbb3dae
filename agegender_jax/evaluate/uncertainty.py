"""How far figures may be off: intervals of one run, differences of two, spread over repeats.

The examples of one cluster (a subject, a speaker, identical files) are not independent, so clusters are drawn, with
replacement, and each example counts as often as its cluster was drawn (the cluster bootstrap; Davison & Hinkley 1997,
section 3.8). All figures are functions of such weights, see `metrics`.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from agegender_jax.evaluate.predictions import Predictions, Thing

Figures = Callable[[np.ndarray | None], Mapping[str, Any]]
"""From weights `[..., m]`, or None for ones, to arrays `[...]` by name."""

SHARES = ("accuracy", "one_off", "cs5", "inside")
"""Figures that are the share of the examples for which something holds."""

_LEVEL = 0.95
_DRAWS_AT_ONCE = 250  # bounds memory: draws x examples float64, and draws x classes x classes


class Interval(NamedTuple):
    """A figure and its 95 % interval; NaN where there is none."""

    value: float
    low: float
    high: float


class Resamples:
    """Draws of clusters with replacement, the same for all figures, so that their differences are paired.

    Args:
      cluster: int `[n]`, of each example.
      draws: how many.
      seed: of the draws.
    """

    def __init__(self, cluster: np.ndarray, *, draws: int = 1000, seed: int = 0) -> None:
        names, self._cluster = np.unique(cluster, return_inverse=True)
        rng = np.random.default_rng(seed)
        self._times = np.empty((draws, len(names)), np.uint16)
        for times in self._times:
            drawn = rng.integers(max(len(names), 1), size=len(names))
            times[:] = np.bincount(drawn, minlength=len(names))

    def clusters(self, rows: np.ndarray) -> int:
        """How many clusters some examples, int `[m]`, are of."""
        return len(np.unique(self._cluster[rows]))

    def weights(self, rows: np.ndarray) -> Iterator[np.ndarray]:
        """How often each of these examples, int `[m]`, was drawn: float64 `[some draws, m]`, until all draws are given.

        Where `rows` are a group, a draw is one of all examples, and how many are of the group differs between draws.
        """
        columns = self._cluster[rows]
        for start in range(0, len(self._times), _DRAWS_AT_ONCE):
            yield self._times[start : start + _DRAWS_AT_ONCE, columns].astype(np.float64)


def figures_of(thing: Thing, rows: np.ndarray) -> Figures:
    """The figures of some rows, int `[m]`, of a thing."""
    answers = {name: found[rows] for name, found in thing.answers.items()}
    label = thing.label[rows]

    def figures(weights: np.ndarray | None) -> dict[str, Any]:
        return {name: value for name, value in thing.head.metrics(answers, label, weights).items() if name != "n"}

    return figures


def draw(figures: Figures, resamples: Resamples, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Figures of every draw, float64 `[draws]` by name; NaN where a draw has no example to measure."""
    blocks = [figures(weights) for weights in resamples.weights(rows)]
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


def intervals(figures: Figures, resamples: Resamples, rows: np.ndarray) -> dict[str, Interval]:
    """Figures of some examples, with intervals.

    A share of 0 or 1 is the same in every draw, which says nothing: it gets the exact limits of a binomial share
    (Clopper & Pearson 1934) of as many trials as there are clusters. Other figures without spread get no interval.

    Args:
      figures: of the rows.
      resamples: draws of all examples.
      rows: int `[m]`, which of them.
    """
    clusters = resamples.clusters(rows)
    found, values = {}, figures(None)
    for name, drawn in draw(figures, resamples, rows).items():
        value = float(values[name])
        if name in SHARES and value in (0, 1) and clusters:
            far = ((1 - _LEVEL) / 2) ** (1 / clusters)
            found[name] = Interval(value, *((far, 1.0) if value else (0.0, 1 - far)))
        else:
            found[name] = interval(value, drawn, clusters)
    return found


def of_predictions(predictions: Predictions) -> dict[str, tuple[float, float]]:
    """The ends of the intervals of all figures that have one, by `thing/figure`."""
    resamples = Resamples(predictions.columns["cluster"])
    found = {}
    for name, thing in predictions.things().items():
        rows = np.flatnonzero(thing.known)
        if len(rows):
            for figure, between in intervals(figures_of(thing, rows), resamples, rows).items():
                if math.isfinite(between.low):
                    found[f"{name}/{figure}"] = (between.low, between.high)
    return found


def interval(value: float, drawn: np.ndarray, clusters: int) -> Interval:
    """The expanded percentile interval (Hesterberg 2015, arXiv 1411.5279).

    The percentiles are those at which a mean's interval would be Student's, with one degree of freedom less than
    clusters: of 1,000 clusters they are 2.5 and 97.5, of five 0.1 and 99.9. Of one cluster there is no interval.

    Args:
      value: the figure itself.
      drawn: float `[draws]`, of draws of clusters; NaN is left out.
      clusters: how many there were to draw.
    """
    drawn = drawn[np.isfinite(drawn)]
    if clusters < 2 or not len(drawn) or drawn.min() == drawn.max():
        return Interval(value, math.nan, math.nan)
    from scipy.special import ndtr

    below = ndtr(-math.sqrt(clusters / (clusters - 1)) * _student(clusters - 1))
    low, high = np.quantile(drawn, (below, 1 - below))
    return Interval(value, float(low), float(high))


class Difference(NamedTuple):
    """What one run, or several, are ahead of others, with its 95 % interval and the two-sided p of no difference."""

    value: float
    low: float
    high: float
    p: float


def difference(first: Sequence[float], second: Sequence[float], drawn: np.ndarray, clusters: int) -> Difference:
    """The mean figure of the second runs less that of the first, all measured on the same examples.

    Its variance is that over paired draws of the examples' clusters, plus, of several repeats, the variance of their
    mean; the interval is Student's, with Welch and Satterthwaite's degrees of freedom (Welch 1947).

    Args:
      first: a figure by repeat; of a single one the spread over repeats is not known and not in the interval.
      second: likewise.
      drawn: float `[draws]`, the difference of the two means in every draw of clusters; NaN is left out.
      clusters: how many there were to draw.
    """
    value = float(np.mean(second) - np.mean(first))
    drawn = drawn[np.isfinite(drawn)]
    if clusters < 2 or not len(drawn) or not math.isfinite(value):
        return Difference(value, math.nan, math.nan, math.nan)
    parts = [(float(np.var(drawn)) * clusters / (clusters - 1), clusters - 1)]
    several = [side for side in (first, second) if len(side) > 1]
    parts += [(float(np.var(side, ddof=1)) / len(side), len(side) - 1) for side in several]
    variance = sum(part for part, _ in parts)
    if variance == 0:
        return Difference(value, value, value, 1.0 if value == 0 else 0.0)
    freedom = variance**2 / sum(part**2 / freedom for part, freedom in parts)
    from scipy.special import stdtr

    error = math.sqrt(variance)
    reach = _student(freedom) * error
    return Difference(value, value - reach, value + reach, float(2 * stdtr(freedom, -abs(value) / error)))


class Discordant(NamedTuple):
    """Examples that one run alone has right, those that the other alone has right, and McNemar's mid-p."""

    only_first: int
    only_second: int
    p: float


def mcnemar(first: np.ndarray, second: np.ndarray) -> Discordant:
    """McNemar's mid-p test of whether two runs are right equally often, for independent examples.

    The mid-p keeps its level where the exact test says too little (Fagerland, Lydersen & Laake 2013, BMC Medical
    Research Methodology 13:91): the exact p less the probability of what was seen, or less half of it at a tie.

    Args:
      first: bool `[n]`, whether the first run is right.
      second: likewise of the second.
    """
    from scipy.stats import binom, binomtest

    one, other = int((first & ~second).sum()), int((second & ~first).sum())
    if not one + other:
        return Discordant(0, 0, 1.0)
    seen = float(binom.pmf(one, one + other, 0.5))
    return Discordant(one, other, float(binomtest(one, one + other).pvalue) - (seen / 2 if one == other else seen))


def holm(p: Sequence[float]) -> list[float]:
    """Every p of several tests, such that the chance of any false alarm stays what is said (Holm 1979); NaN is no test.

    >>> [round(each, 3) for each in holm([0.01, 0.04, 0.03, float("nan")])]
    [0.03, 0.06, 0.06, nan]
    """
    adjusted = [math.nan] * len(p)
    tests = sorted((value, i) for i, value in enumerate(p) if not math.isnan(value))
    least = 0.0
    for rank, (value, i) in enumerate(tests):
        least = max(least, min(1.0, (len(tests) - rank) * value))
        adjusted[i] = least
    return adjusted


class Spread(NamedTuple):
    """The mean of several runs' figures, their standard deviation (n - 1), and the 95 % interval of the mean.

    The interval is Student's, for runs that are independent: repeats are, on one test part; folds share what they
    learn from, so theirs is too narrow (Bengio & Grandvalet 2004).
    """

    mean: float
    deviation: float
    low: float
    high: float
    runs: int


def spread(values: Sequence[float]) -> Spread:
    """Mean and spread over repeats or folds; NaN is left out.

    >>> spread([1.0, 2.0, 3.0])._replace(low=0, high=0)
    Spread(mean=2.0, deviation=1.0, low=0, high=0, runs=3)
    """
    found = np.asarray([value for value in values if math.isfinite(value)], np.float64)
    mean = float(found.mean()) if len(found) else math.nan
    if len(found) < 2:
        return Spread(mean, math.nan, math.nan, math.nan, len(found))
    deviation = float(found.std(ddof=1))
    reach = _student(len(found) - 1) * deviation / math.sqrt(len(found))
    return Spread(mean, deviation, mean - reach, mean + reach, len(found))


def _student(freedom: float) -> float:
    """What Student's t exceeds with 2.5 % probability."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, (1 + _LEVEL) / 2))
