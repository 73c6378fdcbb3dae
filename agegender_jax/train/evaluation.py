"""Evaluates a run: validation while it trains, and the test part once, at its end."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from agegender_jax.data.loader import DeviceLoader
from agegender_jax.evaluate.predictions import KEPT_PARTS, Predictions, metadata_of, of_split
from agegender_jax.evaluate.targets import (
    Target,
    baseline_targets,
    fit_baseline,
    make_targets,
    measure_targets,
)
from agegender_jax.evaluate.tensorboard_images import confusion_image, grid_image
from agegender_jax.models.heads import AgeGroupHead, ClassHead
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
    images: bool = False,
    at: tuple[Writers, int] | None = None,
) -> dict[str, float]:
    """Computes the metrics of all heads on a part of the split, without mirror images; see `measure_part`.

    Args:
      part: `train`, `validation` or `test`.
      setup: of the run.
      model_state: `(params, stats)`.
      loader: of the run's examples.
      images: whether to write confusion matrices and example images.
      at: where to write, and the step; None writes nothing.
    """
    distributions = setup.evaluator.distributions(model_state, loader, getattr(setup.split, part))
    return measure_part(part, distributions, setup, loader if images else None, at=at)


def measure_part(
    part: str,
    distributions: Mapping[str, np.ndarray],
    setup: Setup,
    loader: DeviceLoader | None = None,
    *,
    at: tuple[Writers, int] | None = None,
) -> dict[str, float]:
    """Computes the metrics of all heads on a part of the split from their distributions.

    Args:
      part: `train`, `validation` or `test`.
      distributions: by head, `[n, ...]`, of `Evaluator.distributions`.
      setup: of the run.
      loader: of the example images to write, beside confusion matrices; None writes none.
      at: where to write, and the step; None writes nothing.
    """
    rows = getattr(setup.split, part)
    labels = {name: label[rows] for name, label in setup.labels.items()}
    targets = make_targets(setup.heads, distributions, labels)
    metrics = measure_targets(targets)
    if at is not None:
        writers, step = at
        writers.scalars(step, {f"{part}/{name}": float(value) for name, value in metrics.items()})
        if loader is not None:
            _write_images(part, setup, loader, rows, targets, writers, step)
    return metrics


def kept_predictions(
    run: Run, setup: Setup, distributions: Mapping[str, Mapping[str, np.ndarray]], step: int
) -> Predictions:
    """Returns the predictions that are kept with the run.

    Args:
      run: the run.
      setup: of the run.
      distributions: by part (of `predictions.KEPT_PARTS`) and head, `[n, ...]`.
      step: of the parameters.
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
        "flip_average": setup.options.flip_average,
    }
    kept = {name: np.concatenate([distributions[part][name] for part in KEPT_PARTS]) for name in setup.heads}
    return of_split(split, setup.dataset.columns, setup.heads, kept, metadata_of(run, metadata))


def _write_images(
    part: str,
    setup: Setup,
    loader: DeviceLoader,
    rows: np.ndarray,
    targets: Mapping[str, Target],
    writers: Writers,
    step: int,
) -> None:
    for name, target in targets.items():
        head = target.head
        if isinstance(head, ClassHead):
            title = f"{name}, {part}" + (f" ({head.scheme.name})" if isinstance(head, AgeGroupHead) else "")
            image = confusion_image(head.confusion(target.predictions, target.labels), head.names, title)
            writers.image(f"{part}/{name}", image, step)
    sample = np.linspace(0, len(rows) - 1, min(32, len(rows))).astype(int)
    captions = [_caption(targets, row) for row in sample]
    shown = setup.preprocessor.to_display(loader.read(rows[sample]))
    writers.image(f"{part}/examples", grid_image(shown, captions), step)


def evaluate_baseline(setup: Setup) -> dict[str, Any]:
    """Fits the best constant predictions on the training labels.

    Returns:
      `baseline`, their metrics on the test part; `baseline_names`; and `baseline_predictions`, for any example.
    """
    split, heads = setup.split, setup.heads
    names, predictions = fit_baseline(heads, {name: label[split.train] for name, label in setup.labels.items()})
    test_labels = {name: label[split.test] for name, label in setup.labels.items()}
    return {
        "baseline": measure_targets(baseline_targets(heads, predictions, test_labels)),
        "baseline_names": names,
        "baseline_predictions": predictions,
    }


def _caption(targets: Mapping[str, Target], row: int) -> str:
    """Returns predictions and labels of one example: `male 31 (male 29)`."""
    shown: dict[str, Target] = {}
    for target in targets.values():
        if target.head.only_gender is None:
            shown.setdefault(target.head.name, target)
    predictions = [target.head.text(target.head.predicted(target.predictions), row) for target in shown.values()]
    labels = [target.head.text(target.labels, row) for target in shown.values()]
    return f"{' '.join(predictions)}\n({' '.join(labels)})"
