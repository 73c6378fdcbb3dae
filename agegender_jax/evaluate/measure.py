"""Measuring a finished run: on a part of its own split, or on another archive."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from agegender_jax.data.dataset import open_dataset
from agegender_jax.data.resident import place
from agegender_jax.errors import UserError
from agegender_jax.evaluate.evaluator import Evaluator, answers, constant_answers, figures
from agegender_jax.mesh import make_mesh, replicated
from agegender_jax.models.model import model_structure
from agegender_jax.run import Run

SPLITS = ("train", "validation", "test", "all")

_OF_THE_DATASET = ("config", "label_pattern", "speaker_pattern", "recording_pattern", "csv")  # not of another one


def measure(
    run: Run,
    *,
    split: str | None = None,
    dataset: str | None = None,
    config: str | None = None,
    manual_dir: Path | None = None,
    data_dir: Path | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """A run's figures, in the form of its `summary.json`.

    On the run's own data they are those of a part of its split. On another archive (`dataset` is given, or what lies
    in `manual_dir` are not the run's files) they are of all its examples but those whose very file the run learned or
    chose from, which are left out and counted.

    Args:
      run: a complete run.
      split: of `SPLITS`, None is `test`; another archive has no parts but `all`, which None then is.
      dataset: name of another dataset's format.
      config: of that dataset's builder.
      manual_dir: where another archive lies, or where the run's own lies now.
      data_dir: where prepared data and caches lie; None is where the run had them.
      progress: whether to draw progress bars.

    Raises:
      UserError: the run is not complete, or the data are missing or bad.
    """
    summary, facts = run.summary(), run.facts()
    if summary is None or not facts:
        raise UserError(f"{run.directory} is not complete; run its launch.py command again to finish it.")
    recipe = ConfigDict(run.recipe.to_dict())
    options = recipe.dataset
    given = dataset is not None or config is not None or manual_dir is not None
    if given:
        options.drawn = 0
        if config is not None or dataset not in (None, options.name):
            options.update(dict.fromkeys(_OF_THE_DATASET, ""), name=dataset or options.name, max_bad=0.0)
            options.config = config or ""
        elif dataset is not None:
            options.csv = ""  # the name of a file of the run's own archive
    elif facts["manual_dir"] and not options.drawn:
        manual_dir = Path(facts["manual_dir"])
    prepared, data, inputs = open_dataset(
        recipe,
        manual_dir=manual_dir,
        data_dir=data_dir or Path(facts["data_dir"]),
        kind=facts.get("kind", "image"),
        progress=progress,
    )
    heads = run.heads()
    columns = data.columns
    saved = None if dataset is not None or config is not None else run.split(columns["key"], others=given)
    if saved is not None and given and facts["data_sha256"] != data.sha256:
        saved = None  # the same names, other files
    if inputs.facts.get("spectrogram") != facts.get("spectrogram"):
        raise UserError(
            f"{run.directory} was trained on spectrograms that this version makes in another way "
            f"({facts.get('spectrogram')}); use the version that trained it."
        )
    other, left_out, acquainted = saved is None, 0, 0
    if other and not given:
        raise UserError(f"{run.directory} has no split.json; restore the file.")
    if other and split not in (None, "all"):
        raise UserError(f"Another archive has no part {split!r}: it is measured whole; leave --split out.")
    split = split or ("all" if other else "test")
    if saved is None:
        seen = run.seen()
        new = np.array([digest not in seen for digest in columns["sha256"].tolist()], bool)
        rows, left_out = np.flatnonzero(new), int((~new).sum())
        if options.name == run.recipe.dataset.name:
            acquainted = int(np.isin(columns["subject"][rows], run.seen_subjects()).sum())
        if not len(rows):
            raise UserError(
                f"Every one of the {len(data)} files there was used to train {run.directory}: nothing is left."
            )
    else:
        rows = np.arange(len(data)) if split == "all" else getattr(saved, split)
    model_state, graphdef = _model(run, summary["evaluated_step"])
    mesh = make_mesh()
    labels = {name: head.column(columns) for name, head in heads.items()}
    with jax.set_mesh(mesh):
        placed = place(data, {}, replicated(mesh))
        evaluator = Evaluator(graphdef, heads, run.recipe, inputs, mesh)
        flip = run.recipe.evaluate.flip
        found = answers(heads, evaluator.distributions(model_state, placed["content"], rows, flip=flip))
    chosen = {name: label[rows] for name, label in labels.items()}
    result = {
        "run": run.name,
        "dataset": options.name,
        "drawn": prepared.drawn,
        "config": options.config,
        "protocol": "every file that the run has not seen" if other else summary["protocol"],
        "age_groups": run.recipe.age_groups,
        "split_sha256": None if other else summary["split_sha256"],
        "split": split,
        "left_out": left_out,
        "files_of_seen_subjects": acquainted,
        "flip_averaged": flip,
        "evaluated_step": summary["evaluated_step"],
        ("test" if other else split): figures(heads, found, chosen),
    }
    if saved is not None:
        train_labels = {name: label[saved.train] for name, label in labels.items()}
        names, constant = constant_answers(heads, train_labels, len(rows))
        result |= {"constant": figures(heads, constant, chosen), "constant_names": names}
    return result


def _model(run: Run, step: int) -> tuple[Any, Any]:
    """The parameters and statistics that the run's figures are of, on all devices, and the model's structure."""
    graphdef, params, stats = model_structure(run.recipe, run.heads())
    everywhere = replicated(make_mesh())
    layout = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=everywhere), (params, stats)
    )
    checkpoints = run.checkpoints()
    try:
        if step not in checkpoints.steps:
            raise UserError(f"{run.directory} has no checkpoint of step {step}; restore it from a copy.")
        return checkpoints.restore(step, "model", layout), graphdef
    finally:
        checkpoints.close()


def as_columns(result: Mapping[str, Any]) -> dict[str, Mapping[str, float]]:
    """The figures of a result as the columns of a table."""
    return {name: result[name] for name in (*SPLITS, "constant") if isinstance(result.get(name), Mapping)}
