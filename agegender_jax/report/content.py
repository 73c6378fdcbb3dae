"""What the report of a run holds, as plain values: the page shows these alone, and `report.json` holds them."""

import dataclasses
import json
import math
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agegender_jax import recipe as recipes
from agegender_jax.errors import UserError
from agegender_jax.evaluate.analysis import analyse
from agegender_jax.evaluate.predictions import NAME, Predictions, read_predictions
from agegender_jax.labels import AGE_GROUPS, GENDERS, UNDEFINED_GENDER
from agegender_jax.models.heads import ClassHead
from agegender_jax.report.mistakes import around_18, mistakes
from agegender_jax.run import Run, without_nan
from agegender_jax.splits import PARTS, Split

GENERATOR = "agegender report"
"""Stands in both files: only such files are replaced."""


@dataclasses.dataclass(frozen=True)
class MetricInfo:
    """What a metric is, see `heads.base.metrics_metadata`."""

    target: str
    name: str
    title: str
    unit: str
    higher_is_better: bool | None
    main: bool


@dataclasses.dataclass(frozen=True)
class Costs:
    """What the training cost; the last four are of the time since the last start, None where not measured."""

    parameters: int
    steps: int
    evaluated_step: int
    epochs: float
    seconds: float
    seconds_of: dict[str, float] | None
    images_per_second: float | None
    first_step_seconds: float | None
    peak_memory_bytes: int | None


@dataclasses.dataclass(frozen=True)
class DataInfo:
    """The dataset: `kind` is `image` or `audio`; the counts are those of `run.json`, None where it has none."""

    dataset_version: str | None
    kind: str
    data_sha256: str | None
    terms: str | None
    identical_files: dict[str, int] | None
    subjects: dict[str, int] | None
    spectrogram: dict[str, Any] | None


@dataclasses.dataclass(frozen=True)
class SplitInfo:
    """The split: `examples` by part, and `strata`, for each class that it is stratified by examples by part."""

    protocol: str
    seed: int
    fold: int
    folds: int
    test_fraction: float
    validation_fraction: float
    sha256: str
    examples: dict[str, int]
    groups: int
    groups_in_several_parts: int
    stratified_by: str
    strata: dict[str, dict[str, int]]


@dataclasses.dataclass(frozen=True)
class Curve:
    """A value that was measured during the training, and at which steps; both are equally long."""

    step: list[float]
    value: list[float]


@dataclasses.dataclass(frozen=True)
class Content:
    """What a report holds, ready for JSON.

    Attributes:
      differences: default and value of each key of the recipe that is not the default.
      selected_by: the validation metric that chose the checkpoint, None for the last one.
      command: which repeats the training in a shell, "" where it was not kept.
      targets: the names of the classes by target, none of a target in years.
      metrics: what each metric is, by `target/metric`, as `baseline`.
      baseline: the metrics of the same prediction for every example.
      baseline_names: which prediction that is, by head.
      test: of `analysis.analyse`, as `validation`.
      mistakes: of the test part, see `mistakes.mistakes`.
      around_18: of the test part, see `mistakes.around_18`.
    """

    run: str
    dataset: str
    synthetic: bool
    protocol: str
    leaky: bool
    age_groups: str
    flip_average: bool
    versions: dict[str, str]
    hardware: dict[str, Any]
    backbone: str
    pretrained: str
    image_size: int
    command: str
    differences: dict[str, tuple[Any, Any]]
    selected_by: str | None
    costs: Costs
    data: DataInfo
    split: SplitInfo
    curves: dict[str, Curve]
    steps_per_epoch: float
    targets: dict[str, list[str]]
    metrics: dict[str, MetricInfo]
    baseline: dict[str, float | None]
    baseline_names: dict[str, str]
    test: dict[str, Any]
    validation: dict[str, Any]
    mistakes: dict[str, dict[str, list[dict[str, Any]]]]
    around_18: dict[str, Any] | None

    def main_metric(self, target: str) -> MetricInfo | None:
        """Returns the metric that stands for a target; None where the target was not measured."""
        mains = [name for name, metric in self.metrics.items() if metric.main and metric.target == target]
        return next((self.metrics[name] for name in mains if name in self.test["metrics"]), None)

    def to_json(self) -> str:
        """Returns the content as the text of `report.json`."""
        return json.dumps({"generator": GENERATOR} | dataclasses.asdict(self), indent=1, allow_nan=False)


def gather(run: Run, predictions: Predictions) -> Content:
    """Returns all that the report of a run with these predictions (`own_predictions`) holds.

    Raises:
      UserError: the run is not complete, or one of its files is damaged.
    """
    summary, metadata, recipe = run.require_summary(), run.metadata(), run.recipe
    info: dict[str, Any] = {field.name: metadata.get(field.name) for field in dataclasses.fields(DataInfo)}
    test, command = predictions.of("test"), metadata.get("command")
    base, own = recipes.leaves(recipes.base()), recipes.leaves(recipe)
    return Content(
        **{name: summary[name] for name in ("run", "dataset", "synthetic", "protocol", "leaky", "age_groups")},
        **{name: summary[name] for name in ("flip_average", "versions", "hardware")},
        backbone=" ".join(filter(None, (recipe.model.backbone, recipe.model.variant))),
        pretrained=recipe.model.pretrained,
        image_size=recipe.dataset.image_size,
        command="python " + shlex.join(map(str, command)) if command else "",
        differences={key: (base.get(key), own[key]) for key in sorted(own) if own[key] != base.get(key)},
        selected_by=recipe.evaluate.select if recipe.evaluate.use == "best" else None,
        costs=Costs(**{field.name: without_nan(summary.get(field.name)) for field in dataclasses.fields(Costs)}),
        data=DataInfo(**info),
        split=_split(run, metadata),
        curves=_curves(run.directory / "metrics.jsonl"),
        steps_per_epoch=summary["train_examples"] / recipe.train.batch_size,
        targets={
            name: list(target.head.names) if isinstance(target.head, ClassHead) else []
            for name, target in predictions.targets().items()
        },
        metrics={
            name: MetricInfo(**{field.name: metric[field.name] for field in dataclasses.fields(MetricInfo)})
            for name, metric in summary["metrics"].items()
        },
        baseline=without_nan(summary["baseline"]),
        baseline_names=summary["baseline_names"],
        test=without_nan(analyse(predictions, part="test")),
        validation=without_nan(analyse(predictions, part="validation")),
        mistakes=without_nan(mistakes(test)),
        around_18=without_nan(around_18(test)),
    )


def own_predictions(run: Run) -> Predictions:
    """Returns the predictions that the run's metrics were computed from.

    Raises:
      UserError: there are none, or they are damaged or of another training.
    """
    summary, path = run.require_summary(), run.directory / NAME
    predictions = read_predictions(path)
    for name in ("split_sha256", "evaluated_step", "flip_average"):
        if predictions.metadata[name] != summary[name]:
            raise UserError(
                f"{path} does not belong to summary.json (its {name} differs); restore both from the same copy."
            )
    return predictions


def _split(run: Run, metadata: Mapping[str, Any]) -> SplitInfo:
    split, by = Split.load(run.directory / "split.json"), run.recipe.split.stratify
    names = {
        "age_group": AGE_GROUPS[run.recipe.age_groups].names,
        "gender": (*GENDERS, UNDEFINED_GENDER),
        "class": tuple(metadata.get("class_names", ())),
    }[by]
    return SplitInfo(
        **{name: getattr(split, name) for name in ("protocol", "seed", "fold", "folds", "sha256")},
        **{name: getattr(split, name) for name in ("test_fraction", "validation_fraction")},
        examples={part: len(getattr(split, part)) for part in PARTS},
        **{name: split.report[name] for name in ("groups", "groups_in_several_parts")},
        stratified_by=by,
        strata={
            names[int(number)] if 0 <= int(number) < len(names) else "unknown": counts
            for number, counts in split.report["strata"].items()
        },
    )


def _curves(path: Path) -> dict[str, Curve]:
    """Returns what was measured during the training, by name; the test part is left out."""
    curves: dict[str, Curve] = {}
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check it.") from error
    for line in lines:
        try:
            event = json.loads(line)
            step = float(event.pop("step"))
        except (ValueError, KeyError, TypeError, AttributeError):  # not a line that was written whole
            continue
        for name, value in event.items():
            measured = name != "seconds" and not name.startswith("test/") and isinstance(value, int | float)
            if measured and math.isfinite(value):
                curve = curves.setdefault(name, Curve([], []))
                curve.step.append(step)
                curve.value.append(float(value))
    return curves
