"""The loop: what it returns, that it goes on where it stopped, and what ends it."""

import errno
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from agegender_jax import recipe as recipes
from agegender_jax.checkpoints import Checkpoints
from agegender_jax.errors import Diverged, Preempted, UserError
from agegender_jax.evaluate.evaluate_run import evaluate_runs
from agegender_jax.evaluate.loaded import LoadedModel
from agegender_jax.recipe_options import train_options
from agegender_jax.run import Run
from agegender_jax.train import command as training
from agegender_jax.train import loop, setup
from agegender_jax.train.loop import train_recipe
from tests.runs import MAKE_TRAIN_STEPS, assert_same_bits, fake_steps, saved, steps_of

ROOT = Path(__file__).parents[2]


class Stopped(Exception):
    """Stands for a power cut."""


def stop_after(monkeypatch: pytest.MonkeyPatch, calls: int, act: Callable[[], None]) -> None:
    """Lets `act` happen at the given number of requests for a batch, each of which starts a dispatch."""
    batches, count = setup.BatchSampler.batches, 0

    def counted(self: Any, start: int, steps: int) -> np.ndarray:
        nonlocal count
        count += 1
        if count == calls:
            act()
        return batches(self, start, steps)

    monkeypatch.setattr(setup.BatchSampler, "batches", counted)


def power_cut() -> None:
    raise Stopped


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps only count."""
    monkeypatch.setattr(MAKE_TRAIN_STEPS, fake_steps())


def test_summary_holds_what_readers_rely_on(finished: Any) -> None:
    summary = finished.summary
    assert {"run", "dataset", "protocol", "age_groups", "split_sha256", "test"} <= summary.keys()
    metrics = {"gender/accuracy", "age_group/accuracy", "age_group/one_off", "age_group/balanced_accuracy", "age/mae"}
    assert metrics | {"n"} <= summary["test"].keys()
    assert summary["run"] == "finished"
    assert (summary["dataset"], summary["protocol"], summary["age_groups"]) == ("utkface", "disjoint", "nearest")
    assert summary["test"]["n"] == 120  # a fifth of 600
    assert summary["split_sha256"] == json.loads((finished.workdir / "split.json").read_text())["sha256"]
    assert json.loads((finished.workdir / "summary.json").read_text()) == summary
    assert summary["steps"] == summary["evaluated_step"] == 52
    assert summary["epochs"] == pytest.approx(52 * 32 / 408)


def test_it_learns(finished: Any) -> None:
    test, baseline = finished.summary["test"], finished.summary["baseline"]
    assert test["gender/accuracy"] > baseline["gender/accuracy"] + 0.05
    assert test["age_group/balanced_accuracy"] > baseline["age_group/balanced_accuracy"] + 0.05
    assert test["age/mae"] < 0.97 * baseline["age/mae"]  # after 52 steps


def test_baseline_metrics_are_those_of_the_training_labels(finished: Any) -> None:
    """The best constant prediction, computed from the archive's file names alone."""
    split = json.loads((finished.workdir / "split.json").read_text())["parts"]
    ages = {part: np.array([int(key.split("/")[-1].split("_")[0]) for key in split[part]]) for part in split}
    expected = np.abs(ages["test"] - np.median(ages["train"])).mean()
    assert finished.summary["baseline"]["age/mae"] == pytest.approx(expected, rel=1e-6)


def test_metrics_are_lines_of_json_with_each_step_once(finished: Any) -> None:
    events = [json.loads(line) for line in (finished.workdir / "metrics.jsonl").read_text().splitlines()]
    trained = [event["step"] for event in events if "train/loss" in event]
    validated = [event["step"] for event in events if "validation/age/mae" in event]
    assert trained == list(range(4, 53, 4))
    assert validated == [24, 48, 52]  # every two epochs: six dispatches of four
    rates = {event["learning_rate"] for event in events if "train/loss" in event}
    assert len(rates) == 1
    assert rates.pop() == pytest.approx(2e-3)


def test_class_weights_are_printed_and_kept(finished: Any) -> None:
    metadata = json.loads((finished.workdir / "run.json").read_text())
    weights = metadata["class_weights"]["age_group"]
    assert len(weights) == 8
    assert metadata["class_weights"].keys() == {"age_group"}
    line = next(line for line in finished.printed.splitlines() if line.startswith("Class weights, age_group: "))
    assert f"25-32 {weights[4]:.2f}" in line
    head = LoadedModel.load(finished.workdir).heads["age_group"]
    assert head.class_weights.tolist() == pytest.approx(weights)


def test_a_complete_run_says_so_and_gives_the_same(finished: Any, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.workdir.rglob("*")}
    arguments = {"manual_dir": finished.manual_dir, "data_dir": finished.data_dir}
    assert train_recipe(finished.recipe, finished.workdir, **arguments).to_dict() == finished.summary
    assert "is complete" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in finished.workdir.rglob("*")} == before


def test_a_summary_of_another_version_is_named(finished: Any, tmp_path: Path) -> None:
    workdir = tmp_path / "run"
    shutil.copytree(finished.workdir, workdir, ignore=shutil.ignore_patterns("checkpoints", "tensorboard"))
    (workdir / "summary.json").write_text(json.dumps({"run": "run"}))
    with pytest.raises(UserError, match=r"summary\.json"):
        train_recipe(finished.recipe, workdir, manual_dir=finished.manual_dir, data_dir=finished.data_dir)


def test_another_recipe_is_refused_with_the_difference(finished: Any) -> None:
    recipe = finished.recipe.copy_and_resolve_references()
    recipe.optimizer.learning_rate = 3e-3
    with pytest.raises(UserError, match=r"optimizer\.learning_rate"):
        train_recipe(recipe, finished.workdir, manual_dir=finished.manual_dir, data_dir=finished.data_dir)


@pytest.fixture(scope="module")
def short(finished: Any) -> ConfigDict:
    """The finished run's recipe in 24 steps, evaluated and saved every 8; it shares the compiled step."""
    recipe = finished.recipe.copy_and_resolve_references()
    recipe.train.epochs = 1.9
    recipe.evaluate.every_epochs = 0.6
    return recipe


@pytest.fixture(scope="module")
def uninterrupted(short: ConfigDict, finished: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = tmp_path_factory.mktemp("runs") / "uninterrupted"
    train_recipe(short, workdir, **finished.options)
    return workdir


def without_times(workdir: Path) -> tuple[dict, list[dict]]:
    """Summary and metrics without what a clock or a name makes differ."""
    timed = ("seconds", "seconds_of", "images_per_second", "first_step_seconds", "peak_memory_bytes", "run")
    summary = json.loads((workdir / "summary.json").read_text())
    events = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    events = [{k: v for k, v in event.items() if k not in timed} for event in events]
    return {k: v for k, v in summary.items() if k not in timed}, events


@pytest.mark.slow
@pytest.mark.parametrize(("end", "last"), [("a power cut", 8), ("SIGTERM", 12), ("SIGTERM", 16)])
def test_a_resumed_run_ends_in_the_same_bits(
    end: str, last: int, short: ConfigDict, finished: Any, uninterrupted: Path, tmp_path: Path
) -> None:
    workdir = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        if end == "SIGTERM":
            # Heard after that dispatch: between two evaluations, or in place of one.
            stop_after(patch, last // 4, terminate)
            with pytest.raises(Preempted, match=rf"step {last} of 24 is saved"):
                train_recipe(short, workdir, **finished.options)
        else:

            def cut_once_saved() -> None:  # the saver's thread outlives the exception, as it would not a power cut
                while not (workdir / "checkpoints" / "8").exists():
                    time.sleep(0.01)
                power_cut()

            stop_after(patch, 4, cut_once_saved)  # three dispatches done, the second of them saved
            with pytest.raises(Stopped):
                train_recipe(short, workdir, **finished.options)
    assert steps_of(workdir)[-1] == last
    assert not (workdir / "summary.json").exists()
    train_recipe(short, workdir, **finished.options)
    assert steps_of(workdir)[-1] == 24
    assert_same_bits(workdir, uninterrupted)
    assert without_times(workdir) == without_times(uninterrupted)


@pytest.mark.slow
def test_the_handler_of_sigterm_is_given_back(uninterrupted: Path) -> None:
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.slow
@pytest.mark.usefixtures("untrained")
def test_killed_between_the_last_checkpoint_and_the_summary(
    short: ConfigDict, finished: Any, uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(loop, "measure_part", lambda *_, **__: power_cut())  # of the test part
        with pytest.raises(Stopped):
            train_recipe(short, tmp_path / "run", **finished.options)
    assert not (tmp_path / "run" / "summary.json").exists()
    with monkeypatch.context() as patch:
        stop_after(patch, 1, power_cut)  # nothing is left to train
        summary = train_recipe(short, tmp_path / "run", **finished.options).to_dict()
    assert summary["evaluated_step"] == summary["steps"] == 24
    assert summary["test"]["n"] == 120
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["test"] == summary["test"]


@pytest.mark.slow
@pytest.mark.usefixtures("untrained")
def test_a_report_ends_the_run(short: ConfigDict, finished: Any, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    recipe = short.copy_and_resolve_references()
    recipe.evaluate.report = True
    summary = train_recipe(recipe, tmp_path / "run", **finished.options).to_dict()
    page = tmp_path / "run" / "report" / "index.html"
    assert str(page) in capsys.readouterr().err
    assert f"{summary['test']['age/mae']:.2f}" in page.read_text()
    low, high = summary["intervals"]["test"]["gender/accuracy"]
    assert low <= summary["test"]["gender/accuracy"] <= high

    page.unlink()  # as if it had been killed while it wrote the page
    train_recipe(recipe, tmp_path / "run", **finished.options)
    assert page.exists()
    page.write_text("mine")
    (tmp_path / "run" / "summary.json").unlink()
    train_recipe(recipe, tmp_path / "run", **finished.options)  # the run is complete without it
    assert page.read_text() == "mine"
    assert "Warning: the report could not be written" in capsys.readouterr().err


@pytest.mark.parametrize("failure", [KeyError("metric"), MemoryError("too large")])
def test_a_failing_report_is_a_warning(
    failure: Exception,
    finished: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Here of a complete run without one; a run that has just ended takes the same way."""
    workdir = tmp_path / "run"
    shutil.copytree(finished.workdir, workdir, ignore=shutil.ignore_patterns("checkpoints", "tensorboard"))
    recipe = finished.recipe.copy_and_resolve_references()
    recipe.evaluate.report = True
    (workdir / "recipe.json").write_text(recipes.to_json(recipe))

    def fail(*_: Any, **__: Any) -> None:
        raise failure

    monkeypatch.setattr("agegender_jax.report.write.write_report", fail)
    assert train_recipe(recipe, workdir, **finished.options).to_dict() == finished.summary
    error = capsys.readouterr().err
    assert type(failure).__name__ in error
    assert str(failure.args[0]) in error


@pytest.mark.slow
def test_the_best_step_is_used_where_the_recipe_says_so(
    short: ConfigDict, finished: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that predicts the commoner gender at step 8 and the rarer one after it, so that its accuracy is known."""
    parts = json.loads((finished.workdir / "split.json").read_text())["parts"]
    share = {p: np.mean([key.split("/")[-1].split("_")[1] == "1" for key in parts[p]]) for p in parts}
    common = int(share["validation"] > 0.5)
    recipe = short.copy_and_resolve_references()
    recipe.evaluate.update(select="gender/accuracy", use="best")
    recipe.checkpoint.keep = 1
    monkeypatch.setattr(MAKE_TRAIN_STEPS, fake_steps(bias=lambda n: jnp.where(n <= 8, common, 1 - common)))
    summary = train_recipe(recipe, tmp_path / "run", **finished.options).to_dict()
    assert (summary["evaluated_step"], summary["steps"]) == (8, 24)
    expected = share["test"] if common else 1 - share["test"]
    assert summary["test"]["gender/accuracy"] == pytest.approx(expected) != pytest.approx(0.5)
    assert evaluate_runs(LoadedModel.load(tmp_path / "run"), progress=False)["test"] == summary["test"]
    assert steps_of(tmp_path / "run") == [8, 24]


@pytest.mark.slow
def test_an_evaluation_that_was_missed_is_made_up_for(
    short: ConfigDict, finished: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped at the best step, then at the last one, whose metric is damaged after that."""
    validation = json.loads((finished.workdir / "split.json").read_text())["parts"]["validation"]
    female = np.mean([key.split("/")[-1].split("_")[1] == "1" for key in validation])
    recipe = short.copy_and_resolve_references()
    recipe.evaluate.update(select="gender/accuracy", use="best")
    best = int(female > 0.5)
    monkeypatch.setattr(MAKE_TRAIN_STEPS, fake_steps(bias=lambda n: jnp.where(n <= 8, best, 1 - best)))
    for calls, step in ((2, 8), (4, 24)):  # from step 8 on, 4 dispatches of 4 steps
        with monkeypatch.context() as patch:
            stop_after(patch, calls, terminate)
            with pytest.raises(Preempted, match=rf"step {step} of 24 is saved"):
                train_recipe(recipe, tmp_path / "run", **finished.options)
    with monkeypatch.context() as patch:
        patch.setattr(loop, "measure_part", lambda *_, **__: power_cut())  # of the test part
        with pytest.raises(Stopped):
            train_recipe(recipe, tmp_path / "run", **finished.options)
    (tmp_path / "run" / "checkpoints" / "24" / "metrics" / "metrics").write_text("damaged")
    summary = train_recipe(recipe, tmp_path / "run", **finished.options).to_dict()
    assert summary["evaluated_step"] == 8
    events = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    accuracies = {event["step"]: event["validation/gender/accuracy"] for event in events if "validation/n" in event}
    assert len(accuracies) == sum("validation/n" in event for event in events)  # each step is there once
    common = max(female, 1 - female)
    assert accuracies == {8: pytest.approx(common), 16: pytest.approx(1 - common), 24: pytest.approx(1 - common)}


@pytest.mark.parametrize(
    ("fake", "message"),
    [
        ({"loss_of": lambda number: jnp.where(number == 14, jnp.nan, 1.0 / number)}, "loss of step 14 is nan, "),
        # At the very step that is evaluated and saved: its loss is that of the parameters before it.
        (
            {"norm": lambda number: jnp.where(number == 16, jnp.inf, 1.0)},
            r"loss of step 16 is 1\.0, the norm of its gradient inf; ",
        ),
    ],
    ids=["loss", "gradient"],
)
def test_what_is_no_number_ends_the_run_and_is_not_saved(
    fake: dict[str, Any],
    message: str,
    short: ConfigDict,
    finished: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(MAKE_TRAIN_STEPS, fake_steps(**fake))
    with pytest.raises(Diverged, match=rf"{message}.*the last good checkpoint is that of step 8\."):
        train_recipe(short, tmp_path / "run", **finished.options)
    assert steps_of(tmp_path / "run") == [8]


@pytest.mark.slow
def test_a_huge_learning_rate_diverges_and_leaves_no_checkpoint(
    short: ConfigDict, finished: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = short.copy_and_resolve_references()
    recipe.optimizer.learning_rate = 1e30
    code = training.command(
        recipe, workdir=tmp_path / "run", manual_dir=finished.manual_dir, data_dir=finished.data_dir
    )
    assert code == 3
    sentence = capsys.readouterr().err.splitlines()[-1]
    assert "config.optimizer.learning_rate" in sentence
    assert steps_of(tmp_path / "run") == []


@pytest.mark.usefixtures("tiny", "untrained")
def test_a_head_of_weight_zero_is_left_out(small_recipe: ConfigDict, synthetic: dict[str, Any], tmp_path: Path) -> None:
    small_recipe.heads.age.weight = 0.0
    small_recipe.train.epochs = 0.1
    summary = train_recipe(small_recipe, tmp_path / "run", **synthetic).to_dict()
    assert {key.split("/")[0] for key in summary["test"]} == {"gender", "age_group", "n"}
    assert not [name for name in saved(tmp_path / "run") if "'age'" in name]


@pytest.mark.parametrize("split", [{"protocol": "paper"}, {"folds": 4, "fold": 1}])
@pytest.mark.usefixtures("tiny", "untrained")
def test_other_splits(
    split: dict[str, Any], small_recipe: ConfigDict, synthetic: dict[str, Any], tmp_path: Path
) -> None:
    small_recipe.split.update(split)
    small_recipe.train.epochs = 0.1
    summary = train_recipe(small_recipe, tmp_path / "run", **synthetic).to_dict()
    assert summary["protocol"] == split.get("protocol", "disjoint")
    # A quarter of the 160 less the files with conflicting labels, or a fifth of all.
    conflicting = json.loads((tmp_path / "run" / "run.json").read_text())["identical_files"]["conflicting_files"]
    assert summary["test"]["n"] == (32 if "protocol" in split else math.ceil((160 - conflicting - 1) / 4))


def test_an_unknown_metric_to_select_by_is_refused_before_training(
    small_recipe: ConfigDict, synthetic: dict[str, Any], tmp_path: Path
) -> None:
    small_recipe.evaluate.select = "age/accuracy"
    with pytest.raises(UserError, match=r"config\.evaluate\.select='age/accuracy'.*age/mae"):
        train_recipe(small_recipe, tmp_path / "run", **synthetic)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("examples", "batch", "dispatch", "epochs", "every", "expected"),
    [
        (1000, 10, 5, 3.0, 1.0, (300, 100)),  # 100 steps an epoch
        (1050, 10, 20, 1.0, 1.0, (100, 100)),  # 5.25 dispatches: rounded to whole ones
        (1000, 10, 5, 1.0, 9.0, (100, 100)),  # evaluated at the end at least
        (10, 10, 20, 0.5, 0.1, (20, 20)),  # one dispatch at least
        (1000, 10, 5, 3.0, 0.05, (300, 5)),
    ],
)
def test_numbers_of_steps(
    examples: int, batch: int, dispatch: int, epochs: float, every: float, expected: tuple[int, int]
) -> None:
    recipe = recipes.base()
    recipe.train.update(batch_size=batch, steps_per_dispatch=dispatch, epochs=epochs)
    recipe.evaluate.every_epochs = every
    counts = train_options(recipe).step_counts(examples)
    assert (counts.total, counts.every) == expected


@pytest.mark.slow
def test_sigterm_ends_the_command_with_75_and_the_same_command_finishes(tmp_path: Path) -> None:
    command = [
        *(
            sys.executable,
            "launch.py",
            "--config=configs/quickstart.py",
            "--config.evaluate.report=False",
            f"--workdir={tmp_path / 'run'}",
        ),
        *(f"--data_dir={tmp_path / 'data'}", "--config.dataset.synthetic=160", "--config.dataset.image_size=32"),
        *("--config.train.batch_size=8", "--config.train.steps_per_dispatch=2", "--config.train.epochs=20"),
        *("--config.evaluate.every_epochs=10", "--config.evaluate.flip=False"),
    ]
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "compiled")}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
    lines = []
    for line in process.stderr:
        lines.append(line)
        if "steps done" in line:
            break
    process.send_signal(signal.SIGTERM)
    rest = process.stderr.read()
    assert process.wait(60) == 75, "".join(lines) + rest
    assert "Stopped by SIGTERM; step " in rest.splitlines()[-1]
    assert "Traceback" not in rest
    step = int(rest.split("Stopped by SIGTERM; step ")[1].split()[0])
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert f"Resuming from step {step} of " in done.stderr
    assert (tmp_path / "run" / "summary.json").exists()


@pytest.mark.usefixtures("tiny", "untrained")
def test_a_refused_recipe_may_be_corrected_in_the_same_directory(
    small_recipe: ConfigDict, synthetic: dict[str, Any], tmp_path: Path
) -> None:
    small_recipe.train.epochs = 0.1
    with pytest.raises(UserError, match="nowhere"):
        train_recipe(small_recipe, tmp_path / "run", **synthetic | {"manual_dir": tmp_path / "nowhere"})
    small_recipe.train.epochs = 0.2
    assert train_recipe(small_recipe, tmp_path / "run", **synthetic).to_dict()["run"] == "run"


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.usefixtures("untrained")
def test_a_full_disk_is_a_sentence(
    wrapped: bool, short: ConfigDict, finished: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the system's own error comes through, or TensorStore's with the system's words in it."""

    def full(*arguments: Any) -> None:
        reason = os.strerror(errno.ENOSPC)
        raise ValueError(f"RESOURCE_EXHAUSTED: {reason} [28]") if wrapped else OSError(errno.ENOSPC, reason)

    monkeypatch.setattr(Checkpoints, "save", full)
    with pytest.raises(UserError, match="No space left on device"):
        train_recipe(short, tmp_path / "run", **finished.options)


def test_other_files_under_the_same_names_are_noticed(finished: Any, tmp_path: Path) -> None:
    workdir = tmp_path / "run"
    shutil.copytree(finished.workdir, workdir, ignore=shutil.ignore_patterns("summary.json"))
    metadata = json.loads((workdir / "run.json").read_text())
    (workdir / "run.json").write_text(json.dumps(metadata | {"data_sha256": "0" * 64}))
    with pytest.raises(UserError, match=str(workdir)):
        train_recipe(finished.recipe, workdir, **finished.options)


def test_a_directory_is_trained_in_by_one_process_at_a_time(short: ConfigDict, finished: Any, tmp_path: Path) -> None:
    """And the second one changes nothing, though the first has no split yet."""
    run = Run.start(tmp_path / "run", short)
    before = (run.directory / "recipe.json").read_bytes()
    other = short.copy_and_resolve_references()
    other.train.epochs = 3.0
    with run.locked(), pytest.raises(UserError, match=str(run.directory)):
        train_recipe(other, tmp_path / "run", **finished.options)
    assert (run.directory / "recipe.json").read_bytes() == before
