"""The worked example of docs/EXTENDING.md runs as it stands there."""

import json
import re
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest
from ml_collections import ConfigDict

import tfds_builders
from agegender_jax.cli import main
from agegender_jax.errors import UserError
from agegender_jax.flags import read_recipe
from agegender_jax.models import backbones, heads, registry
from agegender_jax.models.heads import base, build_heads
from agegender_jax.models.model import define_model
from agegender_jax.recipe_options import model_options
from agegender_jax.synthetic.faces import generate_face
from agegender_jax.train.command import command
from agegender_jax.train.setup import check_recipe

PAGE = Path(__file__).parents[1] / "docs" / "EXTENDING.md"


@pytest.fixture
def portraits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Writes the builder of the page as its one file, and returns a manual directory with 40 portraits of 20 people."""
    package = tmp_path / "builders" / "portraits"
    package.mkdir(parents=True)
    code = re.search(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    (package / "portraits_dataset_builder.py").write_text(code[1], encoding="utf-8")
    monkeypatch.setattr(tfds_builders, "__path__", [*tfds_builders.__path__, str(package.parent)])
    folder = tmp_path / "manual" / "portraits"
    folder.mkdir(parents=True)
    lines = ["file,age,gender,person"]
    for i in range(40):
        face = generate_face(np.random.default_rng(i), 20 + i, i % 2, 48)
        cv2.imwrite(str(folder / f"{i:02d}.png"), face[..., ::-1])
        lines.append(f"{i:02d}.png,{20 + i},{('male', 'female')[i % 2]},person {i // 2}")
    (folder / "labels.csv").write_text("\n".join(lines), encoding="utf-8")
    return folder.parent


@pytest.mark.usefixtures("tiny")
def test_it_is_described_and_trained_on(
    portraits: Path, tmp_path: Path, small_recipe: ConfigDict, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"
    arguments = ["--manual_dir", str(portraits), "--data_dir", str(tmp_path / "data"), "--html", str(page)]
    assert main(["data", "describe", "portraits", *arguments]) == 0
    assert "Write here what the owners of the photographs allow." in capsys.readouterr().out
    assert page.exists()
    small_recipe.dataset.name = "portraits"
    small_recipe.train.update(batch_size=8, epochs=0.01)
    small_recipe.evaluate.batch_size = 8
    assert command(small_recipe, workdir=tmp_path / "run", manual_dir=portraits, data_dir=tmp_path / "data") == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["dataset"], summary["test"]["n"]) == ("portraits", 8)


def test_a_missing_table_is_a_sentence(portraits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (portraits / "portraits" / "labels.csv").unlink()
    arguments = ["--manual_dir", str(portraits), "--data_dir", str(tmp_path / "data"), "--no_html"]
    assert main(["data", "describe", "portraits", *arguments]) == 2
    assert "no portraits/labels.csv here" in capsys.readouterr().err


@contextmanager
def module_of_the_page(package: ModuleType, registered: dict[str, Any], name: str, section: str) -> Iterator[None]:
    """Imports the first file of a section of the page as a module of a package, as if it lay in its folder."""
    code = re.search(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8").split(section)[1], re.DOTALL)
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        Path(folder, f"{name}.py").write_text(code[1], encoding="utf-8")
        patch.setattr(package, "__path__", [*package.__path__, folder])
        registry.import_modules(package.__path__, package.__name__)
        yield
    registered.pop(name)
    sys.modules.pop(f"{package.__name__}.{name}")


@pytest.fixture
def strided_cnn() -> Iterator[None]:
    with module_of_the_page(backbones, registry.BACKBONES, "strided_cnn", "## A backbone in one file"):
        yield


def test_a_backbone_in_one_file_is_listed_and_trains(
    strided_cnn: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(PAGE.parents[1])
    table = tmp_path / "models.json"
    # The time of a step is measured by training some.
    assert main(["models", "strided_cnn", "--image_size", "32", "--batch_size", "8", "--json", str(table)]) == 0
    costs = json.loads(table.read_text())["models"]["strided_cnn"]
    # 9 * (3 * 16 + 16 * 32 + 32 * 64) of the convolutions, 2 * (16 + 32 + 64) of the normalisations
    assert costs["backbone_parameters"] == 23_472 + 224
    assert costs["step_seconds"] > 0
    shown = re.search(r"python (launch\.py .*strided_cnn(?:.|\n)*?)```", PAGE.read_text(encoding="utf-8"))
    assert shown is not None
    _, _, config, *flags, _, _ = shlex.split(shown[1].replace("\\\n", " "))
    recipe = check_recipe(read_recipe(config, [flag.removeprefix("--config.") for flag in flags]))
    recipe.model.width = 0.5
    params = define_model(model_options(recipe), build_heads(model_options(recipe).heads)).params
    assert params["backbone"]["trunk"]["convs"][2]["kernel"].shape == (3, 3, 16, 32)
    recipe.model.drop_path = 0.1
    with pytest.raises(UserError, match=r"config\.model\.drop_path"):
        define_model(model_options(recipe), build_heads(model_options(recipe).heads))


@pytest.fixture
def adult_head() -> Iterator[None]:
    with module_of_the_page(heads, base.HEADS, "adult", "## A target in one file"):
        yield


@pytest.mark.slow
def test_a_target_in_one_file_is_trained_and_reported(
    adult_head: None, small_recipe: ConfigDict, tmp_path: Path, data_dir: Path
) -> None:
    small_recipe.dataset.synthetic = 80
    small_recipe.heads.adult.weight = 1.0
    small_recipe.evaluate.update(select="adult/accuracy", report=True)
    small_recipe.train.update(batch_size=8, epochs=0.01)
    assert command(small_recipe, workdir=tmp_path / "run", manual_dir=None, data_dir=data_dir) == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["metrics"]["adult/accuracy"]["main"]
    report = json.loads((tmp_path / "run" / "report" / "report.json").read_text())
    assert report["test"]["confusion"]["adult"]["names"] == ["minor", "adult"]
