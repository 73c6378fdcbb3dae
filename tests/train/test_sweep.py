"""Several runs side by side: which they are, their mean and spread, what is resumed, refused and left alone."""

import json
import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from ml_collections import ConfigDict

from agegender_jax import recipe as recipes
from agegender_jax.errors import Preempted, UserError
from agegender_jax.metrics import ACCURACY
from agegender_jax.synthetic.voices import SPEAKER_PATTERN, write_voices
from agegender_jax.train import command as package
from agegender_jax.train import sweep as module
from agegender_jax.train.command import expand_trials
from agegender_jax.train.loop import preemption
from agegender_jax.train.sweep import report, run_sweep, summarize


def recipe(folds: int = 0) -> ConfigDict:
    made = recipes.base()
    made.evaluate.report = False
    made.split.folds = folds
    return made


def summary_of(member: Any, accuracy: float, constant: float = 0.5) -> dict[str, Any]:
    return {
        "dataset": "adience",
        "synthetic": False,
        "age_groups": "levi_hassner",
        "seconds": 10.0,
        "leaky": bool(member) and member.protocol == "paper",
        "data_sha256": "same",
        "train_examples": 40,
        "split_sha256": f"{member.protocol} {member.fold}" if member else "one",
        "subjects": {"known": 3, "in_several_parts": 0, "unidentified_examples": 0},
        "versions": {},
        "hardware": {},
        "metrics": {"gender/accuracy": ACCURACY.metadata()},
        "test": {"gender/accuracy": accuracy, "n": 7},
        "baseline": {"gender/accuracy": constant, "n": 7},
    }


def test_the_plan_has_every_combination_once() -> None:
    members = expand_trials(recipe(5), ["paper", "disjoint"], "1,3", 2)
    assert len({member.name for member in members}) == len(members) == 8
    combinations = {(m.recipe.split.protocol, m.recipe.split.fold, m.recipe.seed, m.recipe.split.seed) for m in members}
    assert combinations == {(p, f, s, 0) for p in ("paper", "disjoint") for f in (1, 3) for s in (0, 1)}
    assert expand_trials(recipe(5), (), "all")[4].name == "disjoint-fold_4"
    assert expand_trials(recipe(), (), "", 3)[2].name == "disjoint-repeat_2"
    assert [member.name for member in expand_trials(recipe(), ["paper"])] == ["paper"]
    narrow, wide = expand_trials(recipe(5), (), "0,1"), expand_trials(recipe(5), ["paper", "disjoint"], "all", 2)
    assert {member.name for member in narrow} <= {member.name for member in wide}


@pytest.mark.parametrize(
    ("folds", "arguments", "message"),
    [
        (5, (["random"],), "--protocols has 'random'"),
        (5, (["paper", "paper"],), "--protocols has 'paper'"),
        (0, ((), "all"), "--folds=all"),
        (5, ((), "5"), "--folds=5"),
        (5, ((), "1,1"), "--folds=1,1"),
        (5, ((), "one"), "--folds=one"),
        (5, ((), "all", 0), "--repeats=0"),
    ],
)
def test_mistakes_are_named(folds: int, arguments: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        expand_trials(recipe(folds), *arguments)


def test_mean_and_spread_on_paper() -> None:
    members = expand_trials(recipe(2), ["paper", "disjoint"], "all", 2)
    accuracy = {"paper-fold_0": (0.9, 1.0), "paper-fold_1": (0.8, 0.9), "disjoint-fold_0": (0.6, 0.6),
                "disjoint-fold_1": (0.7, 0.8)}  # fmt: skip
    summaries = {m.name: summary_of(m, accuracy[f"{m.protocol}-fold_{m.fold}"][m.repeat]) for m in members}
    measured = summarize(members, summaries)["protocols"]["paper"]["test"]["gender/accuracy"]
    # Folds: means .95 and .85, so .1 / sqrt(2). Repeats: means .85 and .95, the same.
    assert measured["mean"] == pytest.approx(0.9)
    assert measured["folds"] == measured["repeats"] == pytest.approx(0.1 / np.sqrt(2))
    honest = summarize(members, summaries)["protocols"]["disjoint"]["test"]["gender/accuracy"]
    assert honest["folds"] == pytest.approx(0.15 / np.sqrt(2))  # .6 and .75
    assert honest["repeats"] == pytest.approx(0.05 / np.sqrt(2))  # .65 and .7
    text = report(summarize(members, summaries) | {"refused": {}})
    assert "paper (leaky)" in text
    assert "0.9000 ± 0.0707" in text
    assert "+0.2250" in text  # .9 - .675
    assert "Hassner" not in text  # of five folds
    assert "baseline, disjoint" in text
    assert "paper (leaky): 3 subjects, none of them in two parts" in text


def test_the_mean_over_repeats_has_an_interval_where_nothing_else_varies() -> None:
    members = expand_trials(recipe(), (), "", 3)
    summaries = {m.name: summary_of(m, (0.80, 0.82, 0.87)[m.repeat]) for m in members}
    result = summarize(members, summaries) | {"refused": {}}
    measured = result["protocols"]["disjoint"]["test"]["gender/accuracy"]
    # The mean 0.83, deviation sqrt((9 + 1 + 16) / 2) / 100 = 0.036056; Student's t of two is 4.302653.
    reach = 4.302653 * 0.0360555 / np.sqrt(3)
    assert measured["interval"] == pytest.approx([0.83 - reach, 0.83 + reach])
    assert "0.8300 ± 0.0361 [0.7404, 0.9196]" in report(result)
    assert "[95 % interval of the mean over repeats" in report(result)
    assert result["protocols"]["disjoint"]["baseline"]["gender/accuracy"]["interval"] is None
    high = {m.name: summary_of(m, (0.9, 0.99, 1.0)[m.repeat]) for m in members}
    assert summarize(members, high)["protocols"]["disjoint"]["test"]["gender/accuracy"]["interval"][1] == 1.0
    folds = expand_trials(recipe(2), (), "all", 2)
    several = summarize(folds, {m.name: summary_of(m, 0.8 + m.repeat / 10) for m in folds}) | {"refused": {}}
    assert several["protocols"]["disjoint"]["test"]["gender/accuracy"]["interval"] is None
    assert "[95 %" not in report(several)


def test_published_results_stand_beside_the_same_protocol_alone() -> None:
    def text(folds: int, scheme: str, protocol: str = "disjoint") -> str:
        members = expand_trials(recipe(folds), [protocol], "all")
        summaries = {m.name: summary_of(m, 0.8) | {"age_groups": scheme} for m in members}
        return report(summarize(members, summaries) | {"refused": {}})

    assert "0.868 ± 0.014" in text(5, "levi_hassner")
    for other in (text(4, "levi_hassner"), text(5, "nearest"), text(5, "levi_hassner", "paper")):
        assert "Hassner" not in other


def test_a_figure_that_some_fold_lacks_is_shown_with_that(monkeypatch: pytest.MonkeyPatch) -> None:
    members = expand_trials(recipe(3), (), "all")
    summaries = {m.name: summary_of(m, 0.8 + m.fold / 10) for m in members}
    summaries["disjoint-fold_1"]["test"]["gender/accuracy"] = None
    result = summarize(members, summaries) | {"refused": {}}
    measured = result["protocols"]["disjoint"]["test"]["gender/accuracy"]
    assert (measured["mean"], measured["folds"], measured["runs"]) == (pytest.approx(0.9), None, 2)
    assert "0.9000 (1 runs without)" in report(result)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stands in for training: names the runs that it is asked for, and leaves the summary of each."""
    names: list[str] = []

    def train(recipe: ConfigDict, workdir: Path, **_: Any) -> Any:
        names.append(workdir.name)
        summary = summary_of(None, 0.5 + recipe.split.fold / 10) | {"split_sha256": f"{recipe.split.fold}"}
        workdir.mkdir(parents=True, exist_ok=True)
        (workdir / "recipe.json").write_text(recipes.to_json(recipe))
        (workdir / "summary.json").write_text(json.dumps(summary))
        return SimpleNamespace(to_dict=lambda: summary)

    monkeypatch.setattr(module, "train_recipe", train)
    return names


def test_what_is_complete_is_not_trained_again(
    trained: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = module.train_recipe

    def stopped(recipe: ConfigDict, workdir: Path, **options: Any) -> Any:
        if workdir.name == "disjoint-fold_2" and trained == ["disjoint-fold_0", "disjoint-fold_1"]:
            trained.append("stopped")
            raise Preempted("stopped")
        return whole(recipe, workdir, **options)

    monkeypatch.setattr(module, "train_recipe", stopped)
    members = expand_trials(recipe(4), (), "all")
    with pytest.raises(Preempted):
        run_sweep(members, tmp_path / "sweep", manual_dir=None, data_dir=tmp_path)
    assert not (tmp_path / "sweep" / "sweep.json").exists()
    result = run_sweep(members, tmp_path / "sweep", manual_dir=None, data_dir=tmp_path)
    assert [name.removeprefix("disjoint-") for name in trained] == ["fold_0", "fold_1", "stopped", "fold_2", "fold_3"]
    assert result["protocols"]["disjoint"]["test"]["gender/accuracy"]["mean"] == pytest.approx(0.65)
    assert json.loads((tmp_path / "sweep" / "sweep.json").read_text()) == result


def test_a_complete_run_of_another_recipe_is_not_counted(trained: list[str], tmp_path: Path) -> None:
    run_sweep(expand_trials(recipe(2), (), "all"), tmp_path / "sweep", manual_dir=None, data_dir=tmp_path)
    (tmp_path / "sweep" / "disjoint-fold_0" / "split.json").write_text("{}")
    other = recipe(2)
    other.train.epochs = 1.0
    with pytest.raises(UserError, match=r"train\.epochs"):
        run_sweep(expand_trials(other, (), "all"), tmp_path / "sweep", manual_dir=None, data_dir=tmp_path)
    assert (tmp_path / "sweep" / "sweep.json").exists()


def test_runs_on_different_data_are_not_put_into_one_table(trained: list[str], tmp_path: Path) -> None:
    members = expand_trials(recipe(2), (), "all")
    run_sweep(members, tmp_path / "sweep", manual_dir=None, data_dir=tmp_path)
    path = tmp_path / "sweep" / "disjoint-fold_1" / "summary.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"data_sha256": "other"}))
    with pytest.raises(UserError, match=str(tmp_path / "sweep")):
        run_sweep(members, tmp_path / "sweep", manual_dir=None, data_dir=tmp_path)
    assert not (tmp_path / "sweep" / "sweep.json").exists()


def test_sigterm_between_two_runs_begins_no_other(
    trained: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = module.train_recipe

    def terminated(recipe: ConfigDict, workdir: Path, **options: Any) -> Any:
        with preemption():  # a run's own handler, as it is installed while a run lasts
            os.kill(os.getpid(), signal.SIGTERM)
        return whole(recipe, workdir, **options)

    monkeypatch.setattr(module, "train_recipe", terminated)
    with pytest.raises(Preempted, match="before run 2 of 3"):
        run_sweep(expand_trials(recipe(3), (), "all"), tmp_path / "sweep", manual_dir=None, data_dir=tmp_path)
    assert trained == ["disjoint-fold_0"]


def test_two_protocols_with_one_split_measure_no_leak() -> None:
    members = expand_trials(recipe(), ["paper", "disjoint"])
    summaries = {m.name: summary_of(m, 0.9) | {"split_sha256": "the same"} for m in members}
    text = report(summarize(members, summaries) | {"refused": {}})
    assert "no leak can be measured" in text
    assert "paper - disjoint" not in text
    assert "±" not in text


def test_the_directory_of_a_single_run_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "split.json").write_text("{}")
    with pytest.raises(UserError, match=str(tmp_path)):
        run_sweep(expand_trials(recipe(2), (), "all"), tmp_path, manual_dir=None, data_dir=tmp_path)


@pytest.mark.slow
def test_what_cannot_be_split_by_speaker_is_refused_beside_what_leaks(
    tmp_path: Path, data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    classes = ("female_20", "male_20", "female_60", "male_60")
    write_voices(tmp_path / "voices", speakers_per_class=1, recordings_per_speaker=6, classes=classes, rate=8000)
    made = recipe()
    made.dataset.update(name="voice_age_gender", image_size=32, speaker_pattern=SPEAKER_PATTERN)
    made.split.stratify = "class"
    made.heads.class_name.weight = 1.0
    made.model.variant = "thin"
    made.train.update(batch_size=8, epochs=0.01, steps_per_dispatch=2)
    made.evaluate.update(batch_size=8, select="class_name/accuracy")
    options: dict[str, Any] = {"workdir": tmp_path / "both", "manual_dir": tmp_path / "voices", "data_dir": data_dir}
    assert package.command(made, **options, protocols=["paper", "disjoint"]) == 2
    printed = capsys.readouterr().err
    assert "protocol paper (leaky)" in printed
    assert "disjoint: refused. A disjoint split needs at least 3 subjects of every class" in printed
    assert "female_20 (1), female_60 (1), male_20 (1), male_60 (1)" in printed
    assert sorted(path.name for path in (tmp_path / "both").iterdir()) == ["paper", "sweep.json"]
    saved = json.loads((tmp_path / "both" / "sweep.json").read_text())
    assert list(saved["protocols"]) == ["paper"]
    assert "leaky" not in saved["refused"]["disjoint"].split("Ways out")[0]
    assert package.command(made, **options, protocols=["paper", "disjoint"]) == 2
    assert "paper is complete" in capsys.readouterr().err
    assert package.command(made, **options | {"workdir": tmp_path / "one"}, protocols=["disjoint"]) == 2
    assert list((tmp_path / "one").iterdir()) == []
