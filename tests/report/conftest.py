"""A finished run without a training: made-up predictions, kept as a training keeps them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ml_collections import ConfigDict

from agegender_jax import recipe as recipes
from agegender_jax.evaluate.predictions import COLUMNS, NAME, Predictions, write_predictions
from agegender_jax.evaluate.targets import baseline_targets, fit_baseline, measure_targets, target_heads
from agegender_jax.labels import AGE_GROUPS, GENDERS
from agegender_jax.models.heads import build_heads, metrics_metadata
from agegender_jax.recipe_options import model_options
from agegender_jax.report.content import Content, gather, own_predictions
from agegender_jax.run import Run
from agegender_jax.splits import make_split

CLASSES = tuple(f"female_{age}" for age in range(20, 59))
"""Of a dataset with classes of its own: 39."""

HOSTILE = '<script>alert(1)</script>"&$x$\u202e.jpg'
"""Name of the file of the most confident mistake."""


def _blurred(label: np.ndarray, classes: int, rng: np.random.Generator, sure: float) -> np.ndarray:
    """Returns distributions that are often highest at the label."""
    logits = rng.normal(size=(len(label), classes))
    logits[np.arange(len(label)), label] += sure
    return (np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)).astype(np.float32)


def _make(
    directory: Path,
    count: int = 600,
    heads: tuple[str, ...] = ("gender", "age_group", "age"),
    settings: dict[str, Any] | None = None,
    metadata_of_data: dict[str, Any] | None = None,
    speakers: int | None = None,
    **changes: Any,
) -> Run:
    recipe: ConfigDict = recipes.base()
    for name, options in recipe.heads.items():
        options.weight = float(name in heads)
    recipe.train.epochs = 4.0
    recipe.update_from_flattened_dict(settings or {})
    rng = np.random.default_rng(0)
    keys = np.array([f"face_{i:04}.jpg" for i in range(count)], f"U{len(HOSTILE)}")
    age = rng.integers(1, 80, count).astype(np.float32)
    gender = rng.integers(0, 2, count).astype(np.int32)
    columns = {"age": age, "age_low": age, "age_high": age, "gender": gender, "race": rng.integers(0, 5, count)}
    columns |= {"cluster": np.arange(count) % (speakers or count), "class_name": rng.choice(CLASSES, count)}
    built = build_heads(model_options(recipe).heads, CLASSES)
    labels = {name: head.column(columns) for name, head in built.items()}
    groups = AGE_GROUPS["nearest"].assign(age)
    split = make_split(keys, groups, np.full(count, -1), conflicted=np.zeros(count, bool))
    first = split.test[0]
    split.keys[first] = HOSTILE
    rows = np.concatenate([split.validation, split.test])
    distributions = {
        "gender": _blurred(gender, 2, rng, 2.0),
        "age_group": _blurred(groups, 8, rng, 2.5),
        "age": _blurred(age.astype(int), 101, rng, 5.0),
    }
    distributions["gender"][first] = np.eye(2, dtype=np.float32)[1 - gender[first]]  # the most confident, and wrong
    if "class_name" in heads:
        distributions["class_name"] = _blurred(labels["class_name"], len(CLASSES), rng, 3.0)
    if recipe.model.backbone == "routed":
        distributions |= {f"age_group_{name}": _blurred(groups, 8, rng, 2.5) for name in GENDERS}
    if recipe.heads.age.loss == "l1":
        distributions["age"] = (age + rng.normal(0, 6, count)).astype(np.float32)[:, None]
    identity = {
        **{"run": directory.name, "dataset": "utkface", "synthetic": False, "protocol": "disjoint", "leaky": False},
        **{"age_groups": "nearest", "split_sha256": split.sha256, "evaluated_step": 40, "flip_average": False},
    }
    predictions = Predictions(
        split.keys[rows],
        np.repeat(["validation", "test"], [len(split.validation), len(split.test)]),
        {name: columns[name][rows].astype(kind) for name, kind in COLUMNS.items()},
        {name: labels[name][rows] for name in built},
        {name: distributions[name][rows] for name in built},
        built,
        {**identity, "class_names": list(CLASSES), "recipe": json.loads(recipes.to_json(recipe, paths=False))},
    )
    names, baseline = fit_baseline(built, {name: label[split.train] for name, label in labels.items()})
    test = {name: label[split.test] for name, label in labels.items()}
    hardware = {"backend": "cpu", "devices": 1, "device": "cpu", "processor": "<b>fast</b>", "cores": 2}
    shared: dict[str, Any] = {
        "versions": {"jax": "0.10.2"},
        "hardware": hardware,
        "subjects": {"known": 0, "in_several_parts": 0, "unidentified_examples": count},
        "data_sha256": "d" * 64,
    }
    summary = {
        **identity,
        **shared,
        **{"test": predictions.of("test").metrics(), "validation": predictions.of("validation").metrics()},
        **{"baseline": measure_targets(baseline_targets(built, baseline, test)), "baseline_names": names},
        **{"train_examples": len(split.train), "parameters": 12345, "steps": 40, "epochs": 4.0, "seconds": 185.0},
        **{"seconds_of": {"step": 170.0}, "images_per_second": 321.0, "first_step_seconds": 9.0},
        **{"peak_memory_bytes": 10**9, "metrics": metrics_metadata(target_heads(built))},
        **changes,
    }
    identical = {"groups": 10, "files": 21, "conflicting_groups": 4, "conflicting_files": 9, "groups_over_5_years": 1}
    metadata = {
        **{"dataset_version": "1.1.0", "kind": "image", "terms": "research <only>", "identical_files": identical},
        **{"class_names": list(CLASSES), "split_sha256": split.sha256},
        **{"command": ["launch.py", "--workdir", "my runs/small"]},
        **shared,
        **(metadata_of_data or {}),
    }
    lines = [
        {"step": step, "seconds": step, "train/loss": 5 / step, "train/gender/loss": 2 / step, "learning_rate": 1e-3}
        for step in range(5, 41, 5)
    ]
    lines += [{"step": step, "validation/gender/accuracy": step / 50} for step in (20, 40)]
    torn = '{"step": 45, "train/lo'
    directory.mkdir(parents=True)
    run = Run(directory, recipe)
    (directory / "recipe.json").write_text(recipes.to_json(recipe))
    split.save(directory / "split.json")
    run.write("run.json", metadata)
    (directory / "metrics.jsonl").write_text("\n".join([*map(json.dumps, lines), torn]))
    write_predictions(directory / NAME, predictions)
    run.write("summary.json", summary)
    return run


@pytest.fixture(scope="session")
def made() -> Callable[..., Run]:
    """Makes a run in a new directory: 120 test examples of 600; keyword arguments are of its summary."""
    return _make


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Makes such a run once. Read only."""
    return _make(tmp_path_factory.mktemp("made") / "small <run>")


@pytest.fixture(scope="session")
def content(run: Run) -> Content:
    """Gathers the content of its report. Read only."""
    return gather(run, own_predictions(run))
