"""Every command that the documents show has options that exist, and its help shows examples that do, too."""

import importlib
import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = ("benchmarks/README.md", "docs/results/RESULTS.md.in", "docs/GUIDE.md", "README.md")
MODULES = ("step", "train", "input", "startup", "scale", "predict", "spectrogram")
MODULES += ("reproduce.__main__", "results", "groups", "coverage")
_COMMAND = re.compile(r"python -m benchmarks\.(\w+)(.*)")


def _commands(text: str) -> list[tuple[str, list[str]]]:
    """The module and the arguments of every command in code blocks and examples, lines that go on joined."""
    lines = text.replace("\\\n", " ").splitlines()
    matches = [match for line in lines if (match := _COMMAND.match(line.strip()))]
    return [(match[1], shlex.split(re.sub(r"\s\(.*", "", match[2]), comments=True)) for match in matches]


def _parse(module: str, arguments: list[str]) -> None:
    name = "reproduce.__main__" if module == "reproduce" else module
    if "TARGET" not in arguments:
        importlib.import_module(f"benchmarks.{name}").build_parser().parse_args(arguments)


@pytest.mark.parametrize("page", PAGES)
def test_commands_of_the_documents(page: str) -> None:
    for module, arguments in _commands((ROOT / page).read_text()):
        _parse(module, arguments)


@pytest.mark.parametrize("module", MODULES)
def test_examples_of_the_help(module: str) -> None:
    epilog = importlib.import_module(f"benchmarks.{module}").build_parser().epilog
    commands = _commands(epilog)
    assert commands
    for command, arguments in commands:
        _parse(command, arguments)


def test_the_readme_names_every_benchmark() -> None:
    text = (ROOT / "benchmarks" / "README.md").read_text()
    assert all(f"python -m benchmarks.{module.partition('.')[0]}" in text for module in MODULES)
