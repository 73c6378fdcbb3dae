"""Sharding of a training state over a mesh `(data, model)`: which part of each array each device holds.

The rules read an array's path and shape alone. The optimizer's moments and the average of a parameter have its shape
and a path that ends as its path does, and so are sharded as it is.

- Tensor parallelism, where the axis `model` is longer than 1: of the dense layers that follow each other in a list
  `dense` (VGG, AlexNet, the small CNNs), the kernels of the first, third, ... are split by columns over `model`, those
  of the second, fourth, ... by rows, as in Shoeybi et al. 2019 ("Megatron-LM"): between the two each device has its
  share of the features, and there is one sum over the devices for each pair.
- FSDP, with `compute.fsdp`: every array is split over `data` along its longest axis that the number of devices divides
  and that is not split yet (of equal ones, the last).

Arrays of fewer than `MIN_SHARDED_SIZE` numbers (biases, normalisation) are copied to every device, and so is an array
without an axis that the number of devices divides.
"""

import math
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

MIN_SHARDED_SIZE = 2**14
"""Numbers in the smallest array that is split: gathering a smaller one costs more than it saves."""

_DENSE_KERNEL = re.compile(r"(?:^|/)dense/(\d+)/kernel$")

_RECOMPUTED = ("sharding_constraint", "convert_element_type", "reshape", "transpose")


def state_shardings(tree: Any, mesh: Mesh, *, fsdp: bool = False) -> Any:
    """Returns the `NamedSharding` of each array of a tree, which may be of shapes.

    With `fsdp` arrays are also split over `data`; without, the shardings are those that the layers compute with.
    """

    def of_leaf(path: Any, leaf: Any) -> NamedSharding:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        axes = split_axes(name, leaf.shape, data=mesh.shape["data"] if fsdp else 1, model=mesh.shape["model"])
        return NamedSharding(mesh, PartitionSpec(*axes))

    return jax.tree_util.tree_map_with_path(of_leaf, tree)


def split_axes(path: str, shape: tuple[int, ...], *, data: int = 1, model: int = 1) -> tuple[str | None, ...]:
    """Returns the axis of the mesh that each of an array's axes is split over, as `PartitionSpec` takes it.

    `data` is the number of devices to split over by FSDP, `model` that to split the dense layers over; 1 is neither.

    >>> split_axes("backbone/top/dense/0/kernel", (25088, 4096), model=2)
    (None, 'model')
    >>> split_axes("backbone/top/dense/1/kernel", (4096, 4096), data=4, model=2)
    ('model', 'data')
    >>> split_axes("backbone/trunk/convs/1/kernel", (3, 3, 64, 64), data=8)
    (None, None, None, 'data')
    >>> split_axes("backbone/trunk/convs/1/bias", (64,), data=8)
    ()
    """
    if math.prod(shape) < MIN_SHARDED_SIZE:
        return ()
    axes: list[str | None] = [None] * len(shape)
    dense = _DENSE_KERNEL.search(path)
    if dense and model > 1:
        axis = 0 if int(dense[1]) % 2 else 1
        if shape[axis] % model == 0:
            axes[axis] = "model"
    free = [axis for axis, length in enumerate(shape) if axes[axis] is None and length % data == 0]
    if free and data > 1:
        axes[max(free, key=lambda axis: (shape[axis], axis))] = "data"
    return tuple(axes) if any(axes) else ()


def bytes_per_device(tree: Any) -> int:
    """Returns the bytes of a tree's arrays that one device holds, from their shapes and shardings alone."""
    return sum(_bytes(leaf, leaf.sharding.shard_shape(leaf.shape)) for leaf in jax.tree.leaves(tree))


def total_bytes(tree: Any) -> int:
    """Returns the bytes of a tree's arrays, each counted once."""
    return sum(_bytes(leaf, leaf.shape) for leaf in jax.tree.leaves(tree))


def _bytes(leaf: Any, shape: tuple[int, ...]) -> int:
    return math.prod(shape) * np.dtype(leaf.dtype).itemsize


def fsdp_loss(loss_of: Callable[..., Any], mesh: Mesh) -> Callable[..., Any]:
    """Makes a loss of sharded parameters from a loss of whole ones, for `jax.value_and_grad`.

    Each parameter is gathered when a layer needs it and gathered again for the gradient instead of being kept, and each
    gradient is reduced to the device that holds its shard (Rajbhandari et al. 2020, "ZeRO", stage 3). Without these
    constraints the compiler may gather the activations instead. The first argument of `loss_of` are the whole
    parameters, and of the result the parameters sharded as by `state_shardings(..., fsdp=True)`.
    """

    def of_whole(params: Any, *arguments: Any) -> Any:
        return loss_of(jax.lax.with_sharding_constraint(params, state_shardings(params, mesh)), *arguments)

    def of_split(params: Any, *arguments: Any) -> Any:
        split = jax.tree.map(_with_gradient_sharding, params, state_shardings(params, mesh, fsdp=True))
        return jax.checkpoint(of_whole, policy=_keep)(split, *arguments)

    return of_split


def _keep(primitive: Any, *_: Any, **__: Any) -> bool:
    """Returns whether an operation's result is kept for the gradient: all but gathered parameters and their views."""
    return primitive.name not in _RECOMPUTED


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _with_gradient_sharding(array: jax.Array, sharding: NamedSharding) -> jax.Array:
    return array


def _backward(sharding: NamedSharding, _: None, gradient: jax.Array) -> tuple[jax.Array]:
    return (jax.lax.with_sharding_constraint(gradient, sharding),)


_with_gradient_sharding.defvjp(lambda array, _: (array, None), _backward)
