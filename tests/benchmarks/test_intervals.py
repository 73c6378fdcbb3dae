"""Intervals of metrics and differences, from made-up predictions and from repeats."""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ml_collections import ConfigDict
from scipy.stats import ttest_ind

from agegender_jax.evaluate.predictions import NAME, Predictions, read_predictions, write_predictions
from agegender_jax.labels import GENDERS
from agegender_jax.models.heads import build_heads
from agegender_jax.recipe_options import model_options
from benchmarks.reproduce import collect, intervals, running, tables
from benchmarks.reproduce.papers import TARGETS


def _recipe(net: str) -> ConfigDict:
    given = {"cpu": True, "size": None, "epochs": None, "repeats": 1, "protocols": [], "smoke": False}
    (one,) = running.plan_all(TARGETS["router"], argparse.Namespace(**given, nets=[net]))
    return one.recipe


def _predictions(
    workdir: Path, seed: int, right: np.ndarray, cluster: np.ndarray | None = None, start: int = 0
) -> Path:
    """Writes predictions of the gender of examples, numbered from `start`, correct where `right` is."""
    recipe = _recipe("three")
    recipe.seed = seed
    heads = build_heads(model_options(recipe).heads)
    label = np.arange(len(right), dtype=np.int32) % 2
    predicted = np.where(right, label, 1 - label)
    columns: dict[str, Any] = {name: np.zeros(len(right), np.float32) for name in ("age", "age_low", "age_high")}
    columns |= {"gender": label, "race": np.zeros(len(right), np.int32)}
    columns["cluster"] = start + np.arange(len(right)) if cluster is None else cluster
    metadata = {
        "run": "x", "dataset": "utkface", "synthetic": False, "protocol": "disjoint", "leaky": False,
        "age_groups": "nearest", "split_sha256": "s", "evaluated_step": 1, "flip_average": False, "class_names": [],
        "recipe": json.loads(recipe.to_json()),
    }  # fmt: skip
    workdir.mkdir(parents=True)
    keys = np.array([f"{start + i:05}" for i in range(len(right))])
    part = np.full(len(right), "test")
    distribution = np.where(predicted[:, None] == np.arange(2), 0.9, 0.1).astype(np.float32)
    predictions = Predictions(keys, part, columns, {"gender": label}, {"gender": distribution}, heads, metadata)
    write_predictions(workdir / NAME, predictions)
    return workdir


def test_one_runs_interval_is_that_of_a_share(tmp_path: Path) -> None:
    right = np.arange(1000) % 10 < 8
    place = _predictions(tmp_path / "a", 0, right)
    result = intervals.interval([place], "gender/accuracy")
    half = 1.96 * np.sqrt(0.8 * 0.2 / 1000)  # the normal approximation: 0.0248
    assert result["interval"] == pytest.approx([0.8 - half, 0.8 + half], abs=0.004)
    assert result["pooled"] == pytest.approx(0.8)
    nothing = {"interval": None, "pooled": None}
    assert intervals.interval([place, tmp_path / "none"], "gender/accuracy") == nothing
    assert intervals.interval([place], "age/mae") == nothing


def test_folds_are_pooled_and_so_is_the_metric(tmp_path: Path) -> None:
    """100 of which 90 are right, and 300 of which 150 are: a mean of 0.7, and 240 of 400."""
    places = [
        _predictions(tmp_path / "a", 0, np.arange(100) < 90),
        _predictions(tmp_path / "b", 0, np.arange(300) < 150, start=100),
    ]
    pooled = intervals.interval(places, "gender/accuracy")
    assert pooled["pooled"] == pytest.approx(0.6)
    assert pooled["interval"][0] < 0.6 < pooled["interval"][1] < 0.7
    metric = {"mean": 0.7, "folds": 0.2, "repeats": None, "values": {}} | pooled
    row = {"test": {"gender/accuracy": metric}, "folds": 2, "repeats": 1}
    cell = tables._metric(row, "gender/accuracy", tables.Column("gender"))
    assert cell.startswith("0.600 ± 0.200 [0.5")
    assert "2 folds" in tables._runs({"rows": [row]})
    other = [
        _predictions(tmp_path / f"o{i}", 0, np.zeros(n, bool), start=s) for i, n, s in ((0, 100, 0), (1, 300, 100))
    ]
    judged = intervals.judge([places, other], ["gender/accuracy"] * 2, [[0.7], [0.0]])
    assert judged["by"] == "predictions"
    assert judged["difference"] == pytest.approx(0.6)
    assert sum(judged["interval"]) / 2 == pytest.approx(0.6)


def test_intervals_of_a_routed_system_are_around_its_metrics(tmp_path: Path) -> None:
    recipe = _recipe("routed")
    heads = build_heads(model_options(recipe).heads)
    rng = np.random.default_rng(0)
    age = rng.integers(1, 90, 400).astype(np.float32)
    columns: dict[str, Any] = {"age": age, "age_low": age, "age_high": age, "race": np.zeros(400, np.int32)}
    columns |= {"gender": rng.integers(0, len(GENDERS), 400).astype(np.int32), "cluster": np.arange(400)}
    path = _predictions(tmp_path / "a", 0, np.ones(400, bool)) / NAME
    gender = read_predictions(path)
    predictions = Predictions(
        gender.key,
        gender.part,
        columns,
        {name: head.column(columns) for name, head in heads.items()},
        {name: rng.dirichlet(np.ones(head.size), 400).astype(np.float32) for name, head in heads.items()},
        heads,
        {**gender.metadata, "recipe": json.loads(recipe.to_json())},
    )
    write_predictions(path, predictions)
    metrics = predictions.metrics()
    ways = ("true/accuracy", "predicted/balanced_accuracy", "soft/one_off")
    for name in ("gender/accuracy", *(f"age_group_{way}" for way in ways)):
        pooled = intervals.interval([path.parent], name)
        assert pooled["pooled"] == pytest.approx(metrics[name])
        assert pooled["interval"][0] < pooled["pooled"] < pooled["interval"][1]


def test_repeats_and_clusters_widen_it(tmp_path: Path) -> None:
    half = 1.96 * np.sqrt(0.8 * 0.2 / 1000)
    # Ten examples a cluster, right together: as few as 100.
    clustered = np.repeat(np.arange(100) % 10 < 8, 10)
    place = _predictions(tmp_path / "a", 0, clustered, np.repeat(np.arange(100), 10))
    low, high = intervals.interval([place], "gender/accuracy")["interval"]
    assert high - low == pytest.approx(2 * half * np.sqrt(10), rel=0.15)
    # Repeats of 0.7 and 0.9: their mean has a standard error of 0.1 by one degree of freedom.
    places = [_predictions(tmp_path / f"r{i}", i, np.arange(1000) % 10 < n) for i, n in enumerate((7, 9))]
    pooled = intervals.interval(places, "gender/accuracy")
    assert pooled["interval"] == [0.0, 1.0]  # 0.8 ± 12.7 * 0.1, cut off where a share ends
    assert pooled["pooled"] == pytest.approx(0.8)
    places.append(_predictions(tmp_path / "r2", 2, np.arange(1000) % 10 < 8))
    low, high = intervals.interval(places, "gender/accuracy")["interval"]
    assert low == pytest.approx(0.8 - 4.303 * 0.1 / np.sqrt(3), abs=0.02)  # Student's t of two
    assert high == 1.0


def test_differences_are_paired_and_corrected_for_their_number(tmp_path: Path) -> None:
    base = np.arange(2000) % 10 < 8
    better = base | (np.arange(2000) % 10 == 8) & (np.arange(2000) < 600)  # 60 more right, none lost
    a, b = _predictions(tmp_path / "a", 0, better), _predictions(tmp_path / "b", 0, base)
    judged = intervals.judge([[a], [b]], ["gender/accuracy"] * 2, [[0.83], [0.8]])
    low, high = judged["interval"]
    # Of 2,000 pairs 60 differ, all one way: 0.03 ± 1.96 * sqrt(0.03 * 0.97 / 2000); unpaired it would be ± 0.024.
    half = 1.96 * np.sqrt(0.03 * 0.97 / 2000)
    assert (low, high) == pytest.approx((0.03 - half, 0.03 + half), abs=0.001)
    assert judged["by"] == "predictions"
    # Holm: 0.02 of three is compared with 0.05 / 3, so none of these is a difference; 0.01 is.
    several = [{"p": p, "clear": None} for p in (0.02, 0.03, 0.9)]
    intervals.settle(several)
    assert [one["clear"] for one in several] == [False, False, False]
    several = [{"p": 0.01, "clear": None}, {"p": 0.04, "clear": None}, {"p": None, "clear": True}]
    intervals.settle(several)
    assert [one["clear"] for one in several] == [True, True, True]


def test_without_predictions_repeats_are_tested() -> None:
    """Two runs each that lie apart are no difference yet: p of 0.5, 0.6 against 0.61, 0.7 is 0.24."""
    names, places = ["gender/accuracy"] * 2, [[Path("none")], [Path("none")]]
    judged = intervals.judge(places, names, [[0.5, 0.6], [0.61, 0.7]])
    welch = ttest_ind([0.5, 0.6], [0.61, 0.7], equal_var=False)
    assert judged["p"] == pytest.approx(welch.pvalue)
    assert judged["interval"] == pytest.approx(list(welch.confidence_interval()))
    intervals.settle([judged])
    assert (judged["by"], judged["clear"]) == ("repeats", False)
    sure = intervals.judge(places, names, [[0.5, 0.51, 0.5], [0.61, 0.6, 0.62]])
    intervals.settle([sure])
    assert sure["clear"] is True
    unknown = intervals.judge(places, names, [[0.5], [0.7]])
    assert unknown == {"difference": pytest.approx(-0.2), **dict.fromkeys(("interval", "p", "by", "clear"))}


def test_a_repeat_is_the_mean_of_its_folds() -> None:
    values = {"fold_0": 0.5, "fold_1": 0.7, "fold_0-repeat_1": 0.6, "fold_1-repeat_1": 0.9}
    assert collect._by_repeat({"values": values, "mean": 0.675}, 2) == pytest.approx([0.6, 0.75])
    assert collect._by_repeat({"values": values | {"fold_1": None}, "mean": 0.7}, 2) == pytest.approx([0.75])
    assert collect._by_repeat({"values": {"fold_0": 0.5, "fold_1": None}, "mean": 0.5}, 2) == [0.5]
