"""The agegender command: what it prints, writes and returns."""

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agegender_jax import cli


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
    assert row.split()[1:] == [f"{finished.summary[part]['age/mae']:.4f}" for part in ("test", "constant")]


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
        (["RUN", "--json", "RUN/recipe.json/x.json"], "cannot be written"),
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
    keys = ("run", "dataset", "age_groups", "split_sha256")
    result = dict.fromkeys(keys, "x") | {"protocol": "paper", "drawn": False, "left_out": 0, "test": {"n": 1}}
    result["files_of_seen_subjects"] = 0
    monkeypatch.setattr("agegender_jax.evaluate.measure.measure", lambda *_, **__: result)
    assert cli.main(["evaluate", str(finished.workdir)]) == 0
    assert "protocol paper (leaky), " in capsys.readouterr().out


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
    assert row.split()[1:] == [f"{finished.summary[part]['age/mae']:.4f}" for part in ("test",) * 3 + ("constant",)]


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
    assert written["constant"] == summary["constant"]
    assert written["forest"].keys() == summary["test"].keys()
    assert written["forest"]["gender/accuracy"] > summary["constant"]["gender/accuracy"]
    row = next(line for line in said.out.splitlines() if line.startswith("age/mae"))
    assert row.split()[1:] == [f"{written[name]['age/mae']:.4f}" for name in ("forest", "constant")]
    assert [line.split(" from ")[0] for line in said.err.splitlines()] == [
        "forest for gender,", "forest for age_group,", "forest for age,"
    ]  # fmt: skip
    assert cli.main(["features", str(finished.workdir), "--out", str(file)]) == 2
    assert "nothing is overwritten" in capsys.readouterr().err


def test_classical_names_the_file_that_it_cannot_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "other.npz").write_text("something else")
    assert cli.main(["classical", str(tmp_path / "other.npz")]) == 2
    assert "other.npz is no file of features of this version" in capsys.readouterr().err


def test_describe_prints_and_writes_a_page(
    drawn_dir: Path,
    data_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["data", "describe", "utkface", "--manual_dir", str(drawn_dir), "--data_dir", str(data_dir)]
    assert cli.main(arguments) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("utkface 1.1.0\n")
    assert "160 pictures" in printed
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


def test_a_voice_dataset_is_drawn_described_and_not_drawn_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "my voices"
    assert cli.main(["data", "draw", "voice_age_gender", "--out", str(folder), "--count", "32"]) == 0
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
    assert cli.main(["data", "draw", "voice_age_gender", "--out", str(folder)]) == 2
    assert "exists already" in capsys.readouterr().err


def test_adience_is_drawn_with_the_labels_of_fold_files(tmp_path: Path) -> None:
    made = tmp_path / "made"
    assert cli.main(["data", "draw", "adience", "--out", str(made), "--count", "60", "--seed", "3"]) == 0
    again = tmp_path / "again"
    assert cli.main(["data", "draw", "adience", "--out", str(again), "--fold_files", str(made)]) == 0

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
        (["describe", "utkface", "--html", "taken.html"], "taken.html is there and is no page"),
        (["describe", "utkface", "--manual_dir", "DRAWN", "--config", "big"], "has no configuration 'big'"),
        (["draw", "cats", "--out", "new"], "Nothing draws 'cats'"),
        (["draw", "utkface", "--out", "new", "--fold_files", "DRAWN"], "--fold_files is for adience"),
        (["draw", "adience", "--out", "new", "--fold_files", "DRAWN"], "fold_0_data.txt"),
        (["draw", "adience", "--out", "new", "--count", "3"], "at least 20"),
    ],
)
def test_what_is_wrong_with_data_is_one_sentence(
    arguments: list[str],
    sentence: str,
    drawn_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "data"))
    (tmp_path / "taken.html").write_text("something else")
    assert cli.main(["data", *(str(drawn_dir) if each == "DRAWN" else each for each in arguments)]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("agegender: ")
    assert sentence in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("arguments", "example"),
    [
        ([], "agegender evaluate runs/cpu --split validation"),
        ([], "agegender data draw adience --out drawn/adience"),
        (["evaluate"], "agegender evaluate runs/cpu --split validation"),
        (["evaluate"], "agegender evaluate runs/small runs/resnet"),
        (["features"], "agegender features runs/cpu --out features.npz"),
        (["classical"], "agegender classical features.npz --only forest"),
        (["data"], "agegender data describe utkface --manual_dir DIR"),
        (["data", "describe"], "agegender data describe adience --age_groups levi_hassner"),
        (["data", "draw"], "agegender data draw utkface --out drawn/utkface --count 600"),
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
        ["classical", "file", "--only", "svm,tree"],
        ["data", "draw", "utkface", "--out", "x", "--count", "0"],
        ["data", "draw", "utkface", "--out", "x", "--seed", "-1"],
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
