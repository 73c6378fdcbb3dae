"""A recipe's model: which heads it has, what it returns, and how it is taken apart."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from ml_collections import ConfigDict

from agegender_jax import recipe as recipes
from agegender_jax.errors import UserError
from agegender_jax.labels import AGE_GROUPS
from agegender_jax.models.backbones import BackboneOptions
from agegender_jax.models.backbones.small_cnn import VARIANTS, ConvBlock, Variant
from agegender_jax.models.heads import build_heads, with_class_weights
from agegender_jax.models.model import _Keys, build_model, define_model, key_streams, split_model
from agegender_jax.recipe_options import model_options


def test_heads_follow_the_recipe(small_recipe: ConfigDict) -> None:
    small_recipe.age_groups = "five_year"
    small_recipe.heads.gender.update(weight=0.5, label_smoothing=0.1)
    small_recipe.heads.age_group.loss = "coral"
    small_recipe.heads.age.update(loss="dldl", decoding="expectation", spread=3.0)
    weights = np.arange(24, dtype=np.float32)
    heads: Any = with_class_weights(build_heads(model_options(small_recipe).heads), {"age_group": weights})
    gender, group, age = heads["gender"], heads["age_group"], heads["age"]
    assert {name: head.size for name, head in heads.items()} == {"gender": 2, "age_group": 23, "age": 101}
    assert (gender.weight, gender.label_smoothing, gender.class_weights) == (0.5, 0.1, None)
    assert group.scheme is AGE_GROUPS["five_year"]
    assert group.class_weights is weights
    assert (age.loss_name, age.decoding, age.spread, age.class_weights) == ("dldl", "expectation", 3.0, None)
    params = define_model(model_options(small_recipe), heads).params
    assert params["heads"]["age_group"]["bias"].shape == (23,)  # one kernel for all of them
    assert params["heads"]["age_group"]["kernel"].shape[1] == 1


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_logits_parameters_and_statistics_are_float32(small_recipe: ConfigDict, dtype: str) -> None:
    small_recipe.model.dtype = dtype
    heads = build_heads(model_options(small_recipe).heads)
    model = define_model(model_options(small_recipe), heads)
    graphdef, params, stats = model.graphdef, model.params, model.stats
    logits = jax.eval_shape(
        lambda params, stats, x: nnx.merge(graphdef, params, stats)(x, train=True, rngs=nnx.Rngs(dropout=0)),
        params,
        stats,
        jax.ShapeDtypeStruct((3, 32, 32, 3), jnp.float32),
    )
    assert {name: (out.shape, out.dtype) for name, out in logits.items()} == {
        "gender": ((3, 2), jnp.float32),
        "age_group": ((3, 8), jnp.float32),
        "age": ((3, 101), jnp.float32),
    }
    assert {leaf.dtype for leaf in jax.tree.leaves((params, stats))} == {jnp.dtype(jnp.float32)}


def test_model_is_a_function_of_its_seed_and_survives_the_split(
    small_recipe: ConfigDict, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(VARIANTS, "tiny", Variant((ConvBlock(4, pool=(2, 2)),), hidden=(8,)))
    small_recipe.model.variant = "tiny"
    heads = build_heads(model_options(small_recipe).heads)
    graphdef, params, stats = split_model(build_model(model_options(small_recipe), heads))
    shapes = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), (params, stats))
    model = define_model(model_options(small_recipe), heads)
    assert shapes == jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), (model.params, model.stats))

    _, again, stats_again = split_model(nnx.merge(graphdef, params, stats))
    jax.tree.map(np.testing.assert_array_equal, (params, stats), (again, stats_again))
    _, rebuilt, _ = split_model(build_model(model_options(small_recipe), heads))
    jax.tree.map(np.testing.assert_array_equal, params, rebuilt)
    small_recipe.seed = 1
    _, other, _ = split_model(build_model(model_options(small_recipe), heads))
    for before, after in zip(jax.tree.leaves(params), jax.tree.leaves(other), strict=True):
        if before.ndim > 1:
            assert not np.array_equal(before, after)


@pytest.mark.parametrize(
    ("model", "key"),
    [
        ({"backbone": "vgg"}, "model.backbone"),
        ({"variant": "z"}, "model.variant"),
        ({"variant": "b"}, "dataset.image_size"),
        ({"init": "published"}, "model.init"),
        ({"pooling": "max"}, "model.pooling"),
        ({"width": 0.5}, "model.width"),
        ({"drop_path": 0.1}, "model.drop_path"),
        ({"spatial_dropout": 0.1}, "model.spatial_dropout"),
        ({"backbone": "resnet18", "variant": "v1"}, "model.variant"),
        ({"backbone": "resnet18", "dropout": 0.1}, "model.dropout"),
        ({"backbone": "vgg11", "dropout": 0.1, "pooling": "max"}, "model.dropout"),
    ],
)
def test_an_option_that_is_unknown_or_has_no_effect_is_refused(small_recipe: ConfigDict, model: dict, key: str) -> None:
    small_recipe.model.update({"variant": ""} | model)
    with pytest.raises(UserError, match=f"config.{key}="):
        define_model(model_options(small_recipe), build_heads(model_options(small_recipe).heads))


def test_the_defaults_of_a_backbone_are_those_of_the_recipe() -> None:
    assert model_options(recipes.base()).backbone_options == BackboneOptions(image_size=256, outputs=0)


@pytest.mark.parametrize("missing", [("gender",), ("age", "age_group")])
def test_a_gender_that_joins_nothing_is_refused(small_recipe: ConfigDict, missing: tuple[str, ...]) -> None:
    small_recipe.model.gender_to_age = "joined"
    for name in missing:
        small_recipe.heads[name].weight = 0.0
    with pytest.raises(UserError, match=r"config\.model\.gender_to_age"):
        define_model(model_options(small_recipe), build_heads(model_options(small_recipe).heads))


def test_the_keys_of_fresh_parameters_are_those_of_nnx() -> None:
    ours, theirs = _Keys(jax.random.key(7)), nnx.Rngs(params=jax.random.key(7))
    for _ in range(3):
        np.testing.assert_array_equal(jax.random.key_data(ours.params()), jax.random.key_data(theirs.params()))


def test_no_step_uses_a_key_that_a_parameter_was_drawn_from() -> None:
    """Both fold numbers from 0 into a key: of the seed itself, parameter and step of one number would share theirs."""
    init, train = key_streams(3)
    keys = [jax.random.key_data(jax.random.fold_in(stream, i)).tolist() for stream in (init, train) for i in range(50)]
    assert len({tuple(key) for key in keys}) == 100
