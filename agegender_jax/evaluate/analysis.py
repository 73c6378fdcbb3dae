"""All metrics of one part of a run's predictions, with intervals: what its report shows."""

from typing import Any

import numpy as np

from agegender_jax.errors import UserError
from agegender_jax.evaluate.calibration import (
    LEVELS,
    brier,
    expected_calibration_error,
    fit_temperature,
    interval,
    kept,
    negative_log_likelihood,
    reliability,
    temper,
)
from agegender_jax.evaluate.groups import LEAST, LEAST_CLUSTERS, group_rows, groups, worst_and_gap
from agegender_jax.evaluate.prediction_table import confidence
from agegender_jax.evaluate.predictions import Predictions
from agegender_jax.evaluate.targets import Target
from agegender_jax.evaluate.uncertainty import ClusterBootstrap, Measure, intervals, mean_intervals, measure_of
from agegender_jax.metrics import BIAS, BRIER, ECE, MAE, NLL, SHARE, mean, within_years
from agegender_jax.models.heads import AgeYearsHead, ClassHead

WITHIN = (1, 2, 3, 5, 7, 10, 15)
"""Years by which an age may be off in a cumulative score."""

_WIDTH_LEVEL = 0.8  # of the intervals whose width says how unsure an age is


def analyse(predictions: Predictions, *, part: str = "test", draws: int = 1000, seed: int = 0) -> dict[str, Any]:
    """Computes metrics, groups, calibration and abstention of one part.

    An interval is `{"value", "low", "high"}`, of 95 % by `draws` resamples, see `uncertainty`; NaN where there is none.

    Returns:
      Plain values for JSON, save that there may be NaN:
      `part`, `n`, `clusters`, `draws`, and `known`: examples whose label is known, by target;
      `metrics`: by `target/metric`, intervals;
      `groups`: by target a list of rows, see `groups.group_rows`; `worst` and `gap` by target and way to group, see
      `groups.worst_and_gap`, of groups of at least `least` examples in `least_clusters` clusters;
      `calibration`: of class targets `ece`, `nll`, `brier`, `reliability` (`confidence`, `accuracy`, `n`),
      `temperature` (fitted on the part validation, None without one), `after` (`ece`, `nll`, `brier` at that
      temperature, or None) and `intervals` of `nll` and `brier`; of ages with a distribution `coverage`, rows
      `level`, `value`, `low`, `high` (the share inside and its interval), `mean_width` (years), and `temperature` and
      `after` (`coverage`) likewise;
      `selective`: by target rows `coverage`, `n`, `metric` (`accuracy` or `mae`), `value`, `low`, `high` and
      `threshold`: of the confidence, or of the width in years of the central 80 % interval;
      `confusion`: of class targets `names` and `counts`, row = label;
      `bias_by_age`: by target in years rows `age_band`, `n`, `clusters`, `bias`, `mae`;
      `cumulative_score`: by target in years rows `years` (of `WITHIN`), `value` (the share of predictions that
      are off by at most so much), `low`, `high`.

    Raises:
      UserError: there is no example of the part.
    """
    chosen = predictions.of(part)
    if not len(chosen):
        raise UserError(
            f"The predictions of {predictions.metadata['run']} have no example of the part {part}; choose one of "
            f"{', '.join(np.unique(predictions.part).tolist())}."
        )
    resamples = ClusterBootstrap(chosen.columns["cluster"], draws=draws, seed=seed)
    result: dict[str, Any] = {
        "part": part,
        "n": len(chosen),
        "clusters": resamples.clusters(np.arange(len(chosen))),
        "draws": draws,
        "least": LEAST,
        "least_clusters": LEAST_CLUSTERS,
    }
    tables = ("known", "metrics", "groups", "worst", "gap", "calibration", "selective", "confusion")
    result |= {name: {} for name in (*tables, "bias_by_age", "cumulative_score")}
    validation = predictions.of("validation")
    fitted = validation.targets()
    for name, target in chosen.targets().items():
        rows = np.flatnonzero(target.known)
        result["known"][name] = len(rows)
        values = intervals(measure_of(target, rows), resamples, rows)
        result["metrics"] |= {f"{name}/{metric}": value._asdict() for metric, value in values.items()}
        by_group = groups(chosen.columns, rows)
        table = group_rows(target, by_group, resamples)
        result["groups"][name] = table
        result["worst"][name], result["gap"][name] = worst_and_gap(target, by_group, resamples)
        if isinstance(target.head, ClassHead):
            confusion = target.head.confusion(target.predictions, target.labels)
            result["confusion"][name] = {"names": list(target.head.names), "counts": confusion.tolist()}
            result["calibration"][name] = _class_calibration(target, fitted[name], rows, resamples)
            result["selective"][name] = _selective(target, confidence(target.predictions), rows, resamples)
            continue
        if not isinstance(target.head, AgeYearsHead):
            continue
        result["bias_by_age"][name] = [
            {key: row[key] for key in ("age_band", "n", "clusters", BIAS.name, MAE.name)}
            for row in table
            if row["age_band"] and not row["gender"] and not row["race"]
        ]
        result["cumulative_score"][name] = _cumulative_score(target, rows, resamples)
        assert target.distribution is not None
        if target.distribution.shape[-1] > 1:
            result["calibration"][name] = _age_calibration(target, fitted[name], rows, resamples)
            low, high = interval(target.distribution, _WIDTH_LEVEL)
            result["selective"][name] = _selective(target, low - high, rows, resamples)
    return result


def _class_calibration(target: Target, fitted: Target, rows: np.ndarray, resamples: ClusterBootstrap) -> dict[str, Any]:
    known = fitted.known
    temperature = fit_temperature(fitted.predictions["probability"][known], fitted.labels[known])
    label = target.labels[rows]

    def measure(probability: np.ndarray) -> dict[str, Any]:
        predictions = target.head.decode(probability)  # of a tempered ordinal head it may be another class
        curve = reliability(confidence(predictions), predictions["class"] == label)
        scores = {NLL: negative_log_likelihood(probability, label), BRIER: brier(probability, label)}
        return {
            ECE.name: expected_calibration_error(curve),
            **{metric.name: mean(score) for metric, score in scores.items()},
            "reliability": curve,
            "intervals": {name: value._asdict() for name, value in mean_intervals(scores, resamples, rows).items()},
        }

    probability = target.predictions["probability"][rows]
    after = None if temperature is None else measure(temper(probability, temperature))
    return measure(probability) | {"temperature": temperature, "after": after}


def _age_calibration(target: Target, fitted: Target, rows: np.ndarray, resamples: ClusterBootstrap) -> dict[str, Any]:
    head, known = fitted.head, fitted.known
    assert isinstance(head, AgeYearsHead)
    assert target.distribution is not None
    assert fitted.distribution is not None
    probability = target.distribution
    temperature = fit_temperature(fitted.distribution[known], head.classes(fitted.labels)[known])
    label = target.labels[rows].astype(np.float64)

    def coverage(probability: np.ndarray) -> list[dict[str, float]]:
        table = []
        for level in LEVELS:
            low, high = interval(probability, level)
            inside = ((low <= label) & (label <= high)).astype(np.float64)
            share = mean_intervals({SHARE: inside}, resamples, rows)[SHARE.name]
            table.append({"level": level, **share._asdict(), "mean_width": mean(high - low)})
        return table

    after = None if temperature is None else {"coverage": coverage(temper(probability[rows], temperature))}
    return {"coverage": coverage(probability[rows]), "temperature": temperature, "after": after}


def _cumulative_score(target: Target, rows: np.ndarray, resamples: ClusterBootstrap) -> list[dict[str, float]]:
    if not len(rows):
        return []
    label, years = target.labels[rows], target.predictions["years"][rows]
    scores = [within_years(most) for most in WITHIN]

    def score(weights: np.ndarray | None) -> dict[str, Any]:
        return {metric.name: metric.function(label, years, weights) for metric in scores}

    values = intervals(Measure(scores, score), resamples, rows)
    return [{"years": most, **values[metric.name]._asdict()} for most, metric in zip(WITHIN, scores, strict=True)]


def _selective(
    target: Target, confidence: np.ndarray, rows: np.ndarray, resamples: ClusterBootstrap
) -> list[dict[str, Any]]:
    if not len(rows):
        return []
    table, metric = [], target.main_metric.name
    for share, places in kept(confidence[rows]).items():
        own = rows[places]
        value = intervals(measure_of(target, own), resamples, own)[metric]
        threshold = abs(float(confidence[own].min()))
        table.append({"coverage": share, "n": len(own), "metric": metric, "threshold": threshold, **value._asdict()})
    return table
