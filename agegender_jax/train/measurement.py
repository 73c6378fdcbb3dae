"""What a run measures: validation as it goes, and the test part once, at its end."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from agegender_jax.errors import UserError
from agegender_jax.evaluate.evaluator import Evaluator, answers, constant_answers, figures
from agegender_jax.evaluate.pictures import confusion_picture, grid_picture
from agegender_jax.models.heads import ClassHead
from agegender_jax.train.experiment import Experiment
from agegender_jax.train.writers import Writers


def measure_part(
    evaluator: Evaluator, experiment: Experiment, model_state: Any, data: Any, rows: np.ndarray, *, flip: bool = False
) -> dict[str, float]:
    """All heads' figures on the examples of `rows`."""
    found = evaluator.distributions(model_state, data["images"], rows, flip=flip)
    labels = {name: label[rows] for name, label in experiment.labels.items()}
    return figures(experiment.heads, answers(experiment.heads, found), labels)


def measure_constant(experiment: Experiment) -> tuple[dict[str, str], dict[str, float]]:
    """The best constant predictors fitted on the training labels: their names, and their figures on the test part."""
    split, heads = experiment.split, experiment.heads
    train_labels = {name: label[split.train] for name, label in experiment.labels.items()}
    names, constant = constant_answers(heads, train_labels, len(split.test))
    labels = {name: label[split.test] for name, label in experiment.labels.items()}
    return names, figures(heads, constant, labels)


def goodness(name: str, validation: dict[str, float]) -> float:
    """What the best checkpoint has most of: the named figure, or its negative where it is an error."""
    if name not in validation:
        raise UserError(f"config.evaluate.select={name!r} is no figure; choose one of: {', '.join(validation)}.")
    return -validation[name] if name.endswith("/mae") else validation[name]


def measure_test(
    evaluator: Evaluator, experiment: Experiment, model_state: Any, data: Any, writers: Writers, step: int
) -> dict[str, float]:
    """The final figures on the test part, and pictures of them for TensorBoard."""
    recipe, heads, split = experiment.recipe, experiment.heads, experiment.split
    flip = recipe.evaluate.flip
    found = answers(heads, evaluator.distributions(model_state, data["images"], split.test, flip=flip))
    labels = {name: label[split.test] for name, label in experiment.labels.items()}
    test = figures(heads, found, labels)
    writers.scalars(step, {f"test/{k}": float(v) for k, v in test.items()})
    for name, head in heads.items():
        if isinstance(head, ClassHead):
            title = f"{name}, test" + (f" ({recipe.age_groups})" if name == "age_group" else "")
            picture = confusion_picture(head.confusion(found[name], labels[name]), head.names, title)
            writers.image(f"test/{name}", picture, step)
    sample = np.linspace(0, len(split.test) - 1, min(32, len(split.test))).astype(int)
    captions = [_caption(heads, found, labels, i) for i in sample]
    faces = np.stack([experiment.data.images[row] for row in split.test[sample]])
    writers.image("test/faces", grid_picture(faces, captions), step)
    return test


def _caption(heads: Mapping[str, Any], found: Any, labels: Any, i: int) -> str:
    """Answer and label of one example: `male 31 (male 29)`."""
    said, true = [], []
    if "gender" in heads:
        said.append(heads["gender"].names[found["gender"]["class"][i]])
        true.append(heads["gender"].names[labels["gender"][i]] if labels["gender"][i] >= 0 else "?")
    if "age" in heads:
        said.append(f"{found['age']['years'][i]:.0f}")
        true.append(f"{labels['age'][i]:.0f}")
    return f"{' '.join(said)}\n({' '.join(true)})"
