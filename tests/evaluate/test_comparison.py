"""Comparing runs whose difference is known."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest

from agegender_jax import recipe as recipes
from agegender_jax.errors import UserError
from agegender_jax.evaluate.comparison import ComparedRun, compare, load, text
from agegender_jax.evaluate.predictions import NAME, Predictions, write_predictions
from agegender_jax.labels import DISCLAIMER
from agegender_jax.models.heads import build_heads
from agegender_jax.recipe_options import model_options

N = 300


def run(name: str, right: float = 0.8, error: float = 5.0, seed: int = 0, **metadata: Any) -> Predictions:
    """Predictions of the same people: gender right so often, and ages that are off by so much."""
    recipe = recipes.base()
    recipe.heads.age_group.weight = 0.0
    recipe.seed = seed
    heads = build_heads(model_options(recipe).heads)
    people = np.random.default_rng(0)
    age = people.integers(20, 60, N).astype(np.float32)
    gender = people.integers(0, 2, N).astype(np.int32)
    columns: dict[str, np.ndarray] = {"age": age, "age_low": age, "age_high": age, "gender": gender}
    columns |= {"race": np.zeros(N, np.int32), "cluster": np.arange(N)}
    rng = np.random.default_rng([seed, *name.encode()])
    predicted = np.where(rng.random(N) < right, gender, 1 - gender)
    years = np.clip(np.round(age + rng.laplace(0, error, N)), 0, 100).astype(int)
    return Predictions(
        key=np.array([f"{i:03}.jpg" for i in range(N)]),
        part=np.full(N, "test"),
        columns=columns,
        labels={"gender": gender, "age": age},
        distributions={"gender": np.eye(2, dtype=np.float32)[predicted], "age": np.eye(101, dtype=np.float32)[years]},
        heads=heads,
        metadata={
            **{"run": name, "dataset": "utkface", "synthetic": True, "protocol": "disjoint", "leaky": False},
            **{"age_groups": "nearest", "split_sha256": "0" * 64, "evaluated_step": 1, "flip_average": False},
            **{"class_names": [], "recipe": json.loads(recipes.to_json(recipe)), **metadata},
        },
    )


def keep(directory: Path, predictions: Predictions) -> Path:
    directory.mkdir(parents=True)
    write_predictions(directory / NAME, predictions)
    return directory


def sweep(directory: Path, runs: list[Predictions]) -> Path:
    names = [f"run_{i}" for i in range(len(runs))]
    for name, predictions in zip(names, runs, strict=True):
        keep(directory / name, predictions)
    (directory / "sweep.json").write_text(json.dumps({"runs": names}))
    return directory


def test_a_difference_is_detected_and_equality_is_not() -> None:
    first, second = run("a", 0.7, 5), run("b", 0.9, 5)
    result = compare(ComparedRun("a", [first]), ComparedRun("b", [second]))
    assert (result["runs"], result["repeats"], result["n"], result["clusters"]) == (["a", "b"], [1, 1], N, N)
    about = [result[name] for name in ("part", "dataset", "protocol", "synthetic", "leaky")]
    assert about == ["test", "utkface", "disjoint", True, False]
    gender = result["metrics"]["gender/accuracy"]
    one, other = first.metrics()["gender/accuracy"], second.metrics()["gender/accuracy"]
    assert (gender["first"], gender["second"], gender["value"]) == pytest.approx((one, other, other - one))
    assert 0 < gender["low"] < gender["value"] < gender["high"]
    assert gender["p"] <= gender["p_holm"] < 0.001
    assert result["metrics"]["age/mae"]["low"] < 0 < result["metrics"]["age/mae"]["high"]
    assert "p_mcnemar" not in result["metrics"]["age/mae"]  # no share of correct predictions
    assert f"accuracy ({other - one:+.4f}), " in result["sentences"]["gender"]
    assert "accuracy" not in result["sentences"]["age"]
    assert "gender/n" not in result["metrics"]


def test_mcnemars_test_is_of_shares_of_correct_predictions() -> None:
    first, second = run("a", 0.7), run("b", 0.8)
    result = compare(ComparedRun("a", [first]), ComparedRun("b", [second]))
    gender = result["metrics"]["gender/accuracy"]
    assert {name for name, each in result["metrics"].items() if "p_mcnemar" in each} == {"gender/accuracy", "age/cs5"}
    right = [each.distributions["gender"].argmax(-1) == each.labels["gender"] for each in (first, second)]
    one, other = (int((a & ~b).sum()) for a, b in (right, right[::-1]))
    assert (gender["only_first"], gender["only_second"]) == (one, other)
    exact = binomtest(one, one + other).pvalue
    assert 0.8 * exact < gender["p_mcnemar"] < exact
    assert gender["p"] == pytest.approx(gender["p_mcnemar"], rel=0.5)  # of the bootstrap


def test_a_pair_of_identical_files_is_one_example_to_mcnemar() -> None:
    first, second = run("a", 0.7), run("b", 0.8)
    cluster = np.concatenate([[1], np.arange(1, N)])
    sides = [dataclasses.replace(each, columns={**each.columns, "cluster": cluster}) for each in (first, second)]
    result = compare(*(ComparedRun(each.metadata["run"], [each]) for each in sides))
    gender = result["metrics"]["gender/accuracy"]
    right = [(each.distributions["gender"].argmax(-1) == each.labels["gender"]) for each in (first, second)]
    alone = np.arange(N) != 1  # row 0 is the first of the pair
    one, other = (int((a & ~b)[alone].sum()) for a, b in (right, right[::-1]))
    assert (gender["only_first"], gender["only_second"]) == (one, other)
    assert "the first example of each of 299 clusters" in text(result)


def test_examples_of_one_subject_are_not_independent() -> None:
    """The same predictions prove less where ten examples each are of one subject and go together."""
    first, second = run("a", 0.7), run("b", 0.7)
    block = np.arange(N) // 10
    whole = np.random.default_rng(1).permutation(block.max() + 1) < 5  # these subjects the first has wrong
    label = first.labels["gender"]
    predicted = [np.where(whole[block], 1 - label, label), label]
    sides = []
    for each, classes in zip((first, second), predicted, strict=True):
        distributions = {**each.distributions, "gender": np.eye(2, dtype=np.float32)[classes]}
        sides.append(dataclasses.replace(each, distributions=distributions))

    def accuracy(cluster: np.ndarray) -> dict[str, Any]:
        runs = [dataclasses.replace(each, columns={**each.columns, "cluster": cluster}) for each in sides]
        return compare(*(ComparedRun(run.metadata["run"], [run]) for run in runs))["metrics"]["gender/accuracy"]

    alone, together = accuracy(np.arange(N)), accuracy(block)
    assert alone["p"] < 1e-8
    assert together["only_second"] == 5  # one example a subject
    # 5 of 30 subjects: Student's t is (1/6) / sqrt((1/6) (5/6) / 29) = 2.41, of which p = 0.0226.
    assert together["p"] == pytest.approx(0.0226, abs=0.006)
    assert together["high"] - together["low"] > 2.5 * (alone["high"] - alone["low"])


def test_a_run_does_not_differ_from_itself() -> None:
    side = ComparedRun("a", [run("a")])
    result = compare(side, side)
    assert {each["p_holm"] for each in result["metrics"].values()} == {1.0}
    assert {each["value"] for each in result["metrics"].values()} == {0.0}


def test_other_examples_and_other_labels_are_refused() -> None:
    first, second = run("a"), run("b")
    relabelled = dataclasses.replace(second, labels={**second.labels, "age": second.labels["age"] + 1})
    for other, message in ((second.rows(np.arange(10, N)), "300 and 290, 290"), (relabelled, "by age")):
        with pytest.raises(UserError, match=message):
            compare(ComparedRun("a", [first]), ComparedRun("b", [other]))


def test_only_what_both_say_is_compared() -> None:
    first, second = run("a"), run("b")
    age = dataclasses.replace(second, heads={"age": second.heads["age"]})
    gender = dataclasses.replace(first, heads={"gender": first.heads["gender"]})
    result = compare(ComparedRun("a", [first]), ComparedRun("b", [age]))
    assert {name.split("/")[0] for name in result["metrics"]} == {"age"}
    with pytest.raises(UserError, match="a predicts gender and b age"):
        compare(ComparedRun("a", [gender]), ComparedRun("b", [age]))


def test_a_studys_repeats_widen_the_interval(tmp_path: Path) -> None:
    rights = (0.6, 0.75, 0.9)
    runs = [run("a", right, seed=seed) for seed, right in enumerate(rights)]
    side = load(sweep(tmp_path / "sweep", runs), "test")
    assert (side.name, len(side.repeats)) == ("sweep", 3)
    other = ComparedRun("b", [run("b", 0.75)])
    result = compare(side, other)
    assert result["repeats"] == [3, 1]
    gender = result["metrics"]["gender/accuracy"]
    assert gender["first"] == pytest.approx(np.mean([each.metrics()["gender/accuracy"] for each in runs]))
    assert "p_mcnemar" not in gender
    same = compare(ComparedRun("sweep", [runs[1]] * 3), other)["metrics"]["gender/accuracy"]
    assert gender["high"] - gender["low"] > 4 * (same["high"] - same["low"])
    assert "sweep the mean of 3 repeats" in text(result)
    assert "b is a single training" in text(result)
    assert "is a single training" not in text(compare(other, other))


def test_folds_are_one_test(tmp_path: Path) -> None:
    whole = run("a")
    folds = [whole.rows(np.arange(N) % 3 == fold) for fold in range(3)]
    side = load(sweep(tmp_path / "folds", folds), "test")
    assert len(side.repeats) == 1
    result = compare(side, ComparedRun("a", [whole]))
    assert result["n"] == N
    assert {each["value"] for each in result["metrics"].values()} == {0.0}


def test_what_is_no_study_of_one_test_is_refused(tmp_path: Path) -> None:
    twice = sweep(tmp_path / "twice", [run("a"), run("b")])  # of one seed
    with pytest.raises(UserError, match="part test"):
        load(twice, "test")
    protocols = sweep(tmp_path / "protocols", [run("a"), run("b", protocol="paper")])
    with pytest.raises(UserError, match="disjoint, paper"):
        load(protocols, "test")
    (tmp_path / "protocols" / "sweep.json").write_text("[]")
    with pytest.raises(UserError, match=r"sweep\.json"):
        load(protocols, "test")
    keep(tmp_path / "single", run("a"))
    with pytest.raises(UserError, match="part validation"):
        load(tmp_path / "single", "validation")
    (tmp_path / "single" / "recipe.json").write_text("{}")
    with pytest.raises(UserError, match=r"sweep\.json"):
        load(tmp_path, "test")


def test_what_does_not_vary_has_neither_interval_nor_p() -> None:
    """A year more for everybody, whose ages are 20 to 60: no draw says how far that may be off."""
    first = run("a", error=0.0)
    years = np.roll(first.distributions["age"], 1, axis=-1)
    second = dataclasses.replace(first, distributions={**first.distributions, "age": years})
    result = compare(ComparedRun("a", [first]), ComparedRun("b", [second]))
    bias = result["metrics"]["age/bias"]
    assert bias["value"] == pytest.approx(1)
    assert all(np.isnan(bias[name]) for name in ("low", "high", "p", "p_holm"))
    (line,) = (line for line in text(result).splitlines() if line.startswith("age/bias"))
    assert line.split()[-3:] == ["-", "-", "-"]
    assert "nan" not in text(result)


def test_text_names_dataset_part_and_counts() -> None:
    lines = text(compare(ComparedRun("plain", [run("a", 0.7)]), ComparedRun("weighted", [run("b", 0.95)]))).splitlines()
    assert DISCLAIMER in lines[0]
    assert lines[0].endswith("protocol disjoint, part test: 300 examples")
    assert lines[1].split("  ")[-1].strip() == "p (McNemar)"
    (accuracy,) = (line for line in lines if line.startswith("gender/accuracy"))
    assert accuracy.split("  ")[-1].strip() == accuracy.split("  ")[-3].strip() == "< 0.0001"
    assert any(line.startswith("8 metrics") for line in lines)
