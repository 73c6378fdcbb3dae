"""Measuring a finished run: its own split, and archives that it has partly seen."""

import dataclasses
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx
from ml_collections import ConfigDict
from scipy.special import softmax

from agegender_jax import recipe as recipes
from agegender_jax.errors import UserError
from agegender_jax.evaluate.evaluate_run import _meaning, as_columns, evaluate_runs, open_data
from agegender_jax.evaluate.loaded import LoadedModel
from agegender_jax.models.heads import AgeYearsHead, build_heads
from agegender_jax.recipe_options import model_options
from agegender_jax.run import Run
from agegender_jax.splits import Split
from tests.tfds_builders.files import members, pack_utkface


def names_in(finished: Any, *parts: str) -> list[str]:
    split = json.loads((finished.workdir / "split.json").read_text())["parts"]
    return [Path(key).name for part in parts for key in split[part]]


def test_the_test_part_is_the_summary_s_to_the_last_bit(finished: Any, loaded: LoadedModel) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.workdir.rglob("*")}
    result = evaluate_runs(loaded, progress=False)
    assert before == {path: path.stat().st_mtime_ns for path in finished.workdir.rglob("*")}  # nothing is written
    assert result["test"] == finished.summary["test"]
    assert result["baseline"] == finished.summary["baseline"]
    assert result["split_sha256"] == finished.summary["split_sha256"]
    assert result["left_out"] == 0
    assert list(as_columns(result)) == ["test", "baseline"]


def test_all_is_every_example_once(loaded: LoadedModel) -> None:
    parts = {
        part: evaluate_runs(loaded, split=part, progress=False)[part] for part in ("train", "validation", "test", "all")
    }
    assert parts["validation"] == loaded.summary["validation"]
    whole = parts.pop("all")
    assert whole["n"] == 600 == sum(metrics["n"] for metrics in parts.values())
    right = sum(metrics["gender/accuracy"] * metrics["gender/n"] for metrics in parts.values())
    assert whole["gender/accuracy"] == pytest.approx(right / whole["gender/n"])


def test_files_that_the_run_has_seen_are_found_under_other_names(
    finished: Any, loaded: LoadedModel, synthetic_dir: Path, tmp_path: Path
) -> None:
    """Half of another archive are files the run trained on, renamed; only the others count."""
    own, new = members(finished.manual_dir), members(synthetic_dir)
    seen = [name for name in names_in(finished, "train", "validation") if name.count("_") == 3][:30]
    held_out = [name for name in names_in(finished, "test") if name.count("_") == 3][:10]
    new = dict(list(new.items())[:40])
    renamed = {
        f"{'_'.join(name.split('_')[:3])}_2031010100000{number:04d}.jpg": own[name]
        for number, name in enumerate(seen + held_out)
    }
    other = pack_utkface(tmp_path / "other", renamed | new)
    result = evaluate_runs(loaded, manual_dir=other, data_dir=tmp_path / "data", progress=False)
    distinct = {own[name] for name in seen}
    assert result["left_out"] == sum(content in distinct for content in (renamed | new).values()) >= 30
    assert result["test"]["n"] == len(renamed | new) - result["left_out"]
    assert result["split_sha256"] is None
    counted = [name.split("_") for name, content in (renamed | new).items() if content not in distinct]
    always = {"always male": "0", "always female": "1"}[result["baseline_names"]["gender"]]  # by the training labels
    assert result["baseline"]["gender/accuracy"] == pytest.approx(np.mean([name[1] == always for name in counted]))
    assert result["split"] == "all"


def test_an_archive_seen_whole_leaves_nothing_to_measure(finished: Any, loaded: LoadedModel, tmp_path: Path) -> None:
    own = members(finished.manual_dir)
    seen = [name for name in names_in(finished, "train") if name.count("_") == 3][:12]
    other = pack_utkface(tmp_path / "other", {name: own[name] for name in seen})
    with pytest.raises(UserError, match=r"12 files.*finished"):
        evaluate_runs(loaded, manual_dir=other, data_dir=tmp_path / "data", progress=False)


def copy(finished: Any, folder: Path, *left_out: str) -> Run:
    shutil.copytree(finished.workdir, folder, ignore=shutil.ignore_patterns(*left_out, "tensorboard"))
    return Run.load(folder)


def test_a_run_without_its_split_or_checkpoint_is_refused(finished: Any, tmp_path: Path) -> None:
    unsplit = LoadedModel.load(copy(finished, tmp_path / "a", "split.json").directory)
    with pytest.raises(UserError, match=r"split\.json"):
        evaluate_runs(unsplit, progress=False)
    with pytest.raises(UserError, match="52"):
        LoadedModel.load(copy(finished, tmp_path / "b", "52").directory)


def test_a_run_on_voices_carries_its_classes_and_spectrogram(voices: tuple[LoadedModel, Path, Path]) -> None:
    model, _, _ = voices
    assert model.metadata["class_names"] == ["female_20", "female_60", "male_20", "male_60"]
    assert model.heads["class_name"].size == 4
    assert model.metadata["spectrogram"]["name"] == "log_mel"
    assert model.metadata["subjects"] == {"known": 12, "in_several_parts": 0, "unidentified_examples": 0}
    again = evaluate_runs(model, progress=False)
    assert again["test"] == model.summary["test"]
    assert again["baseline"] == model.summary["baseline"]


def test_another_corpus_is_measured_whole_and_what_was_learnt_from_is_left_out(
    voices: tuple[LoadedModel, Path, Path],
) -> None:
    model, here, there = voices
    result = evaluate_runs(model, dataset="voice_age_gender", manual_dir=there, progress=False)
    assert (result["test"]["n"], result["left_out"]) == (24, 0)
    assert result["files_of_seen_subjects"] == 16  # the names of speakers are the same in both corpora
    again = evaluate_runs(model, config="folders", manual_dir=here, progress=False)
    assert (again["test"]["n"], again["left_out"]) == (8, 16)  # a third was never learnt from: the test part
    assert again["test"]["class_name/accuracy"] == evaluate_runs(model, progress=False)["test"]["class_name/accuracy"]


def test_a_run_on_voices_is_not_shown_faces(voices: tuple[LoadedModel, Path, Path], finished: Any) -> None:
    with pytest.raises(UserError, match=r"'image'.*'audio'"):
        evaluate_runs(voices[0], dataset="utkface", manual_dir=finished.manual_dir, progress=False)


@pytest.fixture(scope="module")
def second(finished: Any, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    """Another run on the same split: an earlier checkpoint, other sizes of images, not flip-averaged."""
    run = copy(finished, tmp_path_factory.mktemp("runs") / "second")
    checkpoints = run.checkpoints()
    step = min(checkpoints.steps)
    checkpoints.close()
    assert step < 52
    run.write("summary.json", finished.summary | {"evaluated_step": step})
    run.recipe.dataset.image_size = 40
    run.recipe.evaluate.flip = False
    (run.directory / "recipe.json").write_text(recipes.to_json(run.recipe))
    return LoadedModel.load(run.directory)


def probabilities_of(model: LoadedModel) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """A run's probabilities on its test part, [n, classes] by head, and the labels: the model called by hand."""
    opened, run = open_data(model, progress=False), model.run
    call = jax.jit(
        lambda content, mirrored: nnx.merge(model.graphdef, *model.model_state)(
            model.preprocessor.eval_transform(content, mirrored)
        )
    )
    content = opened.data.read(opened.split.test)
    views = [call(content, mirrored) for mirrored in ([False, True] if run.recipe.evaluate.flip else [False])]
    labels = {name: head.column(opened.data.columns)[opened.split.test] for name, head in opened.heads.items()}
    return {name: np.mean([softmax(view[name], -1) for view in views], 0) for name in opened.heads}, labels


@pytest.mark.slow
def test_an_ensemble_averages_distributions(finished: Any, loaded: LoadedModel, second: LoadedModel) -> None:
    result = evaluate_runs([loaded, second], progress=False)
    (one, labels), (other, _) = probabilities_of(loaded), probabilities_of(second)
    mean = {name: (one[name] + other[name]) / 2 for name in one}
    for name in ("gender", "age_group"):
        known = labels[name] >= 0
        right = (mean[name].argmax(-1) == labels[name])[known].mean()
        assert result["test"][f"{name}/accuracy"] == pytest.approx(right)
    middle = [np.interp(0.5, np.cumsum(p), np.arange(101) + 0.5) for p in mean["age"]]  # the median
    assert result["test"]["age/mae"] == pytest.approx(np.abs(middle - labels["age"]).mean(), rel=1e-4)
    assert result["run"] == "finished + second"
    assert (result["split_sha256"], result["protocol"]) == (finished.summary["split_sha256"], "disjoint")
    own = result["runs"]["finished"]
    assert own == {"flip_average": True, "evaluated_step": 52, "test": finished.summary["test"]}
    assert result["runs"]["second"]["test"] == evaluate_runs(second, progress=False)["test"]
    assert result["baseline"] == finished.summary["baseline"]
    columns = as_columns(result)
    assert list(columns) == ["ensemble", "finished", "second", "baseline"]
    assert columns["ensemble"]["age/mae"] not in (columns["finished"]["age/mae"], columns["second"]["age/mae"])


def test_an_ensemble_of_one_run_twice_is_that_run(finished: Any, loaded: LoadedModel) -> None:
    result = evaluate_runs([loaded, loaded], split="validation", progress=False)
    assert result["validation"] == finished.summary["validation"]
    assert list(as_columns(result)) == ["ensemble", "finished", "finished (2)", "baseline"]
    assert evaluate_runs([loaded], progress=False) == evaluate_runs(loaded, progress=False)


def instead(model: LoadedModel, run: Run) -> LoadedModel:
    """The model with another directory, recipe and metadata."""
    return dataclasses.replace(model, run=run, metadata=run.metadata())


def test_runs_of_two_splits_are_not_averaged_on_their_own_data(
    finished: Any, loaded: LoadedModel, tmp_path: Path
) -> None:
    other = copy(finished, tmp_path / "other", "checkpoints")
    split = Split.load(other.directory / "split.json")
    moved = dataclasses.replace(
        split,
        train=np.sort(np.append(split.train[1:], split.test[0])),
        test=np.sort(np.append(split.test[1:], split.train[0])),
    )
    moved.save(other.directory / "split.json")
    with pytest.raises(UserError, match=f"{split.sha256[:16]} and {moved.sha256[:16]}"):
        evaluate_runs([loaded, instead(loaded, other)], progress=False)


def test_an_ensemble_on_another_archive_leaves_out_what_any_run_has_seen(
    finished: Any, loaded: LoadedModel, tmp_path: Path
) -> None:
    run, other = loaded.run, copy(finished, tmp_path / "other", "checkpoints")
    files = members(finished.manual_dir)
    more = {hashlib.sha256(files[name]).hexdigest() for name in names_in(finished, "test")[:20]}
    (other.directory / "seen_sha256.txt").write_text("\n".join(more))
    archive = {"dataset": "utkface", "manual_dir": finished.manual_dir, "data_dir": finished.data_dir}
    result = evaluate_runs([instead(loaded, other), loaded], **archive, progress=False)
    seen = sum(hashlib.sha256(content).hexdigest() in more | run.seen() for content in files.values())
    assert result["left_out"] == seen > evaluate_runs(loaded, **archive, progress=False)["left_out"]
    assert result["test"]["n"] == len(files) - seen
    assert result["test"] == result["runs"]["other"]["test"]
    assert list(as_columns(result)) == ["ensemble", "other", "finished", "baseline"]


@pytest.mark.parametrize(
    ("key", "value", "name"),
    [
        ("heads.age.weight", 0.0, "age, age_group, gender"),
        ("heads.gender.undefined", True, "classes of the head gender"),
        ("age_groups", "lower", "age_group is nearest in one and lower"),
        ("heads.age.loss", "l1", "distribution of the head age"),
        ("heads.age.decoding", "expectation", "decoding of the head age"),
        ("heads.age_group.loss", "coral", "decoding of the head age_group"),
    ],
)
def test_heads_that_mean_something_else_are_not_averaged(key: str, value: Any, name: str, loaded: LoadedModel) -> None:
    recipe = ConfigDict(loaded.run.recipe.to_dict())
    recipe.update_from_flattened_dict({key: value})
    other = dataclasses.replace(loaded, heads=build_heads(model_options(recipe).heads))
    with pytest.raises(UserError, match=name):
        evaluate_runs([loaded, other], progress=False)


def test_a_regression_has_nothing_to_decode() -> None:
    one, other = (AgeYearsHead(loss_name="l1", decoding=decoding) for decoding in ("median", "expectation"))
    assert _meaning(one) == _meaning(other)


def test_files_of_equal_names_and_other_content_are_not_averaged(
    finished: Any, loaded: LoadedModel, tmp_path: Path
) -> None:
    """One file of the second run's archive is another image under the same name."""
    other, files = copy(finished, tmp_path / "other", "checkpoints"), members(finished.manual_dir)
    first, second, *_ = files
    archive = pack_utkface(tmp_path / "archive", files | {first: files[second]})
    other.write("run.json", other.metadata() | {"manual_dir": str(archive), "data_dir": str(tmp_path / "data")})
    with pytest.raises(UserError, match=r"other.*1 of the 600"):
        evaluate_runs([loaded, instead(loaded, other)], progress=False)


def test_runs_that_label_the_same_files_in_two_ways_are_not_averaged(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = dataclasses.replace(loaded)

    def relabelled(given: LoadedModel, **options: Any) -> Any:
        opened = open_data(given, **options)
        if given is loaded:
            return opened
        columns = opened.data.columns | {"age": np.roll(opened.data.columns["age"], 1)}
        return dataclasses.replace(opened, data=dataclasses.replace(opened.data, columns=columns))

    monkeypatch.setattr("agegender_jax.evaluate.evaluate_run.open_data", relabelled)
    with pytest.raises(UserError, match="head age"):
        evaluate_runs([loaded, other], progress=False)


def test_runs_on_other_data_are_not_averaged(
    finished: Any, loaded: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which is seen before any data are opened."""
    other = copy(finished, tmp_path / "other", "checkpoints")
    other.write("run.json", other.metadata() | {"data_sha256": "0" * 64})
    monkeypatch.setattr("agegender_jax.evaluate.evaluate_run.open_data", lambda *_, **__: pytest.fail("opened"))
    with pytest.raises(UserError, match=str(other.directory)):
        evaluate_runs([loaded, instead(loaded, other)], progress=False)


def test_runs_that_find_different_names_in_one_archive_are_not_averaged(
    finished: Any, loaded: LoadedModel, synthetic: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = [open_data(loaded, **finished.options), open_data(loaded, **synthetic)]
    monkeypatch.setattr("agegender_jax.evaluate.evaluate_run.open_data", lambda *_, **__: opened.pop(0))
    with pytest.raises(UserError, match="600 and 160"):
        evaluate_runs([loaded, loaded], **finished.options)
