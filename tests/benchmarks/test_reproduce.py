"""The tables of the papers: which runs, how they go on, what is made of their metrics. Nothing is trained here."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agegender_jax import recipe as recipes
from agegender_jax.errors import UserError
from agegender_jax.flags import read_recipe
from agegender_jax.run import Run
from agegender_jax.text import Table
from agegender_jax.train.loop import train_recipe
from benchmarks import launch_runs
from benchmarks.reproduce import collect, running, tables
from benchmarks.reproduce.__main__ import main
from benchmarks.reproduce.papers import TARGETS

# Leaves a summary whose metrics follow from the flags: the seed adds 0.02, class weights take 0.1 from the age group,
# the protocol `paper` adds 0.05. It notes its flags, and stops after `STUB_STOP` runs.
STUB = """
import json, os, sys
from pathlib import Path
flags = dict(flag.lstrip("-").split("=", 1) for flag in sys.argv[1:])
log = Path(os.environ["STUB_LOG"])
lines = log.read_text().splitlines() if log.exists() else []
if len(lines) >= int(os.environ.get("STUB_STOP", 999)):
    sys.exit("Killed; choose another --workdir.")
log.write_text("\\n".join([*lines, json.dumps(flags)]) + "\\n")
more = 0.02 * int(flags["config.seed"]) + 0.05 * (flags["config.split.protocol"] == "paper")
more += 0.01 * int(flags["config.split.fold"])
weighted = 0.1 * ("weighted" in flags["config"])
metrics = {"n": 100, "age/mae": 8.0 + more, "gender/accuracy": 0.8 + more, "gender/balanced_accuracy": 0.7 + more}
for name in ("age_group/", "class_name/", "age_group_true/", "age_group_predicted/", "age_group_soft/"):
    for metric in ("accuracy", "balanced_accuracy", "one_off"):
        metrics[name + metric] = 0.5 + more - weighted
workdir = Path(flags["workdir"])
workdir.mkdir(parents=True, exist_ok=True)
summary = {
    "dataset": "utkface", "synthetic": True, "age_groups": "nearest", "data_sha256": "d", "split_sha256": "s",
    "train_examples": 300, "subjects": {"known": 0}, "seconds": 90.0, "images_per_second": 200.0, "parameters": 1234,
    "leaky": flags["config.split.protocol"] == "paper", "test": metrics,
    "metrics": {name: {"unit": "share", "bounds": [0, None]} for name in metrics if name != "n"},
    "baseline": {name: 0.25 for name in metrics}, "versions": {"jax": "1"},
    "hardware": {"backend": "cpu", "devices": 1, "device": "cpu", "processor": "Z80", "cores": 2},
}
(workdir / "summary.json").write_text(json.dumps(summary))
"""


@pytest.fixture
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[dict[str, str]]]:
    """`launch.py` is the script above; returns the flags of every start."""
    script, log = tmp_path / "stub.py", tmp_path / "log"
    script.write_text(STUB)
    monkeypatch.setattr(launch_runs, "LAUNCH", script)
    monkeypatch.setenv("STUB_LOG", str(log))
    return lambda: [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def _given(**options: Any) -> argparse.Namespace:
    defaults = {"cpu": True, "size": None, "epochs": None, "repeats": 1, "nets": [], "protocols": [], "smoke": False}
    return argparse.Namespace(**{**defaults, **options})


def test_table2_shows_mean_and_spread_beside_the_paper(
    tmp_path: Path, started: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "table2.json"
    command = ["table2", "--cpu", "--repeats=2", "--nets", "resnet18", "ours", f"--out={tmp_path / 'out'}"]
    assert main([*command, "--size=48", "--epochs=2", f"--json={path}"]) == 0
    printed = capsys.readouterr()

    flags = started()
    assert [Path(each["workdir"]).relative_to(tmp_path / "out").as_posix() for each in flags] == [
        f"{system}/{run}"
        for run in ("disjoint", "disjoint-repeat_1")  # a whole table first, then the second repeat of it
        for system in ("resnet18", "resnet18_weighted", "ours", "ours_weighted")
    ]
    assert flags[0]["config"] == "configs/utkface_baselines.py:resnet18_cpu"
    assert {each["config.dataset.image_size"] for each in flags} == {"48"}
    assert {each["config.train.epochs"] for each in flags} == {"2.0"}
    assert {each["config.seed"] for each in flags} == {"0", "1"}

    # 0.50 and 0.52: mean 0.51, deviation 0.01 * sqrt(2).
    table = (" ", "ResNet18", "ours", "baseline")
    titles, *lines = [line for line in printed.out.splitlines() if line.startswith(table)][:6]
    assert "published: age group" in titles
    assert " ".join(lines[0].split()) == (
        "ResNet18 0.510 ± 0.014 0.510 ± 0.014 0.810 ± 0.014 1,234 200 1.5 0.586 0.874 11 M 120"
    )
    assert lines[1].split()[:5] == ["ResNet18,", "weighted", "0.410", "±", "0.014"]
    assert lines[4].split() == ["baseline", "0.250", "0.250", "0.250"]
    assert "train.epochs: 30.0 -> 2.0" in printed.out
    assert "dataset.image_size: 256 -> 48" in printed.out
    assert "run 1 of 8: resnet18, disjoint; about" in printed.err

    result = json.loads(path.read_text())
    assert result["command"] == (
        "python -m benchmarks.reproduce table2 --cpu --size 48 --epochs 2 --repeats 2 --nets resnet18 ours"
    )
    claims = {(each["a"], each["b"], each["column"]): each for each in result["differences"]}
    difference = claims["ours_weighted", "ours", "age"]
    assert difference["difference"] == pytest.approx(-0.1)
    assert difference["published"] == pytest.approx(0.5285 - 0.6134)
    assert difference["by"] == "repeats"
    # p = 0.0194 of several differences is none after Holm's correction.
    assert {each["clear"] for each in claims.values()} == {False}


def test_the_same_command_resumes_where_it_was_stopped(
    tmp_path: Path, started: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["router", "--cpu", "--nets", "routed", "shared", "three", f"--out={tmp_path / 'out'}"]
    monkeypatch.setenv("STUB_STOP", "2")
    assert main(command) == 2
    assert "--out" in capsys.readouterr().err.splitlines()[-1]
    monkeypatch.delenv("STUB_STOP")
    assert main(command) == 0
    printed = capsys.readouterr()
    assert [Path(flags["workdir"]).parent.name for flags in started()] == ["routed", "shared", "three"]
    assert "run 1 of 3: routed, disjoint: complete" in printed.err
    assert "run 3 of 3: three, disjoint; about 1 min left" in printed.err
    assert main(command) == 0
    assert len(started()) == 3
    # One run gives three lines, and its gender metric stands in each.
    lines = {line.split("  ")[0]: line for line in printed.out.splitlines()}
    for title in ("routed by the predicted gender", "mixture of both age nets by P(gender)"):
        assert lines[title].count("0.500") == 3
        assert lines[title].count("0.800") == 1


def test_a_run_that_launch_py_began_is_resumed(tmp_path: Path, started: Callable[..., Any]) -> None:
    """What is planned and what the flags make of the recipe must be one, or the run would be refused."""
    command = ["table2", "--cpu", "--repeats", "2", "--nets", "ours", f"--out={tmp_path / 'out'}"]
    assert main(command) == 0
    for flags in started():
        workdir = Path(flags["workdir"])
        changes = [f"{key[7:]}={value}" for key, value in flags.items() if key.startswith("config.")]
        (workdir / "summary.json").unlink()
        Run.start(workdir, read_recipe(flags["config"], changes))
        (workdir / "split.json").write_text("{}")
    assert main(command) == 0
    assert len(started()) == 2 * 4  # two nets, plain and weighted, two repeats: again, as none is complete
    workdir = Path(flags["workdir"])
    recipe = Run.load(workdir).recipe
    recipe.train.epochs = 9.0
    (workdir / "recipe.json").write_text(recipes.to_json(recipe))
    assert main(command) == 2


def test_protocols_and_folds_stand_side_by_side(
    tmp_path: Path, started: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    nets = ["small_emodb", "small_emodb_classes"]
    path = tmp_path / "voice.json"
    assert main(["voice", "--nets", *nets, f"--out={tmp_path / 'out'}", f"--json={path}"]) == 0
    flags = started()
    assert len(flags) == 2 * 5 + 1  # the ten folders as classes are not trained under `disjoint`
    assert {each["config.split.fold"] for each in flags} == {"0", "1", "2", "3", "4"}
    out = capsys.readouterr().out
    row = next(line for line in out.splitlines() if "gender, five folds" in line and "thin" in line)
    # Folds 0 to 4 add 0.00 to 0.04: mean 0.02 more, deviation 0.0158; the leaky protocol has 0.05 more.
    assert "0.8700 ± 0.0158" in row
    assert "0.8200 ± 0.0158" in row
    assert "+0.0500" in row
    assert "paper (leaky)" in out


@pytest.mark.parametrize("target", TARGETS)
def test_smoke(target: str, tmp_path: Path, started: Callable[..., Any], capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "smoke.json"
    assert main([target, "--smoke", f"--json={path}"]) == 0
    assert "synthetic: tests the pipeline" in capsys.readouterr().out.lower()
    result = json.loads(path.read_text())
    assert result["target"] == target
    assert 1 <= len(result["rows"]) <= 4
    assert all(int(flags["config.dataset.synthetic"]) <= 400 for flags in started())


def _train_here(command: list[str], workdir: Path) -> launch_runs.Finished:
    """Trains as `launch.py` does, in this process."""
    flags = dict(flag.lstrip("-").split("=", 1) for flag in command[2:])
    recipe = running.load_config(Path(flags.pop("config")).name, {})
    for key, value in flags.items():
        if key.startswith("config."):
            group, name = key.removeprefix("config.").rpartition(".")[::2]
            of = recipe[group] if group else recipe
            of[name] = type(of[name])(value)
    train_recipe(recipe, workdir, manual_dir=None, data_dir=Path(flags["data_dir"]), progress=False)
    return launch_runs.read(workdir)


@pytest.mark.slow
@pytest.mark.usefixtures("tiny")
def test_real_runs_have_intervals(tmp_path: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch_runs, "run", _train_here)
    path = tmp_path / "table2.json"
    assert main(["table2", "--smoke", f"--data_dir={data_dir}", f"--json={path}"]) == 0
    result = json.loads(path.read_text())
    for row in result["rows"]:
        for metric in row["test"].values():
            low, high = metric["interval"]
            assert low <= metric["pooled"] <= high
            assert metric["pooled"] == pytest.approx(metric["mean"])  # of one fold
            assert low < high
    assert {each["by"] for each in result["differences"]} == {"predictions"}
    for each in result["differences"]:
        assert sum(each["interval"]) / 2 == pytest.approx(each["difference"])


@pytest.mark.parametrize("cpu", [True, False])
@pytest.mark.parametrize("target", TARGETS)
def test_every_recipe_is_one_and_every_claim_has_its_lines(target: str, cpu: bool) -> None:
    table = TARGETS[target]
    planned = running.plan_all(table, _given(cpu=cpu))
    assert len({one.system.name for one in planned}) == len(planned)
    for one in planned:
        assert one.seconds() > running.START_SECONDS
        assert {key for line in one.system.lines for key in line.metrics} <= table.columns.keys()
    keys = [line.key for system in table.systems for line in system.lines]
    assert len(set(keys)) == len(keys)
    for claim in table.claims:
        assert claim.column in table.line(claim.a).metrics
        assert claim.column in table.line(claim.b).metrics


def test_published_metrics_are_those_of_the_paper() -> None:
    # Uraimov & Yoo, table 2, in per cent: age, gender.
    rows = {"alexnet": (55.96, 85.10), "vgg11": (57.06, 83.63), "resnet18": (58.60, 87.40)}
    rows |= {"densenet161": (59.22, 87.28), "ours": (61.34, 88.67)}
    for net, percent in rows.items():
        published = TARGETS["table2"].line(net).published
        assert (published["age"], published["gender"]) == pytest.approx([value / 100 for value in percent])


def test_the_full_size_is_the_papers_training() -> None:
    planned = running.plan_all(TARGETS["table2"], _given(cpu=False))
    assert all(not one.changes for one in planned)
    assert {(one.recipe.dataset.image_size, one.recipe.train.epochs) for one in planned} == {(256, 30.0)}


def test_dry_run_prints_how_long(
    tmp_path: Path, started: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["table2", "--cpu", "--nets=resnet18", "--repeats=3", "--epochs=10", f"--out={tmp_path / 'out'}"]
    assert main([*command, "--dry_run"]) == 0
    printed = capsys.readouterr().out
    rate, _ = next(system.rate for system in TARGETS["table2"].systems if system.name == "resnet18")
    seconds = 6 * (running.START_SECONDS + 10 * 14584 / rate)
    assert f"about {running.about(seconds)} on two cores" in printed
    assert not started()


def test_runs_of_other_settings_are_refused_before_any_is_trained(
    tmp_path: Path, started: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    (one,) = running.plan_all(TARGETS["router"], _given(nets=["four"]))
    workdir = tmp_path / "out" / "four" / "disjoint"
    Run.start(workdir, one.recipe)
    (workdir / "split.json").write_text("{}")
    command = ["router", "--cpu", "--nets", "four", "three", f"--out={tmp_path / 'out'}"]
    assert main([*command, "--epochs=9"]) == 2
    error = capsys.readouterr().err
    assert "train.epochs: 3.0 -> 9.0" in error
    assert "--out" in error
    assert not started()


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["table2", "--nets=vgg19"], "alexnet"),
        (["adience", "--cpu", "--nets=levi_hassner"], "--cpu"),
        (["voice", "--nets=small_emodb_classes", "--protocol=disjoint"], "small_emodb_classes"),
        (["table2", "--json=."], "--json"),
    ],
)
def test_bad_arguments_are_refused(arguments: list[str], name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert name in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["table2", "--epochs=0"])


def test_runs_of_different_data_make_no_table(tmp_path: Path, started: Callable[..., Any]) -> None:
    out = tmp_path / "out"
    assert main(["router", "--cpu", "--nets=four", "--repeats=2", f"--out={out}"]) == 0
    path = out / "four" / "disjoint" / "summary.json"
    path.write_text(path.read_text().replace('"data_sha256": "d"', '"data_sha256": "e"'))
    planned = running.plan_all(TARGETS["router"], _given(nets=["four"], repeats=2))
    with pytest.raises(UserError, match="--out"):
        collect.collect(TARGETS["router"], planned, out, "command")
    assert len(started()) == 2


def test_empty_columns_are_left_out() -> None:
    table = tables.without_empty(Table(["", "a", "b"], [["x", "1", ""], ["y", "2", ""]]))
    assert table == Table(["", "a"], [["x", "1"], ["y", "2"]])
