"""How a training state lies on the devices of a mesh `(data, model)`: the part of each array that each device holds.

The rules go by an array's path and shape alone. What follows a parameter (the optimizer's moments, the average) has its
shape and a path that ends as its path does, and so lies as it does.

- Tensor parallelism, where the axis `model` is longer than 1: of the dense layers that follow each other in a list
  `dense` (VGG, AlexNet, the small CNNs), the kernels of the first, third, ... are split by columns over `model`, those
  of the second, fourth, ... by rows, as in Shoeybi et al. 2019 ("Megatron-LM"): between the two each device has its
  share of the features, and there is one sum over the devices for each pair.
- FSDP, where it is asked for: every array is split over `data` along its longest axis that the number of devices
  divides and that is not split yet (of equal ones, the last).

Arrays of fewer than `LEAST` numbers (biases, normalisation) are copied to every device, and so is an axis that the
number of devices does not divide.
"""

import math
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

LEAST = 2**14
"""Numbers in the smallest array that is split: to gather a smaller one costs more than it saves."""

_DENSE_KERNEL = re.compile(r"(?:^|/)dense/(\d+)/kernel$")

_DONE_AGAIN = ("sharding_constraint", "convert_element_type", "reshape", "transpose")


def state_shardings(tree: Any, mesh: Mesh, *, fsdp: bool = False) -> Any:
    """Where each array of a tree lies.

    Args:
      tree: of arrays or their shapes: parameters, or a whole training state.
      mesh: with the axes `data` and `model`.
      fsdp: whether arrays are also split over `data`. Without, they lie as the layers use them.

    Returns:
      The same tree of `NamedSharding`.
    """

    def of_leaf(path: Any, leaf: Any) -> NamedSharding:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        axes = split_axes(name, leaf.shape, data=mesh.shape["data"] if fsdp else 1, model=mesh.shape["model"])
        return NamedSharding(mesh, PartitionSpec(*axes))

    return jax.tree_util.tree_map_with_path(of_leaf, tree)


def split_axes(path: str, shape: tuple[int, ...], *, data: int = 1, model: int = 1) -> tuple[str | None, ...]:
    """The axis of the mesh that each of an array's axes is split over, as `PartitionSpec` takes it.

    Args:
      path: such as `params/backbone/top/dense/0/kernel`.
      shape: of the array.
      data: devices to split over by FSDP; 1 is none.
      model: devices to split the dense layers over.

    >>> split_axes("backbone/top/dense/0/kernel", (25088, 4096), model=2)
    (None, 'model')
    >>> split_axes("backbone/top/dense/1/kernel", (4096, 4096), data=4, model=2)
    ('model', 'data')
    >>> split_axes("backbone/trunk/convs/1/kernel", (3, 3, 64, 64), data=8)
    (None, None, None, 'data')
    >>> split_axes("backbone/trunk/convs/1/bias", (64,), data=8)
    ()
    """
    if math.prod(shape) < LEAST:
        return ()
    axes: list[str | None] = [None] * len(shape)
    found = _DENSE_KERNEL.search(path)
    if found and model > 1:
        axis = 0 if int(found[1]) % 2 else 1
        if shape[axis] % model == 0:
            axes[axis] = "model"
    free = [axis for axis, length in enumerate(shape) if axes[axis] is None and length % data == 0]
    if free and data > 1:
        axes[max(free, key=lambda axis: (shape[axis], axis))] = "data"
    return tuple(axes) if any(axes) else ()


def bytes_per_device(tree: Any) -> int:
    """Bytes of a tree's arrays that one device holds, from their shapes and shardings alone."""
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * _itemsize(leaf) for leaf in jax.tree.leaves(tree))


def total_bytes(tree: Any) -> int:
    """Bytes of a tree's arrays, each counted once."""
    return sum(math.prod(leaf.shape) * _itemsize(leaf) for leaf in jax.tree.leaves(tree))


def _itemsize(leaf: Any) -> int:
    return np.dtype(leaf.dtype).itemsize


def fsdp_loss(loss_of: Callable[..., Any], mesh: Mesh) -> Callable[..., Any]:
    """A loss of parameters that lie split over `data`, from one of whole parameters, for `jax.value_and_grad`.

    Each parameter is gathered where a layer needs it, and again for the gradient instead of being kept until then, and
    each gradient is summed into the device that holds its part (Rajbhandari et al. 2020, "ZeRO", stage 3). Left to
    itself the compiler may gather the activations instead.

    Args:
      loss_of: its first argument are the parameters.
      mesh: that they lie on.
    """

    def of_whole(params: Any, *arguments: Any) -> Any:
        return loss_of(jax.lax.with_sharding_constraint(params, state_shardings(params, mesh)), *arguments)

    def of_split(params: Any, *arguments: Any) -> Any:
        split = jax.tree.map(_gradient_lies_as, params, state_shardings(params, mesh, fsdp=True))
        return jax.checkpoint(of_whole, policy=_keep)(split, *arguments)

    return of_split


def _keep(primitive: Any, *_: Any, **__: Any) -> bool:
    """Whether what an operation returned is kept for the gradient: all but gathered parameters and views of them."""
    return primitive.name not in _DONE_AGAIN


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _gradient_lies_as(array: jax.Array, sharding: NamedSharding) -> jax.Array:
    return array


def _forward(array: jax.Array, sharding: NamedSharding) -> tuple[jax.Array, None]:
    return array, None


def _backward(sharding: NamedSharding, _: None, gradient: jax.Array) -> tuple[jax.Array]:
    return (jax.lax.with_sharding_constraint(gradient, sharding),)


_gradient_lies_as.defvjp(_forward, _backward)
