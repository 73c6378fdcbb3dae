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
from agegender_jax.evaluate.evaluator import answers, baseline_predictions, figures
from agegender_jax.labels import UNKNOWN, AgeGroups
from agegender_jax.models.backbones import small_cnn, vgg
from agegender_jax.models.backbones.routed import Routed
from agegender_jax.models.backbones.small_cnn import ConvBlock, Variant
from agegender_jax.models.heads import AgeGroupHead, AgeYearsHead, Head, measure
from agegender_jax.models.model import build_heads, build_model, model_structure, split_model
from agegender_jax.models.routed import RoutedHead, check
from agegender_jax.train.step import total_loss

CONFIG = Path(__file__).parents[2] / "configs" / "utkface_routed.py"
THREE = AgeGroups("three", ("young", "middle", "old"), (0, 20, 40), (20, 40, 120), "of three groups")
MALE, FEMALE = 0.0, 1.0
RNG = np.random.default_rng(5)


def _groups(**options: Any) -> RoutedHead:
    return RoutedHead(AgeGroupHead(scheme=THREE, **options))


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
LABEL = np.array([[MALE, 0], [MALE, 0], [FEMALE, 0], [UNKNOWN, 0], [MALE, UNKNOWN]], np.float32)


def test_the_three_ways_are_measured_on_the_same_examples() -> None:
    found = measure(_groups(), _groups().answers(DISTRIBUTION), LABEL)
    averages = {
        f"{of}_{name}" for of in ("gender", "true", "predicted", "soft") for name in ("precision", "recall", "f1")
    }
    assert averages < found.keys()
    assert {name: figure for name, figure in found.items() if name not in averages} == pytest.approx(
        {
            "gender_accuracy": 2 / 4,
            "gender_balanced_accuracy": (1 / 3 + 1) / 2,
            "true_accuracy": 1.0,
            "true_balanced_accuracy": 1.0,
            "true_one_off": 1.0,
            "predicted_accuracy": 2 / 3,
            "predicted_balanced_accuracy": 2 / 3,
            "predicted_one_off": 2 / 3,  # two classes off
            "soft_accuracy": 2 / 3,
            "soft_balanced_accuracy": 2 / 3,
            "soft_one_off": 1.0,  # one class off
            "n": 3,
        }
    )


def test_weights_count_examples_as_often() -> None:
    head, times = _groups(), np.array([2, 0, 3, 1, 1])
    said = head.answers(DISTRIBUTION)
    found = measure(head, said, LABEL, np.stack([times, np.ones(5)]))
    rows = np.repeat(np.arange(5), times)
    again = measure(head, {name: values[rows] for name, values in said.items()}, LABEL[rows])
    assert {name: values[0] for name, values in found.items()} == pytest.approx(again)
    assert {name: values[1] for name, values in found.items()} == pytest.approx(measure(head, said, LABEL))
    assert head.known(LABEL).tolist() == [True, True, True, False, True]


def test_answers_hold_what_every_way_says() -> None:
    said = _groups().answers(DISTRIBUTION)
    assert said["gender"].tolist() == [0, 1, 1, 0, 1]
    assert said["class"].tolist() == [0, 2, 0, 0, 0]
    assert said["male_class"].tolist() == [0, 0, 1, 0, 0]
    assert said["female_class"].tolist() == [2, 2, 0, 0, 0]
    np.testing.assert_allclose(said["soft_probability"][1], [0.44, 0.22, 0.34], atol=1e-6)
    np.testing.assert_array_equal(said["probability"][1], DISTRIBUTION[1, 5:])
    np.testing.assert_array_equal(said["gender_probability"], DISTRIBUTION[:, :2])


def test_age_in_years_is_mixed_before_it_is_decoded() -> None:
    head = RoutedHead(AgeYearsHead(decoding="expectation"))
    one_hot = np.eye(101, dtype=np.float32)
    distribution = np.concatenate([[0.25, 0.75], one_hot[20], one_hot[40]])[None].astype(np.float32)
    said = head.answers(distribution)
    assert (said["years"], said["soft_years"], said["male_years"]) == (40, 35, 20)
    found = measure(head, said, np.array([[MALE, 21]], np.float32))
    assert {name: found[name] for name in ("true_mae", "predicted_mae", "soft_mae", "true_cs5", "n")} == {
        "true_mae": 1,
        "predicted_mae": 19,
        "soft_mae": 14,
        "true_cs5": 1,
        "n": 1,
    }


def test_views_are_averaged_net_by_net() -> None:
    head = _groups()
    views = [np.asarray(head.distribution(RNG.normal(size=(6, head.size)).astype(np.float32))) for _ in range(2)]
    mean = np.mean(views, axis=0)
    np.testing.assert_allclose(mean[:, :2].sum(-1), 1, rtol=1e-6)
    said = head.answers(mean)
    for name in ("probability", "soft_probability", "male_probability", "female_probability"):
        np.testing.assert_allclose(said[name].sum(-1), 1, rtol=1e-6)
    np.testing.assert_allclose(said["male_probability"], (views[0][:, 2:5] + views[1][:, 2:5]) / 2, rtol=1e-6)


def test_the_loss_is_the_genders_and_the_true_genders_nets() -> None:
    logits = RNG.normal(scale=2.0, size=(5, 8)).astype(np.float32)
    total, _ = total_loss({"routed": _groups()}, {"routed": jnp.asarray(logits)}, {"routed": jnp.asarray(LABEL)})
    gender = log_softmax(logits[:, :2].astype(np.float64), -1)
    male, female = (log_softmax(logits[:, i : i + 3].astype(np.float64), -1) for i in (2, 5))
    # The third from the end is a woman, the next has no gender and the last no age.
    of_gender = -np.mean([gender[0, 0], gender[1, 0], gender[2, 1], gender[4, 0]])
    of_age = -np.mean([male[0, 0], male[1, 0], female[2, 0]])
    assert float(total) == pytest.approx(of_gender + of_age, rel=1e-5)


@pytest.mark.parametrize(
    "inner",
    [
        AgeGroupHead(scheme=THREE, class_weights=np.array([0.5, 3.0, 1.0], np.float32)),
        AgeGroupHead(scheme=THREE, loss_name="corn"),
        AgeYearsHead(loss_name="dldl"),
        AgeYearsHead(loss_name="l1"),
    ],
    ids=lambda head: f"{type(head).__name__}-{head.loss_name}",
)
def test_the_age_counts_as_much_as_a_head_of_its_own(inner: Head) -> None:
    """So a routed system and one net with two heads share their learning rate, whatever the age head is."""
    head = RoutedHead(inner)
    ages = np.array([3, 25, 50, np.nan, 31], np.float32)
    label = head.column({"gender": np.array([0, 1, 0, 1, 0]), "age": ages, "age_low": ages, "age_high": ages})
    assert label.shape == (5, 2)
    logits = RNG.normal(size=(5, 2)).astype(np.float32)
    nets = RNG.normal(size=(5, 2, inner.size)).astype(np.float32)
    side_by_side = jnp.asarray(np.concatenate([logits, nets.reshape(5, -1)], -1))
    total, _ = total_loss({"routed": head}, {"routed": side_by_side}, {"routed": jnp.asarray(label)})

    own = jnp.asarray(nets[np.arange(5), label[:, 0].astype(int)])
    column = inner.column({"age": ages, "age_low": ages, "age_high": ages})
    two, _ = total_loss(
        {"gender": head.gender, "age": inner},
        {"gender": jnp.asarray(logits), "age": own},
        {"gender": jnp.asarray(label[:, 0].astype(np.int32)), "age": jnp.asarray(column)},
    )
    assert float(total) == pytest.approx(float(two), rel=1e-5)


def test_no_gradient_reaches_the_other_genders_net() -> None:
    head = _groups()
    logits = jnp.asarray(RNG.normal(size=(5, 8)).astype(np.float32))
    gradient = np.asarray(
        jax.jit(jax.grad(lambda x: total_loss({"r": head}, {"r": x}, {"r": jnp.asarray(LABEL)})[0]))(logits)
    )
    reached = np.stack([gradient[:, :2].any(-1), gradient[:, 2:5].any(-1), gradient[:, 5:].any(-1)], -1)
    assert reached.tolist() == [
        [True, True, False],
        [True, True, False],
        [True, False, True],
        [False, False, False],
        [True, False, False],
    ]
    assert np.isfinite(gradient).all()


def test_a_batch_without_labels_has_no_loss() -> None:
    label = jnp.asarray(np.full((3, 2), UNKNOWN, np.float32))
    total, _ = total_loss({"r": _groups()}, {"r": jnp.ones((3, 8))}, {"r": label})
    assert float(total) == 0


def test_constant_is_the_best_of_gender_and_of_age() -> None:
    train = np.array([[MALE, 2], [FEMALE, 2], [FEMALE, 1], [UNKNOWN, 2], [FEMALE, UNKNOWN]], np.float32)
    name, said = _groups().constant(train, 5)
    assert name == "always female, always old"
    assert said.keys() == _groups().answers(DISTRIBUTION).keys()
    found = measure(_groups(), said, LABEL)
    assert found["gender_accuracy"] == 1 / 4
    assert found["true_accuracy"] == found["predicted_accuracy"] == found["soft_accuracy"] == 0


def test_it_comes_apart_into_two_heads_for_pictures() -> None:
    parts = _groups().apart("routed", _groups().answers(DISTRIBUTION), LABEL)
    assert list(parts) == ["gender", "age_group"]
    (gender, said, genders), (age, age_said, ages) = parts.values()
    assert measure(gender, said, genders)["n"] == 4
    assert measure(age, age_said, ages)["accuracy"] == pytest.approx(3 / 4)  # also where the gender is unknown
    assert (genders.dtype, ages.dtype) == (np.int32, np.int32)


def test_embeddings_stand_side_by_side_in_the_order_of_the_genders() -> None:
    class Constant(nnx.Module):
        def __init__(self, size: int) -> None:
            self.embedding_size = size

        def __call__(self, x: jax.Array, *, train: bool = False, rngs: nnx.Rngs | None = None) -> jax.Array:
            return jnp.full((len(x), self.embedding_size), float(self.embedding_size))

    backbone = Routed(Constant(1), Constant(2), Constant(3))
    assert (backbone.parts, backbone.embedding_size) == ((1, 2, 3), 6)
    assert backbone(jnp.zeros((1, 4, 4, 3))).tolist() == [[1, 2, 2, 3, 3, 3]]
    layer = _groups().layer(backbone.parts, rngs=nnx.Rngs(0))
    before = layer(jnp.ones((1, 6)))
    moved = np.asarray(layer(jnp.asarray([[1.0, 5, 5, 1, 1, 1]])) - before)[0]  # the male net's embedding
    assert (moved != 0).tolist() == [False] * 2 + [True] * 3 + [False] * 3


def test_a_recipes_model_learns_from_its_own_gender_and_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(vgg.STAGES, 16, (1, 1, 0, 0, 0))  # compiles sooner
    monkeypatch.setitem(small_cnn.VARIANTS, "gender_three", Variant((ConvBlock(4, pool=(8, 8)),), hidden=(8,)))
    recipe = _recipe()
    heads = build_heads(recipe)
    assert {name: head.size for name, head in heads.items()} == {"routed": 2 + 2 * 24}
    graphdef, _, _ = model_structure(recipe, heads)
    params, stats = jax.jit(lambda: split_model(build_model(recipe, heads))[1:])()
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
    (loss, found), gradient = jax.jit(jax.value_and_grad(loss_of, has_aux=True))(params, images)
    assert np.isfinite(float(loss))
    reached = {net: any(map(np.any, jax.tree.leaves(tree))) for net, tree in gradient["backbone"].items()}
    assert reached == {"gender": True, "male": True, "female": False}  # four men

    distributions = {name: np.asarray(value) for name, value in found.items()}
    measured = figures(heads, answers(heads, distributions), labels)
    assert recipe.evaluate.select in measured
    assert measured["routed/n"] == measured["n"] == 4
    names, constant = baseline_predictions(heads, labels, 4)
    assert names == {"routed": "always male, always 60-64"}
    assert figures(heads, constant, labels)["routed/true_accuracy"] == 0.5


@pytest.mark.parametrize(("routed", "shared"), [("paper", "shared"), ("cpu", "cpu_shared")])
def test_the_shared_net_has_as_many_parameters(routed: str, shared: str) -> None:
    counts = []
    for argument in (routed, shared):
        recipe = _config(argument)
        _, params, _ = model_structure(recipe, build_heads(recipe))
        counts.append(sum(leaf.size for leaf in jax.tree.leaves(params)))
    assert counts[1] == pytest.approx(counts[0], rel=0.01)


def test_the_shared_net_differs_in_nothing_else() -> None:
    for routed, shared in (("paper", "shared"), ("cpu", "cpu_shared")):
        different = recipes.differences(_config(routed), _config(shared))
        assert {line.split(":")[0] for line in different} <= {
            "model.backbone",
            "model.variant",
            "model.width",
            "heads.gender.weight",
            "heads.age_group.weight",
            "heads.routed.weight",
            "evaluate.select",
        }


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"model.backbone": "vgg16"}, r"heads\.routed\.weight=1\.0 does not go with config\.model\.backbone='vgg16'"),
        ({"heads.routed.weight": 0.0}, r"the head routed and the backbone routed need each other"),
        ({"heads.age.weight": 1.0}, r"config\.heads\.age\.weight=1\.0 is not for the backbone routed.*set it to 0"),
        ({"heads.age_group.class_weights": True}, r"heads\.age_group\.class_weights is not for the head routed"),
        ({"heads.gender.undefined": True}, r"heads\.gender\.undefined is not for the head routed"),
        ({"model.gender_to_age": "joined"}, r"gender_to_age='joined' is not for the backbone routed"),
    ],
)
def test_what_does_not_go_together_is_named(keys: dict[str, Any], message: str) -> None:
    recipe = _recipe()
    check(recipe)
    recipe.update_from_flattened_dict(keys)
    with pytest.raises(UserError, match=message):
        check(recipe)
