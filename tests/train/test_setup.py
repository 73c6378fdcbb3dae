"""The setup of a run: split, metadata, description, refusals."""

import dataclasses
import hashlib
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from ml_collections import ConfigDict

from agegender_jax.errors import UserError
from agegender_jax.labels import AGE_GROUPS
from agegender_jax.models import model as model_module
from agegender_jax.models.heads import AgeGroupHead, AgeYearsHead, GenderHead, Head
from agegender_jax.recipe_options import StepCounts, train_options
from agegender_jax.run import Run
from agegender_jax.train import setup as building
from agegender_jax.train.description import describe_data, describe_model
from agegender_jax.train.loop import _write_beginning, train_recipe
from agegender_jax.train.setup import build_setup, selection_metric
from tests.runs import MAKE_TRAIN_STEPS, fake_steps
from tests.tfds_builders.files import members


def contents(manual_dir: Path) -> dict[str, str]:
    """SHA-256 of every file in the archive by its name."""
    return {name: hashlib.sha256(content).hexdigest() for name, content in members(manual_dir).items()}


def conflicting_files(digests: dict[str, str]) -> set[str]:
    """Names of identical files whose names tell another age or gender."""
    names = defaultdict(set)
    for name, digest in digests.items():
        names[digest].add(name)
    return {
        name
        for group in names.values()
        if len({name.split("_")[0] for name in group}) > 1 or len({name.split("_")[1] for name in group}) > 1
        for name in group
    }


def test_files_with_conflicting_labels_are_used_for_training_only(finished: Any) -> None:
    parts = json.loads((finished.workdir / "split.json").read_text())["parts"]
    wrong = conflicting_files(contents(finished.manual_dir))
    assert wrong
    held_out = {Path(key).name for part in ("validation", "test") for key in parts[part]}
    assert not wrong & held_out
    assert wrong <= {Path(key).name for key in parts["train"]}


def test_metadata_counts_what_the_archive_holds(finished: Any) -> None:
    metadata = Run.load(finished.workdir).metadata()
    digests = contents(finished.manual_dir)
    groups: dict[str, int] = defaultdict(int)
    for digest in digests.values():
        groups[digest] += 1
    several = [count for count in groups.values() if count > 1]
    assert metadata["identical_files"]["groups"] == len(several)
    assert metadata["identical_files"]["files"] == sum(several)
    assert metadata["identical_files"]["conflicting_files"] == len(conflicting_files(digests))
    assert metadata["manual_dir"] == str(finished.manual_dir)
    assert "non-commercial" in metadata["terms"]
    assert metadata["hardware"]["devices"] == 8
    assert metadata["hardware"]["backend"] == "cpu"
    assert {"python", "jax", "flax", "numpy"} <= metadata["versions"].keys()


def test_what_the_run_has_seen_is_kept_by_content(finished: Any) -> None:
    parts = json.loads((finished.workdir / "split.json").read_text())["parts"]
    digests = contents(finished.manual_dir)
    seen = {digests[Path(key).name] for part in ("train", "validation") for key in parts[part]}
    lines = (finished.workdir / "seen_sha256.txt").read_text().splitlines()
    assert lines == sorted(seen)


def test_the_description_names_split_conflicts_and_terms(finished: Any) -> None:
    for part in (
        "600 images at 32x32",
        "perceived age and gender as annotated",
        "age groups: nearest",
        "Test set: 120 images",
    ):
        assert part in finished.printed
    assert "used for training only" in finished.printed
    assert "Terms: UTKFace is for non-commercial research only" in finished.printed
    assert "leaky" not in finished.printed


def test_the_paper_s_protocol_says_that_it_leaks(small_recipe: ConfigDict, finished: Any) -> None:
    small_recipe.split.protocol = "paper"
    for seed in range(20):  # some seed puts one of the few identical pairs on both sides
        small_recipe.split.seed = seed
        setup = build_setup(small_recipe, **finished.options)
        subjects = [
            set(setup.dataset.columns["sha256"][rows].tolist())
            for rows in (setup.split.train, setup.split.validation, setup.split.test)
        ]
        shared = (subjects[0] & subjects[1]) | (subjects[0] & subjects[2]) | (subjects[1] & subjects[2])
        if leaks := len(shared):
            assert f"Leaky: {leaks} groups of one subject or file" in describe_data(setup)
            return
        assert "Leaky: " not in describe_data(setup)
    pytest.fail("no seed of twenty leaked: the test data hold too few identical files")


def test_synthetic_faces_are_described_as_such(small_recipe: ConfigDict, data_dir: Path) -> None:
    small_recipe.dataset.synthetic = 60
    small_recipe.age_groups = "five_year"
    small_recipe.split.update(folds=3, fold=2)
    setup = build_setup(small_recipe, manual_dir=None, data_dir=data_dir, progress=False)
    text = describe_data(setup)
    assert "60 images at 32x32 (synthetic: tests the pipeline and says nothing about people)" in text
    assert "Terms" not in text
    assert "fold 2 of 3" in text
    assert "age groups: five_year" in text


def test_a_split_is_read_back(small_recipe: ConfigDict, synthetic: dict[str, Any], tmp_path: Path) -> None:
    run = Run.start(tmp_path / "run", small_recipe)
    first = build_setup(small_recipe, workdir=run.directory, **synthetic)
    _write_beginning(first, run)
    files = {path: path.read_bytes() for path in run.directory.iterdir()}
    other = small_recipe.copy_and_resolve_references()
    other.split.seed = 7
    again = build_setup(small_recipe, workdir=run.directory, **synthetic)
    _write_beginning(again, run)
    assert again.split.sha256 == first.split.sha256
    assert {path: path.read_bytes() for path in run.directory.iterdir()} == files
    fresh = build_setup(other, **synthetic)
    assert fresh.split.sha256 != first.split.sha256


def test_other_data_than_the_run_began_with_are_refused(
    small_recipe: ConfigDict, synthetic: dict[str, Any], finished: Any, tmp_path: Path
) -> None:
    run = Run.start(tmp_path / "run", small_recipe)
    _write_beginning(build_setup(small_recipe, workdir=run.directory, **synthetic), run)
    with pytest.raises(UserError, match="split is of another dataset"):
        build_setup(small_recipe, workdir=run.directory, **finished.options)


@pytest.mark.parametrize(("epochs", "dispatch", "total", "begins", "hint"), [
    (0.2, 20, 20, "20 steps of batch size 10 (0.31 epochs instead of 0.2", True),  # 12.8 steps were asked for
    (8.0, 20, 40, "40 steps of batch size 10 (0.62 epochs)", False),  # 512: cut short, and no other size would do
    (8.0, 20, 520, "520 steps of batch size 10 (8.1 epochs)", False),
    (0.01, 1, 1, "1 step of batch size 10 (0.016 epochs)", False),  # 0.64 steps: no dispatch is smaller
])  # fmt: skip
def test_steps_per_dispatch_is_named_where_it_changes_the_epochs(
    epochs: float,
    dispatch: int,
    total: int,
    begins: str,
    hint: bool,
    small_recipe: ConfigDict,
    synthetic: dict[str, Any],
) -> None:
    recipe = small_recipe.copy_and_resolve_references()
    recipe.train.update(epochs=epochs, batch_size=10, steps_per_dispatch=dispatch)
    setup = dataclasses.replace(
        build_setup(small_recipe, **synthetic),
        options=train_options(recipe),
        step_counts=StepCounts(total, total, dispatch, 64.0),
    )
    text = describe_model(setup)
    assert f"Training: {begins}" in text
    assert ("config.train.steps_per_dispatch" in text) == hint


def test_a_start_builds_the_heads_once_and_traces_the_initialiser_once(
    small_recipe: ConfigDict, synthetic: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def count(module: Any, name: str) -> None:
        function = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, **k: calls.append(name) or function(*a, **k))

    count(building, "build_heads")
    count(model_module, "build_model")
    monkeypatch.setattr(MAKE_TRAIN_STEPS, fake_steps())
    small_recipe.train.epochs = 0.1
    train_recipe(small_recipe, tmp_path / "run", **synthetic)
    assert sorted(calls) == ["build_heads", "build_model"]


HEADS: dict[str, Head] = {
    "gender": GenderHead(),
    "age_group": AgeGroupHead(scheme=AGE_GROUPS["nearest"]),
    "age": AgeYearsHead(),
}


def test_a_checkpoint_is_chosen_by_a_metric_of_a_head() -> None:
    for name in ("gender/accuracy", "age_group/f1", "age/cs5"):
        assert selection_metric(name, HEADS).higher_is_better
    for name in ("age/mae", "age/median_error"):
        assert not selection_metric(name, HEADS).higher_is_better
    for name in ("age/mea", "race/accuracy", "n", "gender/n", "age/n", "age/bias", "accuracy", ""):
        with pytest.raises(UserError, match=r"config\.evaluate\.select"):
            selection_metric(name, HEADS)


def test_a_batch_larger_than_the_training_set_is_refused(small_recipe: ConfigDict, synthetic: dict[str, Any]) -> None:
    small_recipe.train.batch_size = 160  # of 160 examples, some of which are tested on
    with pytest.raises(UserError, match=r"config\.train\.batch_size=160"):
        build_setup(small_recipe, **synthetic)


def test_a_model_axis_that_splits_no_layer_is_refused(small_recipe: ConfigDict, synthetic: dict[str, Any]) -> None:
    small_recipe.model.update(backbone="resnet18", variant="")
    small_recipe.compute.model = 2
    with pytest.raises(UserError, match=r"config\.compute\.model=2"):
        build_setup(small_recipe, **synthetic)


@pytest.mark.parametrize(("key", "value"), [("seconds", 3.0), ("spectrogram", "audiomnist")])
def test_options_of_audio_are_refused_with_images(
    key: str, value: Any, small_recipe: ConfigDict, synthetic: dict[str, Any]
) -> None:
    small_recipe.audio[key] = value
    with pytest.raises(UserError, match=rf"config\.audio\.{key}="):
        build_setup(small_recipe, **synthetic)
