"""How often 95 % intervals hold the truth, in simulated tests whose truth is known.

Every simulated test draws examples anew from a population and asks whether the interval that this project would print
covers the population's value. Of 1,000 tests a method that is right covers 93.6 to 96.4 % (the 95 % range of the
binomial). `naive` takes every example for independent of all others, where they come in clusters. `none` is the share
of tests that get no interval, since all clusters are alike; the others are of the tests that have one.
"""

import argparse
import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from agegender_jax.evaluate.targets import Target
from agegender_jax.evaluate.uncertainty import ClusterBootstrap, Measure, difference, draw, intervals, measure_of
from agegender_jax.models.heads import AgeYearsHead, ClassNameHead
from benchmarks import bench_rows

EXAMPLES = """examples:
  python -m benchmarks.coverage
  python -m benchmarks.coverage --tests 200 --json coverage.json
"""
_RIGHT = 0.9
_ERROR = 5.0  # years: scale of the errors
_SHARES = np.array([0.08, 0.04, 0.05, 0.05, 0.3, 0.26, 0.12, 0.1])  # of eight age groups among the labels
_RECALL = np.array([0.85, 0.5, 0.5, 0.3, 0.75, 0.55, 0.5, 0.7])
_REPEAT = 0.01  # standard deviation of the accuracy over repeats

Sample = tuple[list[Target], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Case:
    """A population: its metric, the true value, and how a test of it is sampled.

    `test` returns predictions and the cluster of each example. Of several predictions the first half are repeats of one
    run, the second half of another, and the value is the difference of their means.
    """

    name: str
    metric: str
    truth: float
    test: Callable[[np.random.Generator], Sample]


@dataclasses.dataclass(frozen=True)
class Covered:
    """The share of tests whose interval held the truth, by clusters and naively, of those that have one.

    Also the intervals' mean width, and the share of tests without one, by clusters.
    """

    name: str
    clustered: float
    naive: float
    width: float
    none: float


def binary(right: np.ndarray) -> Target:
    """Returns predictions of two classes that are right or not, bool `[n]`; all labels are class 0."""
    label = np.zeros(len(right), np.int32)
    return Target(ClassNameHead(("a", "b")), {"class": (~right).astype(np.int32)}, label)


def years(errors: np.ndarray) -> Target:
    """Returns predictions in years that are off by so much."""
    label = np.full(len(errors), 50.0)
    return Target(AgeYearsHead(), {"years": label + errors}, label)


def _accuracy(speakers: int, each: int, spread: float = 0.0) -> Callable[[np.random.Generator], Sample]:
    """Right nine times of ten; `spread` is the standard deviation of that over speakers."""

    def test(rng: np.random.Generator) -> Sample:
        share = np.full(speakers, _RIGHT)
        if spread:
            both = _RIGHT * (1 - _RIGHT) / spread**2 - 1
            share = rng.beta(_RIGHT * both, (1 - _RIGHT) * both, speakers)
        cluster = np.repeat(np.arange(speakers), each)
        return [binary(rng.random(len(cluster)) < share[cluster])], cluster

    return test


def _years(speakers: int, each: int, spread: float = 0.0) -> Callable[[np.random.Generator], Sample]:
    """Errors of Laplace's distribution; `spread` is the deviation over speakers of the logarithm of their scale."""

    def test(rng: np.random.Generator) -> Sample:
        scale = _ERROR * np.exp(spread * rng.normal(size=speakers) - spread**2 / 2)
        cluster = np.repeat(np.arange(speakers), each)
        return [years(rng.laplace(0, scale[cluster]))], cluster

    return test


def _groups(n: int) -> Callable[[np.random.Generator], Sample]:
    """Eight classes, some of them rare; a wrong prediction is any other class."""

    def test(rng: np.random.Generator) -> Sample:
        label = rng.choice(len(_SHARES), n, p=_SHARES)
        other = (label + rng.integers(1, len(_SHARES), n)) % len(_SHARES)
        predicted = np.where(rng.random(n) < _RECALL[label], label, other).astype(np.int32)
        return [Target(ClassNameHead(tuple("abcdefgh")), {"class": predicted}, label.astype(np.int32))], np.arange(n)

    return test


def _true_f1() -> float:
    """The macro F1 of that population, class by class."""
    right = _SHARES * _RECALL
    wrong = (_SHARES * (1 - _RECALL)) / (len(_SHARES) - 1)
    answered = right + wrong.sum() - wrong
    return float(np.mean(2 * right / (_SHARES + answered)))


def _two(n: int, repeats: int) -> Callable[[np.random.Generator], Sample]:
    """Two runs whose predictions are correlated; of several repeats of each, the accuracy has a spread of its own."""

    def test(rng: np.random.Generator) -> Sample:
        hard = rng.random(n)
        predictions = []
        for share in (_RIGHT, _RIGHT - 0.02):
            for _ in range(repeats):
                own = share + (_REPEAT * rng.normal() if repeats > 1 else 0)
                shared = rng.random(n) < 0.7
                predictions.append(binary(np.where(shared, hard, rng.random(n)) < own))
        return predictions, np.arange(n)

    return test


CASES = (
    Case("accuracy, 4,289 examples", "accuracy", _RIGHT, _accuracy(4289, 1)),
    Case("accuracy, 300 examples", "accuracy", _RIGHT, _accuracy(300, 1)),
    *(
        Case(f"accuracy, {speakers} speakers of {each}", "accuracy", _RIGHT, _accuracy(speakers, each, spread))
        for speakers, each, spread in (
            *((100, 10, 0.15), (40, 10, 0.15), (20, 10, 0.15), (10, 10, 0.15), (4, 10, 0.15), (2, 10, 0.15)),
            *((10, 50, 0.05), (4, 50, 0.05), (2, 50, 0.05)),
        )
    ),
    Case("MAE, 4,289 examples", "mae", _ERROR, _years(4289, 1)),
    Case("MAE, 300 examples", "mae", _ERROR, _years(300, 1)),
    *(
        Case(f"MAE, {speakers} speakers of 10", "mae", _ERROR, _years(speakers, 10, 0.5))
        for speakers in (100, 40, 20, 10, 4, 2)
    ),
    Case("median error, 300 examples", "median_error", _ERROR * float(np.log(2)), _years(300, 1)),
    Case("balanced accuracy, 8 classes, 1,000 examples", "balanced_accuracy", float(_RECALL.mean()), _groups(1000)),
    Case("macro F1, 8 classes, 1,000 examples", "f1", _true_f1(), _groups(1000)),
    Case("difference of accuracy, 1,000 examples", "accuracy", -0.02, _two(1000, 1)),
    Case("difference of accuracy, 3 repeats each", "accuracy", -0.02, _two(1000, 3)),
)


def covered(case: Case, tests: int, draws: int = 1000, seed: int = 0) -> Covered:
    """Simulates tests of one case.

    Args:
      case: of `CASES`.
      tests: how many.
      draws: of the bootstrap in each.
      seed: of the simulation.
    """
    rng = np.random.default_rng(seed)
    ends = []
    for number in range(tests):
        predictions, cluster = case.test(rng)
        clustered = _interval(case, predictions, cluster, draws, number)
        alone = np.arange(len(cluster))
        naive = (
            clustered if len(np.unique(cluster)) == len(cluster) else _interval(case, predictions, alone, draws, number)
        )
        ends.append((clustered, naive))
    low, high = np.moveaxis(np.array(ends), -1, 0)  # [tests, 2] each
    there = np.isfinite(low)
    held = ((low <= case.truth) & (case.truth <= high)).sum(0) / np.maximum(there.sum(0), 1)
    width = float((high - low)[there[:, 0], 0].mean()) if there[:, 0].any() else float("nan")
    return Covered(case.name, float(held[0]), float(held[1]), width, float(1 - there[:, 0].mean()))


def _interval(case: Case, predictions: list[Target], cluster: np.ndarray, draws: int, seed: int) -> tuple[float, float]:
    rows = np.arange(len(cluster))
    resamples = ClusterBootstrap(cluster, draws=draws, seed=seed)
    made = [_only(case.metric, measure_of(one, rows)) for one in predictions]
    if len(made) == 1:
        interval = intervals(made[0], resamples, rows)[case.metric]
        return interval.low, interval.high
    values = [float(metrics.function(None)[case.metric]) for metrics in made]
    samples = [draw(metrics, resamples, rows)[case.metric] for metrics in made]
    half = len(made) // 2
    apart = np.mean(samples[half:], axis=0) - np.mean(samples[:half], axis=0)
    ahead = difference(values[:half], values[half:], apart, resamples.clusters(rows))
    return ahead.low, ahead.high


def _only(name: str, measured: Measure) -> Measure:
    return measured._replace(metrics=[metric for metric in measured.metrics if metric.name == name])


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command."""
    parser = bench_rows.parser("benchmarks.coverage", __doc__, EXAMPLES)
    parser.add_argument("--tests", type=bench_rows.at_least(1), default=1000, help="simulated tests a row [1000]")
    parser.add_argument(
        "--draws", type=bench_rows.at_least(1), default=1000, help="draws of the bootstrap in each [1000]"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there too; must not exist")
    return parser


def main(given: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    arguments = build_parser().parse_args(given)

    def work() -> None:
        result = {"target": "coverage", "tests": arguments.tests, "draws": arguments.draws, "rows": _table(arguments)}
        bench_rows.write_json(arguments.json, result)

    return bench_rows.guarded(work, arguments.json)


def _table(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """The rows, printed one by one."""
    print(f"{'95 % intervals that hold the truth':46}{'clustered':>10}{'naive':>8}{'width':>9}{'none':>7}", flush=True)
    rows = []
    for case in CASES:
        row = covered(case, arguments.tests, arguments.draws)
        rows.append(dataclasses.asdict(row))
        print(f"{row.name:46}{row.clustered:10.1%}{row.naive:8.1%}{row.width:9.4f}{row.none:7.1%}", flush=True)
    return rows


if __name__ == "__main__":
    sys.exit(main())
