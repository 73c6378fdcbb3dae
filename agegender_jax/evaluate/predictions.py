"""The labels and predictions of a run's own data, which metrics, intervals, comparisons and reports are computed from.

Every complete run keeps that of its validation and test part as `predictions.npz`, plain arrays, one row an example:

key                   str [n], the example's name in its dataset
part                  str [n], `validation` or `test` of the run's split
column_<name>         [n], see `COLUMNS`
label_<head>          [n], the label of each head; unknown is -1 (classes) or NaN (numbers)
distribution_<head>   float32 [n, ...], what the head predicts
metadata              str, a JSON object: see `METADATA`
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
"""Name of the file in a run's directory."""

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
    "flip_average": bool,
    "class_names": list,
    "recipe": dict,
}
"""Keys of `metadata`: what the predictions are of, and all that the heads are built from again."""


@dataclasses.dataclass(frozen=True)
class Predictions:
    """The predictions of a run, or the mean of several, for some examples, with what is known of these.

    Attributes:
      key: str `[n]`.
      part: str `[n]`, of `splits.PARTS`; `all` for another archive.
      columns: by the names of `COLUMNS`, `[n]`.
      labels: by head, `[n]`.
      distributions: by head, float32 `[n, ...]`: what `Head.decode` takes.
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
        """Returns those of some rows, bool `[n]` or int `[m]`."""
        changes: dict[str, Any] = {"key": self.key[chosen], "part": self.part[chosen]}
        for name in ("columns", "labels", "distributions"):
            changes[name] = {key: values[chosen] for key, values in getattr(self, name).items()}
        return dataclasses.replace(self, **changes)

    def of(self, part: str) -> "Predictions":
        """Returns the rows of one part."""
        return self.rows(self.part == part)

    def metrics(self) -> dict[str, float]:
        """Computes the metrics of all targets over all rows, see `measure_targets`."""
        return measure_targets(self.targets())

    def targets(self) -> dict[str, Target]:
        """Returns the targets, see `make_targets`."""
        return make_targets(self.heads, self.distributions, self.labels)


def metadata_of(run: Run, summary: Mapping[str, Any]) -> dict[str, Any]:
    """Returns `Predictions.metadata` of a run; its recipe has no paths of this machine.

    `summary` may be what is known of it before it is written, see `METADATA`.
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
    """Returns the table that a run keeps: of `KEPT_PARTS`, one after another.

    `examples` are `source.COLUMNS` of the dataset; `distributions`, float32 `[n, ...]`, are of `kept_rows(split)`.
    """
    rows = kept_rows(split)
    part = np.concatenate([np.full(len(getattr(split, part)), part) for part in KEPT_PARTS])
    labels = {name: head.column(examples)[rows] for name, head in heads.items()}
    return Predictions(
        examples["key"][rows], part, known_columns(examples, rows), labels, distributions, heads, metadata
    )


def kept_rows(split: Split) -> np.ndarray:
    """Returns the rows of `KEPT_PARTS`, int `[n]`."""
    return np.concatenate([getattr(split, part) for part in KEPT_PARTS])


def known_columns(examples: Mapping[str, np.ndarray], rows: np.ndarray) -> dict[str, np.ndarray]:
    """Returns `Predictions.columns` of some rows of a dataset; clusters are numbered over the whole dataset."""
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
    summary = path.with_name("summary.json")
    remedy = f"restore it, or remove {summary} and run the launch.py command of the run again, which evaluates it again"
    if not path.exists():
        raise UserError(f"{path} is not there; {remedy}.")
    return read_arrays(path, _checked, "predictions", remedy)


@dataclasses.dataclass(frozen=True)
class LabelledRows:
    """What files of a run's examples have in common: `key` and `part` `[n]`, metadata, heads and their labels."""

    key: np.ndarray
    part: np.ndarray
    metadata: dict[str, Any]
    heads: dict[str, Head]
    labels: dict[str, np.ndarray]


def labelled_rows(
    arrays: Mapping[str, np.ndarray], parts: Sequence[str], kinds: Mapping[str, type | tuple[type, ...]]
) -> LabelledRows:
    """Checks `key`, `part`, `metadata` and `label_<head>` of a file that was written from a run's examples.

    `parts` is what `part` may be, and `kinds` the types of the metadata by name.

    Raises:
      ValueError: one of them is missing, or is not what it should be.
      UserError: the heads cannot be built from the recipe.
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
    recipe = recipes.from_json(json.dumps(metadata["recipe"]))
    recipes.check(recipe)
    heads = build_heads(model_options(recipe).heads, tuple(map(str, metadata["class_names"])) or ("unknown",))
    labels = {}
    for name, head in heads.items():
        require(f"label_{name}" in arrays, f"it holds no label_{name}")
        label = labels[name] = arrays[f"label_{name}"]
        require(label.shape[:1] == key.shape, f"label_{name} is not a label a row")
        if isinstance(head, ClassHead):
            classes = label.ndim == 1 and label.dtype.kind == "i"
            known = classes and np.isin(label, range(UNKNOWN, head.class_count)).all()
            require(known, f"label_{name} is something else than a class a row")
        else:
            require(label.dtype.kind in "if" and not np.isinf(label).any(), f"label_{name} is not made of numbers")
    return LabelledRows(key, part, metadata, heads, labels)


def _checked(arrays: dict[str, np.ndarray]) -> Predictions:
    table = labelled_rows(arrays, (*PARTS, "all"), METADATA)
    columns = {}
    for name, dtype in COLUMNS.items():
        require(f"column_{name}" in arrays, f"it holds no column_{name}")
        column = columns[name] = arrays[f"column_{name}"]
        require(column.dtype == dtype and column.shape == table.key.shape, f"column_{name} is of another kind")
    distributions = {}
    for head_name, head in table.heads.items():
        name = f"distribution_{head_name}"
        require(name in arrays, f"it holds no {name}")
        values = distributions[head_name] = arrays[name]
        require(values.shape[:1] == table.key.shape, f"{name} is not of every row")
        require(np.isfinite(values).all(), f"{name} is not finite everywhere")
        right = not isinstance(head, ClassHead) or values.shape == (len(table.key), head.class_count)
        require(right, f"{name} is of other classes")
    return Predictions(table.key, table.part, columns, table.labels, distributions, table.heads, table.metadata)
