"""`agegender runs`: the runs below a folder, their differences, and damaged ones."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from agegender_jax import cli
from agegender_jax import recipe as recipes
from agegender_jax.commands import runs
from agegender_jax.labels import DISCLAIMER
from agegender_jax.splits import make_split


def _run(directory: Path, *, split: str = "a" * 64, accuracy: float = 0.9, **changes: Any) -> Path:
    directory.mkdir(parents=True)
    recipe = recipes.base()
    recipe.update_from_flattened_dict(changes)
    (directory / "recipe.json").write_text(recipes.to_json(recipe))
    summary = {
        **{"synthetic": False, "leaky": False, "split_sha256": split, "evaluated_step": 40, "seconds": 125.0},
        **{"images_per_second": 99.6, "intervals": {"test": {}}},
        **{"test": {"gender/accuracy": accuracy, "n": 8}, "baseline": {"gender/accuracy": 0.5, "n": 8}},
        "metrics": {"gender/accuracy": {"main": True}, "gender/f1": {"main": False}},
    }
    (directory / "run.json").write_text(json.dumps({"split_sha256": split}))
    (directory / "summary.json").write_text(json.dumps(summary))
    return directory


def _update(run: Path, **changes: Any) -> None:
    """Changes values of a run's summary."""
    path = run / "summary.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _printed(directory: Path, capsys: pytest.CaptureFixture[str], *more: str) -> list[str]:
    assert cli.main(["runs", str(directory), *more]) == 0
    return capsys.readouterr().out.splitlines()


def test_runs_are_up_to_four_folders_below_and_not_within_each_other(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    for place in ("b", "a/1/2/3", "a/1/2/3/4/5", "b/checkpoints/x", "a-z"):
        (root / place).mkdir(parents=True, exist_ok=True)
        (root / place / "recipe.json").touch()
    os.symlink(root / "b", root / "link")
    assert [os.path.relpath(path, root) for path in runs.find(root)] == ["a/1/2/3", "a-z", "b"]
    assert list(runs.find(root / "b")) == [root / "b"]
    too_deep = tmp_path / "other" / "1" / "2" / "3" / "4" / "5"
    too_deep.mkdir(parents=True)
    (too_deep / "recipe.json").touch()
    assert list(runs.find(tmp_path / "other")) == []
    assert list(runs.find(tmp_path / "other" / "1")) == [too_deep]


def test_a_row_a_run_with_what_differs_from_most(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _run(tmp_path / "c", accuracy=0.8)
    _run(tmp_path / "a", **{"train.epochs": 3.0, "model.backbone": "resnet18"})
    _run(tmp_path / "b")
    lines = _printed(tmp_path, capsys, "--json", str(tmp_path / "all.json"))
    header = ["dataset", "protocol", "split", "state", "gender/accuracy", "images/s", "time", "differs"]
    assert lines[0].split() == header
    assert [line.split()[0] for line in lines[1:4]] == ["a", "b", "c"]
    assert lines[1].endswith("model.backbone=resnet18, train.epochs=3")
    assert " ".join(lines[3].split()) == "c utkface disjoint aaaaaaaa complete 0.8000 (0.5000) 100 2 min 05 s"
    assert lines[4] == "differs: from most of the 3 runs on utkface: model.backbone=small_cnn, train.epochs=30"
    assert not any("cannot be compared" in line for line in lines)
    written = json.loads((tmp_path / "all.json").read_text())
    assert written["differing"] == {"utkface": {"model.backbone": "small_cnn", "train.epochs": 30.0}}
    assert [run["metrics"] for run in written["runs"]] == [{"gender/accuracy": value} for value in (0.9, 0.9, 0.8)]


def test_runs_that_cannot_be_compared_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _run(tmp_path / "a")
    _run(tmp_path / "b", split="b" * 64, age_groups="lower")
    _run(tmp_path / "c", split="c" * 64, **{"dataset.name": "adience"})
    text = "\n".join(_printed(tmp_path, capsys))
    assert "utkface has 2 splits (aaaaaaaa, bbbbbbbb)" in text
    assert "utkface has age groups nearest, lower" in text
    assert "adience ha" not in text  # datasets are not compared
    assert next(line for line in text.splitlines() if line.startswith("c ")).endswith("2 min 05 s")


def test_a_name_does_not_steer_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _run(tmp_path / "a\x1b[2J")
    lines = _printed(tmp_path, capsys)
    assert lines[1].startswith("a\\x1b[2J ")
    assert "\x1b" not in "".join(lines)


def test_synthetic_runs_are_compared_with_each_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, epochs in {"a": 3.0, "b": 4.0, "c": 4.0, "d": 30.0, "e": 5.0}.items():
        _run(tmp_path / name, **{"train.epochs": epochs})
    _update(tmp_path / "a", synthetic=True)
    _update(tmp_path / "b", synthetic=True)
    (tmp_path / "c" / "summary.json").unlink()
    (tmp_path / "c" / "run.json").write_text('{"synthetic": true}')  # its recipe does not say so
    lines = _printed(tmp_path, capsys)
    assert [line.split()[1:3] for line in lines[1:4]] == [["utkface", "(synthetic)"]] * 3
    assert "differs: from most of the 3 runs on utkface (synthetic): train.epochs=4" in lines
    assert "differs: from the other run on utkface: train.epochs=30" in lines
    assert lines[5].endswith("train.epochs=5")


def test_the_state_of_a_run_that_is_not_complete(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """64 of 100 examples to train on, 32 a step, 10 epochs: 20 steps, one dispatch."""
    run = _run(tmp_path / "a", **{"train.epochs": 10.0, "split.test_fraction": 0.2})
    for path in (run, _run(tmp_path / "b")):
        (path / "summary.json").unlink()
        (path / "run.json").unlink()
    options = {"test_fraction": 0.2, "validation_fraction": 0.2}
    split = make_split([f"k{i}" for i in range(100)], [0] * 100, [-1] * 100, conflicted=[False] * 100, **options)
    split.save(run / "split.json")
    (run / "metrics.jsonl").write_text('{"step": 8}\n{"step": 12, "train/loss": 1}\n{"step": 1')
    lines = _printed(tmp_path, capsys)
    assert "step 12 of 20" in lines[1]
    assert "not started" in lines[2]


def test_a_damaged_run_is_named_and_ends_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("bad_json", "no_recipe", "old", "good"):
        _run(tmp_path / name)
    (tmp_path / "bad_json" / "summary.json").write_text('{"test"')
    (tmp_path / "no_recipe" / "recipe.json").write_text('{"unknown": 1}')
    (tmp_path / "old" / "summary.json").write_text("{}")
    lines = _printed(tmp_path, capsys)
    assert [line.split()[0] for line in lines[1:5]] == ["bad_json", "good", "no_recipe", "old"]
    assert [("damaged" in line, "complete" in line) for line in lines[1:5]] == [
        *((True, False), (False, True), (True, False), (True, False)),
    ]
    reasons = "\n".join(lines[5:])
    assert f"bad_json is damaged: {tmp_path}/bad_json/summary.json is damaged" in reasons
    assert "no_recipe is damaged: " in reasons
    assert "old is damaged: " in reasons
    assert "good is damaged" not in reasons


def test_members_of_a_study_stand_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("sweep/disjoint", "sweep/disjoint-repeat_1", "alone"):
        _run(tmp_path / name)
    (tmp_path / "sweep" / "sweep.json").write_text("{}")
    lines = _printed(tmp_path, capsys)
    assert [line.split()[0] for line in lines[1:5]] == [
        *("alone", "sweep/", "sweep/disjoint", "sweep/disjoint-repeat_1"),
    ]
    assert lines[2].split() == ["sweep/", "2", "runs"]


def test_intervals_are_the_summarys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _update(_run(tmp_path / "a"), intervals={"test": {"gender/accuracy": [0.85, 0.94]}})
    _run(tmp_path / "b")  # of too few examples
    lines = _printed(tmp_path, capsys, "--json", str(tmp_path / "all.json"))
    assert "0.9000 [0.8500, 0.9400] (0.5000)" in lines[1]
    assert "0.9000 (0.5000)" in lines[2]
    written = json.loads((tmp_path / "all.json").read_text())["runs"]
    assert [run["intervals"] for run in written] == [{"gender/accuracy": [0.85, 0.94]}, {}]


def test_a_trained_run_is_listed(finished: Any, capsys: pytest.CaptureFixture[str]) -> None:
    lines = _printed(finished.workdir, capsys)
    assert lines[1].startswith("finished  utkface")
    assert f"{finished.summary['test']['age/mae']:.4f}" in lines[1]
    assert f"({finished.summary['baseline']['age/mae']:.4f})" in lines[1]
    assert any(DISCLAIMER in line for line in lines) is finished.summary["synthetic"]


@pytest.mark.parametrize("place", ["nowhere", ""])
def test_a_folder_without_runs_is_refused(place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["runs", str(tmp_path / place)]) == 2
    assert str(tmp_path / place) in capsys.readouterr().err
