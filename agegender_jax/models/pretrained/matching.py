"""Puts arrays that were read into a model's trees, by name and shape: nothing missing, nothing left over."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from agegender_jax.errors import UserError
from agegender_jax.models.registry import WeightFormat

_OURS = ("kernel", "scale", "bias", "mean", "var")
TORCH_LEAVES = dict(zip(_OURS, ("weight", "weight", "bias", "running_mean", "running_var"), strict=True))
KERAS_LEAVES = dict(zip(_OURS, ("kernel", "gamma", "bias", "moving_mean", "moving_variance"), strict=True))
"""PyTorch's and Keras' names of our arrays; `bias` of a normalisation is Keras' `beta`."""

Path = tuple[str, ...]
_SHOWN = 5


def flatten(tree: Mapping[Any, Any], prefix: Path = ()) -> dict[Path, Any]:
    """Returns the leaves of nested dictionaries by path; numbers in a path become text.

    >>> flatten({"convs": {0: {"kernel": 1.0}}})
    {('convs', '0', 'kernel'): 1.0}
    """
    leaves: dict[Path, Any] = {}
    for key, value in tree.items():
        path = (*prefix, str(key))
        leaves |= flatten(value, path) if isinstance(value, Mapping) else {path: value}
    return leaves


def replaced(tree: Mapping[Any, Any], leaves: Mapping[Path, Any], prefix: Path = ()) -> dict[Any, Any]:
    """Returns a new tree with the leaves at these paths replaced; the others are the same objects."""
    return {
        key: replaced(value, leaves, (*prefix, str(key)))
        if isinstance(value, Mapping)
        else leaves.get((*prefix, str(key)), value)
        for key, value in tree.items()
    }


def match(
    arrays: Mapping[str, np.ndarray], keras: bool, names: WeightFormat, wanted: Mapping[Path, Any], where: str
) -> dict[Path, np.ndarray]:
    """Assigns the arrays of a file, by name, to the leaves of our trees, by path.

    Names and layouts are Keras' where `keras`, else PyTorch's. `wanted` are our leaves (anything with a `shape`),
    parameters and statistics together; `where` is the file, for the messages.

    Returns:
      float32 arrays of our shapes for every leaf of the backbone, except a top that the file does not have.

    Raises:
      UserError: lists what is missing, left over, or of another shape.
    """
    separator = "/" if keras else "."
    by_layer: dict[str, dict[str, str]] = {}
    for name in arrays:
        layer, _, leaf = name.rpartition(separator)
        by_layer.setdefault(layer, {})[leaf] = name
    has_dense = any(layer in by_layer for layer in names.dense)
    matched: dict[Path, np.ndarray] = {}
    missing: list[str] = []
    used: set[str] = set()
    for path, leaf in wanted.items():
        if path[0] != "backbone":
            continue
        published_top = path[1:3] == ("top", "dense") and len(path) == 5
        if path[1] == "top" and not (published_top and has_dense):
            continue
        leaves = next((by_layer[name] for name in names.layer_names(path[1:-1]) if name in by_layer), {})
        name = leaves.get(_leaf_name(path, keras, leaves), "")
        if not name:
            missing.append("/".join(path))
            continue
        used.add(name)
        array = arrays[name].astype(np.float32, copy=False)
        if keras and path[-1] == "mean" and (bias := _bias_before(path, names, by_layer)):
            # Normalising x + b by a mean of m is normalising x by m - b.
            array = array - arrays[bias].astype(np.float32, copy=False)
            used.add(bias)
        matched[path] = _fitted(array, keras, path, tuple(leaf.shape), names.grid, f"{name!r} of {where}")
    top_used = any(path[1] == "top" for path in matched)
    spare = {*names.classifier, *(() if top_used else names.dense)}
    left = [
        name
        for layer, leaves in by_layer.items()
        if layer not in spare
        for leaf, name in leaves.items()
        if name not in used and leaf != "num_batches_tracked"
    ]
    if missing or left:
        raise UserError(
            f"{where} does not hold this net: {listed(missing, 'without a counterpart in the file')} and "
            f"{listed(map(repr, left), 'left over in the file')}; choose the backbone that the file is of."
        )
    return matched


def _leaf_name(path: Path, keras: bool, leaves: Mapping[str, str]) -> str:
    if not keras:
        return TORCH_LEAVES[path[-1]]
    return "beta" if path[-1] == "bias" and "gamma" in leaves else KERAS_LEAVES[path[-1]]


def _bias_before(path: Path, names: WeightFormat, by_layer: Mapping[str, Mapping[str, str]]) -> str | None:
    """Returns the bias of the convolution before a normalisation, which ours does not have."""
    for name in names.layer_names((*path[1:-2], "conv")):
        return by_layer.get(name, {}).get("bias")
    return None


def _fitted(array: np.ndarray, keras: bool, path: Path, shape: tuple[int, ...], grid: int, name: str) -> np.ndarray:
    """Returns the array in our layout.

    Convolutions are stored out, in, height, width by PyTorch and height, width, in, out by Keras and by us; dense
    layers out, in by PyTorch and in, out by the others. The first dense layer sees a map that PyTorch flattens
    channels first; it is `grid` pixels wide and high.
    """
    dense = path[1] == "top"
    first = dense and path[-2] == "0"
    if not keras and array.ndim == 4:
        array = array.transpose(2, 3, 1, 0)  # a depthwise one has one channel in
        if first and array.shape[:2] != (grid, grid):
            raise UserError(f"{name} is of a map of {array.shape[:2]} pixels, not {(grid, grid)}; give another file.")
        if dense:  # timm keeps VGG's dense layers as convolutions
            array = array.reshape(-1, array.shape[-1])
    elif not keras and array.ndim == 2:
        array = _channels_last(array, grid, name) if first else array.T
    if array.shape != shape:
        way = (
            ": on images of this size the map before it is smaller than the published one; choose a larger "
            "config.dataset.image_size (224 is the published one), or config.model.pooling=average"
            if dense
            else "; choose the backbone, its variant and its width as the file has them"
        )
        raise UserError(f"{name} has the shape {array.shape}, and {'/'.join(path)} has {shape}{way}.")
    if not np.isfinite(array).all():
        raise UserError(f"{name} holds numbers that are not finite; give another file.")
    return np.ascontiguousarray(array)


def _channels_last(array: np.ndarray, grid: int, name: str) -> np.ndarray:
    """Converts `[out, channels * grid * grid]` to `[grid * grid * channels, out]`."""
    channels, rest = divmod(array.shape[1], grid * grid)
    if rest:
        raise UserError(
            f"{name} has {array.shape[1]} inputs, which are no channels of {grid}x{grid}; give another file."
        )
    return array.reshape(-1, channels, grid, grid).transpose(2, 3, 1, 0).reshape(-1, len(array))


def listed(names: Iterable[str], what: str) -> str:
    """Counts names and lists the first: "7 left over (a, b, c, d, e and 2 more)"."""
    names = list(names)
    if not names:
        return f"nothing is {what}"
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{len(names)} {what} ({', '.join(names[:_SHOWN])}{more})"
