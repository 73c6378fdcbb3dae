"""What a report says, against what the made-up run was made of."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from agegender_jax import recipe as recipes
from agegender_jax.errors import UserError
from agegender_jax.evaluate.predictions import NAME
from agegender_jax.report.content import Content, Curve, Difference, gather, leaves, own_predictions
from agegender_jax.run import Run


def test_figures_are_those_of_the_summary(run: Run, content: Content) -> None:
    summary = run.summary()
    assert summary is not None
    for part, analysis in (("test", content.test), ("validation", content.validation)):
        for name, interval in analysis["metrics"].items():
            assert interval["value"] == pytest.approx(summary[part][name]), name
    assert content.baseline["gender/accuracy"] == summary["baseline"]["gender/accuracy"]
    assert content.test["n"] == 120


def test_counts_of_the_split_add_up_and_strata_have_names(run: Run, content: Content) -> None:
    split = content.split
    assert split.examples == {"train": 408, "validation": 72, "test": 120}
    assert list(split.strata) == ["0-2", "4-6", "8-12", "15-20", "25-32", "38-43", "48-53", "60+"]
    assert sum(counts["test"] for counts in split.strata.values()) == 120
    assert split.sha256 == json.loads((run.directory / "split.json").read_text())["sha256"]


def test_only_what_differs_from_the_default_recipe_is_told(content: Content) -> None:
    assert content.differences == [Difference("train.epochs", 30.0, 4.0)]
    assert leaves(recipes.base())["heads.age.spread"] == 2.0


def test_the_command_can_be_repeated_in_a_shell(content: Content) -> None:
    assert content.command == "python launch.py --workdir 'my runs/small'"


def test_curves_are_read_and_a_torn_line_is_not(content: Content) -> None:
    curves = content.curves
    assert curves["train/loss"].step == [5, 10, 15, 20, 25, 30, 35, 40]
    assert curves["validation/gender/accuracy"] == Curve([20, 40], [0.4, 0.8])
    assert content.steps_per_epoch == 408 / 32


def test_all_is_json_without_nan(content: Content) -> None:
    assert json.loads(content.to_json())["test"]["n"] == 120


def _copy(run: Run, target: Path) -> Run:
    shutil.copytree(run.directory, target)
    return Run.load(target)


def test_a_routed_run_has_what_is_combined(made: Callable[..., Run], tmp_path: Path) -> None:
    run = made(tmp_path / "routed", heads=("gender", "age_group"), settings={"model.backbone": "routed"})
    content, summary = gather(run, own_predictions(run)), run.summary()
    assert summary is not None
    for name in ("gender/accuracy", "age_group_predicted/one_off", "age_group_male/f1"):
        assert content.test["metrics"][name]["value"] == pytest.approx(summary["test"][name])
        assert content.baseline[name] == summary["baseline"][name]
    assert content.around_18 is not None
    assert content.around_18["by"] == "age_group_predicted"


def test_a_run_that_is_not_complete_has_no_report(run: Run, tmp_path: Path) -> None:
    copy = _copy(run, tmp_path / "copy")
    (copy.directory / "summary.json").unlink()
    with pytest.raises(UserError, match=r"launch\.py"):
        own_predictions(copy)


def test_predictions_of_another_training_are_refused(run: Run, tmp_path: Path) -> None:
    copy = _copy(run, tmp_path / "copy")
    summary = copy.summary()
    assert summary is not None
    copy.write("summary.json", summary | {"evaluated_step": 20})
    with pytest.raises(UserError, match=r"predictions\.npz.*evaluated_step"):
        own_predictions(copy)
    (copy.directory / NAME).unlink()
    with pytest.raises(UserError, match=r"predictions\.npz"):
        own_predictions(copy)


def test_a_run_without_curves_and_ages_has_a_report(made: Callable[..., Run], tmp_path: Path) -> None:
    run = made(tmp_path / "few", count=60, heads=("gender", "age_group"))
    (run.directory / "metrics.jsonl").unlink()
    content = gather(run, own_predictions(run))
    assert content.curves == {}
    assert list(content.targets) == ["gender", "age_group"]
    assert content.around_18 is not None
    assert content.around_18 is not None
    assert content.around_18["by"] == "age_group"
    assert np.isfinite(content.test["metrics"]["gender/accuracy"]["value"])
