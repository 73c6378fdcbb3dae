"""The page of results: the prose with the tables of the JSON files."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from agegender_jax.errors import UserError
from benchmarks import results

DOCS = results.ROOT / "docs"


def _row(system: str, age: float) -> dict[str, object]:
    metrics = {"age_group/accuracy": age, "age_group/balanced_accuracy": 0.25, "gender/accuracy": 0.75}
    spread: dict[str, object] = {"folds": None, "repeats": 0.01, "interval": None, "values": {}}
    return {
        "system": system, "protocol": "disjoint", "leaky": False, "folds": 1, "repeats": 2, "image_size": 32,
        "epochs": 4.0, "train_examples": 14584, "test_examples": 4289, "parameters": 5678, "images_per_second": 450.4,
        "minutes": 3.25, "baseline": {"age_group/accuracy": 0.4},
        "test": {name: {"mean": value, **spread} for name, value in metrics.items()},
    }  # fmt: skip


def _kept() -> dict[str, object]:
    ours = _row("ours", 0.625)
    ours["test"]["age_group/accuracy"]["interval"] = [0.61, 0.64]  # type: ignore[index]
    difference = {
        "a": "ours", "b": "resnet18", "column": "age", "protocol": "disjoint", "published": 0.0274, "difference": 0.125,
        "interval": [0.1, 0.15], "p": 0.001, "by": "predictions", "clear": True,
    }  # fmt: skip
    return {
        "target": "table2", "command": "python -m benchmarks.reproduce table2 --cpu", "dataset": "utkface",
        "synthetic": False, "age_groups": ["nearest"], "versions": {"jax": ["0.10.2"]}, "hardware": ["cpu x1, Z80"],
        "changes": {"resnet18": ["train.epochs: 30.0 -> 4.0"], "ours": ["train.epochs: 30.0 -> 4.0", "seed: 0 -> 1"]},
        "rows": [_row("resnet18", 0.5), ours], "differences": [difference],
    }  # fmt: skip


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    """A folder with prose and one file of metrics."""
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "first.json").write_text(json.dumps(_kept()))
    (tmp_path / "results" / "RESULTS.md.in").write_text(
        "# Results\n\n<!-- contents -->\n\n## First: a table\n\nBefore.\n\n<!-- table: first -->\n\n"
        "Behind.\n\n<!-- cannot -->\n"
    )
    return tmp_path


def test_the_page_is_what_the_files_give() -> None:
    results.update(DOCS, check=True)


def test_the_tables_stand_where_the_prose_has_them(docs: Path) -> None:
    results.update(docs)
    page = (docs / "RESULTS.md").read_text()
    lines = page.splitlines()
    assert "change that, not this page" in lines[0]
    assert "- [First: a table](#first-a-table)" in lines
    assert (
        page.index("Before.")
        < page.index("| ResNet18 |")
        < page.index("Behind.")
        < page.index("\n  - The table exactly:")
    )
    # Titles and cells by hand; input and epochs are the same for all and stand below.
    assert (
        "|  | age group | age group, balanced | gender | parameters | images/s | minutes a run | "
        "published: age group | published: gender | published: parameters | published: time (no unit) |"
    ) in lines
    assert (
        "| ResNet18 | 0.500 ± 0.010 | 0.250 ± 0.010 | 0.750 ± 0.010 | 5,678 | 450 | 3.2 | 0.586 | 0.874 | 11 M | 120 |"
    ) in lines
    assert "| ours (variant `a`) | 0.625 ± 0.010 [0.610, 0.640] |" in page
    assert "| baseline | 0.400 |" in page
    assert "| ours (variant `a`) − ResNet18, age group | +0.125 [+0.100, +0.150] | +0.027 | holds |" in lines
    assert "Other than the paper's training: train.epochs: 30.0 -> 4.0." in page
    assert "`ours`, also other than the paper's training: seed: 0 -> 1." in page
    assert "```sh\npython -m benchmarks.reproduce table2 --cpu\n```" in page
    assert "cpu x1, Z80; jax 0.10.2." in page


def test_rows_of_other_benchmarks(docs: Path) -> None:
    row = {
        "name": "all: evaluator", "ours": 606.0, "peer": 582.5, "ratio_median": 1.0644, "ratio_min": 0.986,
        "ratio_max": 1.092, "unit": "images/s", "versions": {"jax": "0.10.2"}, "hardware": "cpu x1, Z80, 2 cores",
    }  # fmt: skip
    alone = row | {"name": "whole command", "peer": None, "ratio_median": None, "ratio_min": None, "ratio_max": None}
    (docs / "results" / "speed.json").write_text(json.dumps([row, alone]))
    with open(docs / "results" / "RESULTS.md.in", "a") as file:
        file.write("\n<!-- table: speed -->\n")
    lines = results.fill(docs / "results").splitlines()
    assert "| all: evaluator | 606.0 | 582.5 | 1.064 | 0.986 to 1.092 | images/s |" in lines
    assert "| whole command | 606.0 |  |  |  | images/s |" in lines
    assert lines.count("cpu x1, Z80, 2 cores; jax 0.10.2.") == 1


def test_a_page_written_by_hand_is_refused(docs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(docs / "results", docs / "docs" / "results")
    monkeypatch.setattr(results, "ROOT", docs)
    assert [results.main(arguments) for arguments in (["--check"], [], ["--check"])] == [2, 0, 0]
    page = docs / "docs" / "RESULTS.md"
    page.write_text(page.read_text().replace("0.500 ± 0.010", "0.900 ± 0.010"))
    with pytest.raises(UserError, match=r"RESULTS\.md"):
        results.update(docs / "docs", check=True)
    assert "0.900" in page.read_text()


@pytest.mark.parametrize(
    ("name", "content", "names"),
    [
        ("RESULTS.md.in", "<!-- table: first -->\n<!-- table: second -->", r"second\.json"),
        ("RESULTS.md.in", "nothing", r"0 times.*first\.json"),
        ("RESULTS.md.in", "<!-- table: first -->\n" * 2, r"2 times.*first\.json"),
        ("first.json", "{", r"first\.json"),
        ("first.json", "[1]", r"first\.json"),
        ("first.json", "1", r"first\.json"),
        ("first.json", '{"target": "table9"}', "table9.*table2"),
        ("first.json", '{"target": "table2", "rows": [{}]}', r"first\.json"),
    ],
)
def test_files_that_do_not_fit_are_refused(docs: Path, name: str, content: str, names: str) -> None:
    (docs / "results" / name).write_text(content)
    with pytest.raises(UserError, match=names):
        results.update(docs)
    assert not (docs / "RESULTS.md").exists()


def test_the_check_needs_no_jax() -> None:
    script = "import sys; from benchmarks import results; results.main(['--check']); sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], cwd=results.ROOT, check=False).returncode == 0
