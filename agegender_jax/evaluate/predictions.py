"""The predictions of a run as a table: all that metrics, intervals, comparisons and reports are computed from.

Every complete run keeps that of its validation and test part as `predictions.npz`, plain arrays, one row an example:

key                   str [n], the example's name in its dataset
part                  str [n], `validation` or `test` of the run's split
column_<name>         [n], see `COLUMNS`
label_<head>          [n], the label of each head; unknown is -1 (classes) or NaN (numbers)
distribution_<head>   float32 [n, ...], what the head predicts
metadata                 str, a JSON object: see `METADATA`
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from agegender_jax import recipe as recipes
from agegender_jax.errors import UserError
from agegender_jax.evaluate.npz import read_arrays, require, write_arrays
from agegender_jax.evaluate.targets import Target, make_targets, measure_targets
from agegender_jax.grouping import connected
from agegender_jax.labels import UNKNOWN
from agegender_jax.models.heads import ClassHead, Columns, Head, build_heads
from agegender_jax.recipe_options import model_options
from agegender_jax.run import Run
from agegender_jax.splits import PARTS, Split

NAME = "predictions.npz"
"""Of the file in a run's directory."""

KEPT_PARTS = ("validation", "test")
"""Of a run's split: their predictions are kept with the run."""

COLUMNS: dict[str, Any] = {
    "age": np.float32,
    "age_low": np.float32,
    "age_high": np.float32,
    "gender": np.int32,
    "race": np.int32,
    "cluster": np.int64,
}
"""What is known of an example besides the labels of heads, see `source.COLUMNS`. Rows of one `cluster` are not
independent: they show or let hear one subject or group, or are one file."""

METADATA: dict[str, type | tuple[type, ...]] = {
    "run": str,
    "dataset": str,
    "synthetic": bool,
    "protocol": str,
    "leaky": bool,
    "age_groups": str,
    "split_sha256": (str, type(None)),
    "evaluated_step": int,
    "flip_averaged": bool,
    "class_names": list,
    "recipe": dict,
}
"""Keys of `metadata`: what the predictions are of, and all that the heads are built from again."""


@dataclasses.dataclass(frozen=True)
class Predictions:
    """The predictions of a run, or the mean of several, for some examples, and what is known of these: one table.

    Attributes:
      key: str `[n]`.
      part: str `[n]`, of `splits.PARTS`; `all` for another archive.
      columns: by the names of `COLUMNS`, `[n]`.
      labels: by head, `[n]`.
      distributions: by head, float32 `[n, ...]`: what `Head.decode` takes.
      heads: by name.
      metadata: see `METADATA`.
    """

    key: np.ndarray
    part: np.ndarray
    columns: Mapping[str, np.ndarray]
    labels: Mapping[str, np.ndarray]
    distributions: Mapping[str, np.ndarray]
    heads: Mapping[str, Head]
    metadata: Mapping[str, Any]

    def __len__(self) -> int:
        return len(self.key)

    def rows(self, chosen: np.ndarray) -> "Predictions":
        """Those of some rows, bool `[n]` or int `[m]`."""
        return dataclasses.replace(
            self,
            key=self.key[chosen],
            part=self.part[chosen],
            columns={name: column[chosen] for name, column in self.columns.items()},
            labels={name: label[chosen] for name, label in self.labels.items()},
            distributions={name: values[chosen] for name, values in self.distributions.items()},
        )

    def of(self, part: str) -> "Predictions":
        """The rows of one part."""
        return self.rows(self.part == part)

    def metrics(self) -> dict[str, float]:
        """Computes the metrics of all targets over all rows, see `measure_targets`."""
        return measure_targets(self.targets())

    def targets(self) -> dict[str, Target]:
        """Returns what is predicted, by name, see `make_targets`."""
        return make_targets(self.heads, self.distributions, self.labels)


def metadata_of(run: Run, summary: Mapping[str, Any]) -> dict[str, Any]:
    """`Predictions.metadata` of a run.

    Args:
      run: the run.
      summary: of the run, or what of it is known before it is written: see `METADATA`.
    """
    recipe = json.loads(recipes.to_json(run.recipe, paths=False))
    own = {"class_names": list(run.metadata().get("class_names", [])), "recipe": recipe}
    return {name: own[name] if name in own else summary[name] for name in METADATA}


def of_split(
    split: Split,
    examples: Columns,
    heads: Mapping[str, Head],
    distributions: Mapping[str, np.ndarray],
    metadata: Mapping[str, Any],
) -> Predictions:
    """The table that a run keeps: of `KEPT_PARTS`, one after another.

    Args:
      split: the run's.
      examples: of the dataset, `source.COLUMNS`.
      heads: by name.
      distributions: by head, float32 `[n, ...]`, of `kept_rows(split)`.
      metadata: of `metadata_of`.
    """
    rows = kept_rows(split)
    return Predictions(
        key=examples["key"][rows],
        part=np.concatenate([np.full(len(getattr(split, part)), part) for part in KEPT_PARTS]),
        columns=known_columns(examples, rows),
        labels={name: head.column(examples)[rows] for name, head in heads.items()},
        distributions=distributions,
        heads=heads,
        metadata=metadata,
    )


def kept_rows(split: Split) -> np.ndarray:
    """The rows of `KEPT_PARTS`, int `[n]`."""
    return np.concatenate([getattr(split, part) for part in KEPT_PARTS])


def known_columns(examples: Mapping[str, np.ndarray], rows: np.ndarray) -> dict[str, np.ndarray]:
    """`Predictions.columns` of some rows of a dataset's columns; clusters are numbered over the whole dataset."""
    columns = {**examples, "cluster": connected(examples["subject"], examples["group"], examples["sha256"])}
    return {name: np.asarray(columns[name])[rows].astype(dtype) for name, dtype in COLUMNS.items()}


def write_predictions(path: Path, predictions: Predictions) -> None:
    """Writes a file, whole or not at all.

    Raises:
      UserError: it cannot be written.
    """
    arrays = {"key": predictions.key, "part": predictions.part}
    arrays |= {f"column_{name}": column for name, column in predictions.columns.items()}
    for name in predictions.heads:
        arrays[f"label_{name}"] = predictions.labels[name]
        arrays[f"distribution_{name}"] = predictions.distributions[name]
    arrays["metadata"] = np.array(json.dumps(dict(predictions.metadata)))
    write_arrays(path, arrays, "free some space")


def read_predictions(path: Path) -> Predictions:
    """Reads a file that `write_predictions` wrote, and checks all that is in it; nothing is unpickled.

    Raises:
      UserError: there is no such file, or it is damaged or another kind of file.
    """
    if not path.exists():
        raise UserError(
            f"{path} is not there; `agegender evaluate {path.parent}` measures the run again and writes it."
        )
    try:
        return _checked(read_arrays(path))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}); check the path.") from error
    except Exception as error:  # NumPy, zipfile and json raise many kinds on damaged files
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(
            f"{path} holds no predictions of this version ({reason}); remove it, and `agegender evaluate "
            f"{path.parent}` writes it again."
        ) from error


def checked_rows(
    arrays: Mapping[str, np.ndarray], parts: Sequence[str], kinds: Mapping[str, type | tuple[type, ...]]
) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """The arrays `key` and `part`, and `metadata`, of a file that was written from a run's examples.

    Args:
      arrays: of the file.
      parts: what `part` may be.
      kinds: of the metadata, by name.

    Raises:
      ValueError: one of them is not there, or is not what it should be.
    """
    for name in ("key", "part", "metadata"):
        require(name in arrays, f"it holds no {name}")
    key, part = arrays["key"], arrays["part"]
    texts = key.dtype.kind == part.dtype.kind == "U"
    require(texts and key.ndim == 1 and key.shape == part.shape, "key and part are not a text a row each")
    require(np.isin(part, parts).all(), f"part is something else than {', '.join(parts)}")
    metadata = json.loads(str(arrays["metadata"]))
    require(isinstance(metadata, dict), "metadata are no JSON object")
    for name, kind in kinds.items():
        require(name in metadata and isinstance(metadata[name], kind), f"metadata hold no {name}")
    return key, part, metadata


def heads_of(metadata: Mapping[str, Any]) -> dict[str, Head]:
    """The heads that a file's metadata are of.

    Raises:
      UserError: its recipe cannot be built.
      ValueError: its recipe is none.
    """
    recipe = recipes.from_json(json.dumps(metadata["recipe"]))
    recipes.check(recipe)
    return build_heads(model_options(recipe).heads, tuple(map(str, metadata["class_names"])) or ("unknown",))


def _checked(arrays: dict[str, np.ndarray]) -> Predictions:
    """Raises ValueError or another error where the arrays are not what `write_predictions` writes."""
    key, part, metadata = checked_rows(arrays, (*PARTS, "all"), METADATA)
    columns = {}
    for name, dtype in COLUMNS.items():
        require(f"column_{name}" in arrays, f"it holds no column_{name}")
        columns[name] = arrays[f"column_{name}"]
        require(columns[name].dtype == dtype and columns[name].shape == key.shape, f"column_{name} is of another kind")
    heads = heads_of(metadata)
    labels: dict[str, np.ndarray] = {}
    distributions: dict[str, np.ndarray] = {}
    for name, head in heads.items():
        for values, what in ((labels, f"label_{name}"), (distributions, f"distribution_{name}")):
            require(what in arrays, f"it holds no {what}")
            require(arrays[what].shape[:1] == key.shape, f"{what} is not of every row")
            values[name] = arrays[what]
        require(np.isfinite(distributions[name]).all(), f"distribution_{name} is not finite everywhere")
        if isinstance(head, ClassHead):
            label = labels[name]
            right = (
                label.ndim == 1 and label.dtype.kind == "i" and np.isin(label, range(UNKNOWN, head.class_count)).all()
            )
            require(right, f"label_{name} is something else than a class a row")
            require(
                distributions[name].shape == (len(key), head.class_count), f"distribution_{name} is of other classes"
            )
    return Predictions(key, part, columns, labels, distributions, heads, metadata)
