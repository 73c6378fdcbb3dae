"""The recipe: every value is checked, and what is stored is what is read."""

import json
import math
import re
from typing import Any

import pytest
from ml_collections import ConfigDict

from agegender_jax import recipe as recipes
from agegender_jax.errors import UserError
from agegender_jax.models.heads import HEADS
from agegender_jax.train.setup import check_recipe


def put(recipe: ConfigDict, key: str, value: Any) -> None:
    *path, last = key.split(".")
    for part in path:
        recipe = recipe[part]
    recipe[last] = value


def test_every_number_of_the_recipe_is_checked_and_every_checked_key_exists() -> None:
    checked = {*recipes._AT_LEAST, *recipes._ABOVE_ZERO, *recipes._SHARES}
    checked |= {*recipes._BELOW_ONE, *recipes._FRACTIONS}
    checked |= {f"heads.{name}.{key}" for name, head in HEADS.items() for key in ("weight", "label_smoothing")}
    leaves = recipes.leaves(recipes.base()).items()
    numbers = {key for key, value in leaves if isinstance(value, int | float) and not isinstance(value, bool)}
    assert numbers == checked
    assert {*recipes.choices(), *recipes._SEEDS} <= recipes.leaves(recipes.base()).keys()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("age_groups", "oldest"),
        ("split.protocol", "random"),
        ("model.backbone", "vgg"),
        ("model.dtype", "float16"),
        ("heads.age.decoding", "argmax"),
        ("heads.age.loss", "l2"),
        ("model.pooling", "min"),
        ("model.width", 0.0),
        ("heads.age.label_smoothing", 1.0),
        ("optimizer.name", "lion"),
        ("optimizer.schedule", "linear"),
        ("evaluate.use", "first"),
        ("dataset.image_size", 31),
        ("dataset.synthetic", -1),
        ("train.batch_size", 0),
        ("train.steps_per_dispatch", 0),
        ("train.epochs", 0.0),
        ("evaluate.batch_size", 0),
        ("evaluate.every_epochs", 0.0),
        ("checkpoint.keep", 0),
        ("seed", -1),
        ("seed", 2**31),
        ("split.seed", -1),
        ("split.seed", 2**31),
        ("split.test_fraction", 0.0),
        ("split.test_fraction", 1.0),
        ("split.validation_fraction", -0.1),
        ("split.validation_fraction", 1.5),
        ("split.folds", 1),
        ("split.folds", -2),
        ("split.fold", 1),
        ("split.fold", -1),
        ("optimizer.learning_rate", 0.0),
        ("optimizer.learning_rate", -1e-3),
        ("optimizer.weight_decay", -1e-3),
        ("optimizer.clip_norm", -1.0),
        ("optimizer.warmup", 1.1),
        ("train.ema_decay", 1.01),
        ("model.dropout", 1.0),
        ("model.dropout", -0.1),
        ("augment.zoom", -0.1),
        ("augment.shift", 1.1),
        ("augment.erase", -0.5),
        ("heads.age.spread", -1.0),
        ("heads.gender.weight", -1.0),
        ("preprocess.mean", (0.5, 0.5)),
        ("preprocess.mean", (0.5, "x", 0.5)),
        ("preprocess.std", (0.25, 0.0, 0.25)),
        ("preprocess.std", (0.25, -1.0, 0.25)),
        ("preprocess.mean", (0.5, math.nan, 0.5)),
    ],
)
def test_a_bad_value_ends_in_one_sentence_that_names_its_key(key: str, value: Any) -> None:
    recipe = recipes.base()
    put(recipe, key, value)
    with pytest.raises(UserError) as caught:
        check_recipe(recipe)
    message = str(caught.value)
    assert f"config.{key}={value!r}" in message
    assert "\n" not in message
    assert message.endswith(".")


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_no_number_may_be_infinite_or_none(bad: float) -> None:
    keys = [key for key, value in recipes.leaves(recipes.base()).items() if isinstance(value, float)]
    assert len(keys) > 20
    for key in keys:
        recipe = recipes.base()
        put(recipe, key, bad)
        with pytest.raises(UserError, match=key):
            recipes.check(recipe)


@pytest.mark.parametrize(("folds", "fold", "good"), [(0, 0, True), (2, 1, True), (2, 2, False), (5, 4, True)])
def test_the_fold_is_one_of_the_folds(folds: int, fold: int, good: bool) -> None:
    recipe = recipes.base()
    recipe.split.update(folds=folds, fold=fold)
    if good:
        recipes.check(recipe)
    else:
        with pytest.raises(UserError, match=r"config\.split\.fold=2"):
            recipes.check(recipe)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"optimizer.weight_decay": 0.1}, "optimizer.weight_decay"),
        ({"optimizer.unfreeze_epoch": 1.0}, "optimizer.unfreeze_epoch"),
        ({"heads.age.spread": 3.0}, "heads.age.spread"),
        ({"heads.age.loss": "l1", "heads.age.decoding": "mode"}, "heads.age.decoding"),
        ({"heads.age.weight": 0.0, "heads.age.loss": "dldl"}, "heads.age.loss"),
        ({"heads.class_name.label_smoothing": 0.1}, "heads.class_name.label_smoothing"),
        ({"split.folds": 5, "split.test_fraction": 0.3}, "split.test_fraction"),
        ({"model.pretrained_leaky": True}, "model.pretrained_leaky"),
        ({"model.drop_path": 0.1}, "model.drop_path"),
        ({"model.width": 0.5}, "model.width"),
        ({"model.spatial_dropout": 0.5}, "model.spatial_dropout"),
        ({"model.backbone": "resnet18", "model.dropout": 0.1}, "model.dropout"),
    ],
)
def test_an_option_that_would_do_nothing_is_refused(changes: dict[str, Any], key: str) -> None:
    recipe = recipes.base()
    recipe.update_from_flattened_dict(changes)
    with pytest.raises(UserError, match=rf"config\.{re.escape(key)}="):
        check_recipe(recipe)


def test_one_head_must_be_left() -> None:
    recipe = recipes.base()
    for head in recipe.heads.values():
        head.weight = 0.0
    with pytest.raises(UserError, match=r"config\.heads\.NAME\.weight"):
        recipes.check(recipe)
    recipe.heads.age.weight = 0.5
    recipes.check(recipe)


def test_a_mistyped_key_is_an_error() -> None:
    recipe = recipes.base()
    with pytest.raises((AttributeError, KeyError)):
        recipe.trian = 1
    with pytest.raises((AttributeError, KeyError)):
        recipe.train.batchsize = 1
    with pytest.raises((AttributeError, KeyError)):
        recipe.train.update(batchsize=1)
    with pytest.raises(TypeError):
        recipe.train.batch_size = "many"


def test_two_recipes_share_nothing() -> None:
    first = recipes.base()
    first.train.batch_size = 7
    assert recipes.base().train.batch_size == 32


def test_json_gives_back_every_value_and_type() -> None:
    recipe = recipes.base()
    recipe.preprocess.mean = (0.1, 0.2, 0.30000000000000004)
    recipe.augment.flip = True
    recipe.dataset.csv = "Größe"
    back = recipes.from_json(recipes.to_json(recipe))
    assert back.to_dict() == recipe.to_dict()
    assert [type(value) for value in recipes.leaves(back).values()] == [
        type(value) for value in recipes.leaves(recipes.base()).values()
    ]


def test_an_older_text_takes_the_default_of_a_newer_key() -> None:
    text = json.loads(recipes.to_json(recipes.base()))
    del text["train"]["ema_decay"], text["checkpoint"], text["preprocess"]["std"]
    text["train"]["epochs"] = 3
    back = recipes.from_json(json.dumps(text))
    assert recipes.differences(recipes.base(), back) == ["train.epochs: 30.0 -> 3.0"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "3",
        "[]",
        "null",
        '{"optimiser": 1}',
        '{"train": {"batchsize": 1}}',
        '{"train": 3}',
        '{"heads": [1]}',
        '{"preprocess": null}',
        '{"preprocess": {"mean": 3}}',
        '{"seed": 1.5}',
        '{"train": {"epochs": "three"}}',
    ],
)
def test_a_text_that_is_no_recipe_of_this_version_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        recipes.from_json(text)


def test_an_unknown_key_is_named() -> None:
    with pytest.raises(ValueError, match="batchsize"):
        recipes.from_json('{"train": {"batchsize": 1}}')


def test_differences_name_what_changed_and_what_is_missing() -> None:
    old, new = recipes.base(), recipes.base()
    new.seed = 4
    new.preprocess.std = (1.0, 1.0, 1.0)
    with new.unlocked():
        del new.checkpoint
    assert recipes.differences(old, new) == [
        "checkpoint.keep: 2 -> (absent)",
        "preprocess.std: [0.25, 0.25, 0.25] -> [1.0, 1.0, 1.0]",
        "seed: 0 -> 4",
    ]
    assert recipes.differences(old, recipes.base()) == []
