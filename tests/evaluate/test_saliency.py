"""Class activation maps: the formulas, every backbone, and whether they show what a net looks at."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from ml_collections import ConfigDict
from scipy.stats import spearmanr

from agegender_jax.errors import UserError
from agegender_jax.evaluate.evaluate_run import open_data
from agegender_jax.evaluate.loaded import LoadedModel
from agegender_jax.evaluate.predictions import NAME, read_predictions
from agegender_jax.evaluate.saliency import CAMS, Explainer, class_activation, score
from agegender_jax.labels import AGE_GROUPS
from agegender_jax.models import layers
from agegender_jax.models.backbones import BACKBONES, BackboneOptions
from agegender_jax.models.backbones.attention import AttentionEnsemble
from agegender_jax.models.backbones.small_cnn import VARIANTS, ConvBlock, SmallCNN, Variant
from agegender_jax.models.heads import AgeGroupHead, AgeYearsHead, GenderHead, build_heads
from agegender_jax.models.model import Model, build_model
from agegender_jax.recipe_options import model_options


@pytest.mark.slow
@pytest.mark.parametrize("name", BACKBONES)
def test_every_backbone_has_maps(name: str, small_recipe: ConfigDict) -> None:
    """And before the last pooling: VGG's are 4x4 at 64 pixels, where its embedding is of 2x2."""
    small_recipe.dataset.image_size = 64
    small_recipe.model.update(backbone=name, variant="", dtype="bfloat16")
    heads = build_heads(model_options(small_recipe).heads)
    taps: list[jax.Array] = []

    def keep(x: jax.Array) -> jax.Array:
        taps.append(x)
        return x

    model = nnx.eval_shape(lambda: build_model(model_options(small_recipe), heads))
    with layers.intercept_features(keep):
        nnx.eval_shape(lambda model, x: model(x), model, jax.ShapeDtypeStruct((2, 64, 64, 3), jnp.float32))
    edges = {"small_cnn": [4], "alexnet": [3], "cnn180": [2], "routed": [16, 4, 4], "attention_ensemble": [2, 2]} | {
        name: [4] for name in ("vgg11", "vgg11_bn", "vgg16", "vgg16_bn")
    }
    assert [x.shape[:3] for x in taps] == [(2, edge, edge) for edge in edges.get(name, [2])]
    assert all(x.dtype == jnp.bfloat16 for x in taps)


def test_nothing_is_added_where_no_map_is_asked_for() -> None:
    x = jnp.ones(3)
    assert layers.tap_features(x) is x
    with pytest.raises(UserError, match=r"layers\.tap_features"):
        class_activation(lambda x: x.mean((1, 2)), jnp.ones((1, 4, 4, 3)), lambda logits: logits[:, 0])


def images(seed: int = 0, count: int = 8, size: int = 16) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=(count, size, size, 3)), jnp.float32)


class Mean(nnx.Module):
    """The mean of a small CNN's last map: what Grad-CAM is made for."""

    def __init__(self, blocks: Sequence[ConvBlock], seed: int = 0, size: int = 16) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(VARIANTS, "blocks", Variant(tuple(blocks), norm="none", hidden=()))
            options = BackboneOptions(variant="blocks", image_size=size, outputs=1, dropout=0.0)
            self.net = SmallCNN(options, nnx.Rngs(params=seed))
        self.embedding_size = blocks[-1].filters

    def __call__(self, x: jax.Array, **options: Any) -> jax.Array:
        return self.net(x, **options).reshape(len(x), -1, self.embedding_size).mean(1)


POOLED = ConvBlock(4, pool=(2, 2))


@pytest.mark.slow
def test_maps_of_two_nets_are_added() -> None:
    """What both averaged embeddings give the logit is the sum of the map, whatever the size of either map."""
    nets = Mean((ConvBlock(4),), 0), Mean((POOLED, POOLED, ConvBlock(8)), 1)
    model = Model(AttentionEnsemble(*nets), {"gender": GenderHead()}, rngs=nnx.Rngs(params=2))
    kernel = model.heads["gender"].kernel
    kernel[...] = jnp.abs(kernel[...])  # nothing is cut off
    graphdef, params = nnx.split(model, nnx.Param)

    @jax.jit
    def both(params: Any) -> tuple[jax.Array, list[jax.Array]]:
        model = nnx.merge(graphdef, params)
        cams = [
            class_activation(model, images(), lambda outputs: outputs["gender"][:, 1], method)
            for method in ("grad_cam", "layer_cam")
        ]
        return model(images())["gender"][:, 1], cams

    given, cams = both(params)
    for cam in cams:
        assert cam.shape == (8, 16, 16)  # the second net's is 4x4
        np.testing.assert_allclose(cam.sum((1, 2)), given, rtol=1e-4)


def test_the_number_that_is_explained() -> None:
    logits = jnp.array([[0.5, -1.0], [2.0, 3.0]])
    assert score(GenderHead(), logits, jnp.array([1, 0])).tolist() == [-1.0, 2.0]
    nothing = jnp.zeros(1, jnp.int32)
    regression = AgeYearsHead(loss_name="l1")
    assert score(regression, jnp.array([[-3.0]]), nothing).tolist() == [-25.0]  # and its slope is not cut off
    certain = jnp.zeros((1, 101)).at[0, 40].set(30).at[0, 50].set(30)
    np.testing.assert_allclose(score(AgeYearsHead(), certain, nothing), 45.0, rtol=1e-5)
    coral = AgeGroupHead(scheme=AGE_GROUPS["nearest"], loss_name="coral")
    thresholds = jnp.array([[30.0, 30, 0, -30, -30, -30, -30]])  # of the third group with half, of the second with half
    np.testing.assert_allclose(score(coral, thresholds, nothing), 2.5, rtol=1e-5)


PLANTED = (ConvBlock(8, pool=(2, 2)), ConvBlock(16))


def planted(count: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Noise `[n, 16, 16, 3]` with a blue square of 4 pixels, and half of it with a red one; whether, and where."""
    random = np.random.default_rng(seed)
    pictures = random.normal(0, 0.3, (count, 16, 16, 3)).astype(np.float32)
    there, corner = np.arange(count) % 2, random.integers(0, 5, (count, 2)) + random.permuted([[0, 8]] * count, axis=1)
    for picture, red, (top, left) in zip(pictures, there, corner, strict=True):
        other = (top + 8) % 16 % 12
        picture[other : other + 4, left : left + 4, 2] += 1.5
        if red:
            picture[top : top + 4, left : left + 4, 0] += 1.5
    return pictures, there.astype(np.int32), corner + 1.5


def planted_net(seed: int) -> Model:
    return Model(Mean(PLANTED, seed), {"gender": GenderHead()}, rngs=nnx.Rngs(params=seed))


@pytest.fixture(scope="module")
def finder() -> Any:
    """A net that has learned to say whether there is a red square."""
    graphdef, params, rest = nnx.split(planted_net(0), nnx.Param, ...)
    optimizer = optax.adam(1e-2)

    @jax.jit
    def learn(params: Any, pictures: jax.Array, there: jax.Array) -> Any:
        def loss(params: Any, x: jax.Array, label: jax.Array) -> jax.Array:
            logits = nnx.merge(graphdef, params, rest)(x)["gender"]
            return optax.softmax_cross_entropy_with_integer_labels(logits, label).mean()

        def step(carry: Any, batch: Any) -> Any:
            params, state = carry
            value, slope = jax.value_and_grad(loss)(params, *batch)
            updates, state = optimizer.update(slope, state, params)
            return (optax.apply_updates(params, updates), state), value

        (params, _), values = jax.lax.scan(step, (params, optimizer.init(params)), (pictures, there))
        return params, values

    pictures, there, _ = planted(150 * 32, seed=0)
    params, values = learn(params, pictures.reshape(150, 32, 16, 16, 3), there.reshape(150, 32))
    assert values[-1] < 0.1
    return nnx.merge(graphdef, params, rest)


def maps_of(model: Any, pictures: np.ndarray, method: str) -> np.ndarray:
    graphdef, state = nnx.split(model)

    @jax.jit
    def maps(state: Any) -> jax.Array:
        model = nnx.merge(graphdef, state)
        return class_activation(model, jnp.asarray(pictures), lambda outputs: outputs["gender"][:, 1], method)

    return np.asarray(maps(state))


@pytest.mark.parametrize("method", CAMS)
def test_maps_show_the_evidence_and_randomised_weights_change_them(method: str, finder: Any) -> None:
    """The sanity check of Adebayo et al. (2018): a map that does not depend on what was learned explains nothing."""
    pictures, there, where = planted(64, seed=1)
    pictures, where = pictures[there == 1], where[there == 1]

    def distance(maps: np.ndarray) -> float:
        """Median distance in pixels of the highest place from the middle of the red square."""
        highest = np.stack(np.unravel_index(maps.reshape(len(maps), -1).argmax(-1), (8, 8)), -1) * 2 + 0.5
        return float(np.median(np.hypot(*(highest - where).T)))

    def correlation(maps: np.ndarray) -> float:
        """Mean rank correlation with what was learned; a map that is 0 everywhere has none."""
        pairs = [(one.ravel(), other.ravel()) for one, other in zip(learned, maps, strict=True) if other.any()]
        return float(np.mean([spearmanr(one, other)[0] for one, other in pairs])) if pairs else 0.0

    learned = maps_of(finder, pictures, method)
    assert distance(learned) < 2
    assert correlation(learned) == pytest.approx(1)
    assert np.mean([correlation(maps_of(planted_net(seed), pictures, method)) for seed in (1, 2, 3)]) < 0.4
    # The last layer alone, turned about: what raised the answer lowers it now.
    about = nnx.clone(finder)
    kernel = about.heads["gender"].kernel
    kernel[...] = -kernel[...]
    turned = maps_of(about, pictures, method)
    assert correlation(turned) < 0.2


def test_a_net_that_looks_at_one_corner_shows_that_corner() -> None:
    """A dense layer reads the upper left quarter of the last map alone; everything else is as bright."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(VARIANTS, "corner", Variant((ConvBlock(4), ConvBlock(4)), norm="none", hidden=(8,)))
        options = BackboneOptions(variant="corner", image_size=8, outputs=1, dropout=0.0)
        net = SmallCNN(options, nnx.Rngs(params=0))
    reads = jnp.zeros((8, 8, 4, 1)).at[:4, :4].set(1).reshape(-1, 1)
    net.dense[0].kernel[...] = jnp.abs(net.dense[0].kernel[...]) * reads
    model = Model(net, {"gender": GenderHead()}, rngs=nnx.Rngs(params=1))
    model.heads["gender"].kernel[...] = jnp.abs(model.heads["gender"].kernel[...])
    pictures = np.asarray(images(size=8))
    maps = maps_of(model, pictures, "layer_cam")
    assert (maps[:, :4, :4].max((1, 2)) > 0).all()
    assert maps[:, 4:].max() == maps[:, :, 4:].max() == 0
    elsewhere = pictures.copy()
    elsewhere[:, 6:] += 5  # beyond what the corner sees through two convolutions
    np.testing.assert_allclose(maps_of(model, elsewhere, "layer_cam"), maps, atol=1e-5)


@pytest.mark.slow
def test_a_run_is_asked_without_its_data_and_says_what_evaluation_says(loaded: LoadedModel, finished: Any) -> None:
    opened = open_data(loaded, progress=False)
    rows = opened.split.test
    content = opened.data.read(rows)
    explainer = Explainer(loaded, head="age")
    explained = explainer(content)
    label = explainer.head.column(opened.data.columns)[rows]
    metrics = explainer.head.measure(explained.predictions, label)
    assert metrics["mae"] == pytest.approx(finished.summary["test"]["age/mae"], abs=1e-4)
    kept = read_predictions(loaded.run.directory / NAME).of("test").targets()["age"]
    np.testing.assert_array_equal(explained.predictions["years"], kept.predictions["years"])  # to the last bit
    assert explained.classes is None
    few = explainer(content[:3])  # of fewer than there are devices
    np.testing.assert_array_equal(few.predictions["years"], explained.predictions["years"][:3])
    assert few.maps[0].shape == (3, 2, 2)
    np.testing.assert_allclose(few.maps[0], explained.maps[0][:3], rtol=1e-3, atol=1e-5)
    (shown,) = explained.maps
    assert (shown.shape, shown.dtype) == ((len(rows), 2, 2), np.float32)  # thin: four poolings of 32 pixels
    assert np.isfinite(shown).all()
    assert shown.min() >= 0
    assert shown.max() > 0


def test_maps_are_of_the_class_that_is_asked_for_and_mirrored_as_the_pictures_are(loaded: LoadedModel) -> None:
    content = open_data(loaded, progress=False).data.read(np.arange(3))
    male = Explainer(loaded, class_name="male")
    explained = {"male": male(content), "female": Explainer(loaded, class_name="female")(content)}
    assert explained["female"].classes is not None
    assert explained["female"].classes.tolist() == [1, 1, 1]
    np.testing.assert_array_equal(explained["male"].predictions["class"], explained["female"].predictions["class"])
    assert np.abs(explained["male"].maps[0] - explained["female"].maps[0]).max() > 0
    # The run averages over mirror images: the mirrored picture has the mirrored map.
    mirrored = male(content[:, :, ::-1])
    np.testing.assert_allclose(mirrored.maps[0][:, :, ::-1], explained["male"].maps[0], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"method": "lime"}, "'lime'.* grad_cam_pp"),
        ({"method": "attention"}, "small_cnn"),
        ({"head": "race"}, "'race'.* age_group"),
        ({"class_name": "old"}, "'old'.* female"),
        ({"head": "age", "class_name": "30"}, "--class=30"),
        ({"method": "attention", "class_name": "male"}, "--class=male"),
    ],
)
def test_what_there_is_not_is_refused(loaded: LoadedModel, options: dict[str, str], name: str) -> None:
    with pytest.raises(UserError, match=name):
        Explainer(loaded, **options)  # type: ignore[arg-type]
