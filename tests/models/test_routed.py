"""A gender net before two age nets: what is learned from whom, and the three ways to choose between the nets."""

import importlib.util
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from ml_collections import ConfigDict
from scipy.special import log_softmax

from agegender_jax import recipe as recipes
from agegender_jax.errors import UserError
from agegender_jax.evaluate.targets import baseline_targets, fit_baseline, make_targets, measure_targets
from agegender_jax.labels import UNKNOWN, AgeGroups
from agegender_jax.models.backbones import small_cnn, vgg
from agegender_jax.models.backbones.routed import Routed
from agegender_jax.models.backbones.small_cnn import ConvBlock, Variant
from agegender_jax.models.heads import AgeGroupHead, AgeYearsHead, GenderHead, Head, build_heads
from agegender_jax.models.heads.routing import route_by_gender
from agegender_jax.models.model import Model, build_model, define_model, split_model
from agegender_jax.recipe_options import model_options
from agegender_jax.train.step import total_loss
from tests.arrays import assert_close

CONFIG = Path(__file__).parents[2] / "configs" / "utkface_routed.py"
THREE = AgeGroups("three", ("young", "middle", "old"), (0, 20, 40), (20, 40, 120), "of three groups")
RNG = np.random.default_rng(5)


def _heads(**options: Any) -> dict[str, Head]:
    return route_by_gender({"gender": GenderHead(), "age_group": AgeGroupHead(scheme=THREE, **options)})


def _config(argument: str) -> ConfigDict:
    spec = importlib.util.spec_from_file_location("configs.utkface_routed", CONFIG)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(argument)


def _recipe() -> ConfigDict:
    """The smallest routed system: 32x32, VGG16 of 2 to 16 channels."""
    recipe = _config("paper")
    recipe.dataset.image_size = 32
    recipe.model.width = 1 / 32
    return recipe


# P(gender), the male net, the female net; in the comments the class of the true, predicted and soft way (label 0).
DISTRIBUTION = np.array(
    [
        [0.9, 0.1, 0.7, 0.2, 0.1, 0.1, 0.2, 0.7],  # a man: 0, 0, 0 (.64 .20 .16)
        [0.4, 0.6, 0.8, 0.1, 0.1, 0.2, 0.3, 0.5],  # a man, taken for a woman: 0, 2, 0 (.44 .22 .34)
        [0.2, 0.8, 0.1, 0.8, 0.1, 0.5, 0.4, 0.1],  # a woman: 0, 0, 1 (.42 .48 .10)
        [0.5, 0.5, 1.0, 0.0, 0.0, 1.0, 0.0, 0.0],  # of unknown gender
        [0.3, 0.7, 1.0, 0.0, 0.0, 1.0, 0.0, 0.0],  # a man of unknown age, taken for a woman
    ],
    np.float32,
)
AGES = np.array([5, 5, 5, 5, np.nan])
EXAMPLES = {"gender": np.array([0, 0, 1, UNKNOWN, 0]), "age": AGES, "age_low": AGES, "age_high": AGES}


def _split(values: Any) -> dict[str, Any]:
    """Columns of the gender and of either net, by head."""
    return {"gender": values[:, :2], "age_group_male": values[:, 2:5], "age_group_female": values[:, 5:]}


def _labels(heads: dict[str, Head]) -> dict[str, np.ndarray]:
    return {name: head.column(EXAMPLES) for name, head in heads.items()}


def test_a_head_of_one_gender_knows_its_labels_alone() -> None:
    labels = _labels(_heads())
    assert labels["age_group_male"].tolist() == [0, 0, UNKNOWN, UNKNOWN, UNKNOWN]
    assert labels["age_group_female"].tolist() == [UNKNOWN, UNKNOWN, 0, UNKNOWN, UNKNOWN]
    assert labels["age_group_male"].dtype == np.int32
    years = AgeYearsHead(only_gender="female").column(EXAMPLES)
    np.testing.assert_array_equal(years, [np.nan, np.nan, 5, np.nan, np.nan])


def test_three_ways_are_measured_on_the_same_examples() -> None:
    heads = _heads()
    targets = make_targets(heads, _split(DISTRIBUTION), _labels(heads))
    assert list(targets) == [*heads, *(f"age_group_{way}" for way in ("predicted", "soft", "true"))]
    metrics = measure_targets(targets)
    expected = {
        "gender/accuracy": 2 / 4,
        "age_group_male/accuracy": 1.0,
        "age_group_male/n": 2,
        "age_group_female/n": 1,
        "age_group_true/accuracy": 1.0,
        "age_group_true/one_off": 1.0,
        "age_group_predicted/accuracy": 2 / 3,
        "age_group_predicted/one_off": 2 / 3,  # two classes off
        "age_group_soft/accuracy": 2 / 3,
        "age_group_soft/one_off": 1.0,  # one class off
        "n": 5,
    } | {f"age_group_{way}/n": 3 for way in ("true", "predicted", "soft")}
    assert {name: metrics[name] for name in expected} == pytest.approx(expected)
    classes = [targets[f"age_group_{way}"].predictions["class"].tolist() for way in ("true", "predicted", "soft")]
    assert [each[:3] for each in classes] == [[0, 0, 0], [0, 2, 0], [0, 0, 1]]
    assert_close(targets["age_group_soft"].predictions["probability"][1], [0.44, 0.22, 0.34])


def test_without_labels_no_way_needs_them() -> None:
    targets = make_targets(_heads(), _split(DISTRIBUTION))
    assert "age_group_true" not in targets
    assert targets["age_group_predicted"].predictions["class"].tolist() == [0, 2, 0, 0, 0]
    assert targets["age_group_predicted"].label is None


def test_age_in_years_is_mixed_before_it_is_decoded() -> None:
    heads = route_by_gender({"gender": GenderHead(), "age": AgeYearsHead(decoding="expectation")})
    one_hot = np.eye(101, dtype=np.float32)
    distributions = {
        "gender": np.array([[0.25, 0.75]], np.float32),
        "age_male": one_hot[[20]],
        "age_female": one_hot[[40]],
    }
    labels = {"gender": np.array([0]), "age_male": np.array([21.0]), "age_female": np.array([np.nan])}
    metrics = measure_targets(make_targets(heads, distributions, labels))
    assert [metrics[f"age_{way}/mae"] for way in ("true", "predicted", "soft")] == [1, 19, 14]


def test_each_loss_is_a_mean_over_the_examples_of_its_gender() -> None:
    heads = _heads()
    logits = RNG.normal(scale=2.0, size=(5, 8)).astype(np.float32)
    labels = {name: jnp.asarray(label) for name, label in _labels(heads).items()}
    total, losses = total_loss(heads, _split(jnp.asarray(logits)), labels)
    gender = log_softmax(logits[:, :2].astype(np.float64), -1)
    male, female = (log_softmax(logits[:, i : i + 3].astype(np.float64), -1) for i in (2, 5))
    expected = {
        "gender": -np.mean([gender[0, 0], gender[1, 0], gender[2, 1], gender[4, 0]]),
        "age_group_male": -np.mean([male[0, 0], male[1, 0]]),
        "age_group_female": -female[2, 0],
    }
    assert {name: float(loss) for name, loss in losses.items()} == pytest.approx(expected, rel=1e-5)
    assert float(total) == pytest.approx(sum(expected.values()), rel=1e-5)


def test_no_gradient_reaches_the_other_genders_net() -> None:
    heads = _heads()
    labels = {name: jnp.asarray(label) for name, label in _labels(heads).items()}
    logits = jnp.asarray(RNG.normal(size=(5, 8)).astype(np.float32))
    gradient = np.asarray(jax.jit(jax.grad(lambda x: total_loss(heads, _split(x), labels)[0]))(logits))
    reached = np.stack([gradient[:, :2].any(-1), gradient[:, 2:5].any(-1), gradient[:, 5:].any(-1)], -1)
    assert reached.tolist() == [
        [True, True, False],
        [True, True, False],
        [True, False, True],
        [False, False, False],
        [True, False, False],
    ]
    assert np.isfinite(gradient).all()


def test_the_baseline_is_of_every_target() -> None:
    heads = _heads()
    ages = np.array([50, 50, 25, 50, np.nan])
    train = {"gender": np.array([0, 1, 1, UNKNOWN, 1]), "age": ages, "age_low": ages, "age_high": ages}
    names, predictions = fit_baseline(heads, {name: head.column(train) for name, head in heads.items()})
    assert names["gender"] == "always female"
    assert names["age_group_male"] == names["age_group_true"] == "always old"
    metrics = measure_targets(baseline_targets(heads, predictions, _labels(heads)))
    assert metrics["gender/accuracy"] == 1 / 4
    assert metrics["age_group_soft/accuracy"] == 0


def test_each_head_reads_its_own_net() -> None:
    class Constant(nnx.Module):
        def __init__(self, size: int) -> None:
            self.embedding_size = size

        def __call__(self, x: jax.Array, *, train: bool = False, rngs: nnx.Rngs | None = None) -> jax.Array:
            return jnp.full((len(x), self.embedding_size), float(self.embedding_size))

    backbone = Routed(Constant(1), Constant(2), Constant(3))
    assert backbone(jnp.zeros((1, 4, 4, 3))).tolist() == [[1, 2, 2, 3, 3, 3]]
    model = Model(backbone, _heads(), rngs=nnx.Rngs(0))
    kernels = {name: np.asarray(layer.kernel[...]) for name, layer in model.heads.items()}
    assert [len(kernels[name]) for name in ("gender", "age_group_male", "age_group_female")] == [1, 2, 3]
    outputs = model(jnp.zeros((1, 4, 4, 3)))
    for name, kernel in kernels.items():
        assert_close(outputs[name][0], len(kernel) * kernel.sum(0))


@pytest.mark.slow
def test_a_recipes_model_learns_from_its_own_gender_and_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(vgg.STAGES, 16, (1, 1, 0, 0, 0))  # compiles sooner
    monkeypatch.setitem(small_cnn.VARIANTS, "gender_three", Variant((ConvBlock(4, pool=(8, 8)),), hidden=(8,)))
    recipe = _recipe()
    heads = build_heads(model_options(recipe).heads)
    sizes = {"gender": 2, "age_group_male": 24, "age_group_female": 24}
    assert {name: head.size for name, head in heads.items()} == sizes
    graphdef = define_model(model_options(recipe), heads).graphdef
    params, stats = jax.jit(lambda: split_model(build_model(model_options(recipe), heads))[1:])()
    assert set(params["backbone"]) == {"gender", "male", "female"}
    ages = np.array([3.0, 30.0, 61.0, 62.0])
    examples = {"gender": np.zeros(4, np.int32), "age_low": ages, "age_high": ages}
    labels = {name: head.column(examples) for name, head in heads.items()}

    def loss_of(params: Any, x: jax.Array) -> Any:
        outputs = nnx.merge(graphdef, params, stats)(x, train=True, rngs=nnx.Rngs(dropout=0))
        distributions = {name: head.distribution(outputs[name]) for name, head in heads.items()}
        return total_loss(heads, outputs, {name: jnp.asarray(label) for name, label in labels.items()})[
            0
        ], distributions

    images = jnp.asarray(RNG.normal(size=(4, 32, 32, 3)).astype(np.float32))
    (loss, outputs), gradient = jax.jit(jax.value_and_grad(loss_of, has_aux=True))(params, images)
    assert np.isfinite(float(loss))
    reached = {net: any(map(np.any, jax.tree.leaves(tree))) for net, tree in gradient["backbone"].items()}
    assert reached == {"gender": True, "male": True, "female": False}  # four men

    distributions = {name: np.asarray(value) for name, value in outputs.items()}
    measured = measure_targets(make_targets(heads, distributions, labels))
    assert recipe.evaluate.select in measured
    assert measured["age_group_predicted/n"] == measured["n"] == 4


@pytest.mark.parametrize(("routed", "shared"), [("paper", "shared"), ("cpu", "cpu_shared")])
def test_the_shared_net_has_as_many_parameters_and_differs_in_nothing_else(routed: str, shared: str) -> None:
    counts = []
    for argument in (routed, shared):
        recipe = _config(argument)
        params = define_model(model_options(recipe), build_heads(model_options(recipe).heads)).params
        counts.append(sum(leaf.size for leaf in jax.tree.leaves(params)))
    assert counts[1] == pytest.approx(counts[0], rel=0.01)
    different = {line.split(":")[0] for line in recipes.differences(_config(routed), _config(shared))}
    assert different <= {"model.backbone", "model.variant", "model.width", "evaluate.select"}


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"heads.gender.weight": 0.0}, r"config\.heads\.gender\.weight"),
        ({"heads.age_group.weight": 0.0}, r"config\.heads\.age_group\.weight"),
        ({"heads.class_name.weight": 1.0}, r"config\.heads\.class_name\.weight"),
        ({"heads.gender.undefined": True}, r"config\.heads\.gender\.undefined"),
        ({"model.gender_to_age": "joined"}, r"config\.model\.gender_to_age"),
    ],
)
def test_what_does_not_go_together_is_named(keys: dict[str, Any], message: str) -> None:
    recipe = _recipe()
    recipe.update_from_flattened_dict(keys)
    with pytest.raises(UserError, match=message):
        define_model(model_options(recipe), build_heads(model_options(recipe).heads))
