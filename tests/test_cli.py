"""The agegender command: what it prints, writes and returns."""

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import pytest

from agegender_jax import cli
from agegender_jax.models.backbones import BACKBONES

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
"""What `measure` might return."""


@pytest.fixture(autouse=True)
def _keep_the_tests_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agegender_jax.compilation.cache_compilations", lambda: None)


def test_evaluate_prints_and_writes_the_run_s_figures(
    finished: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "figures.json"
    assert cli.main(["evaluate", str(finished.workdir), "--json", str(target)]) == 0
    written = json.loads(target.read_text())
    assert written["test"] == finished.summary["test"]
    assert [path.name for path in tmp_path.iterdir()] == ["figures.json"]  # nothing temporary is left
    printed = capsys.readouterr().out
    assert printed.startswith("finished: utkface, protocol disjoint, age groups nearest, split ")
    row = next(line for line in printed.splitlines() if line.startswith("age/mae"))
    assert row.split()[1:] == cells(finished.summary, "test", "95 %", "baseline")


@pytest.mark.parametrize(("split", "part"), [("val", "validation"), ("all", "all")])
def test_split_chooses_the_part(split: str, part: str, finished: Any, tmp_path: Path) -> None:
    target = tmp_path / "figures.json"
    assert cli.main(["evaluate", str(finished.workdir), "--split", split, "--json", str(target)]) == 0
    figures = json.loads(target.read_text())[part]
    assert figures["n"] == {"validation": finished.summary["validation"]["n"], "all": 600}[part]


def test_another_archive_is_measured_and_what_was_seen_is_counted(
    finished: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run's own archive given as another one: all but the test part was seen."""
    arguments = ["--manual_dir", str(finished.manual_dir), "--data_dir", str(finished.data_dir)]
    assert cli.main(["evaluate", str(finished.workdir), *arguments]) == 0  # where its own lies
    assert "left out" not in capsys.readouterr().out
    assert cli.main(["evaluate", str(finished.workdir), "--dataset", "utkface", *arguments]) == 0
    printed = capsys.readouterr().out
    assert "480 files were left out" in printed
    row = next(line for line in printed.splitlines() if line.startswith("age/mae"))
    assert row.split()[1] == f"{finished.summary['test']['age/mae']:.4f}"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nowhere"], "holds no run"),
        (["RUN", "--manual_dir", "nowhere"], "check the path of --manual_dir"),
        (["RUN", "--dataset", "faces"], "There is no dataset 'faces'; choose one of: "),
    ],
)
def test_what_is_wrong_is_one_sentence_and_exit_code_2(
    arguments: list[str], sentence: str, finished: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [argument.replace("RUN", str(finished.workdir)) for argument in arguments]
    assert cli.main(["evaluate", *arguments]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("agegender: ")
    assert sentence in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize("command", ["evaluate", "classical", "models"])
def test_a_json_file_that_cannot_be_or_is_there_is_refused_before_the_work(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.json").write_text("mine")
    (tmp_path / "link.json").symlink_to("nothing")
    for name, sentence in (
        ("absent/figures.json", "absent is no folder; make it, or choose another --json"),
        ("mine.json/figures.json", "mine.json is no folder"),
        ("mine.json", "mine.json is there already, and nothing is overwritten; choose another --json"),
        ("link.json", "link.json is there already"),
        ("", f"{tmp_path} is there already"),
    ):
        assert cli.main([command, "nothing-that-there-is", "--json", str(tmp_path / name)]) == 2
        error = capsys.readouterr().err
        assert sentence in error
        assert len(error.splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.json", "mine.json"]
    assert (tmp_path / "mine.json").read_text() == "mine"


def test_a_folder_that_nothing_may_be_written_to_is_refused_before_the_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.access", lambda *_: False)  # whoever runs the tests may write everywhere
    assert cli.main(["evaluate", "nowhere", "--json", str(tmp_path / "figures.json")]) == 2
    assert "nothing may be written there; choose another --json" in capsys.readouterr().err


def test_a_file_that_came_in_the_meantime_is_left_alone_and_a_full_disk_is_one_sentence(
    finished: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "figures.json"

    def meanwhile(*_: Any, **__: Any) -> dict[str, Any]:
        target.write_text("mine")
        return RESULT

    monkeypatch.setattr("agegender_jax.evaluate.evaluate_run.evaluate_runs", meanwhile)
    arguments = ["evaluate", str(finished.workdir), "--json", str(target)]
    assert cli.main(arguments) == 2
    assert "figures.json is there already" in capsys.readouterr().err
    assert target.read_text() == "mine"

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    target.unlink()
    monkeypatch.setattr("agegender_jax.evaluate.evaluate_run.evaluate_runs", lambda *_, **__: RESULT)
    monkeypatch.setattr("os.replace", full)
    assert cli.main(arguments) == 2
    assert "cannot be written (No space left on device); choose another --json" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_figure_without_examples_is_null_in_json(
    finished: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = RESULT | {"test": {"gender/accuracy": float("nan"), "gender/n": 0}}
    monkeypatch.setattr("agegender_jax.evaluate.evaluate_run.evaluate_runs", lambda *_, **__: result)
    target = tmp_path / "figures.json"
    assert cli.main(["evaluate", str(finished.workdir), "--json", str(target)]) == 0
    assert "NaN" not in target.read_text()
    assert json.loads(target.read_text())["test"] == {"gender/accuracy": None, "gender/n": 0}


def test_an_incomplete_run_is_an_error(finished: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "recipe.json").write_text((finished.workdir / "recipe.json").read_text())
    assert cli.main(["evaluate", str(tmp_path)]) == 2
    assert "is not complete" in capsys.readouterr().err


def test_config_is_of_the_other_archive_s_builder(finished: Any, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--manual_dir", str(finished.manual_dir), "--data_dir", str(finished.data_dir)]
    assert cli.main(["evaluate", str(finished.workdir), "--config", "faces", *arguments]) == 2
    assert "utkface has no configuration 'faces'" in capsys.readouterr().err


def test_a_leaky_protocol_is_never_printed_without_the_word(
    finished: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agegender_jax.evaluate.evaluate_run.evaluate_runs", lambda *_, **__: RESULT)
    assert cli.main(["evaluate", str(finished.workdir)]) == 0
    assert "protocol paper (leaky), " in capsys.readouterr().out


def cells(summary: Any, *columns: str) -> list[str]:
    """What stands in the row age/mae of a table."""
    low, high = summary["intervals"]["test"]["age/mae"]
    figures = {part: [f"{summary[part]['age/mae']:.4f}"] for part in ("test", "baseline")}
    return [cell for column in columns for cell in figures.get(column, [f"{low:.4f}", "to", f"{high:.4f}"])]


def test_several_runs_are_measured_each_and_averaged(
    finished: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target, run = tmp_path / "figures.json", str(finished.workdir)
    assert cli.main(["evaluate", run, run, "--json", str(target)]) == 0
    written = json.loads(target.read_text())
    assert written["test"] == finished.summary["test"] == written["runs"]["finished (2)"]["test"]
    printed = capsys.readouterr().out
    assert printed.startswith("finished + finished: utkface, protocol disjoint, ")
    assert "the mean of what 2 runs say, all figures of the part test" in printed
    row = next(line for line in printed.splitlines() if line.startswith("age/mae"))
    assert row.split()[1:] == cells(finished.summary, "test", "95 %", "test", "test", "baseline")


def test_features_are_written_and_classical_models_learn_from_them(
    finished: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, target = tmp_path / "features.npz", tmp_path / "figures.json"
    assert cli.main(["features", str(finished.workdir), "--out", str(file)]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("finished: utkface, protocol disjoint, age groups nearest, split ")
    assert "600 examples, the part all" in printed
    assert cli.main(["classical", str(file), "--only", "forest", "--json", str(target)]) == 0
    said = capsys.readouterr()
    assert said.out.startswith(printed.splitlines()[0])  # of what, in the same words
    summary, written = finished.summary, json.loads(target.read_text())
    assert f"fitted on {600 - 120 - summary['validation']['n']} examples, tested on 120" in said.out
    assert written["baseline"] == summary["baseline"]
    assert written["forest"].keys() == summary["test"].keys()
    assert written["forest"]["gender/accuracy"] > summary["baseline"]["gender/accuracy"]
    row = next(line for line in said.out.splitlines() if line.startswith("age/mae"))
    low, high = written["intervals"]["forest"]["age/mae"]
    found, baseline = (written[name]["age/mae"] for name in ("forest", "baseline"))
    assert low < found < high
    assert row.split()[1:] == [f"{found:.4f}", f"{low:.4f}", "to", f"{high:.4f}", f"{baseline:.4f}"]
    assert [line.split(" from ")[0] for line in said.err.splitlines()] == [
        "forest for gender,", "forest for age_group,", "forest for age,"
    ]  # fmt: skip
    assert cli.main(["features", str(finished.workdir), "--out", str(file)]) == 2
    assert "nothing is overwritten" in capsys.readouterr().err


def test_classical_names_the_file_that_it_cannot_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "other.npz").write_text("something else")
    assert cli.main(["classical", str(tmp_path / "other.npz")]) == 2
    assert "other.npz is no file of features of this version" in capsys.readouterr().err


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


def test_models_names_the_backbones_that_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["models", "resnet19"]) == 2
    error = capsys.readouterr().err
    assert "There is no backbone 'resnet19'" in error
    assert all(name in error for name in BACKBONES)


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
    assert "disjoint, by age group" in printed
    assert "paper (leaky), by age group" in printed
    assert printed.rstrip().splitlines()[-1].startswith("Page with plots and examples: describe-utkface.html")
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
    assert "says nothing about people" in printed
    line = next(line for line in printed.splitlines() if line.startswith("  describe: agegender "))
    page = tmp_path / "page.html"
    more = ["--data_dir", str(tmp_path / "data"), "--html", str(page), "--age_groups", "nearest"]
    assert cli.main([*shlex.split(line.partition("agegender ")[2]), *more]) == 0  # what it says works as it stands
    printed = capsys.readouterr().out
    assert "32 recordings" in printed
    assert "class" in printed
    assert page.read_text().count("<audio ") == 32
    assert cli.main(["data", "synthesize", "voice_age_gender", "--out", str(folder)]) == 2
    assert "exists already" in capsys.readouterr().err


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
    ("arguments", "sentence"),
    [
        (["describe", "cats"], "There is no dataset 'cats'"),
        (["describe", "utkface", "--data_dir", "nowhere"], "nowhere holds no prepared utkface"),
        (["describe", "utkface", "--manual_dir", "nowhere"], "check the path of --manual_dir"),
        (["describe", "utkface", "--csv", "labels.csv"], "give its --manual_dir"),
        (["describe", "utkface", "--html", "taken.html"], "taken.html exists"),
        (["describe", "utkface", "--manual_dir", "DRAWN", "--config", "big"], "has no configuration 'big'"),
        (["synthesize", "cats", "--out", "new"], "Nothing generates 'cats'"),
        (["synthesize", "utkface", "--out", "new", "--fold_files", "DRAWN"], "--fold_files is for adience"),
        (["synthesize", "adience", "--out", "new", "--fold_files", "DRAWN"], "fold_0_data.txt"),
        (["synthesize", "adience", "--out", "new", "--count", "3"], "at least 20"),
    ],
)
def test_what_is_wrong_with_data_is_one_sentence(
    arguments: list[str],
    sentence: str,
    synthetic_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "data"))
    (tmp_path / "taken.html").write_text("something else")
    assert cli.main(["data", *(str(synthetic_dir) if each == "DRAWN" else each for each in arguments)]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("agegender: ")
    assert sentence in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("arguments", "example"),
    [
        ([], "agegender evaluate runs/cpu --split validation"),
        ([], "agegender data synthesize adience --out synthetic/adience"),
        (["evaluate"], "agegender evaluate runs/cpu --split validation"),
        (["evaluate"], "agegender evaluate runs/small runs/resnet"),
        (["features"], "agegender features runs/cpu --out features.npz"),
        (["classical"], "agegender classical features.npz --only forest"),
        (["explain"], "agegender explain runs/ensemble --method attention"),
        (["predict"], "agegender predict runs/cpu face.jpg"),
        (["report"], "agegender report runs/"),
        (["runs"], "agegender runs"),
        (["models"], "agegender models --no_step_time --json models.json"),
        (["data"], "agegender data describe utkface --manual_dir DIR"),
        (["data", "describe"], "agegender data describe adience --age_groups levi_hassner"),
        (["data", "synthesize"], "agegender data synthesize utkface --out synthetic/utkface --count 600"),
    ],
)
def test_help_shows_examples(arguments: list[str], example: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main([*arguments, "--help"])
    assert end.value.code == 0
    assert example in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        ["evaluate", "run", "--split", "tset"],
        ["evaluate"],
        ["features", "run"],
        ["attention", "run"],
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


def test_help_starts_without_jax() -> None:
    code = (
        "import sys; from agegender_jax import cli\ntry: cli.main(['--help'])\nfinally: assert 'jax' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_an_interruption_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(*_: Any) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("agegender_jax.commands.runs._runs", interrupted)
    assert cli.main(["runs"]) == 130
    assert capsys.readouterr().err == "agegender: interrupted.\n"
