"""Reads the weights that Keras wrote: `.h5` (Keras 2 and 3), `.weights.h5` and `.keras` (Keras 3).

All are HDF5, the last within a zip archive. HDF5 can point to other files, and can unfold; Keras uses neither, and
here both are refused.
"""

import io
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from agegender_jax.models.pretrained.torch_files import Refused

_WITHIN = "model.weights.h5"
"""The weights in a `.keras` archive."""


def read(path: Path) -> dict[str, np.ndarray]:
    """The weights by name, as they are stored: `LAYER/kernel`, `/bias`, `/gamma`, `/beta`, `/moving_mean`, ...

    Args:
      path: of a file of weights or of a whole model; of a model's optimizer nothing is read.

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
    """The HDF5 file: the path itself, or what lies in the archive."""
    if not zipfile.is_zipfile(path):
        return path
    with zipfile.ZipFile(path) as archive:
        member = archive.getinfo(_WITHIN)
        if member.compress_type != zipfile.ZIP_STORED or member.file_size > path.stat().st_size:
            raise Refused("its parts are compressed, which Keras never does")
        return io.BytesIO(archive.read(member))


def _read(file: Any) -> dict[str, np.ndarray]:
    datasets: dict[str, Any] = {}
    groups: dict[str, Any] = {}

    def collect(name: str, item: Any) -> None:
        (datasets if isinstance(item, h5py.Dataset) else groups)[name] = item

    # Visiting stops at the first name that is returned.
    elsewhere = file.visititems_links(lambda name, link: None if isinstance(link, h5py.HardLink) else name)
    if elsewhere is not None:
        raise Refused(f"{elsewhere} points elsewhere, which stored weights do not need")
    file.visititems(collect)
    layers = _by_names(file, datasets, groups) or _by_numbers(datasets, groups)
    if not layers:
        raise ValueError("it holds no weights of Keras' layers")
    total = sum(_checked(dataset).nbytes for several in layers.values() for dataset in several)
    if total > file.id.get_filesize():
        raise Refused("its arrays overlap")
    return {
        f"{layer}/{leaf}": dataset[()]
        for layer, several in layers.items()
        for leaf, dataset in zip(_leaf_names(several), several, strict=True)
    }


def _by_names(file: Any, datasets: Mapping[str, Any], groups: Mapping[str, Any]) -> dict[str, list[Any]]:
    """The form of `.h5`: attributes list the layers, and each layer's arrays in order."""
    prefix = "model_weights/" if "model_weights" in groups else ""
    layers = {}
    for layer in _listed(groups["model_weights"] if prefix else file, "layer_names"):
        names = _listed(groups[prefix + layer], "weight_names")
        if names:
            layers[layer] = [datasets[f"{prefix}{layer}/{name}"] for name in names]
    return layers


def _listed(group: Any, name: str) -> list[str]:
    """A list of names among the attributes; Keras cuts a long one into `name0`, `name1`, ..."""
    if name in group.attrs:
        parts: Iterable[str] = (name,)
    else:
        parts = sorted((key for key in group.attrs if key.startswith(name)), key=lambda key: (len(key), key))
    texts = [text for part in parts for text in np.asarray(group.attrs[part]).ravel().tolist()]
    return [text.decode() if isinstance(text, bytes) else str(text) for text in texts]


def _by_numbers(datasets: Mapping[str, Any], groups: Mapping[str, Any]) -> dict[str, list[Any]]:
    """The form of `.weights.h5`: each layer has a group `vars`, with its name and its arrays by number."""
    layers: dict[str, list[Any]] = {}
    for path, group in groups.items():
        if path.rpartition("/")[2] != "vars" or path.startswith("optimizer/") or not len(group):
            continue
        if "name" not in group.attrs:
            raise ValueError("its layers have numbers but no names; save it again with a newer Keras, or as .h5")
        layer = str(group.attrs["name"])
        if layer in layers:
            raise ValueError(f"two of its layers are called {layer}")
        layers[layer] = [datasets[f"{path}/{number}"] for number in range(len(group))]
    return layers


def _checked(dataset: Any) -> Any:
    """A dataset that lies in the file as it is: not in another file, not compressed, not to be filled in."""
    plain = (
        dataset.dtype.kind in "fiu"
        and not dataset.external
        and not dataset.is_virtual
        and dataset.id.get_create_plist().get_nfilters() == 0
        and dataset.id.get_storage_size() == dataset.nbytes
    )
    if not plain:
        raise Refused(f"{dataset.name} is compressed, in another file, or no array of numbers")
    return dataset


def _leaf_names(arrays: list[Any]) -> list[str]:
    """What the arrays of a layer are, which Keras tells by their order alone (as its own loading does)."""
    ranks = [array.ndim for array in arrays]
    if ranks == [1, 1, 1, 1]:
        return ["gamma", "beta", "moving_mean", "moving_variance"]
    if ranks and ranks[0] > 1 and ranks[1:] in ([], [1]):
        return ["kernel", "bias"][: len(ranks)]
    return [str(number) for number in range(len(ranks))]
