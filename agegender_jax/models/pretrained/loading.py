"""From a source of weights to a model's trees."""

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import safetensors
from safetensors.numpy import load_file

from agegender_jax.errors import UserError
from agegender_jax.models.backbones import BACKBONES
from agegender_jax.models.pretrained import keras_files, torch_files
from agegender_jax.models.pretrained.matching import flatten, listed, match, replaced
from agegender_jax.models.pretrained.sources import Weights, locate
from agegender_jax.models.registry import Normalization, WeightFormat

WRAPPERS = ("module", "model", "_orig_mod", "backbone")
"""What stands before all names where a network was wrapped; no network of the registry has names that begin so."""


def normalization(source: str, backbone: str) -> Normalization:
    """Returns the mean and the standard deviation that weights (no run's directory) expect of the input.

    Raises:
      UserError: there are no such weights.
    """
    return _format(locate(source, backbone), backbone).normalization


def metadata(
    source: str,
    backbone: str,
    params: Mapping[Any, Any] | None = None,
    loaded: Mapping[Any, Any] | None = None,
    prefix: str = "",
) -> dict[str, str]:
    """Describes the source of pretrained weights, not a run's directory, as a run records it.

    With the `params` that were given to `load` and those that it returned, `loaded`, the description names what stayed
    fresh; with the `prefix` that it returned, what it left out of the names.

    Returns:
      `source`, `file`, `sha256`, and a `description` of one line.

    Raises:
      UserError: there are no such weights.
    """
    weights = locate(source, backbone)
    kind = {"keras": "Keras", "torch": "PyTorch", "safetensors": "safetensors"}[weights.kind]
    mean, std = (" ".join(f"{value:.3g}" for value in values) for values in _format(weights, backbone).normalization)
    fresh = "the heads, and a top that the file does not have"
    if params is not None and loaded is not None:
        fresh = ", ".join(_unchanged(params, loaded)) or "none"
    return {
        "source": source,
        "file": weights.path.name,
        "sha256": weights.sha256(),
        "description": f"{backbone} from {weights.path.name} ({kind}), of input less mean {mean} over {std}; "
        f"fresh: {fresh}" + (f"; the names begin with {prefix}, which is left out" if prefix else ""),
    }


def _unchanged(params: Mapping[Any, Any], loaded: Mapping[Any, Any]) -> list[str]:
    """Returns what loading left as it was: `backbone/top`, `heads/NAME`."""
    after = flatten(loaded)
    return sorted({"/".join(path[:2]) for path, leaf in flatten(params).items() if after[path] is leaf})


def load(
    source: str, backbone: str, params: Mapping[Any, Any], stats: Mapping[Any, Any], *, variant: str = ""
) -> tuple[dict[Any, Any], dict[Any, Any], str]:
    """Puts the weights of a file into the backbone of a model's trees.

    The heads stay as they are, and so does a top that is not the published one or that the file does not have.

    `source` is not a run's directory, whose trees `load_tree` takes. `params` and `stats` are nested dictionaries from
    `models.model.split_model`, of arrays or, to see whether they match, shapes.

    Returns:
      New trees, float32: `(params, stats)`; what stayed as it was is the same object. And the prefix that all names in
      the file had, which is left out: a wrapper's, such as `module.`; "" if there is none.

    Raises:
      UserError: the file cannot be read, asks for code, or does not hold this net, leaf by leaf.
    """
    weights = locate(source, backbone)
    stored = _format(weights, backbone).variant
    if stored and BACKBONES[backbone].variant(variant) != stored:  # variants may differ where no shape shows it
        raise UserError(f"{weights.path} holds the variant {stored} of {backbone}; set config.model.variant={stored}.")
    arrays, prefix = without_prefix(_read(weights))
    return *put(arrays, weights, backbone, params, stats), prefix


def without_prefix(arrays: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], str]:
    """Leaves out what wrappers of networks put before all names: PyTorch's DDP and `compile`, Lightning, own classes.

    >>> without_prefix({"module.model.conv1.weight": np.ones(1), "module.model.fc.bias": np.ones(1)})
    ({'conv1.weight': array([1.]), 'fc.bias': array([1.])}, 'module.model.')
    """
    prefix, names = "", list(arrays)
    while names and (first := names[0].partition(".")[0]) in WRAPPERS:
        if not all(name.startswith(f"{first}.") for name in names):
            break
        prefix, names = f"{prefix}{first}.", [name.removeprefix(f"{first}.") for name in names]
    return dict(zip(names, arrays.values(), strict=True)), prefix


def put(
    arrays: Mapping[str, np.ndarray],
    weights: Weights,
    backbone: str,
    params: Mapping[Any, Any],
    stats: Mapping[Any, Any],
) -> tuple[dict[Any, Any], dict[Any, Any]]:
    """Does as `load` does, with the arrays that were read from a file of weights; raises UserError as it does."""
    keras = weights.kind == "keras"
    names = _format(weights, backbone)
    leaves = match(arrays, keras, names, flatten(params) | flatten(stats), str(weights.path))
    if keras:
        first = next(path for path, leaf in leaves.items() if leaf.ndim == 4 and leaf.shape[2] == 3)
        leaves[first] = np.ascontiguousarray(leaves[first][:, :, ::-1])  # Keras' nets see blue first
    return replaced(params, leaves), replaced(stats, leaves)


def _format(weights: Weights, backbone: str) -> WeightFormat:
    """Returns how such files name the layers of a backbone."""
    keras = weights.kind == "keras"
    formats = {name: spec.keras if keras else spec.torch for name, spec in BACKBONES.items()}
    names = formats.get(backbone)
    if names is None:
        known = ", ".join(name for name, value in formats.items() if value)
        raise UserError(
            f"{weights.path} is of {'Keras' if keras else 'PyTorch'}, whose names for the layers of {backbone} are not "
            f"known; they are known for: {known}."
        )
    return names


def _read(weights: Weights) -> dict[str, np.ndarray]:
    readers: Mapping[str, Callable[[Path], dict[str, np.ndarray]]] = {
        "keras": keras_files.read,
        "torch": torch_files.read,
        "safetensors": _read_safetensors,
    }
    try:
        return readers[weights.kind](weights.path)
    except torch_files.Refused as error:
        raise UserError(
            f"{weights.path} is refused: {_one_line(error)}; nothing of it was run. Save the weights alone, as in "
            "torch.save(model.state_dict(), FILE), or with safetensors; use files from sources that you trust."
        ) from error
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise UserError(f"{weights.path} cannot be read as weights: {_one_line(error)}; give another file.") from error


def _one_line(error: Exception) -> str:
    """Returns an error's message without the line breaks and control characters that a file may have put into it."""
    text = "".join(character if character.isprintable() else " " for character in str(error)[:1000])
    return " ".join(text.split())[:300]


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    try:
        return load_file(path)
    except (KeyError, TypeError) as error:  # a dtype that NumPy does not have
        raise ValueError(str(error)) from error


def load_tree(
    source_params: Mapping[Any, Any],
    source_stats: Mapping[Any, Any],
    params: Mapping[Any, Any],
    stats: Mapping[Any, Any],
    *,
    skip: Collection[str] = (),
) -> tuple[dict[Any, Any], dict[Any, Any], str]:
    """Puts the weights of another model of this project into a model's trees.

    The backbone must match leaf by leaf. A head is taken where all its leaves match and its name is not in `skip` (as
    of heads that mean something else in the other model), and stays as it is otherwise. Trees are nested dictionaries
    of arrays or, to see whether they match, of shapes.

    Returns:
      New trees, float32, and one line that names the heads that were taken.

    Raises:
      UserError: the backbones differ; lists where.
    """
    theirs = flatten(source_params) | flatten(source_stats)
    ours = flatten(params) | flatten(stats)
    heads = {path[:2] for path in ours if path[0] == "heads"}
    taken = {head for head in heads if head[1] not in skip and _shapes(theirs, head) == _shapes(ours, head)}
    theirs_below, ours_below = (_shapes(leaves, ("backbone",)) for leaves in (theirs, ours))
    different = sorted(
        "/".join(path)
        for path in theirs_below.keys() | ours_below.keys()
        if theirs_below.get(path) != ours_below.get(path)
    )
    if different:
        raise UserError(
            f"The weights are of another backbone: {listed(different, 'missing on one side or of another shape')}; use "
            "the same config.model and config.dataset.image_size."
        )
    leaves = {
        path: value if isinstance(value, jax.ShapeDtypeStruct) else np.asarray(value, np.float32)
        for path, value in theirs.items()
        if path[0] == "backbone" or path[:2] in taken
    }
    names = [", ".join(sorted(name for _, name in group)) or "none" for group in (taken, heads - taken)]
    return replaced(params, leaves), replaced(stats, leaves), f"backbone; heads taken: {names[0]}; fresh: {names[1]}"


def _shapes(leaves: Mapping[tuple[str, ...], Any], start: tuple[str, ...]) -> dict[tuple[str, ...], tuple[int, ...]]:
    return {path: tuple(np.shape(leaf)) for path, leaf in leaves.items() if path[: len(start)] == start}
