"""What a run measures: validation as it goes, and the test part once, at its end."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from agegender_jax.data.loader import DeviceLoader
from agegender_jax.evaluate.evaluator import answers, baseline_predictions, figures
from agegender_jax.evaluate.predictions import KEPT_PARTS, Predictions, metadata_of, of_split
from agegender_jax.evaluate.tensorboard_images import confusion_picture, grid_picture
from agegender_jax.models.heads import Apart, ClassHead
from agegender_jax.run import Run
from agegender_jax.splits import is_leaky
from agegender_jax.train.logging import Writers
from agegender_jax.train.setup import Setup


def evaluate_part(
    part: str,
    setup: Setup,
    model_state: Any,
    loader: DeviceLoader,
    *,
    pictures: bool = False,
    at: tuple[Writers, int] | None = None,
) -> dict[str, float]:
    """All heads' figures on a part of the split, of the pictures as they are; see `metrics_of`.

    Args:
      part: `train`, `validation` or `test`.
      setup: the run's.
      model_state: `(params, stats)`.
      loader: of the run's examples.
      pictures: also draw confusion matrices and some faces with their answers.
      at: where to write figures and pictures, and the step that they are of; None writes nothing.
    """
    distributions = setup.evaluator.distributions(model_state, loader, getattr(setup.split, part))
    return metrics_of(part, distributions, setup, loader if pictures else None, at=at)


def metrics_of(
    part: str,
    distributions: Mapping[str, np.ndarray],
    setup: Setup,
    loader: DeviceLoader | None = None,
    *,
    at: tuple[Writers, int] | None = None,
) -> dict[str, float]:
    """All heads' figures on a part of the split, from what the heads say of its examples.

    Args:
      part: `train`, `validation` or `test`.
      distributions: by head, `[n, ...]`, of `Evaluator.distributions`.
      setup: the run's.
      loader: also draw confusion matrices, and some of its examples with their answers; None draws nothing.
      at: where to write figures and pictures, and the step that they are of; None writes nothing.
    """
    rows = getattr(setup.split, part)
    heads = setup.heads
    found = answers(heads, distributions)
    labels = {name: label[rows] for name, label in setup.labels.items()}
    result = figures(heads, found, labels)
    if at is not None:
        writers, step = at
        writers.scalars(step, {f"{part}/{name}": float(value) for name, value in result.items()})
        if loader is not None:
            _draw(part, setup, loader, rows, found, labels, writers, step)
    return result


def kept_predictions(
    run: Run, setup: Setup, distributions: Mapping[str, Mapping[str, np.ndarray]], step: int
) -> Predictions:
    """What the run says of parts of its split, as it is kept with the run.

    Args:
      run: the run.
      setup: the run's.
      distributions: by part (of `predictions.KEPT_PARTS`) and head, `[n, ...]`.
      step: that the parameters are of.
    """
    split = setup.split
    metadata = {
        "run": run.name,
        "evaluated_step": step,
        "dataset": setup.dataset_name,
        "synthetic": setup.synthetic,
        "protocol": split.protocol,
        "leaky": is_leaky(split),
        "split_sha256": split.sha256,
        "age_groups": setup.age_groups,
        "flip_averaged": setup.options.flip,
    }
    found = {name: np.concatenate([distributions[part][name] for part in KEPT_PARTS]) for name in setup.heads}
    return of_split(split, setup.dataset.columns, setup.heads, found, metadata_of(run, metadata))


def _draw(
    part: str,
    setup: Setup,
    loader: DeviceLoader,
    rows: Any,
    found: Any,
    labels: Any,
    writers: Writers,
    step: int,
) -> None:
    things: Apart = {}
    for name, head in setup.heads.items():
        things |= head.apart(name, found[name], labels[name])
    for name, (head, answer, label) in things.items():
        if isinstance(head, ClassHead):
            title = f"{name}, {part}" + (f" ({setup.age_groups})" if name == "age_group" else "")
            picture = confusion_picture(head.confusion(answer, label), head.names, title)
            writers.image(f"{part}/{name}", picture, step)
    sample = np.linspace(0, len(rows) - 1, min(32, len(rows))).astype(int)
    heads, found, labels = ({name: thing[i] for name, thing in things.items()} for i in range(3))
    captions = [_caption(heads, found, labels, i) for i in sample]
    shown = setup.preprocessor.to_display(loader.read(rows[sample]))
    writers.image(f"{part}/examples", grid_picture(shown, captions), step)


def evaluate_baseline(setup: Setup) -> dict[str, Any]:
    """The best constant predictors fitted on the training labels, as the summary holds them.

    Returns:
      `constant`, their figures on the test part; `constant_names`; and `baseline_predictions`, what they say of
      anybody.
    """
    split, heads = setup.split, setup.heads
    train_labels = {name: label[split.train] for name, label in setup.labels.items()}
    names, constant = baseline_predictions(heads, train_labels, len(split.test))
    labels = {name: label[split.test] for name, label in setup.labels.items()}
    _, once = baseline_predictions(heads, train_labels, 1)
    return {
        "constant": figures(heads, constant, labels),
        "constant_names": names,
        "baseline_predictions": {
            name: {answer: values[0].tolist() for answer, values in found.items()} for name, found in once.items()
        },
    }


def _caption(heads: Mapping[str, Any], found: Any, labels: Any, i: int) -> str:
    """Answer and label of one example: `male 31 (male 29)`."""
    said, true = [], []
    if "gender" in heads:
        said.append(heads["gender"].names[found["gender"]["class"][i]])
        true.append(heads["gender"].names[labels["gender"][i]] if labels["gender"][i] >= 0 else "?")
    if "age" in heads:
        said.append(f"{found['age']['years'][i]:.0f}")
        true.append("?" if np.isnan(labels["age"][i]) else f"{labels['age'][i]:.0f}")
    elif "age_group" in heads:
        names = heads["age_group"].names
        said.append(names[found["age_group"]["class"][i]])
        true.append(names[labels["age_group"][i]] if labels["age_group"][i] >= 0 else "?")
    if "class_name" in heads:
        said.append(heads["class_name"].names[found["class_name"]["class"][i]])
        true.append(heads["class_name"].names[labels["class_name"][i]] if labels["class_name"][i] >= 0 else "?")
    return f"{' '.join(said)}\n({' '.join(true)})"
