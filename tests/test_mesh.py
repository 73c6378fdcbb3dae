"""The mesh on eight simulated devices."""

import jax
import numpy as np
import pytest

from agegender_jax.errors import UserError
from agegender_jax.mesh import by_batch, check_batch, make_mesh, put, replicated


@pytest.mark.parametrize(("model", "data"), [(1, 8), (2, 4), (8, 1)])
def test_mesh_uses_every_device(model: int, data: int) -> None:
    mesh = make_mesh(model)
    assert dict(mesh.shape) == {"data": data, "model": model}
    assert set(mesh.devices.flat) == set(jax.devices())


def test_mesh_that_does_not_divide_the_devices_is_refused() -> None:
    with pytest.raises(UserError, match=r"compute\.model=3 does not divide the 8 devices"):
        make_mesh(3)


def test_replicated_puts_the_whole_array_on_every_device() -> None:
    array = np.arange(6.0)
    shards = jax.device_put(array, replicated(make_mesh())).addressable_shards
    assert len(shards) == 8
    for shard in shards:
        np.testing.assert_array_equal(shard.data, array)


@pytest.mark.parametrize("axis", [0, 1])
def test_by_batch_deals_out_the_axis_in_order(axis: int) -> None:
    array = np.arange(32).reshape((16, 2) if axis == 0 else (2, 16))
    placed = put(array, by_batch(make_mesh(), axis))
    for number, shard in enumerate(placed.addressable_shards):
        expected = np.take(array, [2 * number, 2 * number + 1], axis)
        np.testing.assert_array_equal(shard.data, expected)


def test_by_batch_copies_over_the_model_axis() -> None:
    placed = jax.device_put(np.arange(8), by_batch(make_mesh(2)))
    pieces = [np.asarray(shard.data).tolist() for shard in placed.addressable_shards]
    assert sorted(pieces) == sorted([[0, 1], [2, 3], [4, 5], [6, 7]] * 2)


def test_batch_must_be_a_multiple_of_the_data_axis() -> None:
    check_batch(make_mesh(), 16)
    check_batch(make_mesh(2), 12)  # four ways, not eight
    with pytest.raises(UserError, match=r"batch size 12 .*config\.train\.batch_size"):
        check_batch(make_mesh(), 12)
