"""Every array is matched by name and shape, and what is left over on either side is an error that lists it."""

import hashlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from safetensors.numpy import save_file

from agegender_jax import recipe as recipes
from agegender_jax.errors import UserError
from agegender_jax.models import pretrained
from agegender_jax.models.backbones import BACKBONES
from agegender_jax.models.heads import build_heads
from agegender_jax.models.model import define_model
from agegender_jax.models.pretrained import loading
from agegender_jax.models.pretrained.matching import flatten
from agegender_jax.recipe_options import model_options

PARITY = Path(__file__).parent / "parity"
Trees = tuple[dict[Any, Any], dict[Any, Any]]


def _recipe(backbone: str, **model: Any) -> ConfigDict:
    recipe = recipes.base()
    recipe.dataset.image_size = 32
    recipe.model.update(backbone=backbone, **model)
    return recipe


def _structure(recipe: ConfigDict) -> Trees:
    model = define_model(model_options(recipe), build_heads(model_options(recipe).heads))
    params, stats = model.params, model.stats
    return params, stats


def _file(name: str) -> dict[str, np.ndarray]:
    """The arrays of an original implementation, all ones; one number in memory each."""
    with np.load(PARITY / f"{name}.npz", allow_pickle=False) as stored:
        shapes = json.loads(stored["shapes"].tobytes())
    return {key: np.broadcast_to(np.float32(1), shape) for key, shape in shapes.items()}


def _load(arrays: dict[str, np.ndarray], backbone: str, trees: Trees, keras: bool = False) -> Trees:
    return loading.put(arrays, pretrained.Weights("", "keras" if keras else "torch", Path("w.pth")), backbone, *trees)


def _fresh(before: Trees, after: Trees) -> set[str]:
    """The arrays that stayed as they were."""
    old, new = (flatten(params) | flatten(stats) for params, stats in (before, after))
    assert old.keys() == new.keys()
    assert all(new[path].dtype == np.float32 and new[path].shape == old[path].shape for path in old)
    return {"/".join(path) for path in old if new[path] is old[path]}


HEADS = {f"heads/{name}/{leaf}" for name in ("gender", "age_group", "age") for leaf in ("kernel", "bias")}


@pytest.fixture(scope="module")
def resnet18() -> Trees:
    return _structure(_recipe("resnet18"))


# Everything but the classifier, and a top that is not the published one.
@pytest.mark.parametrize(
    ("backbone", "pooling", "top"),
    [
        ("resnet18", "default", ()),
        ("resnet18", "average", ()),
        ("resnet18", "max", ("norm/scale", "norm/bias", "norm/mean", "norm/var")),
        *((name, "average", ()) for name in ("vgg11", "vgg11_bn", "vgg16", "vgg16_bn", "resnet34", "resnet101")),
    ],
)
def test_a_net_takes_everything_that_fits(backbone: str, pooling: str, top: tuple[str, ...]) -> None:
    trees, arrays = _structure(_recipe(backbone, pooling=pooling)), _file(f"torchvision_{backbone}")
    assert _fresh(trees, _load(arrays, backbone, trees)) == HEADS | {f"backbone/top/{leaf}" for leaf in top}
    for number, shape in enumerate([(4096, 25088), (4096, 4096)] if backbone.startswith("vgg") else []):
        name, of_timm = BACKBONES[backbone].torch.layer_names(("top", "dense", str(number)))  # type: ignore[union-attr]
        assert arrays[f"{name}.weight"].shape == shape
        assert of_timm == f"pre_logits.fc{number + 1}"


def test_a_file_of_keras_without_its_top_leaves_ours_fresh() -> None:
    trees = _structure(_recipe("vgg16"))
    arrays = {name: array for name, array in _file("keras_vgg16").items() if name.startswith("block")}
    top = {f"backbone/top/dense/{i}/{leaf}" for i in (0, 1) for leaf in ("kernel", "bias")}
    assert _fresh(trees, _load(arrays, "vgg16", trees, keras=True)) == HEADS | top


def test_arrays_that_do_not_match_are_named(resnet18: Trees) -> None:
    original = _file("torchvision_resnet18")
    conv1 = original["conv1.weight"]
    renamed = original | {"layer1.0.conv9.weight": original["layer1.0.conv2.weight"]}
    del renamed["layer1.0.conv2.weight"]
    missing = {name: array for name, array in original.items() if name != "layer3.1.bn2.running_var"}
    nan = np.full(64, np.nan, np.float32)
    for arrays, names in (
        (missing, ["backbone/trunk/blocks/5/convs/1/norm/var"]),
        (renamed, ["backbone/trunk/blocks/0/convs/1/conv/kernel", "'layer1.0.conv9.weight'"]),
        (original | {"conv1.weight": conv1[:32]}, ["'conv1.weight'", "(7, 7, 3, 32)", "(7, 7, 3, 64)"]),
        (original | {"bn1.running_mean": nan}, ["'bn1.running_mean'", "finite"]),
        (_file("torchvision_resnet50"), ["'layer1.0.conv1.weight'", "(1, 1, 64, 64)", "(3, 3, 64, 64)"]),
        (_file("torchvision_alexnet"), ["100 ", "95 more", "16 "]),
    ):
        with pytest.raises(UserError) as caught:
            _load(arrays, "resnet18", resnet18)
        assert all(name in str(caught.value) for name in ["w.pth", *names])


def test_dense_layers_of_small_images_do_not_fit_and_the_error_says_what_does() -> None:
    trees = _structure(_recipe("vgg16"))
    for name in ("torchvision_vgg16", "keras_vgg16"):
        with pytest.raises(UserError, match=r"\(25088, 4096\).*\(512, 4096\).*image_size.*config.model.pooling"):
            _load(_file(name), "vgg16", trees, keras=name.startswith("keras"))


def test_names_of_old_files_are_known() -> None:
    # torchvision wrote `norm.1` before version 0.2.1.
    old = BACKBONES["densenet161"].torch.layer_names(("trunk", "layers", "6", "grow", "norm"))
    assert list(old) == ["features.denseblock2.denselayer1.norm2", "features.denseblock2.denselayer1.norm.2"]


def test_dense_layers_kept_as_convolutions_are_the_same() -> None:
    rng = np.random.default_rng(0)
    shape = {"backbone": {"top": {"dense": {0: {"kernel": np.empty((25088, 2), np.float32)}}}}}
    weight = rng.standard_normal((2, 25088), np.float32)
    plain, _ = _load({"classifier.0.weight": weight}, "vgg16", (shape, {}))
    convolution, _ = _load({"pre_logits.fc1.weight": weight.reshape(2, 512, 7, 7)}, "vgg16", (shape, {}))
    kernel = plain["backbone"]["top"]["dense"][0]["kernel"]
    np.testing.assert_array_equal(convolution["backbone"]["top"]["dense"][0]["kernel"], kernel)
    assert kernel[(3 * 7 + 5) * 512 + 9, 1] == weight[1, 9 * 49 + 3 * 7 + 5]  # row 3, column 5, channel 9
    with pytest.raises(UserError, match=r"pre_logits\.fc1\.weight.*\(14, 14\).*\(7, 7\)"):
        _load({"pre_logits.fc1.weight": np.ones((2, 128, 14, 14), np.float32)}, "vgg16", (shape, {}))


@pytest.mark.parametrize(("backbone", "layer", "channels", "grid"), [("vgg16", 0, 128, 7), ("alexnet", 1, 64, 6)])
def test_the_first_dense_layer_of_a_net_of_another_width_sees_channels_last(
    backbone: str, layer: int, channels: int, grid: int
) -> None:
    inputs = channels * grid * grid
    shape = {"backbone": {"top": {"dense": {0: {"kernel": np.empty((inputs, 2), np.float32)}}}}}
    weight = np.arange(2 * inputs, dtype=np.float32).reshape(2, inputs)
    params, _ = _load({f"classifier.{layer}.weight": weight}, backbone, (shape, {}))
    kernel = params["backbone"]["top"]["dense"][0]["kernel"]
    assert kernel[(3 * grid + 5) * channels + 9, 1] == weight[1, 9 * grid * grid + 3 * grid + 5]
    with pytest.raises(UserError, match=rf"classifier\.{layer}\.weight.*{inputs + 1} .*{grid}x{grid}"):
        _load({f"classifier.{layer}.weight": np.ones((2, inputs + 1), np.float32)}, backbone, (shape, {}))


def test_the_variant_of_the_strides_must_be_the_files(tmp_path: Path) -> None:
    h5py.File(tmp_path / "w.h5", "w").close()
    with pytest.raises(UserError, match=r"config\.model\.variant=v1"):
        pretrained.load(str(tmp_path / "w.h5"), "resnet50", {}, {}, variant="")
    with pytest.raises(UserError, match="densenet161"):
        pretrained.load(str(tmp_path / "w.h5"), "densenet161", {}, {})


def test_a_file_goes_through_to_the_trees(resnet18: Trees, tmp_path: Path) -> None:
    arrays = {name: np.ascontiguousarray(array) for name, array in _file("torchvision_resnet18").items()}
    save_file(arrays, tmp_path / "w.safetensors")
    source = str(tmp_path / "w.safetensors")

    assert _fresh(resnet18, pretrained.load(source, "resnet18", *resnet18)[:2]) == HEADS
    assert pretrained.normalization(source, "resnet18") == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    metadata = pretrained.metadata(source, "resnet18")
    start = "resnet18 from w.safetensors (safetensors), of input less mean 0.485 0.456 0.406 over 0.229 0.224 0.225; "
    assert metadata["description"] == start + "fresh: the heads, and a top that the file does not have"
    assert metadata["sha256"] == hashlib.sha256((tmp_path / "w.safetensors").read_bytes()).hexdigest()
    max_top = _structure(_recipe("resnet18", pooling="max"))
    for (params, stats), fresh in ((resnet18, ""), (max_top, "backbone/top, ")):
        loaded, *_ = pretrained.load(source, "resnet18", params, stats)
        description = pretrained.metadata(source, "resnet18", params, loaded)["description"]
        assert description == f"{start}fresh: {fresh}heads/age, heads/age_group, heads/gender"


@pytest.mark.parametrize("prefix", ["module.", "model.", "_orig_mod.", "backbone.", "module._orig_mod."])
def test_a_prefix_of_all_names_is_left_out(resnet18: Trees, tmp_path: Path, prefix: str) -> None:
    arrays = {prefix + name: np.ascontiguousarray(array) for name, array in _file("torchvision_resnet18").items()}
    source = str(tmp_path / "w.safetensors")
    save_file(arrays, source)
    params, stats, left_out = pretrained.load(source, "resnet18", *resnet18)
    assert (_fresh(resnet18, (params, stats)), left_out) == (HEADS, prefix)
    assert prefix in pretrained.metadata(source, "resnet18", resnet18[0], params, left_out)["description"]
    save_file(arrays | {"other": np.ones(1)}, source)  # which does not have it
    with pytest.raises(UserError, match=f"other.*{prefix}bn1"):
        pretrained.load(source, "resnet18", *resnet18)


def test_no_published_net_has_names_that_begin_with_a_wrapper() -> None:
    names = [path.stem for path in PARITY.glob("torchvision_*.npz")]
    assert len(names) > 5
    assert {loading.without_prefix(_file(name))[1] for name in names} == {""}


def test_a_run_gives_its_backbone_and_the_heads_that_match() -> None:
    recipe = _recipe("small_cnn", variant="thin")
    source = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), _structure(recipe))
    recipe.heads.gender.undefined = True
    ours = jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), _structure(recipe))

    params, stats, description = pretrained.load_tree(*source, *ours)

    assert description == "backbone; heads taken: age, age_group; fresh: gender"
    new, theirs, old = (flatten(a) | flatten(b) for a, b in ((params, stats), source, ours))
    for path, value in new.items():
        expected = old if path[:2] == ("heads", "gender") else theirs
        np.testing.assert_array_equal(value, expected[path], err_msg="/".join(path))


def test_a_run_of_another_backbone_is_an_error(resnet18: Trees) -> None:
    recipe = _recipe("small_cnn", variant="thin")
    other = _structure(recipe)
    with pytest.raises(UserError, match=r"config\.model"):
        pretrained.load_tree(*other, *resnet18)


def test_a_head_to_skip_stays_fresh_and_shapes_are_enough_to_see_a_match() -> None:
    shapes = _structure(_recipe("small_cnn", variant="thin"))
    theirs = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes)

    for source in (theirs, shapes):
        params, _, description = pretrained.load_tree(*source, *shapes, skip=["age", "class_name"])
        assert description == "backbone; heads taken: age_group, gender; fresh: age"
        assert params["heads"]["age"]["kernel"] is shapes[0]["heads"]["age"]["kernel"]
    assert params == shapes[0]
    taken, _, _ = pretrained.load_tree(*theirs, *shapes, skip=["age"])
    assert taken["heads"]["gender"]["kernel"].dtype == np.float32


def test_a_directory_with_a_recipe_is_a_run_unless_a_short_name_is_meant(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("efficientnet_lite0", "hf:someone/net"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "recipe.json").write_text("{}")
    (tmp_path / "w").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    monkeypatch.chdir(tmp_path)
    hub = SimpleNamespace(hf_hub_download=lambda **_: str(tmp_path / "w"))
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    monkeypatch.setattr("agegender_jax.models.pretrained.sources._package_file", lambda *_: tmp_path / "w")
    for name in ("efficientnet_lite0", "hf:someone/net"):
        assert pretrained.locate(f"./{name}", "efficientnet_lite0").kind == "run"
        assert pretrained.locate(name, "efficientnet_lite0").kind == "safetensors"


def test_the_hub_is_asked_for_the_right_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "w").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    asked: list[dict[str, str]] = []

    def download(**request: str) -> str:
        asked.append(request)
        return str(tmp_path / "w")

    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(hf_hub_download=download))
    assert pretrained.locate("vgg16", "vgg16").kind == "safetensors"
    pretrained.locate("hf:someone/a.net-1", "vgg16")
    pretrained.locate("hf:someone/a.net-1/sub/weights.pth", "vgg16")
    assert asked == [
        {"repo_id": "timm/vgg16.tv_in1k", "filename": "model.safetensors"},
        {"repo_id": "someone/a.net-1", "filename": "model.safetensors"},
        {"repo_id": "someone/a.net-1", "filename": "sub/weights.pth"},
    ]
    for source in ("hf:", "hf:someone", "hf:someone/../../etc/passwd", "hf:a b/c"):
        with pytest.raises(UserError, match=f"config.model.pretrained={source!r}"):
            pretrained.locate(source, "vgg16")
    with pytest.raises(UserError, match=r"config\.model\.pretrained='vgg16'.*config\.model\.backbone='resnet18'"):
        pretrained.locate("vgg16", "resnet18")


def test_weights_that_cannot_be_fetched_are_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(**_: str) -> str:
        raise OSError("no network\nat all")

    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(hf_hub_download=download))
    with pytest.raises(UserError, match=r"'hf:someone/net'.*OSError: no network at all"):
        pretrained.locate("hf:someone/net", "vgg16")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for name, extra in (("vgg16", "hub"), ("efficientnet_lite0", "pretrained")):
        with pytest.raises(UserError, match=rf"config\.model\.pretrained='{name}'.*`{extra}`.*-e '\.\[{extra}\]'"):
            pretrained.locate(name, name)
