"""What several processes are started with."""

from collections.abc import Mapping
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
    command._check_same(recipes.base(), FLAGS)


def test_another_recipe_or_flag_than_the_primary_s_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    other = recipes.base()
    other.train.batch_size = 64
    _primary_has(monkeypatch, other, FLAGS | {"folds": "all"})
    with pytest.raises(UserError, match=r"train\.batch_size: 64 -> 32; --folds: all -> .*give all processes the same"):
        command._check_same(recipes.base(), FLAGS)
