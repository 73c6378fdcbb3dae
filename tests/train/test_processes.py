"""One run on other devices, and by several processes: really two, over loopback."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ml_collections import ConfigDict

from agegender_jax import recipe as recipes
from agegender_jax.errors import Preempted, UserError
from agegender_jax.evaluate.evaluate_run import evaluate_runs
from agegender_jax.evaluate.loaded import LoadedModel
from agegender_jax.train import loop, setup
from tests.runs import mesh_of

ROOT = Path(__file__).parents[2]


@pytest.fixture
def recipe(small_recipe: ConfigDict) -> ConfigDict:
    """Eight steps of a net that is compiled in no time, evaluated at the end."""
    small_recipe.model.variant = "gender_four"
    small_recipe.heads.age.weight = small_recipe.heads.age_group.weight = 0.0
    small_recipe.optimizer.update(name="adam", learning_rate=1e-4, schedule="constant", warmup=0.0, weight_decay=0.0)
    small_recipe.train.update(steps_per_dispatch=1, epochs=1.2, ema_decay=0.0)
    small_recipe.evaluate.update(every_epochs=9.0, select="gender/accuracy")
    return small_recipe


def start_two(recipe: ConfigDict, workdir: Path, paths: dict[str, Path], devices: int) -> list[subprocess.Popen[str]]:
    """Two processes with so many devices each, as somebody would start them on two hosts."""
    file = workdir.with_suffix(".py")
    text = recipes.to_json(recipe)
    file.write_text(f"from agegender_jax import recipe\n\n\ndef get_config():\n    return recipe.from_json({text!r})\n")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        coordinator = f"127.0.0.1:{free.getsockname()[1]}"
    command = [
        *(sys.executable, "launch.py", f"--config={file}", f"--workdir={workdir}"),
        *(f"--{name}={path}" for name, path in paths.items()),
        *(f"--coordinator={coordinator}", "--processes=2"),
    ]
    environment = os.environ | {
        "JAX_NUM_CPU_DEVICES": str(devices),
        "JAX_CPU_ENABLE_ASYNC_DISPATCH": "false",
        "JAX_COMPILATION_CACHE_DIR": str(workdir.with_name("compiled")),
    }
    return [
        subprocess.Popen([*command, f"--process={i}"], cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
        for i in range(2)
    ]


class Stop:
    """An event that is set at the given dispatch."""

    def __init__(self, dispatches: int) -> None:
        self.left = dispatches

    def is_set(self) -> bool:
        self.left -= 1
        return self.left == 0


def losses(workdir: Path) -> dict[int, float]:
    events = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    pairs = [(event["step"], event["train/loss"]) for event in events if "train/loss" in event]
    assert len(pairs) == len(dict(pairs))  # each step once
    return dict(pairs)


@pytest.mark.slow
@pytest.mark.usefixtures("eight_devices")
def test_a_run_moves_from_eight_devices_to_one_to_two_processes(
    recipe: ConfigDict, synthetic_dir: Path, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Split in another way each time, and the losses are those of a run that stayed on one device."""
    paths = {"manual_dir": synthetic_dir, "data_dir": data_dir}
    with monkeypatch.context() as patch:
        patch.setattr(setup, "make_mesh", lambda _: mesh_of(1))
        expected = loop.train_recipe(recipe, tmp_path / "stayed", progress=False, **paths).to_dict()
    moved = tmp_path / "moved"

    recipe.compute.update(fsdp=True, model=2)
    with monkeypatch.context() as patch:
        patch.setattr(loop, "preemption", lambda: contextlib.nullcontext(Stop(3)))
        with pytest.raises(Preempted, match="step 3 of 8"):
            loop.train_recipe(recipe, moved, progress=False, **paths)
    recipe.compute.update(fsdp=False, model=1)
    with monkeypatch.context() as patch:
        patch.setattr(setup, "make_mesh", lambda _: mesh_of(1))
        patch.setattr(loop, "preemption", lambda: contextlib.nullcontext(Stop(2)))
        with pytest.raises(Preempted, match="step 5 of 8"):
            loop.train_recipe(recipe, moved, progress=False, **paths)
    recipe.compute.update(fsdp=True, loader="stream")  # of which each process decodes its part
    first, second = (process.communicate(timeout=200)[1] for process in start_two(recipe, moved, paths, devices=2))
    assert "Resuming from step 5 of 8" in first, first + second
    assert "on each of 4 devices: parameters" in first
    assert "\nLoading: stream (" in first
    assert "step" not in second  # the primary process speaks for all

    after, without = losses(moved), losses(tmp_path / "stayed")
    assert list(after) == list(without) == list(range(1, 9))
    np.testing.assert_allclose(list(after.values()), list(without.values()), rtol=1e-5)
    summary = json.loads((moved / "summary.json").read_text())
    assert summary["steps"] == expected["steps"] == 8
    assert summary["test"] == pytest.approx(expected["test"], rel=1e-5)
    # What two processes saved, eight devices read.
    assert evaluate_runs(LoadedModel.load(moved), progress=False)["test"] == pytest.approx(summary["test"], rel=1e-5)


def test_other_data_than_the_primary_process_has_are_refused(
    recipe: ConfigDict, synthetic_dir: Path, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything is compiled: each would train on its own."""
    paths = {"manual_dir": synthetic_dir, "data_dir": data_dir}
    for exchange in (1, 2):  # of the hash of the files, and of that of the split
        values = iter(range(3))
        monkeypatch.setattr(
            setup, "from_primary", lambda mine, n=exchange, values=values: "f" * 64 if next(values) == n else mine
        )
        with pytest.raises(UserError, match=r"utkface.* ffffffffffff"):
            setup.build_setup(recipe, progress=False, **paths)


@pytest.mark.slow
def test_two_processes_stop_at_the_same_step(
    recipe: ConfigDict, synthetic_dir: Path, data_dir: Path, tmp_path: Path
) -> None:
    """Of which only the second receives SIGTERM."""
    recipe.train.update(epochs=900.0, steps_per_dispatch=2)
    recipe.evaluate.every_epochs = 900.0
    paths: dict[str, Any] = {"manual_dir": synthetic_dir, "data_dir": data_dir}
    primary, other = start_two(recipe, tmp_path / "run", paths, devices=1)
    first = ""
    for line in primary.stderr:
        first += line
        if "steps done" in line:
            break
    other.send_signal(signal.SIGTERM)
    first += primary.communicate(timeout=120)[1]
    second = other.communicate(timeout=120)[1]
    assert (primary.returncode, other.returncode) == (75, 75), first + second
    sentence = first.splitlines()[-1]
    assert f"Process 1: {sentence}" == second.splitlines()[-1]
    step = int(sentence.split("Stopped by SIGTERM; step ")[1].split()[0])
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == [str(step)]
