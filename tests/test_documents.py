"""What the documents name exists: functions, files, commands with their options, and keys of recipes."""

import ast
import re
import shlex
import tomllib
from pathlib import Path

import pytest

from agegender_jax import cli
from agegender_jax import recipe as recipes

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "benchmarks" / "README.md", *(ROOT / "docs").glob("*.md")]


@pytest.fixture(params=PAGES, ids=lambda page: page.name)
def page(request: pytest.FixtureRequest) -> Path:
    return request.param


def definitions(path: Path) -> set[str]:
    """Returns the names that a module defines, those of a class as `Class.name`."""

    def names(body: list[ast.stmt], prefix: str = "") -> set[str]:
        defined = set()
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                defined.add(prefix + node.name)
            if isinstance(node, ast.ClassDef):
                defined |= names(node.body, f"{node.name}.")
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            defined |= {prefix + target.id for target in targets if isinstance(target, ast.Name)}
        return defined

    return names(ast.parse(path.read_text()).body)


def test_code_that_the_architecture_names() -> None:
    named = re.findall(r"`([\w/]+\.py)(?::([\w.]+))?`", (ROOT / "docs" / "ARCHITECTURE.md").read_text())
    assert len(named) > 60
    for file, name in named:
        if "NAME" in file:
            continue
        paths = [path for folder in ("", "agegender_jax") if (path := ROOT / folder / file).exists()]
        assert paths, file
        assert not name or name in definitions(paths[0]), f"{file}:{name}"


def test_layers_are_those_that_are_enforced() -> None:
    shown = re.search(r"```\n(cli\n.*?)\n```", (ROOT / "docs" / "ARCHITECTURE.md").read_text(), re.DOTALL)
    enforced = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]["layers"]
    assert shown[1].split("\n") == [re.sub("[()]", "", layer) for layer in enforced]


def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]*)", page.read_text()):
        assert "://" in target or (page.parent / target).exists(), target


def test_commands_have_the_options_that_are_shown(page: Path) -> None:
    blocks = re.findall(r"```(?:ba)?sh\n(.*?)```", page.read_text(), re.DOTALL)
    for command in re.findall(
        r"(?:^|bin/|\| )agegender ([^&|\n]+)", "".join(blocks).replace("\\\n", " "), re.MULTILINE
    ):
        cli._parser().parse_args(shlex.split(command, comments=True))


def test_keys_of_recipes_exist(page: Path) -> None:
    known = recipes.base()
    for key in re.findall(r"(?:--|\b)config\.([a-z_0-9.]+[a-z_0-9])", page.read_text()):
        value = known
        for part in key.split("."):
            if part in ("adult", "strided_cnn"):  # examples of docs/EXTENDING.md
                break
            assert part in value, key
            value = value[part]
