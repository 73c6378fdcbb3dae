"""Every shipped recipe, made small, really trains."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ml_collections import ConfigDict

from agegender_jax import recipe as recipes
from agegender_jax.errors import UserError
from agegender_jax.models.model import build_heads, model_structure
from agegender_jax.train.loop import train

CONFIGS = Path(__file__).parents[1] / "configs"


def load(file: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"configs.{file}", CONFIGS / file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config


def shipped() -> Iterator[tuple[str, str | None]]:
    """Every file of configs/ with each of its arguments, which it names when it is given another."""
    for path in sorted(CONFIGS.glob("*.py")):
        get_config = load(path.name)
        if not get_config.__code__.co_argcount:
            yield path.name, None
            continue
        try:
            get_config("?")
        except UserError as error:
            for argument in str(error).split("choose one of: ")[1].rstrip(".").split(", "):
                yield path.name, argument


def shrink(recipe: ConfigDict) -> ConfigDict:
    """The same recipe on the smallest images that its network takes, in one dispatch of two steps."""
    for size in (32, 48, 64, 96, 128):
        recipe.dataset.image_size = size
        try:
            model_structure(recipe, build_heads(recipe))
            break
        except UserError:
            continue
    recipe.dataset.drawn = 0
    recipe.train.update(batch_size=8, epochs=0.01, steps_per_dispatch=2)
    recipe.evaluate.batch_size = 8
    return recipe


def test_the_configs_are_found() -> None:
    assert {("quickstart.py", None), ("utkface_small.py", "paper"), ("utkface_small.py", "cpu")} <= set(shipped())


@pytest.mark.parametrize(("file", "argument"), shipped())
def test_a_shipped_recipe_is_whole(file: str, argument: str | None) -> None:
    """It has the keys that recipes have, passes the check, and its description names its command."""
    recipe = load(file)(*([argument] if argument else []))
    recipes.check(recipe)
    assert recipes.differences(recipes.from_json(recipes.to_json(recipe)), recipe) == []
    assert recipe.name
    assert _keys(recipe.to_dict()) == _keys(recipes.base().to_dict())
    assert f"configs/{file}" in (CONFIGS / file).read_text()


def _keys(tree: dict[str, Any], prefix: str = "") -> set[str]:
    found = set()
    for key, value in tree.items():
        found |= _keys(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key}
    return found


@pytest.mark.parametrize(("file", "argument"), shipped())
def test_a_shipped_recipe_trains(
    file: str, argument: str | None, drawn_dir: Path, data_dir: Path, tmp_path: Path
) -> None:
    recipe = shrink(load(file)(*([argument] if argument else [])))
    summary = train(recipe, tmp_path / "run", manual_dir=drawn_dir, data_dir=data_dir, progress=False)
    assert summary["steps"] == 2
    assert summary["test"]["n"] == 32
    assert (tmp_path / "run" / "summary.json").exists()
