"""The content of a report, against what the made-up run was made of."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from agegender_jax.errors import UserError
from agegender_jax.evaluate.predictions import NAME
from agegender_jax.report.content import Content, Curve, gather, own_predictions
from agegender_jax.run import Run


def test_content_of_a_run(run: Run, content: Content) -> None:
    summary = run.require_summary()
    for part, analysis in (("test", content.test), ("validation", content.validation)):
        for name, interval in analysis["metrics"].items():
            assert interval["value"] == pytest.approx(summary[part][name]), name
    assert content.baseline["gender/accuracy"] == summary["baseline"]["gender/accuracy"]
    split = content.split
    assert split.examples == {"train": 408, "validation": 72, "test": 120}
    assert list(split.strata) == ["0-2", "4-6", "8-12", "15-20", "25-32", "38-43", "48-53", "60+"]
    assert sum(counts["test"] for counts in split.strata.values()) == 120
    assert split.sha256 == json.loads((run.directory / "split.json").read_text())["sha256"]
    assert content.differences == {"train.epochs": (30.0, 4.0)}
    assert content.command == "python launch.py --workdir 'my runs/small'"
    assert content.curves["train/loss"].step == [5, 10, 15, 20, 25, 30, 35, 40]  # without the torn line
    assert content.curves["validation/gender/accuracy"] == Curve([20, 40], [0.4, 0.8])
    assert content.steps_per_epoch == 408 / 32
    assert json.loads(content.to_json())["test"]["n"] == 120


def test_a_run_without_curves_and_ages(made: Callable[..., Run], tmp_path: Path) -> None:
    run = made(tmp_path / "few", count=60, heads=("gender", "age_group"))
    (run.directory / "metrics.jsonl").unlink()
    content = gather(run, own_predictions(run))
    assert content.curves == {}
    assert list(content.targets) == ["gender", "age_group"]
    assert content.around_18 is not None
    assert content.around_18["by"] == "age_group"


@pytest.mark.parametrize(
    ("name", "summary", "names"),
    [
        ("summary.json", None, r"launch\.py"),
        (NAME, {"evaluated_step": 20}, r"predictions\.npz.*evaluated_step"),
        (NAME, None, r"predictions\.npz"),
    ],
)
def test_a_run_whose_files_do_not_fit_is_refused(
    name: str, summary: dict[str, object] | None, names: str, run: Run, tmp_path: Path
) -> None:
    """Without a summary or predictions; with the summary of another training."""
    shutil.copytree(run.directory, tmp_path / "copy")
    copy = Run.load(tmp_path / "copy")
    if summary is None:
        (copy.directory / name).unlink()
    else:
        copy.write("summary.json", copy.require_summary() | summary)
    with pytest.raises(UserError, match=names):
        own_predictions(copy)
