"""A run's embeddings as a file, for other kinds of models to learn from.

The file is an `.npz` of plain arrays, one row an example:

embedding     float32 [n, embedding_size], what the backbone makes of the image or recording as it is
key           str [n], the example's name in its dataset
part          str [n], `train`, `validation` or `test` of the run's split
cluster       int [n], examples of one cluster are of one subject, or are copies: see `predictions.COLUMNS`
label_<head>  [n] or [n, k], the label of each head; unknown is -1 (classes) or NaN (numbers)
metadata      str, a JSON object: see `METADATA`

No path of the machine where it was written stands in it.
"""

import dataclasses
import json
import os
from contextlib import closing
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from agegender_jax.data.loader import make_loader
from agegender_jax.errors import UserError
from agegender_jax.evaluate.evaluate_run import EvaluationData, open_data
from agegender_jax.evaluate.evaluator import Evaluator
from agegender_jax.evaluate.loaded import LoadedModel
from agegender_jax.evaluate.npz import read_arrays, require, write_arrays
from agegender_jax.evaluate.predictions import COLUMNS, known_columns, labelled_rows, metadata_of
from agegender_jax.models.heads import Head
from agegender_jax.splits import PARTS

SUFFIX = ".npz"

METADATA: dict[str, type] = {
    "run": str,
    "evaluated_step": int,
    "dataset": str,
    "config": str,
    "synthetic": bool,
    "protocol": str,
    "leaky": bool,
    "split_sha256": str,
    "age_groups": str,
    "class_names": list,
    "recipe": dict,
}
"""Keys of `metadata`: what the embeddings are of, and all that the heads are built from again."""


@dataclasses.dataclass(frozen=True)
class Features:
    """The content of a file of features.

    Attributes:
      embedding: float32 `[n, embedding_size]`, finite.
      key: str `[n]`.
      part: str `[n]`, of `splits.PARTS`.
      cluster: int `[n]`, by which intervals are resampled.
      labels: of every head, by its name, `[n]` or `[n, k]`.
      metadata: see `METADATA`.
    """

    embedding: np.ndarray
    key: np.ndarray
    part: np.ndarray
    cluster: np.ndarray
    labels: dict[str, np.ndarray]
    heads: dict[str, Head]
    metadata: dict[str, Any]


def write_features(
    model: LoadedModel,
    out: Path,
    *,
    split: str = "all",
    manual_dir: Path | None = None,
    data_dir: Path | None = None,
    progress: bool = True,
) -> tuple[dict[str, Any], tuple[int, int]]:
    """Writes the embeddings of a run's own examples, whole or not at all; see the top of this module.

    They are of the parameters that the run's metrics are of, and of the examples as they are, never of mirror images.

    The file `out` must be new, and its name ends in `.npz`. `split` is of `EvaluationData.rows`, the
    other options are those of `evaluate_runs`.

    Returns:
      The metadata, and the shape of the embeddings.

    Raises:
      UserError: the file is there already or cannot be written; the data are not the run's.
    """
    if out.suffix != SUFFIX:
        raise UserError(f"{out}: features are written as {SUFFIX}; choose a name that ends so.")
    if os.path.lexists(out):  # before minutes of work
        raise UserError(f"{out} is there already, and nothing is overwritten; choose another file.")
    opened = open_data(model, manual_dir=manual_dir, data_dir=data_dir, progress=progress)
    if opened.split is None:
        raise UserError(
            f"{manual_dir} does not hold the files of {model.run.directory}, and features are of a run's own split; "
            "give the --manual_dir where they are, or leave it out."
        )
    part = np.empty(len(opened.data), f"<U{max(map(len, PARTS))}")
    for name in PARTS:
        part[getattr(opened.split, name)] = name
    rows = opened.rows(split)
    columns = opened.data.columns
    metadata = {**metadata_of(opened.run, model.summary), "config": opened.options.config}
    metadata = {name: metadata[name] for name in METADATA}
    arrays: dict[str, np.ndarray] = {
        "embedding": _embeddings(opened, rows),
        "key": columns["key"][rows],
        "part": part[rows],
        "cluster": known_columns(columns, rows)["cluster"],
        **{f"label_{name}": head.column(columns)[rows] for name, head in opened.heads.items()},
        "metadata": np.array(json.dumps(metadata)),
    }
    write_arrays(out, arrays)
    return metadata, arrays["embedding"].shape


def _embeddings(opened: EvaluationData, rows: np.ndarray) -> np.ndarray:
    """Computes what the backbone makes of the examples of `rows`, float32 `[n, embedding_size]`."""

    def compute(model: Any, images: jax.Array) -> dict[str, jax.Array]:
        return {"embedding": model.backbone(images, train=False).astype(jnp.float32)}

    model = opened.model
    batch_size = model.run.recipe.evaluate.batch_size
    with jax.set_mesh(model.mesh), closing(make_loader(opened.data, model.mesh)) as loader:
        evaluator = Evaluator(model.graphdef, compute, batch_size, model.preprocessor, model.mesh)
        return evaluator.distributions(model.model_state, loader, rows)["embedding"]


def read_features(path: Path) -> Features:
    """Reads a file that `write_features` wrote, and checks all that is in it; nothing is unpickled.

    Raises:
      UserError: there is no such file, or it is damaged or another kind of file.
    """
    return read_arrays(path, _checked, "features", "write it again with `agegender features`")


def _checked(arrays: dict[str, np.ndarray]) -> Features:
    table = labelled_rows(arrays, PARTS, METADATA)
    for name in ("embedding", "cluster"):
        require(name in arrays, f"it holds no {name}")
    embedding, cluster = arrays["embedding"], arrays["cluster"]
    require(embedding.dtype == np.float32 and embedding.ndim == 2 and embedding.size, "embedding is no float32 [n, e]")
    require(np.isfinite(embedding).all(), "embedding is not finite everywhere")
    require(len(embedding) == len(table.key), "embedding is not of every row")
    require(cluster.dtype == COLUMNS["cluster"] and cluster.shape == table.key.shape, "cluster is not a number a row")
    return Features(embedding, table.key, table.part, cluster, table.labels, table.heads, table.metadata)
