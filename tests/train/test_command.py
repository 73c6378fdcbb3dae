"""The command of `launch.py`: an interruption, and what several processes are started with."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from ml_collections import ConfigDict

from agegender_jax import distributed
from agegender_jax import recipe as recipes
from agegender_jax.errors import UserError
from agegender_jax.train import command

FLAGS = {"protocols": [], "folds": "", "repeats": 1}


def _primary_has(monkeypatch: pytest.MonkeyPatch, recipe: ConfigDict, flags: Mapping[str, Any]) -> None:
    values = iter([recipes.to_json(recipe), dict(flags)])
    monkeypatch.setattr(distributed, "from_primary", lambda mine: next(values))


def test_the_same_command_everywhere_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    _primary_has(monkeypatch, recipes.base(), FLAGS)
    command._check_same(recipes.to_json(recipes.base()), FLAGS)


def test_another_recipe_or_flag_than_the_primary_s_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    other = recipes.base()
    other.train.batch_size = 64
    _primary_has(monkeypatch, other, FLAGS | {"folds": "all"})
    with pytest.raises(UserError, match=r"train\.batch_size.*--folds"):
        command._check_same(recipes.to_json(recipes.base()), FLAGS)


@pytest.mark.parametrize(
    ("saved", "message"),
    [
        (["20", "100", "120.orbax-checkpoint-tmp"], "resumes from step 100"),
        ([], "resumes from what is saved, or starts again"),
    ],
)
def test_an_interruption_says_where_it_goes_on(
    saved: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    for name in saved:
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    monkeypatch.setattr(command, "train_recipe", interrupted)
    assert command.command(recipes.base(), workdir=tmp_path, data_dir=tmp_path) == 130
    assert capsys.readouterr().err == f"Interrupted. The same command {message}.\n"


def test_a_name_in_an_error_does_not_steer_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe, manual_dir = recipes.base(), tmp_path / "data\x1b[2J"
    assert (
        command.command(recipe, workdir=tmp_path / "run", manual_dir=manual_dir, data_dir=tmp_path, dry_run=True) == 2
    )
    assert "data\\x1b[2J" in capsys.readouterr().err
