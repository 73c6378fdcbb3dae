"""A finished run with its parameters, ready to compute: what predicting, evaluating and explaining begin with."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from agegender_jax.checkpoints import read_model
from agegender_jax.data.detect import Detection
from agegender_jax.data.loader import EvalLoader
from agegender_jax.data.preprocess import Preprocessor, make_preprocessor
from agegender_jax.errors import UserError
from agegender_jax.evaluate.evaluator import Evaluator, head_distributions
from agegender_jax.mesh import make_mesh, replicated
from agegender_jax.models.heads import Head, build_heads, with_class_weights
from agegender_jax.models.model import define_model
from agegender_jax.recipe_options import data_options, model_options
from agegender_jax.run import Run


@dataclass(frozen=True)
class LoadedModel:
    """A finished run with its parameters; see `load`.

    Attributes:
      summary: its `summary.json`.
      metadata: its `run.json`.
      heads: by name, with the classes that the run was trained with.
      preprocessor: decodes examples, and makes of them what the network sees.
      graphdef: structure of the model; `nnx.merge(graphdef, *model_state)` is the model.
      model_state: `(params, stats)` that the run's metrics are of, on every device.
    """

    run: Run
    summary: dict[str, Any]
    metadata: dict[str, Any]
    heads: dict[str, Head]
    preprocessor: Preprocessor
    mesh: jax.sharding.Mesh
    graphdef: Any
    model_state: tuple[Any, Any]
    evaluator: Evaluator

    @classmethod
    def load(cls, directory: str | os.PathLike[str], mesh: jax.sharding.Mesh | None = None) -> "LoadedModel":
        """Loads the finished run in a directory, and writes nothing there.

        `directory` is the `--workdir` of `launch.py`; `mesh` are the devices to compute on, all where it is None.

        Raises:
          UserError: the directory holds no complete run, its checkpoint is missing or damaged, or this version makes
            spectrograms in another way than the one that trained it.
        """
        run = Run.load(Path(directory))
        summary, metadata = run.require_summary(), run.metadata()
        preprocessor = make_preprocessor(data_options(run.recipe).preprocess, str(metadata.get("kind", "image")))
        if preprocessor.metadata.get("spectrogram") != metadata.get("spectrogram"):
            raise UserError(
                f"{run.directory} was trained on spectrograms that this version makes differently "
                f"({metadata.get('spectrogram')}); use the version that trained it."
            )
        heads = trained_heads(run)
        mesh = mesh or make_mesh()
        model = define_model(model_options(run.recipe), heads)
        shapes, everywhere = (model.params, model.stats), replicated(mesh)
        layout = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=everywhere), shapes)
        model_state = read_model(run.directory / "checkpoints", summary["evaluated_step"], layout)
        batch_size = run.recipe.evaluate.batch_size
        evaluator = Evaluator(model.graphdef, head_distributions(heads), batch_size, preprocessor, mesh)
        return cls(run, summary, metadata, heads, preprocessor, mesh, model.graphdef, model_state, evaluator)

    @property
    def kind(self) -> str:
        """What the examples are: `image` or `audio`."""
        return str(self.metadata.get("kind", "image"))

    @property
    def detection(self) -> Detection | None:
        """How the run's images were searched for faces; None where they were taken as they are."""
        return Detection() if self.run.recipe.dataset.crop else None

    def distributions(
        self, loader: EvalLoader, rows: Sequence[int] | np.ndarray, *, batch_size: int | None = None
    ) -> dict[str, np.ndarray]:
        """Computes the distributions for rows of the loader, int `[m]`, by head, float32 `[m, ...]`.

        They are averaged over mirror images where the run was evaluated so; for `batch_size` see `Evaluator`.
        """
        with jax.set_mesh(self.mesh):
            return self.evaluator.distributions(
                self.model_state,
                loader,
                np.asarray(rows),
                flip_average=self.run.recipe.evaluate.flip,
                batch_size=batch_size,
            )


def trained_heads(run: Run) -> dict[str, Head]:
    """Builds the heads with the classes and the class weights that a run was trained with."""
    metadata = run.metadata()
    weights = {name: np.array(values, np.float32) for name, values in metadata.get("class_weights", {}).items()}
    heads = build_heads(model_options(run.recipe).heads, metadata.get("class_names") or ("unknown",))
    return with_class_weights(heads, weights)
