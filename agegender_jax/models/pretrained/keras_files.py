"""Reads the weights that Keras wrote: `.h5` (Keras 2 and 3), `.weights.h5` and `.keras` (Keras 3).

All are HDF5, the last within a zip archive. HDF5 can point to other files, and can unfold; Keras uses neither, and
here both are refused.
"""

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from agegender_jax.models.pretrained.torch_files import Refused

_WITHIN = "model.weights.h5"
"""The weights in a `.keras` archive."""

_NORM = ("gamma", "beta", "moving_mean", "moving_variance")

_MAX_NAME = 1024
_MAX_DEPTH = 32
_MAX_OBJECTS = 100_000
"""Of a name in characters, of groups within each other, of groups and arrays; ResNet101's file has about 2,000."""


def read(path: Path) -> dict[str, np.ndarray]:
    """Reads the weights by name, as they are stored: `LAYER/kernel`, `/bias`, `/gamma`, `/beta`, `/moving_mean`, ...

    The file may be of weights or of a whole model, of whose optimizer nothing is read.

    Raises:
      Refused: the file points to other files or is compressed.
      ValueError: the file is damaged, or something else.
    """
    try:
        with h5py.File(_hdf5(path), "r") as file:
            return _read(file)
    except (KeyError, RuntimeError, TypeError, AttributeError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"it is damaged ({type(error).__name__}: {error})") from error


def _hdf5(path: Path) -> Any:
    """Returns the HDF5 file: the path itself, or the member of the archive."""
    if not zipfile.is_zipfile(path):
        return path
    with zipfile.ZipFile(path) as archive:
        member = archive.getinfo(_WITHIN)
        if member.compress_type != zipfile.ZIP_STORED or member.file_size > path.stat().st_size:
            raise Refused("its members are compressed, which Keras never does")
        return io.BytesIO(archive.read(member))


def _read(file: Any) -> dict[str, np.ndarray]:
    datasets, groups = _walked(file)
    layers = _by_numbers(datasets, groups) or _by_names(datasets)
    if not layers:
        raise ValueError("it holds no weights of Keras' layers")
    total = sum(_checked(dataset).nbytes for arrays in layers.values() for dataset in arrays.values())
    if total > file.id.get_filesize():
        raise Refused("its arrays overlap")
    named = {layer: _leaves(arrays) for layer, arrays in layers.items()}
    return {f"{layer}/{leaf}": dataset[()] for layer, arrays in named.items() for leaf, dataset in arrays.items()}


def _walked(file: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns datasets and groups by path. HDF5's own walk overflows the stack where groups are deeply nested."""
    datasets: dict[str, Any] = {}
    groups: dict[str, Any] = {}
    waiting = [("", file)]
    while waiting:
        prefix, group = waiting.pop()
        for name in group:
            path = f"{prefix}{name}"
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise Refused(f"{path!r} points elsewhere, which stored weights do not need")
            if path.count("/") > _MAX_DEPTH or len(path) > _MAX_NAME or len(datasets) + len(groups) >= _MAX_OBJECTS:
                raise Refused("its groups are too many or too deep within each other for stored weights")
            item = group[name]
            if isinstance(item, h5py.Dataset):
                datasets[path] = item
            elif isinstance(item, h5py.Group):
                groups[path] = item
                waiting.append((f"{path}/", item))
    return datasets, groups


def _by_names(datasets: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Reads the form of `.h5`: `LAYER/.../kernel:0`, in a whole model's file below `model_weights`.

    Attributes list the same names again. They are not read: their texts may all be one and the same in the file, and
    fill the memory when they are read.
    """
    prefix = "model_weights/" if any(path.startswith("model_weights/") for path in datasets) else ""
    layers: dict[str, dict[str, Any]] = {}
    for path, dataset in datasets.items():
        layer, slash, array = path.removeprefix(prefix).partition("/")
        if path.startswith(prefix) and slash:
            layers.setdefault(layer, {})[array] = dataset
    return layers


def _by_numbers(datasets: Mapping[str, Any], groups: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Reads the form of `.weights.h5`: each layer has a group `vars`, with its name and its arrays by number."""
    layers: dict[str, dict[str, Any]] = {}
    for path, group in groups.items():
        if path.rpartition("/")[2] != "vars" or path.startswith("optimizer/") or not len(group):
            continue
        if "name" not in group.attrs:
            raise ValueError("its layers have numbers but no names; save it again with a newer Keras, or as .h5")
        attribute = group.attrs.get_id("name")
        if attribute.shape != () or attribute.get_type().get_size() > _MAX_NAME:
            raise Refused(f"the name of {path!r} is not one short text")
        layer = str(group.attrs["name"])
        if len(layer) > _MAX_NAME:
            raise Refused(f"the name of {path!r} has {len(layer)} characters")
        if layer in layers:
            raise ValueError(f"two of its layers are called {layer!r}")
        layers[layer] = {str(number): datasets[f"{path}/{number}"] for number in range(len(group))}
    return layers


def _checked(dataset: Any) -> Any:
    """Checks that a dataset lies in the file as it is: not in another file, not compressed, not to be filled in."""
    elsewhere = dataset.external or dataset.is_virtual or dataset.id.get_create_plist().get_nfilters()
    if dataset.dtype.kind not in "fiu" or elsewhere or dataset.id.get_storage_size() != dataset.nbytes:
        raise Refused(f"{dataset.name!r} is compressed, in another file, or no array of numbers")
    return dataset


def _leaves(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Names the arrays of a layer.

    Keras 2's names differ between versions (`b_1:0` is a bias); so a kernel and its bias are known by their ranks. The
    four of a normalisation have telling names in `.h5`, and in `.weights.h5` an order, as in Keras' own loading.
    """
    kernels = [array for array in arrays.values() if array.ndim > 1]
    vectors = [array for array in arrays.values() if array.ndim == 1]
    if len(kernels) == 1 and len(vectors) <= 1 and len(arrays) == 1 + len(vectors):
        return dict(zip(("kernel", "bias"), kernels + vectors, strict=False))
    if list(arrays) == ["0", "1", "2", "3"] and len(vectors) == 4:
        return dict(zip(_NORM, vectors, strict=True))
    short = {name.rpartition("/")[2].partition(":")[0]: array for name, array in arrays.items()}
    return short if len(short) == len(arrays) else dict(arrays)
