"""What the report of a run says, as plain values: the page shows these alone, and `report.json` holds them."""

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

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

_NAMES = ("run", "dataset", "synthetic", "protocol", "leaky", "age_groups", "flip_averaged", "versions", "hardware")
_NEEDED = (*_NAMES, "split_sha256", "evaluated_step", "train_examples", "constant", "constant_names")
_FACTS = ("dataset_version", "kind", "data_sha256", "terms", "identical_files", "subjects", "spectrogram")
_COSTS = (
    "parameters",
    "steps",
    "evaluated_step",
    "epochs",
    "seconds",
    "seconds_of",
    "images_per_second",
    "first_step_seconds",
    "peak_memory_bytes",
)


def gather(run: Run, predictions: Predictions) -> dict[str, Any]:
    """All that the report says, ready for JSON.

    Args:
      run: a complete run.
      predictions: its own, see `own_predictions`.

    Returns:
      Of the run `run`, `dataset`, `drawn`, `protocol`, `leaky`, `age_groups`, `flip_averaged`, `versions`, `hardware`,
      `backbone`, `pretrained`, `image_size`, `chosen_by` (the validation figure that chose the checkpoint, or None),
      `command`, `differences` (`key`, `base`, `run`) and `costs`; `data` and `split`; `curves` by name (`step`,
      `value`) and `steps_per_epoch`; `things` by name (`kind`, `names`, `ordered`); `constant` by figure and
      `constant_names`; `test` and `validation`, each of `analysis.analyse`; `mistakes` and `around_18` of the test
      part.

    Raises:
      UserError: the run is not complete, or one of its files is damaged.
    """
    summary, metadata, recipe = complete(run), run.metadata(), run.recipe
    things = predictions.things()
    content = {
        "generator": GENERATOR,
        **{name: summary[name] for name in _NAMES},
        "backbone": " ".join(filter(None, (recipe.model.backbone, recipe.model.variant))),
        "pretrained": recipe.model.pretrained,
        "image_size": recipe.dataset.image_size,
        "command": "python " + shlex.join(map(str, metadata.get("command", []))) if metadata.get("command") else "",
        "differences": _differences(recipe),
        "chosen_by": recipe.evaluate.select if recipe.evaluate.use == "best" else None,
        "costs": {name: summary.get(name) for name in _COSTS},
        "data": {name: metadata.get(name) for name in _FACTS},
        "split": _split(run, metadata),
        "curves": _curves(run.directory / "metrics.jsonl"),
        "steps_per_epoch": summary["train_examples"] / recipe.train.batch_size,
        "things": {
            name: {"kind": "classes", "names": list(thing.head.names), "ordered": thing.head.ordered}
            if isinstance(thing.head, ClassHead)
            else {"kind": "years"}
            for name, thing in things.items()
        },
        "constant": by_thing(summary["constant"], list(things)),
        "constant_names": summary["constant_names"],
        **{part: analyse(predictions, part=part) for part in ("test", "validation")},
        "mistakes": mistakes(predictions.of("test")),
        "around_18": around_18(predictions.of("test")),
    }
    return without_nan(content)  # type: ignore[no-any-return]


def complete(run: Run) -> dict[str, Any]:
    """The run's summary.

    Raises:
      UserError: there is none, or it is damaged or of another version.
    """
    summary = run.summary()
    if summary is None or not run.metadata():
        raise UserError(f"{run.directory} is not complete; run its launch.py command again to finish it.")
    for name in _NEEDED:
        if name not in summary:
            raise UserError(f"{run.directory / 'summary.json'} is of another version (it holds no {name}); restore it.")
    return summary


def own_predictions(run: Run) -> Predictions:
    """The predictions that the run's figures are of.

    Raises:
      UserError: there are none, or they are damaged or of another training.
    """
    summary, path = complete(run), run.directory / NAME
    found = read_predictions(path)
    for name in ("split_sha256", "evaluated_step", "flip_averaged"):
        if found.metadata[name] != summary[name]:
            raise UserError(
                f"{path} is not what summary.json is of (its {name} is another); remove it, and `agegender evaluate "
                f"{run.directory}` writes it again."
            )
    return found


def leaves(recipe: ConfigDict) -> dict[str, Any]:
    """Every value of a recipe by its key, such as `train.epochs`."""

    def flat(tree: Mapping[str, Any], prefix: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in tree.items():
            found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
        return found

    return flat(json.loads(recipes.to_json(recipe)), "")


def _differences(recipe: ConfigDict) -> list[dict[str, Any]]:
    base, own = leaves(recipes.base()), leaves(recipe)
    return [{"key": key, "base": base.get(key), "run": own[key]} for key in sorted(own) if own[key] != base.get(key)]


def _split(run: Run, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Who is where, in numbers."""
    split, by = Split.load(run.directory / "split.json"), run.recipe.split.stratify
    fields = ("protocol", "seed", "fold", "folds", "test_fraction", "validation_fraction", "sha256")
    counts = {part: len(getattr(split, part)) for part in PARTS}
    names = {
        "age_group": AGE_GROUPS[run.recipe.age_groups].names,
        "gender": (*GENDERS, UNDEFINED_GENDER),
        "class": tuple(metadata.get("class_names", ())),
    }[by]
    strata = {
        names[int(number)] if 0 <= int(number) < len(names) else "unknown": found
        for number, found in split.report["strata"].items()
    }
    report = {name: value for name, value in split.report.items() if name != "strata"}
    return {name: getattr(split, name) for name in fields} | counts | report | {"stratified_by": by, "strata": strata}


def _curves(path: Path) -> dict[str, dict[str, list[float]]]:
    """What was measured on the way, by name: `step` and `value`, each as long as the other."""
    curves: dict[str, dict[str, list[float]]] = {}
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check it.") from error
    for line in lines:
        try:
            event = json.loads(line)
            step = float(event["step"])
        except (ValueError, KeyError, TypeError):  # not a line that a whole write left
            continue
        for name, value in event.items():
            if name not in ("step", "seconds") and isinstance(value, int | float) and not name.startswith("test/"):
                curve = curves.setdefault(name, {"step": [], "value": []})
                curve["step"].append(step)
                curve["value"].append(float(value))
    return curves


def by_thing(figures: Mapping[str, Any], things: Sequence[str]) -> dict[str, Any]:
    """A summary's figures by thing: a head of several things names them in its own way (`models/routed.py`).

    >>> by_thing({"routed/gender_accuracy": 0.9, "routed/predicted_mae": 5.0, "n": 3}, ["gender", "age"])
    {'gender/accuracy': 0.9, 'age/mae': 5.0}
    """
    found: dict[str, Any] = {}
    for figure, value in figures.items():
        head, _, metric = figure.partition("/")
        if head in things:
            found[figure] = value
        elif metric.startswith("gender_"):
            found[f"gender/{metric.removeprefix('gender_')}"] = value
        elif metric.startswith("predicted_"):
            inner = next((thing for thing in things if thing != "gender"), head)
            found[f"{inner}/{metric.removeprefix('predicted_')}"] = value
    return found
