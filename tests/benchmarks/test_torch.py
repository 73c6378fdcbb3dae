"""The peer does the same work: PyTorch's nets and augmentation give our numbers. `pytest -m parity` with PyTorch."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from ml_collections import ConfigDict
from PIL import Image

from agegender_jax.data.augment import augment
from agegender_jax.data.decode_image import decode_image
from agegender_jax.models.backbones import BACKBONES
from agegender_jax.models.heads import build_heads
from agegender_jax.models.model import define_model
from agegender_jax.models.pretrained.matching import TORCH_LEAVES, flatten
from agegender_jax.recipe_options import model_options
from agegender_jax.train.model_profile import random_values, recipe_of
from benchmarks import jax_side, step

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch", reason="needs the extra `peers`")
pytest.importorskip("torchvision", reason="needs the extra `peers`")

SIZE = 64
NETS = ["small_cnn:a", "small_cnn:b", "small_cnn:plain", "small_cnn:thin", "alexnet", "resnet18", "resnet50"]
NETS += ["vgg11_bn", "vgg16", "densenet161"]


def _recipe(net: str, size: int = SIZE) -> ConfigDict:
    backbone, _, variant = net.partition(":")
    recipe = recipe_of(backbone, image_size=size, batch_size=4)
    recipe.model.variant = variant
    if "default" in BACKBONES[backbone].dropout_poolings:
        recipe.model.dropout = 0.0
    return recipe


def _peer(recipe: ConfigDict, outputs: dict[str, int]) -> Any:
    from benchmarks.torch_nets import build

    spec = step.specification(recipe, outputs)
    return build(spec["net"], spec["outputs"], spec["image_size"], spec["dropout"], spec["layout"])


def _copied(params: Any, stats: Any, net: str, peer: Any) -> dict[str, Any]:
    """Our arrays under the peer's names, in its layouts."""
    wanted, copied = peer.state_dict(), {}
    for tree in (params, stats):
        for path, array in flatten(tree).items():
            module, *layer, last = path
            files = BACKBONES[net].torch if module == "backbone" else None
            layers = files.layer_names(tuple(layer)) if files else [".".join(layer)]
            names = [f"{module}.{layer}.{TORCH_LEAVES[last]}" for layer in layers]
            name = next(name for name in names if name in wanted)
            if array.ndim == 4:
                array = array.transpose(3, 2, 0, 1)
            elif array.ndim == 2 and layer[-2:] == ["dense", "0"]:  # behind a map, which we flatten channels last
                channels = [m for m in peer.modules() if isinstance(m, torch.nn.Conv2d)][-1].out_channels
                edge = round((len(array) / channels) ** 0.5)
                array = array.reshape(edge, edge, channels, -1).transpose(3, 2, 0, 1).reshape(-1, len(array))
            elif array.ndim == 2:
                array = array.T
            copied[name] = torch.from_numpy(np.ascontiguousarray(array))
    return copied


@pytest.mark.parametrize("net", NETS)
def test_nets_give_our_logits_with_our_parameters(net: str) -> None:
    recipe = _recipe(net)
    heads = build_heads(model_options(recipe).heads)
    outputs = {name: head.size for name, head in heads.items()}
    model = define_model(model_options(recipe), heads)
    graphdef, shapes = model.graphdef, [model.params, model.stats]
    rng = np.random.default_rng(0)
    params, stats = random_values(shapes, rng)
    stats = jax.tree.map(lambda leaf: leaf * rng.uniform(0.5, 2.0, leaf.shape).astype(np.float32), stats)
    peer = _peer(recipe, outputs)
    missing = peer.load_state_dict(_copied(params, stats, recipe.model.backbone, peer), strict=False)
    assert not missing.unexpected_keys
    assert all(name.endswith("num_batches_tracked") for name in missing.missing_keys)
    images = rng.standard_normal((4, SIZE, SIZE, 3), np.float32)
    for train in (False, True):
        model = nnx.merge(graphdef, params, stats)
        wanted = model(jnp.asarray(images), train=train, rngs=nnx.Rngs(dropout=0))
        with torch.no_grad():
            outputs_of_peer = peer.train(train)(torch.from_numpy(images.transpose(0, 3, 1, 2)))
        for name in outputs:
            scale = np.abs(wanted[name]).max()
            np.testing.assert_allclose(outputs_of_peer[name].numpy() / scale, wanted[name] / scale, rtol=0, atol=1e-4)


_RANDOM = ("shift_y", "shift_x", "zoom", "light", "contrast", "saturation", "height", "width", "chance", "top", "left")


def _draws(key: jax.Array, rows: np.ndarray) -> dict[str, Any]:
    """Returns the random numbers of `augment` by the peer's names."""
    numbers: dict[str, list[float]] = {}
    for row in rows:
        keys = jax.random.split(jax.random.fold_in(key, row), 4)
        six = jax.random.uniform(keys[1], (6,), minval=-1)
        two = jax.random.uniform(keys[2], (2,), minval=0.1, maxval=0.33)
        three = jax.random.uniform(keys[3], (3,))
        for name, value in zip(_RANDOM, np.concatenate([six, two, three]), strict=True):
            numbers.setdefault(name, []).append(float(value))
        numbers.setdefault("mirrored", []).append(bool(jax.random.bernoulli(keys[0])))
    return {name: torch.tensor(values) for name, values in numbers.items()}


@pytest.mark.parametrize(
    "options", [jax_side.AUGMENTATION, {**dict.fromkeys(jax_side.AUGMENTATION, 0.0), "flip": True}]
)
def test_augmentation_gives_our_images_with_our_random_numbers(options: dict[str, Any]) -> None:
    from benchmarks.torch_peer import augment as peer_augment

    rng, key, rows = np.random.default_rng(0), jax.random.key(3), np.arange(16, dtype=np.int32)
    images = rng.integers(0, 256, (16, 8, 8, 3)).repeat(4, 1).repeat(4, 2).astype(np.uint8)
    wanted = augment(jnp.asarray(images), jnp.asarray(rows), key, **options)
    draws = _draws(key, rows)
    assert options["erase"] == 0 or (draws["chance"] < options["erase"]).any()
    augmented = peer_augment(torch.from_numpy(images).permute(0, 3, 1, 2).float(), draws, **options)
    np.testing.assert_allclose(augmented.permute(0, 2, 3, 1).numpy(), wanted, rtol=0, atol=0.01)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_steps_learn(dtype: str) -> None:
    from benchmarks.torch_peer import Steps

    recipe = _recipe("small_cnn:thin", 32)
    recipe.model.dtype = dtype
    recipe.augment.update(jax_side.AUGMENTATION)
    spec = step.specification(recipe, {"gender": 2, "age": 101})
    steps = Steps(**spec, device="cpu", modes=["eager"])
    before = {name: value.clone() for name, value in steps.net.named_parameters()}
    assert steps.run(2) > 0
    assert steps.mode == "eager"
    assert all((value != before[name]).any() for name, value in steps.net.named_parameters())


def test_the_loader_gives_our_pixels(tmp_path: Path) -> None:
    """With `draft` of large images too; whole decoding does not, as the reduced scale is another filter."""
    from benchmarks.torch_peer import Encoded, Input

    rng, contents = np.random.default_rng(0), []
    for size in [(48, 40)] * 6 + [(240, 200)]:
        buffer = io.BytesIO()
        noise = rng.integers(0, 256, (size[1] // 4, size[0] // 4, 3), dtype=np.uint8)
        Image.fromarray(noise).resize(size).save(buffer, "JPEG")
        contents.append(buffer.getvalue())
    path = tmp_path / "images.npz"
    ends = np.cumsum([len(content) for content in contents])
    np.savez(path, content=np.frombuffer(b"".join(contents), np.uint8), ends=ends)
    drafted, whole = Encoded(str(path), 32, True), Encoded(str(path), 32, False)
    assert len(drafted) == 7
    for row, content in enumerate(contents):
        np.testing.assert_array_equal(drafted[row].permute(1, 2, 0).numpy(), decode_image(content, 32))
    assert (whole[6] != drafted[6]).any()
    assert Input(str(path), 32, 4, 0).pass_over() > 0


def test_both_sides_in_one_table(measured: Callable[..., Any]) -> None:
    rows = measured(step.main)
    for row in rows.values():
        assert row["peer"] > 0
        assert row["ratio_min"] <= row["ratio_median"] <= row["ratio_max"]
    last = list(rows.values())[-1]
    assert last["versions"]["torch"] == torch.__version__
    assert last["versions"]["torch.compile"] == "not used"
