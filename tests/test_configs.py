"""Every shipped recipe, made small, really trains."""

import dataclasses
import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest
from ml_collections import ConfigDict

from agegender_jax import recipe as recipes
from agegender_jax.errors import UserError
from agegender_jax.models.backbones import BACKBONES, attention, densenet, resnet, vgg
from agegender_jax.models.heads import build_heads
from agegender_jax.models.model import define_model
from agegender_jax.recipe_options import model_options
from agegender_jax.synthetic.adience import write_adience
from agegender_jax.synthetic.voices import SPEAKER_PATTERN, write_voices
from agegender_jax.train import evaluation, setup
from agegender_jax.train.command import command
from tests.runs import mesh_of

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs"


def load(file: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"configs.{file}", CONFIGS / file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config


def shipped() -> list[tuple[str, str | None]]:
    """Every file of configs/ with each of its arguments, which it names when it is given another."""
    shipped_: list[tuple[str, str | None]] = []
    for path in sorted(CONFIGS.glob("*.py")):
        get_config = load(path.name)
        if not get_config.__code__.co_argcount:
            shipped_.append((path.name, None))
            continue
        try:
            get_config("?")
        except UserError as error:
            arguments = str(error).split("choose one of: ")[1].rstrip(".").split(", ")
            shipped_ += [(path.name, argument) for argument in arguments]
    return [
        *shipped_,
        ("utkface_baselines.py", "ours_weighted_cpu"),
    ]  # whose message says how arguments are put together


@pytest.fixture
def shallow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Deep nets with one block where they have many of a kind, which are compiled in seconds instead of minutes."""
    for depth, (kind, _) in resnet.DEPTHS.items():
        monkeypatch.setitem(resnet.DEPTHS, depth, (kind, (1, 1)))
    monkeypatch.setitem(densenet.DEPTHS, 161, (8, 16, (1, 1, 1)))
    monkeypatch.setitem(vgg.STAGES, 16, (1, 1, 1, 1, 1))
    for name, variant in attention.VARIANTS.items():
        small = dataclasses.replace(variant, stem=8, channels=(16, 32), steps=(1,), trunk_units=1, last_units=1)
        monkeypatch.setitem(attention.VARIANTS, name, small)


@pytest.fixture(scope="session")
def manual_dirs(synthetic_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A small synthetic dataset of each kind, by its name."""
    folder = tmp_path_factory.mktemp("small")
    write_adience(folder / "adience", 100, size=64)
    classes = ("female_20", "male_20", "female_60", "male_60")
    write_voices(folder / "voices", speakers_per_class=3, recordings_per_speaker=2, classes=classes, rate=8000)
    return {"utkface": synthetic_dir, "adience": folder / "adience", "voice_age_gender": folder / "voices"}


def shrink(recipe: ConfigDict) -> ConfigDict:
    """The same recipe in one dispatch of two steps, VGGs made thin, without weights that only a hub has."""
    if "width" in BACKBONES[recipe.model.backbone].options:
        recipe.model.width = 0.125
    if recipe.model.pretrained and not BACKBONES[recipe.model.backbone].package:
        recipe.model.pretrained = ""
    recipe.dataset.update(image_size=32, synthetic=0)
    if recipe.dataset.name == "voice_age_gender":
        recipe.dataset.update(config="png" if recipe.dataset.config == "png" else "", speaker_pattern=SPEAKER_PATTERN)
        recipe.split.folds = min(recipe.split.folds, 3)
    recipe.train.update(batch_size=8, epochs=0.01, steps_per_dispatch=2)
    recipe.evaluate.update(batch_size=8, report=False)
    return recipe


def enlarge(recipe: ConfigDict) -> None:
    """Sets the size of the smallest images that the recipe's network takes."""
    for size in (32, 48, 64, 96, 128):
        recipe.dataset.image_size = size
        try:
            define_model(model_options(recipe), build_heads(model_options(recipe).heads))
            return
        except UserError:
            continue


def programs() -> list[tuple[str, str | None]]:
    """Of the shipped recipes one for each dataset and network."""
    chosen: dict[str, tuple[str, str | None]] = {}
    for file, argument in shipped():
        recipe = shrink(load(file)(*([argument] if argument else [])))
        shape = {
            key: bool(value) if isinstance(value, float) else value
            for key, value in recipes.leaves(recipe).items()
            if key.startswith(("dataset.", "audio.", "model."))
        }
        chosen.setdefault(str(sorted(shape.items())), (file, argument))
    return list(chosen.values())


def test_the_configs_are_found() -> None:
    assert {("quickstart.py", None), ("utkface_small.py", "paper"), ("utkface_small.py", "cpu")} <= set(shipped())


@pytest.mark.parametrize(("file", "argument"), shipped())
def test_a_shipped_recipe_is_whole(file: str, argument: str | None) -> None:
    """It has the keys that recipes have, passes the check, and its description names its command."""
    recipe = load(file)(*([argument] if argument else []))
    recipes.check(recipe)
    assert recipes.differences(recipes.from_json(recipes.to_json(recipe)), recipe) == []
    assert recipes.leaves(recipe).keys() == recipes.leaves(recipes.base()).keys()
    assert f"configs/{file}" in (CONFIGS / file).read_text()


def test_every_recipe_that_is_named_anywhere_exists() -> None:
    pages = [ROOT / "launch.py", ROOT / "README.md", *CONFIGS.glob("*.py"), *(ROOT / "docs").glob("*.md")]
    named = {
        match.groups() for page in pages for match in re.finditer(r"configs/(\w+\.py)(?::(\w+))?", page.read_text())
    }
    for file, argument in named - {("NAME.py", None)}:
        assert (CONFIGS / file).exists(), file
        load(file)(*([argument] if argument else []))  # UserError where it knows no such argument
    assert ("voice_small.py", "png") in shipped()


@pytest.mark.parametrize(("file", "argument"), programs())
@pytest.mark.usefixtures("shallow")
def test_a_shipped_recipe_is_set_up(
    file: str, argument: str | None, manual_dirs: dict[str, Path], data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = shrink(load(file)(*([argument] if argument else [])))
    enlarge(recipe)
    manual_dir = manual_dirs[recipe.dataset.name]
    assert command(recipe, workdir=None, manual_dir=manual_dir, data_dir=data_dir, dry_run=True) == 0
    assert f"Model: {recipe.model.backbone}" in capsys.readouterr().out


QUICK = {("voice_small.py", "folders")}
"""Trained by `make test`; what quickstart.py trains is trained by many tests."""


@pytest.mark.parametrize(
    ("file", "argument"),
    [pytest.param(*one, marks=() if one in QUICK else pytest.mark.slow) for one in programs()],
)
@pytest.mark.usefixtures("shallow")
def test_a_shipped_recipe_trains(
    file: str,
    argument: str | None,
    manual_dirs: dict[str, Path],
    data_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe = shrink(load(file)(*([argument] if argument else [])))
    if recipe.model.backbone == "small_cnn":
        enlarge(recipe)
    else:
        # Large nets on one device: the parts that several devices add are those of the small ones, and cost minutes.
        monkeypatch.setattr(setup, "make_mesh", lambda _: mesh_of(1))
    monkeypatch.setattr(evaluation, "_write_images", lambda *_: None)
    manual_dir = manual_dirs[recipe.dataset.name]
    assert command(recipe, workdir=tmp_path / "run", manual_dir=manual_dir, data_dir=data_dir) == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["steps"] == 2
    parts = json.loads((tmp_path / "run" / "split.json").read_text())["parts"]
    assert summary["test"]["n"] == len(parts["test"]) > 0
