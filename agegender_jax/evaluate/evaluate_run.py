"""Measuring finished runs, one or several averaged: on a part of their own split, or on another archive."""

import dataclasses
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from agegender_jax.data.dataset import Dataset, open_dataset
from agegender_jax.data.loader import make_loader
from agegender_jax.data.source import Prepared
from agegender_jax.errors import UserError
from agegender_jax.evaluate.label_mapping import for_another_dataset, unmapped
from agegender_jax.evaluate.loaded import LoadedModel
from agegender_jax.evaluate.predictions import known_columns
from agegender_jax.evaluate.targets import baseline_targets, make_targets, measure_targets
from agegender_jax.evaluate.uncertainty import ends_of
from agegender_jax.models.heads import AgeGroupHead, ClassHead, Head
from agegender_jax.models.losses import ORDINAL
from agegender_jax.recipe_options import data_options
from agegender_jax.run import Run
from agegender_jax.splits import LEAKY, Split

SPLITS = ("train", "validation", "test", "all")

_OF_THE_DATASET = ("config", "label_pattern", "speaker_pattern", "recording_pattern", "csv")  # not of another one
_COLUMNS = ("ensemble", "baseline")  # of a table of several runs, besides the runs' own


@dataclasses.dataclass(frozen=True)
class EvaluationData:
    """The data that a finished run is evaluated on; see `open_data`.

    Attributes:
      heads: those of the run, as they read the labels of these data.
      options: the section `dataset` of a recipe: what the data are.
      prepared: the dataset as it was prepared.
      split: the run's own, over the rows of `data`; None where they are another archive.
    """

    model: LoadedModel
    heads: dict[str, Head]
    options: ConfigDict
    prepared: Prepared
    data: Dataset
    split: Split | None

    @property
    def run(self) -> Run:
        """The run."""
        return self.model.run

    def rows(self, split: str | None) -> np.ndarray:
        """Returns the rows of a part of `SPLITS`; None is `test`, or of another archive `all`, its only part.

        Raises:
          UserError: there is no such part.
        """
        if self.split is None and split not in (None, "all"):
            raise UserError(f"Another archive has no part {split!r}: it is used whole; leave --split out.")
        if split not in (None, *SPLITS):
            raise UserError(f"There is no part {split!r}; choose one of: {', '.join(SPLITS)}.")
        if self.split is None or split == "all":
            return np.arange(len(self.data))
        return getattr(self.split, split or "test")


def evaluate_runs(
    models: LoadedModel | Sequence[LoadedModel],
    *,
    split: str | None = None,
    dataset: str | None = None,
    config: str | None = None,
    manual_dir: Path | None = None,
    data_dir: Path | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Computes a run's metrics, in the form of its `summary.json`, or those of several runs averaged.

    On the run's own data they are those of a part of its split. On another archive (`dataset` is given, or what lies
    in `manual_dir` are not the run's files) they are of all its examples but those whose very file the run learned or
    chose from, which are left out and counted. Labels of another dataset are matched by name, and `unmapped` counts
    those that no class of a head has; see `label_mapping`. `intervals` holds the 95 % intervals, see `uncertainty`.

    Of several runs every head's distributions are averaged, each run weighing the same; runs that decode them
    differently are refused. Each sees the examples with its own preprocessing. On their own data they must have one
    split; on another archive, what any of them has seen is left out. `runs` holds the metrics of each run.

    `split` is one of `SPLITS`, None is `test`; another archive has no parts but `all`, which None then is.
    `dataset` and `config` name another dataset's format and its builder's configuration. `manual_dir` is where
    another archive lies, or where the runs' own lies now, and `data_dir` where prepared data and caches lie, None
    where each run had them.

    Raises:
      UserError: the data are missing or bad, or the runs cannot be averaged.
    """
    models = [models] if isinstance(models, LoadedModel) else models
    if dataset is None and config is None and manual_dir is None:
        for model in models[1:]:  # before hours are spent on preparing the data of each
            if model.metadata["data_sha256"] != models[0].metadata["data_sha256"]:
                raise UserError(_cannot_be_averaged(models[0].run, model.run, "were trained on different data"))
    opened = [
        open_data(model, dataset=dataset, config=config, manual_dir=manual_dir, data_dir=data_dir, progress=progress)
        for model in models
    ]
    first = opened[0]
    for other in opened[1:]:
        _check_heads(first, other)
        _check_data(first, other)
    another = [each for each in opened if each.split is None]
    rows = (another or opened)[0].rows(split)
    if not another:
        _check_splits(opened)
    split = split or ("all" if another else "test")
    result: dict[str, Any] = {
        "run": " + ".join(each.run.name for each in opened),
        "dataset": first.options.name,
        "synthetic": any(each.prepared.synthetic for each in opened),
        "config": first.options.config,
        "protocol": "all files that the run has not seen" if len(opened) == 1 else "all files that no run has seen",
        "age_groups": first.run.recipe.age_groups,
        "leaky": False,
        "split_sha256": None,
        "split": split,
        "left_out": 0,
        "files_of_seen_subjects": 0,
        "unmapped": {},
    }
    if another:
        rows, counts = _new_to_all(opened)
        result |= counts
        result["unmapped"] = unmapped(first.heads, {name: col[rows] for name, col in first.data.columns.items()})
    else:
        # Runs of one split may name two protocols, where these come to the same; a leaky one is never hidden.
        protocol = max((each.model.summary["protocol"] for each in opened), key=lambda name: name in LEAKY)
        leaky = any(each.model.summary["leaky"] for each in opened)
        result |= {"protocol": protocol, "leaky": leaky, "split_sha256": first.model.summary["split_sha256"]}
    labels = {name: head.column(first.data.columns) for name, head in first.heads.items()}
    chosen = {name: label[rows] for name, label in labels.items()}
    keys = first.data.columns["key"][rows]
    part = "test" if another else split

    def measure(heads: Mapping[str, Head], distributions: Mapping[str, np.ndarray]) -> dict[str, dict[str, float]]:
        return {part: measure_targets(make_targets(heads, distributions, chosen))}

    # One after another: one dataset at a time on the devices.
    distributions = [_distributions(each, keys) for each in opened]
    own = [
        {"flip_average": each.run.recipe.evaluate.flip, "evaluated_step": each.model.summary["evaluated_step"]}
        | measure(each.heads, values)
        for each, values in zip(opened, distributions, strict=True)
    ]
    mean = distributions[0]
    if len(opened) == 1:
        result |= own[0]
    else:
        mean = {name: np.mean([each[name] for each in distributions], axis=0) for name in first.heads}
        result |= measure(first.heads, mean)  # all decode alike, see _check_heads
        result["runs"] = dict(zip(_column_names([each.run.name for each in opened]), own, strict=True))
    cluster = known_columns(first.data.columns, rows)["cluster"]
    result["intervals"] = {part: ends_of(make_targets(first.heads, mean, chosen), cluster)}
    baseline = baseline_targets(first.heads, first.model.summary["baseline_predictions"], chosen)
    return result | {"baseline": measure_targets(baseline), "baseline_names": first.model.summary["baseline_names"]}


def open_data(
    model: LoadedModel,
    *,
    dataset: str | None = None,
    config: str | None = None,
    manual_dir: Path | None = None,
    data_dir: Path | None = None,
    progress: bool = True,
) -> EvaluationData:
    """Opens the data that a finished run is to be evaluated on; the arguments are those of `evaluate_runs`.

    Raises:
      UserError: the data are missing or bad.
    """
    run, metadata = model.run, model.metadata
    recipe = ConfigDict(run.recipe.to_dict())
    options = recipe.dataset
    given = dataset is not None or config is not None or manual_dir is not None
    if given:
        options.synthetic = 0
        if config is not None or dataset not in (None, options.name):
            options.update(dict.fromkeys(_OF_THE_DATASET, ""), name=dataset or options.name, max_bad=0.0)
            options.config = config or ""
        elif dataset is not None:
            options.csv = ""  # the name of a file of the run's own archive
    elif metadata["manual_dir"] and not options.synthetic:
        manual_dir = Path(metadata["manual_dir"])
    data = open_dataset(
        data_options(recipe),
        manual_dir=manual_dir,
        data_dir=data_dir or Path(metadata["data_dir"]),
        kind=model.kind,
        progress=progress,
    )
    other = dataset is not None or config is not None
    split = None if other else run.split(data.columns["key"], others=given)
    if split is not None and given and metadata["data_sha256"] != data.sha256:
        split = None  # the same names, other files
    if split is None and not given:
        raise UserError(f"{run.directory} has no split.json; restore the file.")
    heads = model.heads
    if options.name != run.recipe.dataset.name:
        heads = {name: for_another_dataset(head) for name, head in heads.items()}
    return EvaluationData(model, heads, options, data.prepared, data, split)


def as_columns(result: Mapping[str, Any]) -> dict[str, Mapping[str, float]]:
    """Returns the metrics of a result as the columns of a table."""
    part = next(name for name in SPLITS if isinstance(result.get(name), Mapping))
    columns = {"ensemble" if "runs" in result else part: result[part]}
    columns |= {name: run[part] for name, run in result.get("runs", {}).items()}
    return columns | ({"baseline": result["baseline"]} if "baseline" in result else {})


def _distributions(opened: EvaluationData, keys: np.ndarray) -> dict[str, np.ndarray]:
    """Computes each head's distribution for the examples with these keys, `[n, ...]`."""
    row_of = {key: row for row, key in enumerate(opened.data.columns["key"].tolist())}
    rows = np.array([row_of[key] for key in keys.tolist()], np.int32)
    mesh = opened.model.mesh
    with jax.set_mesh(mesh), closing(make_loader(opened.data, mesh)) as loader:
        return opened.model.distributions(loader, rows)


def _new_to_all(opened: Sequence[EvaluationData]) -> tuple[np.ndarray, dict[str, int]]:
    """Returns the rows of the first run's data that no run learned or chose from, and counts of the others."""
    columns = opened[0].data.columns
    seen: set[str] = set()
    for each in opened:
        hashes, own = each.run.seen(), each.data.columns
        seen.update(key for key, sha in zip(own["key"].tolist(), own["sha256"].tolist(), strict=True) if sha in hashes)
    new = np.array([key not in seen for key in columns["key"].tolist()], bool)
    rows = np.flatnonzero(new)
    if not len(rows):
        directories = " or ".join(str(each.run.directory) for each in opened)
        raise UserError(f"Every one of the {len(new)} files there was used to train {directories}: nothing is left.")
    acquainted = np.zeros(len(rows), bool)
    for each in opened:
        subjects = [number for dataset, number in each.run.seen_subjects() if dataset == each.options.name]
        acquainted |= np.isin(columns["subject"][rows], subjects)
    return rows, {"left_out": int((~new).sum()), "files_of_seen_subjects": int(acquainted.sum())}


def _check_heads(first: EvaluationData, other: EvaluationData) -> None:
    """Refuses distributions that mean something else, or that are decoded in another way."""
    both = f"{first.run.directory} and {other.run.directory} cannot be averaged"
    if first.heads.keys() != other.heads.keys():
        raise UserError(
            f"{both}: one has the heads {', '.join(sorted(first.heads))}, the other {', '.join(sorted(other.heads))}; "
            "give runs with the same heads."
        )
    for name, head in first.heads.items():
        one, another = _meaning(head), _meaning(other.heads[name])
        for what in one:
            if one[what] != another[what]:
                raise UserError(
                    f"{both}: the {what} of the head {name} is {one[what]} in one and {another[what]} in the other; "
                    "give runs whose heads mean the same."
                )


def _meaning(head: Head) -> dict[str, str]:
    """Returns what two heads must have in common for their distributions to be averaged."""
    example = jax.ShapeDtypeStruct((1, head.size), jnp.float32)
    size = jax.eval_shape(head.distribution, example).shape[-1]
    decoding = "" if size == 1 else getattr(head, "decoding", "")  # a regression has nothing to decode
    if isinstance(head, ClassHead):
        decoding = "rank" if head.loss_name in ORDINAL else "mode"
    return {
        "scheme of age groups": head.scheme.name if isinstance(head, AgeGroupHead) else "",
        "list of classes": ", ".join(head.names) if isinstance(head, ClassHead) else "",
        "kind": type(head).__name__,
        "distribution": f"{size} numbers",
        "decoding": decoding,
    }


def _check_data(first: EvaluationData, other: EvaluationData) -> None:
    """Refuses runs whose data are not the same files under the same labels."""
    one, another = first.data.columns, other.data.columns
    place = {key: row for row, key in enumerate(another["key"].tolist())}
    problem = ""
    if place.keys() != set(one["key"].tolist()):
        problem = f"are of other data ({len(first.data)} and {len(other.data)} examples, not of the same names)"
    else:
        rows = np.array([place[key] for key in one["key"].tolist()])
        if differing := int((one["sha256"] != another["sha256"][rows]).sum()):
            problem = f"are of other files: {differing} of the {len(rows)} names stand on other content"
        for name, head in first.heads.items():
            if not np.array_equal(head.column(one), head.column(another)[rows], equal_nan=True):
                problem = problem or f"label the same files in two ways, by the head {name}"
    if problem:
        raise UserError(_cannot_be_averaged(first.run, other.run, problem))


def _cannot_be_averaged(first: Run, other: Run, problem: str) -> str:
    """Returns the sentence that says why two runs cannot be averaged on their own data, and what to do."""
    runs = f"{first.directory} and {other.directory}"
    return f"{runs} {problem}; name one archive for them, with --dataset and --manual_dir."


def _check_splits(opened: Sequence[EvaluationData]) -> None:
    """Refuses metrics on a part that one of the runs learned from."""
    hashes = {each.split.sha256: each.run.directory for each in opened if each.split is not None}
    if len(hashes) > 1:
        (sha, first), (other_sha, other), *_ = hashes.items()
        raise UserError(
            f"{first} and {other} have two splits ({sha[:16]} and {other_sha[:16]}), so one may have learned from what "
            "the other is tested on; give runs of one split, or another archive with --dataset and --manual_dir."
        )


def _column_names(names: Sequence[str]) -> list[str]:
    """Returns names for columns, all different.

    >>> _column_names(["a", "b", "a", "baseline"])
    ['a', 'b', 'a (2)', 'baseline (2)']
    """
    taken = list(_COLUMNS)
    result = []
    for name in names:
        taken.append(name)
        count = taken.count(name)
        result.append(name if count == 1 else f"{name} ({count})")
    return result
