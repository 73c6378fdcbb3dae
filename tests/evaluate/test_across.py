"""A run measured on another dataset: from ages in years to Adience's ranges, and back. Labels are counted by hand."""

import csv
import tarfile
from pathlib import Path
from typing import Any

import pytest
from ml_collections import ConfigDict

from agegender_jax.evaluate.evaluate_run import evaluate_runs
from agegender_jax.evaluate.loaded import LoadedModel
from agegender_jax.synthetic.adience import write_adience
from agegender_jax.train.loop import train_recipe

RANGES = ((0, 2), (4, 6), (8, 12), (15, 20), (25, 32), (38, 43), (48, 53), (60, 200))


@pytest.fixture(scope="module")
def adience(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("across") / "adience"
    write_adience(folder, 150, seed=3, size=32)
    return folder


def faces(folder: Path) -> list[dict[str, str]]:
    """The rows of the fold files, each face once."""
    rows = {}
    for path in sorted(folder.glob("fold_*_data.txt")):
        with open(path, newline="") as file:
            for row in csv.DictReader(file, delimiter="\t"):
                rows[row["user_id"], row["face_id"], row["original_image"]] = row
    return list(rows.values())


@pytest.mark.slow
def test_a_run_on_years_is_measured_on_ranges(finished: Any, adience: Path, tmp_path: Path) -> None:
    result = evaluate_runs(
        LoadedModel.load(finished.workdir), dataset="adience", manual_dir=adience, data_dir=tmp_path, progress=False
    )
    rows = faces(adience)
    genders, ages = [row["gender"] for row in rows], [row["age"] for row in rows]
    assert result["test"]["n"] == len(rows)
    assert result["test"]["gender/n"] == genders.count("m") + genders.count("f")
    count = genders.count("u")
    expected = {"count": count, "annotated": len(genders) - genders.count(""), "commonest": {"undefined": count}}
    assert result["unmapped"]["gender"] == expected
    unmapped = result["unmapped"].get("age_group", {"count": 0})["count"]
    assert result["test"]["age_group/n"] + unmapped == len(ages) - ages.count("None")
    assert unmapped <= sum(age in ("(25, 23)", "(8, 23)") for age in ages)
    # The run's own best guess, always 25-32: the range itself, what lies in it, and what is nearest to it.
    assert result["baseline_names"]["age_group"] == "always 25-32"
    sure = sum(age in ("(25, 32)", "(27, 32)", "23", "29", "34") for age in ages)
    perhaps = sum(age in ("35", "(25, 23)") for age in ages)  # as near to another range, and turned around
    right = result["baseline"]["age_group/accuracy"] * result["baseline"]["age_group/n"]
    assert sure - 1e-6 <= right <= sure + perhaps + 1e-6


@pytest.mark.slow
def test_a_run_on_ranges_is_measured_on_years(
    finished: Any, adience: Path, small_recipe: ConfigDict, tmp_path: Path
) -> None:
    small_recipe.dataset.name, small_recipe.age_groups = "adience", "levi_hassner"
    small_recipe.train.epochs = 0.1
    train_recipe(small_recipe, tmp_path / "run", manual_dir=adience, data_dir=tmp_path, progress=False)
    result = evaluate_runs(
        LoadedModel.load(tmp_path / "run"),
        dataset="utkface", manual_dir=finished.manual_dir, data_dir=finished.data_dir, progress=False,
    )  # fmt: skip
    with tarfile.open(finished.manual_dir / "UTKFace.tar.gz") as tar:
        ages = [int(Path(name).name.split("_")[0]) for name in tar.getnames() if name.endswith(".jpg")]
    in_ranges = [sum(low <= age <= high for age in ages) for low, high in RANGES]
    assert (result["test"]["n"], result["left_out"]) == (len(ages), 0) == (600, 0)
    assert result["test"]["age_group/n"] == sum(in_ranges)
    assert result["unmapped"]["age_group"]["count"] == 600 - sum(in_ranges)
    guess = result["baseline_names"]["age_group"].removeprefix("always ")
    place = [f"{low}-{high}" for low, high in RANGES[:-1]].index(guess)
    assert result["baseline"]["age_group/accuracy"] == pytest.approx(in_ranges[place] / sum(in_ranges))
