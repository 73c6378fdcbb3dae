"""Which part of a training state lies on which device: by arithmetic, and by the arrays themselves."""

import math
from typing import Any

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from agegender_jax import recipe as recipes
from agegender_jax.mesh import make_mesh
from agegender_jax.models.heads import build_heads
from agegender_jax.models.model import define_model
from agegender_jax.recipe_options import model_options, train_options
from agegender_jax.sharding import MIN_SHARDED_SIZE, bytes_per_device, split_axes, state_shardings, total_bytes
from agegender_jax.train.description import describe_memory
from agegender_jax.train.optimizer import make_optimizer
from agegender_jax.train.state import TrainState, abstract_state

VGG16_CONVS = [(3, 64), (64, 64), (64, 128), (128, 128), (128, 256), (256, 256), (256, 256), (256, 512)]
VGG16_CONVS += [(512, 512)] * 5
VGG16_DENSE = [(7 * 7 * 512, 4096), (4096, 4096)]
HEADS = [(4096, 2), (4096, 8), (4096, 101)]  # gender, age group, age


def abstract(recipe: ConfigDict) -> TrainState:
    optimizer = make_optimizer(train_options(recipe).optimizer, 10, 10.0)
    options = model_options(recipe)
    model, mesh = define_model(options, build_heads(options.heads)), make_mesh(recipe.compute.model)
    return abstract_state(model, optimizer, mesh, average=bool(recipe.train.ema_decay), fsdp=recipe.compute.fsdp)


def vgg16(**compute: Any) -> TrainState:
    recipe = recipes.base()
    recipe.dataset.image_size = 224
    recipe.model.backbone = "vgg16"
    recipe.compute.update(compute)
    return abstract(recipe)


def counts() -> tuple[int, int]:
    """Numbers in VGG16's parameters that eight devices split, and those that each of them has: by hand."""
    kernels = [9 * m * n for m, n in VGG16_CONVS] + [m * n for m, n in VGG16_DENSE + HEADS]
    biases = sum(n for _, n in VGG16_CONVS + VGG16_DENSE + HEADS)
    split = sum(count for count in kernels if count >= MIN_SHARDED_SIZE)
    return split, biases + sum(count for count in kernels if count < MIN_SHARDED_SIZE)


def test_vgg16_with_fsdp_takes_an_eighth_of_each_large_array() -> None:
    state = vgg16(fsdp=True)
    split, whole = counts()
    assert split + whole == 138_357_544 - 1000 * 4097 + 111 * 4097  # the published total, with other heads
    assert total_bytes(state.params) == 4 * (split + whole)
    assert bytes_per_device(state.params) == 4 * (split // 8 + whole)
    # Adam has two moments, and two counts of steps: its own and the schedule's.
    assert bytes_per_device(state.opt_state) == 2 * 4 * (split // 8 + whole) + 2 * 4
    both = [state.params, state.opt_state]
    assert total_bytes(both) / bytes_per_device(both) >= 7
    assert "on each of 8 devices: parameters 67,4" in describe_memory(state)
    assert "(1/7.99 of the whole state, 1,616," in describe_memory(state)


def test_without_fsdp_every_device_has_all() -> None:
    state = vgg16()
    assert bytes_per_device(state) == total_bytes(state)
    assert "1/" not in describe_memory(state)
    assert all(leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(state))


def test_the_model_axis_splits_the_dense_layers_by_columns_then_rows() -> None:
    state = vgg16(model=4, fsdp=True)
    dense = state.params["backbone"]["top"]["dense"]
    columns, rows = (dense[number]["kernel"].sharding for number in (0, 1))
    assert columns.shard_shape((25088, 4096)) == (25088 // 2, 4096 // 4)  # rows over `data`, of two
    assert rows.shard_shape((4096, 4096)) == (4096 // 4, 4096 // 2)
    assert vgg16(model=4).params["backbone"]["top"]["dense"][0]["kernel"].sharding.shard_shape((25088, 4096)) == (
        25088,
        1024,
    )
    first = vgg16(model=4).params["backbone"]["trunk"]["convs"][1]["kernel"].sharding
    assert first.is_fully_replicated


@pytest.mark.parametrize(
    ("path", "shape", "options", "expected"),
    [
        ("convs/0/kernel", (127, 129), {"data": 8}, ()),  # neither is a multiple of eight
        ("convs/0/kernel", (3, 3, 256, 512), {"data": 8}, (None, None, None, "data")),
        ("convs/0/kernel", (3, 3, 512, 256), {"data": 8}, (None, None, "data", None)),
        ("heads/age/kernel", (4096, 101), {"data": 8}, ("data", None)),
        ("dense/0/kernel", (128, 127), {"data": 8}, ()),  # too small
        ("dense/2/kernel", (512, 512), {"model": 2}, (None, "model")),
        ("dense/3/kernel", (512, 512), {"model": 2}, ("model", None)),
        ("dense/3/kernel", (512, 512), {"model": 3}, ()),
        ("parts/age/dense/1/kernel", (512, 256), {"data": 2, "model": 2}, ("model", "data")),
        ("heads/dense_norms/1/kernel", (512, 512), {"model": 2}, ()),
        ("dense/0/bias", (2**15,), {"data": 2, "model": 2}, ("data",)),
        ("step", (), {"data": 8, "model": 2}, ()),
    ],
)
def test_rules(path: str, shape: tuple[int, ...], options: dict[str, int], expected: tuple[str | None, ...]) -> None:
    assert split_axes(path, shape, **options) == expected


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_what_follows_a_parameter_lies_as_it_does(small_recipe: ConfigDict, name: str) -> None:
    small_recipe.optimizer.update(name=name, clip_norm=1.0)
    small_recipe.compute.update(fsdp=True, model=2)
    state = abstract(small_recipe)
    places = {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf.sharding.spec
        for path, leaf in jax.tree.leaves_with_path(state.params)
    }
    followers = 0
    for path, leaf in jax.tree.leaves_with_path((state.opt_state, state.average)):
        end = jax.tree_util.keystr(path, simple=True, separator="/")
        found = next((name for name in places if end.endswith("/" + name)), None)
        if found is not None:
            followers += 1
            assert leaf.sharding.spec == places[found], end
    assert followers == (2 if name == "sgd" else 3) * len(places)
    assert sum(any(spec) for spec in places.values()) == 4 + 2 + 1  # convolutions, dense layers, the head of age
    both = {tuple(spec) for spec in places.values() if "model" in spec}
    assert both == {("data", "model"), ("model", "data")}


def test_bytes_are_those_that_the_devices_hold() -> None:
    mesh = make_mesh(2)
    tree = {
        "dense": {0: {"kernel": np.ones((256, 512), np.float32), "bias": np.ones(512, np.float16)}},
        "count": np.int32(3),
    }
    placed = jax.device_put(tree, state_shardings(tree, mesh, fsdp=True))
    for device in jax.devices():
        held = [shard.data for leaf in jax.tree.leaves(placed) for shard in leaf.addressable_shards]
        mine = sum(piece.nbytes for piece in held if device in piece.devices())
        assert mine == bytes_per_device(placed) == 4 * 256 * 512 // 8 + 2 * 512 + 4
    assert math.prod(mesh.shape.values()) == 8
