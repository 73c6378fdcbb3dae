"""How far metrics may be off: intervals of one run, differences of two, spread over repeats.

The examples of one cluster (a subject, a speaker, identical files) are not independent, so clusters are sampled, with
replacement, and each example counts as often as its cluster was sampled (the cluster bootstrap; Davison & Hinkley 1997,
section 3.8). All metrics are functions of such weights, see `metrics`.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from agegender_jax.evaluate.predictions import Predictions
from agegender_jax.evaluate.targets import Target
from agegender_jax.metrics import Metric, mean

FEW = 10
"""Clusters below which an interval is Student's: see `interval`."""

_LEVEL = 0.95
_DRAWS_AT_ONCE = 250  # bounds memory: draws x classes x classes
_BYTES = 64 * 2**20  # of resamples that are kept, and of the weights that are made at once
_ROUNDING = 1e-12  # what does not differ by more than this part does not differ


class Interval(NamedTuple):
    """A metric's value and its 95 % interval; NaN where there is none."""

    value: float
    low: float
    high: float


class ClusterBootstrap:
    """Resamples clusters (int `[n]`) with replacement, the same for all metrics: their differences are paired.

    Up to 64 MB (1,000 resamples of some 67,000 clusters) are kept; more are made again whenever they are needed.
    """

    def __init__(self, cluster: np.ndarray, *, draws: int = 1000, seed: int = 0) -> None:
        names, self._cluster = np.unique(cluster, return_inverse=True)
        self._count, self._draws, self._seed = len(names), draws, seed
        self._kept = list(self._resamples()) if draws * len(names) <= _BYTES else None

    def _resamples(self) -> Iterator[np.ndarray]:
        """Yields how often each cluster is in a resample, uint8 `[clusters]`; more than 255 times does not occur."""
        rng = np.random.default_rng(self._seed)
        for _ in range(self._draws):
            chosen = rng.integers(max(self._count, 1), size=self._count)
            yield np.bincount(chosen, minlength=self._count).astype(np.uint8)

    def clusters(self, rows: np.ndarray) -> int:
        """Returns the number of clusters of some examples, int `[m]`."""
        return len(np.unique(self._cluster[rows]))

    def first(self, rows: np.ndarray) -> np.ndarray:
        """Returns the first of these examples, int `[m]`, of each cluster."""
        return rows[np.sort(np.unique(self._cluster[rows], return_index=True)[1])]

    def weights(self, rows: np.ndarray) -> Iterator[np.ndarray]:
        """Yields how often each of these examples, int `[m]`, was sampled: float64 `[some resamples, m]`.

        Where `rows` are a group, a resample is one of all examples: the size of the group differs between resamples.
        """
        columns = self._cluster[rows]
        at_once = max(1, min(_DRAWS_AT_ONCE, _BYTES // (8 * max(len(rows), 1))))
        times = iter(self._kept if self._kept is not None else self._resamples())
        while block := [each[columns] for each in itertools.islice(times, at_once)]:
            yield np.stack(block).astype(np.float64)


class Measure(NamedTuple):
    """Metrics as a function from the examples' weights, `[..., m]` or None for ones, to arrays `[...]` by name."""

    metrics: Sequence[Metric]
    function: Callable[[np.ndarray | None], Mapping[str, Any]]


def measure_of(target: Target, rows: np.ndarray) -> Measure:
    """Returns the metrics of some rows, int `[m]`, of a target, without counts."""
    metrics = [metric for metric in target.head.metrics if metric.unit != "count"]
    return Measure(metrics, target.rows(rows).measure)


def draw(measure: Measure, resamples: ClusterBootstrap, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the metrics of every resample, float64 `[draws]` by name; NaN where a resample has no example."""
    blocks = [measure.function(weights) for weights in resamples.weights(rows)]
    return {metric.name: np.concatenate([block[metric.name] for block in blocks]) for metric in measure.metrics}


def intervals(measure: Measure, resamples: ClusterBootstrap, rows: np.ndarray) -> dict[str, Interval]:
    """Returns the metrics of the rows, int `[m]`, by name, with intervals: see `interval`."""
    clusters, values, samples = resamples.clusters(rows), measure.function(None), draw(measure, resamples, rows)
    return {
        metric.name: interval(float(values[metric.name]), samples[metric.name], clusters, metric)
        for metric in measure.metrics
    }


def mean_intervals(
    values: Mapping[Metric, np.ndarray], resamples: ClusterBootstrap, rows: np.ndarray
) -> dict[str, Interval]:
    """Returns means of values `[m]` of the rows, int `[m]`, with intervals, by the name of the metric that they are."""

    def means(weights: np.ndarray | None) -> dict[str, Any]:
        return {metric.name: mean(value, weights) for metric, value in values.items()}

    return intervals(Measure(tuple(values), means), resamples, rows)


def of_predictions(predictions: Predictions) -> dict[str, list[float]]:
    """Returns the ends of the intervals of all metrics that have one, by their names in `Predictions.metrics`."""
    return ends_of(predictions.targets(), predictions.columns["cluster"])


def ends_of(targets: Mapping[str, Target], cluster: np.ndarray) -> dict[str, list[float]]:
    """Returns the ends of the intervals of all metrics that have one, as `name/metric`; `cluster` is int `[n]`."""
    resamples = ClusterBootstrap(cluster)
    ends = {}
    for name, target in targets.items():
        rows = np.flatnonzero(target.known)
        if len(rows):
            for metric, between in intervals(measure_of(target, rows), resamples, rows).items():
                if math.isfinite(between.low):
                    ends[f"{name}/{metric}"] = [between.low, between.high]
    return ends


def interval(value: float, samples: np.ndarray, clusters: int, metric: Metric) -> Interval:
    """Returns the 95 % interval of a metric.

    From `FEW` clusters on it is the expanded percentile interval (Hesterberg 2015, arXiv 1411.5279): the percentiles
    are those at which a mean's interval would be Student's, of 1,000 clusters 2.5 and 97.5. Of fewer clusters too few
    resamples differ (of two clusters three), so it is Student's itself: the deviation of the resamples, times
    sqrt(m / (m - 1)) of m clusters, with m - 1 degrees of freedom, cut off at the metric's bounds. From seven clusters
    on the two hold the truth about as often. `benchmarks.coverage` shows how often that is: less than 95 % (88
    to 93, and of shares near 1 down to 80) of fewer than about a hundred clusters that differ much, as speakers may.

    A share of 0 or 1 is the same in every resample: it gets the exact limits of a binomial share
    (Clopper & Pearson 1934) of as many trials as there are clusters. Of one cluster there is no interval, nor is
    there of other metrics without spread.

    `samples` are float `[draws]`, of resamples of clusters; NaN is left out.
    """
    if clusters and value in (0, 1) and metric.correct is not None:
        far = ((1 - _LEVEL) / 2) ** (1 / clusters)
        return Interval(value, *((far, 1.0) if value else (0.0, 1 - far)))
    samples = samples[np.isfinite(samples)]
    if clusters < 2 or not len(samples) or np.ptp(samples) <= _ROUNDING * abs(value):
        return Interval(value, math.nan, math.nan)
    if clusters < FEW:
        reach = _student(clusters - 1) * float(np.std(samples)) * math.sqrt(clusters / (clusters - 1))
        return Interval(value, *metric.clip(value - reach, value + reach))
    from scipy.special import ndtr

    below = ndtr(-math.sqrt(clusters / (clusters - 1)) * _student(clusters - 1))
    low, high = np.quantile(samples, (below, 1 - below))
    return Interval(value, float(low), float(high))


class Difference(NamedTuple):
    """The difference of a metric between runs, with its 95 % interval and the two-sided p of no difference."""

    value: float
    low: float
    high: float
    p: float


def difference(
    first: Sequence[float], second: Sequence[float], samples: np.ndarray | None = None, clusters: int = 0
) -> Difference:
    """Returns the mean metric of the second runs less that of the first, all measured on the same examples.

    Its variance is that over paired resamples of clusters, plus, of several repeats, the variance of their mean; the
    interval is Student's, with Welch and Satterthwaite's degrees of freedom (Welch 1947). Where nothing
    varies, a difference has neither interval nor p, and none at all has p = 1.

    Of each run there is a metric by repeat; of a single one the spread over repeats is not known and not in the
    interval. `samples`, float `[draws]`, are the difference of the two means in every resample; NaN is left out.
    Without them only the spread over repeats is known, and both must have some.
    """
    value = float(np.mean(second) - np.mean(first))
    nothing = Difference(value, math.nan, math.nan, math.nan)
    terms = []
    if samples is not None:
        samples = samples[np.isfinite(samples)]
        if clusters < 2 or not len(samples):
            return nothing
        terms.append((float(np.var(samples)) * clusters / (clusters - 1), clusters - 1))
    elif min(len(first), len(second)) < 2:
        return nothing
    several = [side for side in (first, second) if len(side) > 1]
    terms += [(float(np.var(side, ddof=1)) / len(side), len(side) - 1) for side in several]
    variance = sum(term for term, _ in terms)
    if not math.isfinite(value):
        return nothing
    rounding = _ROUNDING * float(np.abs([np.mean(first), np.mean(second)]).max())
    if math.sqrt(variance) <= rounding:
        return Difference(value, value, value, 1.0) if abs(value) <= rounding else nothing
    freedom = variance**2 / sum(term**2 / freedom for term, freedom in terms)
    from scipy.stats import t

    error = math.sqrt(variance)
    reach = _student(freedom) * error
    return Difference(value, value - reach, value + reach, float(2 * t.sf(abs(value) / error, freedom)))


class Discordant(NamedTuple):
    """Counts of examples that one run alone predicts correctly, and the other alone, and McNemar's mid-p."""

    only_first: int
    only_second: int
    p: float


def mcnemar(first: np.ndarray, second: np.ndarray) -> Discordant:
    """Tests whether two runs are correct (bool `[n]`) equally often, for independent examples: McNemar's mid-p test.

    The mid-p keeps its level where the exact test is too careful (Fagerland, Lydersen & Laake 2013, BMC Medical
    Research Methodology 13:91): the exact p less the probability of what was seen, or less half of it at a tie.
    """
    from scipy.stats import binom, binomtest

    one, other = int((first & ~second).sum()), int((second & ~first).sum())
    if not one + other:
        return Discordant(0, 0, 1.0)
    seen = float(binom.pmf(one, one + other, 0.5))
    return Discordant(one, other, float(binomtest(one, one + other).pvalue) - (seen / 2 if one == other else seen))


def holm(p: Sequence[float]) -> list[float]:
    """Returns each p adjusted so that the chance of any false alarm is at most the level (Holm 1979); NaN is no test.

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
    """The mean of a metric of several runs, their standard deviation (n - 1), and the 95 % interval of the mean.

    The interval is Student's, for runs that are independent: repeats are, on one test part; folds share what they
    learn from, so theirs is too narrow (Bengio & Grandvalet 2004).
    """

    mean: float
    deviation: float
    low: float
    high: float
    runs: int


def spread(values: Sequence[float]) -> Spread:
    """Computes mean and spread over repeats or folds; NaN is left out.

    >>> spread([1.0, 2.0, 3.0])._replace(low=0, high=0)
    Spread(mean=2.0, deviation=1.0, low=0, high=0, runs=3)
    """
    finite = np.asarray([value for value in values if math.isfinite(value)], np.float64)
    mean = float(finite.mean()) if len(finite) else math.nan
    if len(finite) < 2:
        return Spread(mean, math.nan, math.nan, math.nan, len(finite))
    deviation = float(finite.std(ddof=1))
    reach = _student(len(finite) - 1) * deviation / math.sqrt(len(finite))
    return Spread(mean, deviation, mean - reach, mean + reach, len(finite))


def _student(freedom: float) -> float:
    """Returns what Student's t exceeds with 2.5 % probability."""
    from scipy.stats import t

    return float(t.ppf((1 + _LEVEL) / 2, freedom))
