"""Devices as a mesh with the axes `data` and `model`, and how arrays lie on it."""

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, Sharding

from agegender_jax.errors import UserError


def make_mesh(model: int = 1) -> Mesh:
    """Returns all devices, those of other processes too, as a mesh `(data, model)`.

    One copy of the model is spread over `model` devices; a number of devices that is no multiple of it is a UserError.
    """
    count = jax.device_count()
    if count % model:
        raise UserError(
            f"config.compute.model={model} does not divide the {count} devices here; choose a divisor of {count}."
        )
    # Auto, not the default Explicit: the compiler propagates shardings through the layers by itself.
    return jax.make_mesh((count // model, model), ("data", "model"), axis_types=(AxisType.Auto, AxisType.Auto))


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of a whole copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def by_batch(mesh: Mesh, axis: int = 0) -> NamedSharding:
    """Returns the sharding over the `data` axis along the array's axis number `axis`."""
    return NamedSharding(mesh, PartitionSpec(*([None] * axis), "data"))


def put(array: np.ndarray, sharding: Sharding) -> jax.Array:
    """Puts an array that every process has whole on the devices; each process puts its own devices' part.

    `jax.device_put` would, with several processes, first compare what they have, which costs an exchange of it all.

    >>> put(np.arange(6), replicated(make_mesh())).tolist()
    [0, 1, 2, 3, 4, 5]
    """
    if sharding.is_fully_addressable:
        return jax.device_put(array, sharding)
    with jax.transfer_guard_host_to_device("allow"):  # it is as explicit as `device_put`
        return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def check_batch(mesh: Mesh, batch_size: int) -> None:
    """Raises UserError where a batch cannot be dealt out evenly."""
    count = mesh.shape["data"]
    if batch_size % count:
        raise UserError(
            f"The batch size {batch_size} (config.train.batch_size) cannot be split evenly over {count} devices; "
            f"choose a multiple of {count}."
        )
