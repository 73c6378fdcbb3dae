"""The agegender command: what it prints, writes and returns."""

import argparse
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import pytest
from PIL import Image

from agegender_jax import cli
from agegender_jax.evaluate.saliency import METHODS
from agegender_jax.labels import DISCLAIMER

RESULT: dict[str, Any] = {
    **dict.fromkeys(("run", "dataset", "age_groups", "split_sha256"), "x"),
    **{
        "protocol": "paper",
        "leaky": True,
        "synthetic": False,
        "left_out": 0,
        "files_of_seen_subjects": 0,
        "unmapped": {},
        "intervals": {"test": {}},
        "test": {"n": 1},
    },
}
"""What `evaluate_runs` might return."""


def row_of(printed: str, name: str) -> list[str]:
    """The cells of a row of a table."""
    return next(line.split()[1:] for line in printed.splitlines() if line.startswith(name))


def cells(summary: Any, *columns: str) -> list[str]:
    """What stands in the row age/mae of a table."""
    low, high = summary["intervals"]["test"]["age/mae"]
    values = {part: [f"{summary[part]['age/mae']:.4f}"] for part in ("test", "baseline")}
    return [cell for column in columns for cell in values.get(column, [f"{low:.4f}", "to", f"{high:.4f}"])]


def test_evaluate_prints_and_writes_the_run_s_metrics(
    finished: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "metrics.json"
    assert cli.main(["evaluate", str(finished.workdir), "--json", str(target)]) == 0
    assert json.loads(target.read_text())["test"] == finished.summary["test"]
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.json"]  # nothing temporary is left
    printed = capsys.readouterr().out
    assert printed.startswith("finished: utkface, protocol disjoint, age groups nearest, split ")
    assert row_of(printed, "age/mae") == cells(finished.summary, "test", "95 %", "baseline")
    target.unlink()
    assert cli.main(["evaluate", str(finished.workdir), "--split", "val", "--json", str(target)]) == 0
    assert json.loads(target.read_text())["validation"] == finished.summary["validation"]


def test_another_archive_is_measured_and_what_was_seen_is_counted(
    finished: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run's own archive given as another one: all but the test part was seen."""
    arguments = ["--manual_dir", str(finished.manual_dir), "--data_dir", str(finished.data_dir)]
    assert cli.main(["evaluate", str(finished.workdir), "--dataset", "utkface", *arguments]) == 0
    printed = capsys.readouterr().out
    assert "480 files were left out" in printed
    assert row_of(printed, "age/mae")[:1] == cells(finished.summary, "test")


def test_several_runs_are_measured_each_and_averaged(
    finished: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target, run = tmp_path / "metrics.json", str(finished.workdir)
    assert cli.main(["evaluate", run, run, "--json", str(target)]) == 0
    written = json.loads(target.read_text())
    assert written["test"] == finished.summary["test"] == written["runs"]["finished (2)"]["test"]
    printed = capsys.readouterr().out
    assert printed.startswith("finished + finished: utkface, protocol disjoint, ")
    assert row_of(printed, "age/mae") == cells(finished.summary, "test", "95 %", "test", "test", "baseline")


def test_compare_prints_and_writes(finished: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy, target = tmp_path / "copy", tmp_path / "compared.json"
    copy.mkdir()
    shutil.copy(finished.workdir / "predictions.npz", copy)
    pair = [str(finished.workdir), str(copy)]
    assert cli.main(["compare", *pair, "--json", str(target)]) == 0
    assert "part test: 120 examples" in capsys.readouterr().out
    written = json.loads(target.read_text())
    assert written["runs"] == ["finished", "copy"]
    assert {each["value"] for each in written["metrics"].values()} == {0.0}
    assert cli.main(["compare", *pair, "--split", "validation"]) == 0
    assert "part validation: 72 examples" in capsys.readouterr().out


def test_explain_names_the_files_that_it_skips(
    finished: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "album").mkdir()
    Image.new("RGB", (50, 40), "red").save(tmp_path / "album" / "red.png")
    (tmp_path / "text.png").write_text("none")
    files, out = [str(tmp_path / "album"), str(tmp_path / "text.png")], tmp_path / "out"
    assert cli.main(["explain", str(finished.workdir), *files, "--out", str(out)]) == 0
    printed = capsys.readouterr()
    assert f"{out}/sheet.png" in printed.out
    assert "text.png" in printed.err
    assert (out / "001.png").exists()


def test_explain_shows_examples_of_a_class(finished: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--count", "3", "--split", "val", "--head", "gender", "--class", "male", "--method", "layer_cam"]
    assert cli.main(["explain", str(finished.workdir), "--out", str(tmp_path / "out"), *options]) == 0
    assert "terms" in capsys.readouterr().out
    assert (tmp_path / "out" / "examples.csv").read_text().count(",male\n") == 3


def test_choices_of_explain_are_the_methods() -> None:
    for method in METHODS:
        assert cli._parser().parse_args(["explain", "run", "--method", method]).method == method


@pytest.mark.parametrize("command", ["evaluate", "classical", "models", "compare"])
def test_a_json_file_that_cannot_be_or_is_there_is_refused_before_the_work(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.json").write_text("mine")
    (tmp_path / "link.json").symlink_to("nothing")
    arguments = ["nothing-that-there-is"] * (2 if command == "compare" else 1)
    for name in ("absent/metrics.json", "mine.json/metrics.json", "mine.json", "link.json", ""):
        assert cli.main([command, *arguments, "--json", str(tmp_path / name)]) == 2
        error = capsys.readouterr().err
        assert "--json" in error
        assert len(error.splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.json", "mine.json"]
    assert (tmp_path / "mine.json").read_text() == "mine"


def test_a_folder_that_nothing_may_be_written_to_is_refused_before_the_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.access", lambda *_: False)  # whoever runs the tests may write everywhere
    assert cli.main(["evaluate", "nowhere", "--json", str(tmp_path / "metrics.json")]) == 2
    assert "--json" in capsys.readouterr().err


def test_a_file_that_came_in_the_meantime_is_left_alone_and_a_full_disk_is_one_sentence(
    finished: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "metrics.json"

    def meanwhile(*_: Any, **__: Any) -> dict[str, Any]:
        target.write_text("mine")
        return RESULT

    monkeypatch.setattr("agegender_jax.evaluate.evaluate_run.evaluate_runs", meanwhile)
    arguments = ["evaluate", str(finished.workdir), "--json", str(target)]
    assert cli.main(arguments) == 2
    assert "metrics.json" in capsys.readouterr().err
    assert target.read_text() == "mine"

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    target.unlink()
    monkeypatch.setattr("agegender_jax.evaluate.evaluate_run.evaluate_runs", lambda *_, **__: RESULT)
    monkeypatch.setattr("os.replace", full)
    assert cli.main(arguments) == 2
    assert "No space left" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_leaky_protocol_is_marked_and_a_metric_without_examples_is_null_in_json(
    finished: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    result = RESULT | {"test": {"gender/accuracy": float("nan"), "gender/n": 0}}
    monkeypatch.setattr("agegender_jax.evaluate.evaluate_run.evaluate_runs", lambda *_, **__: result)
    target = tmp_path / "metrics.json"
    assert cli.main(["evaluate", str(finished.workdir), "--json", str(target)]) == 0
    assert "protocol paper (leaky), " in capsys.readouterr().out
    assert "NaN" not in target.read_text()
    assert json.loads(target.read_text())["test"] == {"gender/accuracy": None, "gender/n": 0}


def test_features_are_written_and_classical_models_learn_from_them(
    finished: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, target = tmp_path / "features.npz", tmp_path / "metrics.json"
    assert cli.main(["features", str(finished.workdir), "--out", str(file)]) == 0
    title, *_ = capsys.readouterr().out.splitlines()
    assert title.startswith("finished: utkface, protocol disjoint, age groups nearest, split ")
    assert cli.main(["classical", str(file), "--only", "forest", "--json", str(target)]) == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines()[0] == title
    summary, written = finished.summary, json.loads(target.read_text())
    assert f"fitted on {600 - 120 - summary['validation']['n']} examples, tested on 120" in printed.out
    assert written["baseline"] == summary["baseline"]
    assert written["forest"].keys() == summary["test"].keys()
    assert written["forest"]["gender/accuracy"] > summary["baseline"]["gender/accuracy"]
    low, high = written["intervals"]["forest"]["age/mae"]
    forest, baseline = (written[name]["age/mae"] for name in ("forest", "baseline"))
    assert low < forest < high
    assert row_of(printed.out, "age/mae") == [f"{forest:.4f}", f"{low:.4f}", "to", f"{high:.4f}", f"{baseline:.4f}"]
    assert [line.split(" from ")[0] for line in printed.err.splitlines()] == [
        "forest for gender,", "forest for age_group,", "forest for age,"
    ]  # fmt: skip


def test_models_prints_a_table_and_writes_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "models.json"
    arguments = ["resnet18", "small_cnn", "--image_size", "32", "--no_step_time", "--json", str(file)]
    assert cli.main(["models", *arguments]) == 0
    printed = capsys.readouterr()
    rows = {line.split()[0]: line.split() for line in printed.out.splitlines()}
    # 11,689,512 with 1,000 outputs (torchvision), of which the last layer is 513 x 1,000; here 513 x (2 + 8 + 101).
    assert rows["resnet18"][1:3] == ["11,233,455", "11,176,512"]
    assert rows["small_cnn"][1] == "a"
    assert "one image of 32x32" in printed.out
    assert f"jax {jax.__version__}" in printed.out
    assert "ms/step" not in printed.out
    assert "small_cnn (2 of 2) ..." in printed.err
    written = json.loads(file.read_text())
    assert list(written["models"]) == ["resnet18", "small_cnn"]
    assert written["models"]["resnet18"]["step_seconds"] is None
    assert (written["image_size"], written["hardware"]["backend"]) == (32, jax.default_backend())


def test_models_times_a_step_and_names_the_machine(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seconds = "agegender_jax.train.model_profile.step_seconds"
    monkeypatch.setattr(seconds, lambda model, heads, options, preprocessor: 0.004 if options.batch_size == 16 else 9.0)
    assert cli.main(["models", "small_cnn", "--image_size", "32", "--batch_size", "16"]) == 0
    printed = capsys.readouterr().out
    assert printed.splitlines()[1].split()[-2:] == ["4.0", "4000"]  # 16 images in 4 ms
    assert "trains on 16 such images in float32" in printed
    assert f"{jax.device_count()} {jax.default_backend()} device(s)" in printed


def test_describe_prints_and_writes_a_page(
    synthetic_dir: Path,
    data_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["data", "describe", "utkface", "--manual_dir", str(synthetic_dir), "--data_dir", str(data_dir)]
    assert cli.main(arguments) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("utkface 1.1.0\n")
    assert "160 images" in printed
    assert "paper (leaky), by age group" in printed
    assert "describe-utkface.html" in printed
    assert [path.name for path in tmp_path.iterdir()] == ["describe-utkface.html"]
    written = (tmp_path / "describe-utkface.html").read_bytes()
    assert cli.main([*arguments, "--html", "other.html"]) == 0
    assert (tmp_path / "other.html").read_bytes() == written
    assert cli.main([*arguments, "--no_html", "--age_groups", "literal"]) == 0
    assert "nearest" not in capsys.readouterr().out.rpartition("Page with")[2]
    assert len(list(tmp_path.iterdir())) == 2


def test_a_voice_dataset_is_synthesized_described_and_not_overwritten(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "my voices"
    assert cli.main(["data", "synthesize", "voice_age_gender", "--out", str(folder), "--count", "32"]) == 0
    printed = capsys.readouterr().out
    assert DISCLAIMER in printed
    line = next(line for line in printed.splitlines() if line.startswith("  describe: agegender "))
    page = tmp_path / "page.html"
    more = ["--data_dir", str(tmp_path / "data"), "--html", str(page), "--age_groups", "nearest"]
    assert cli.main([*shlex.split(line.partition("agegender ")[2]), *more]) == 0  # what it says works as it stands
    printed = capsys.readouterr().out
    assert "32 recordings" in printed
    assert "class" in printed
    assert page.read_text().count("<audio ") == 32
    assert cli.main(["data", "synthesize", "voice_age_gender", "--out", str(folder)]) == 2
    assert str(folder) in capsys.readouterr().err


def test_adience_is_synthesized_with_the_labels_of_fold_files(tmp_path: Path) -> None:
    made = tmp_path / "made"
    assert cli.main(["data", "synthesize", "adience", "--out", str(made), "--count", "60", "--seed", "3"]) == 0
    again = tmp_path / "again"
    assert cli.main(["data", "synthesize", "adience", "--out", str(again), "--fold_files", str(made)]) == 0

    def labels(folder: Path) -> list[list[str]]:
        rows = [row.split("\t") for row in (folder / "fold_0_data.txt").read_text().splitlines()]
        return [row[:5] for row in rows]

    assert labels(again) == labels(made)


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("evaluate nowhere", "nowhere"),
        ("evaluate TMP", "is not complete"),
        ("evaluate RUN --manual_dir nowhere", "--manual_dir"),
        ("evaluate RUN --dataset faces", "'faces'"),
        ("evaluate RUN --config faces --manual_dir OWN --data_dir DATA", "'faces'"),
        ("compare RUN RUN/../finished", "twice"),
        ("compare RUN new", "new"),
        ("report RUN --manual_dir x", "--with_images"),
        ("features RUN --out taken.html", "taken.html"),
        ("features RUN --out nowhere/new.npz", "nowhere"),
        ("classical taken.html", "taken.html"),
        ("models resnet19", "'resnet19'.* resnet18"),
        ("data describe cats", "'cats'"),
        ("data describe utkface --data_dir nowhere", "nowhere"),
        ("data describe utkface --manual_dir nowhere", "--manual_dir"),
        ("data describe utkface --csv labels.csv", "--manual_dir"),
        ("data describe utkface --html taken.html", "taken.html"),
        ("data describe utkface --manual_dir SYNTHETIC --config big", "'big'"),
        ("data synthesize cats --out new", "'cats'"),
        ("data synthesize utkface --out new --fold_files SYNTHETIC", "--fold_files"),
        ("data synthesize adience --out new --fold_files SYNTHETIC", "fold_0_data.txt"),
        ("data synthesize adience --out new --count 3", "20"),
    ],
)
def test_what_is_wrong_is_one_sentence_and_exit_code_2(
    command: str,
    name: str,
    finished: Any,
    synthetic_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "data"))
    (tmp_path / "taken.html").write_text("something else")
    (tmp_path / "recipe.json").write_text((finished.workdir / "recipe.json").read_text())
    paths = {"RUN": finished.workdir, "TMP": tmp_path, "SYNTHETIC": synthetic_dir}
    paths |= {"OWN": finished.manual_dir, "DATA": finished.data_dir}
    arguments = command.split()
    for placeholder, path in paths.items():
        arguments = [argument.replace(placeholder, str(path)) for argument in arguments]
    assert cli.main(arguments) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("agegender: ")
    assert re.search(name, error)
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "new").exists()
    assert (tmp_path / "taken.html").read_text() == "something else"


def subcommands(parser: argparse.ArgumentParser) -> list[list[str]]:
    """All commands as arguments."""
    actions = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    inner = [[name, *rest] for action in actions for name, one in action.choices.items() for rest in subcommands(one)]
    return [[], *inner]


@pytest.mark.parametrize("arguments", subcommands(cli._parser()), ids=" ".join)
def test_help_shows_examples(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main([*arguments, "--help"])
    assert end.value.code == 0
    assert f"\n  {' '.join(['agegender', *arguments])}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        ["evaluate", "run", "--split", "tset"],
        ["evaluate"],
        ["features", "run"],
        ["attention", "run"],
        ["explain", "run", "--method", "lime"],
        ["explain", "run", "--count", "0"],
        ["models", "--image_size", "31"],
        ["models", "--batch_size", "0"],
        ["models", "--dtype", "float64"],
        ["classical", "file", "--only", "svm,tree"],
        ["data", "synthesize", "utkface", "--out", "x", "--count", "0"],
        ["data", "synthesize", "utkface", "--out", "x", "--seed", "-1"],
        ["data", "describe", "utkface", "--max_bad", "2"],
        ["data", "describe", "utkface", "--age_groups", "decades"],
        ["data"],
    ],
)
def test_a_mistyped_argument_is_an_error(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(arguments)
    assert end.value.code == 2


@pytest.mark.parametrize(
    "arguments",
    [
        ["evaluate", "run"],
        ["explain", "run"],
        ["features", "run", "--out", "new.npz"],
        ["report", "run"],
        ["profile", "recipe.py"],
        ["data", "describe", "utkface"],
    ],
    ids=" ".join,
)
def test_the_home_directory_is_expanded(arguments: list[str]) -> None:
    """As by launch.py: the shell leaves it in --manual_dir=~/data."""
    assert cli._parser().parse_args([*arguments, "--manual_dir=~/data"]).manual_dir == Path.home() / "data"


def test_help_starts_without_jax() -> None:
    code = (
        "import sys; from agegender_jax import cli\ntry: cli.main(['--help'])\nfinally: assert 'jax' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_a_name_in_an_error_does_not_steer_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["report", str(tmp_path / "run\x1b[2J")]) == 2
    assert "run\\x1b[2J" in capsys.readouterr().err


def test_an_interruption_is_reported(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(*_: Any) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("agegender_jax.commands.runs._runs", interrupted)
    assert cli.main(["runs"]) == 130
    assert capsys.readouterr().err == "agegender: interrupted.\n"
