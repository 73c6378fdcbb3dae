"""`agegender runs`: the runs in a folder, what differs in their recipes, and their metrics."""

import argparse
import contextlib
import dataclasses
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from agegender_jax.commands.common import add, add_json, check_new, prepare, to_path, write_json
from agegender_jax.errors import UserError
from agegender_jax.labels import DISCLAIMER
from agegender_jax.text import Table, duration, plain, printable

EXAMPLES = """examples:
  agegender runs
  agegender runs runs/adience --json adience.json
"""

DEPTH = 4
"""Folders below the given one that are searched."""

_HASH = 8  # characters of a split's hash
_SPLITS = 6  # that are named where there are several


def add_parser(commands: Any) -> None:
    """Adds the command."""
    parser = add(
        commands,
        "runs",
        "list runs, what differs in their recipes, and their metrics",
        f"Lists the runs in a folder and up to {DEPTH} folders below it in one table: dataset, protocol, split, state, "
        "test metrics with 95 % intervals, and where its recipe differs from most runs on its dataset. Lists which "
        "metrics cannot be compared, and why a run is damaged.",
        EXAMPLES,
    )
    parser.add_argument("directory", type=to_path, nargs="?", default=Path("runs"), metavar="DIR", help="[runs]")
    add_json(parser)
    parser.set_defaults(function=_runs)


def _runs(arguments: argparse.Namespace) -> int:
    check_new(arguments.json, "--json")
    prepare()
    runs = [describe(arguments.directory, directory) for directory in find(arguments.directory)]
    if not runs:
        raise UserError(
            f"{arguments.directory} holds no runs (no recipe.json in it or up to {DEPTH} folders below it); "
            "give the folder that their --workdir lies in."
        )
    usual = differing(runs)
    print(_text(runs, usual))
    listed = [dataclasses.asdict(run) for run in runs]
    write_json(arguments.json, {"directory": str(arguments.directory), "runs": listed, "differing": usual})
    return 0


@dataclasses.dataclass(frozen=True)
class ListedRun:
    """What is listed of a run; what is not known yet, or because the run is damaged, has its default.

    Attributes:
      path: relative to the folder whose runs are listed.
      sweep: the folder of the sweep that the run is a trial of, or None.
      state: `complete`, `damaged`, `not started` or `step n of m`, of the last step that was logged.
      reason: why it is damaged.
      recipe: values by key, None of a damaged run.
      metrics: the main metrics on the test part, by name; their `baseline`, and the ends of their `intervals`.
    """

    path: str
    sweep: str | None
    state: str
    reason: str = ""
    recipe: dict[str, Any] | None = None
    dataset: str = ""
    synthetic: bool = False
    protocol: str = ""
    leaky: bool = False
    age_groups: str = ""
    split_sha256: str = ""
    metrics: dict[str, float] = dataclasses.field(default_factory=dict)
    baseline: dict[str, float] = dataclasses.field(default_factory=dict)
    intervals: dict[str, tuple[float, float]] = dataclasses.field(default_factory=dict)
    images_per_second: float | None = None
    seconds: float | None = None

    @property
    def data(self) -> str:
        """What the run was trained on, as the table names it: synthetic data are a dataset of their own."""
        return self.dataset + (" (synthetic)" if self.synthetic else "")


def find(directory: Path) -> Iterator[Path]:
    """Yields the directories of runs, sorted by path; neither runs within a run nor links are followed.

    Raises:
      UserError: the directory is none, or cannot be read.
    """
    if not directory.is_dir():
        raise UserError(f"{directory} is no folder; give the folder that the --workdir of your runs lies in.")
    for path, folders, files in os.walk(directory, onerror=lambda error: _unreadable(error, directory)):
        folders.sort()
        if "recipe.json" in files:
            yield Path(path)
        if "recipe.json" in files or len(Path(path).relative_to(directory).parts) == DEPTH:
            folders.clear()


def _unreadable(error: OSError, directory: Path) -> None:
    if error.filename == str(directory):
        raise UserError(f"{directory}: cannot be read ({error.strerror}); check it.") from error


def describe(root: Path, directory: Path) -> ListedRun:
    """Returns what is listed of the run in a directory; its path is relative to `root`."""
    path = os.path.relpath(directory, root)
    sweep = os.path.dirname(path) if (directory.parent / "sweep.json").exists() and path != "." else None
    path = directory.resolve().name if path == "." else path
    try:
        return ListedRun(path, sweep, **_values(directory))
    except UserError as error:
        return ListedRun(path, sweep, "damaged", str(error))
    except (KeyError, TypeError, ValueError, AttributeError) as error:  # JSON of another form than this version's
        reason = f"{directory}: its files are of another version ({type(error).__name__}: {error}); restore them."
        return ListedRun(path, sweep, "damaged", reason)


def _values(directory: Path) -> dict[str, Any]:
    from agegender_jax import recipe as recipes
    from agegender_jax.run import Run

    run = Run.load(directory)
    recipe, metadata, summary = run.recipe, run.metadata(), run.summary()
    values = {
        "recipe": recipes.leaves(recipe),
        "dataset": recipe.dataset.name,
        "synthetic": bool((summary or metadata).get("synthetic", recipe.dataset.synthetic)),
        "protocol": recipe.split.protocol,
        "leaky": bool((summary or {}).get("leaky", False)),
        "age_groups": recipe.age_groups,
        "split_sha256": str((summary or metadata).get("split_sha256") or ""),
    }
    if summary is None:
        return values | {"state": _progress(run)}
    test, baseline, intervals = summary["test"], summary["baseline"], summary["intervals"]["test"]
    names = [name for name, metric in summary["metrics"].items() if metric["main"] and test.get(name) is not None]
    return values | {
        "state": "complete",
        "metrics": {name: float(test[name]) for name in names},
        "baseline": {name: float(baseline[name]) for name in names if baseline.get(name) is not None},
        "intervals": {name: tuple(map(float, intervals[name])) for name in names if name in intervals},
        "images_per_second": summary["images_per_second"],
        "seconds": float(summary["seconds"]),
    }


def _progress(run: Any) -> str:
    from agegender_jax.recipe_options import train_options
    from agegender_jax.splits import Split

    if not (run.directory / "split.json").exists():
        return "not started"
    total = train_options(run.recipe).step_counts(len(Split.load(run.directory / "split.json").train)).total
    step, path = 0, run.directory / "metrics.jsonl"
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    for line in lines[-2:]:
        with contextlib.suppress(ValueError, KeyError, TypeError):  # not a line that was written whole
            step = int(json.loads(line)["step"])
    return f"step {step:,} of {total:,}"


def differing(runs: Sequence[ListedRun]) -> dict[str, dict[str, Any]]:
    """Returns by dataset the keys of the recipes that are not the same in all its runs, with their commonest values.

    >>> differing([ListedRun("", None, "", recipe={"seed": seed, "b": 1}, dataset="utkface") for seed in (0, 1, 0)])
    {'utkface': {'seed': 0}}
    """
    recipes: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        if run.recipe is not None:
            recipes.setdefault(run.data, []).append(run.recipe)
    usual: dict[str, dict[str, Any]] = {dataset: {} for dataset in recipes}
    for dataset, own in recipes.items():
        for key in sorted({key for recipe in own for key in recipe}):
            texts = Counter(json.dumps(recipe.get(key)) for recipe in own)
            if len(texts) > 1:
                usual[dataset][key] = json.loads(texts.most_common(1)[0][0])
    return usual


def _text(runs: Sequence[ListedRun], usual: Mapping[str, Any]) -> str:
    """Returns one row a run, those of a sweep under its name; below, what cannot be compared."""
    rows: list[dict[str, str]] = []
    sweep = None
    for run in runs:
        if run.sweep and run.sweep != sweep:
            count = sum(each.sweep == run.sweep for each in runs)
            rows.append({"": f"{run.sweep}/", "state": f"{count} run{'s' if count > 1 else ''}"})
        sweep = run.sweep
        rows.append(_row(run, usual))
    names = dict.fromkeys(name for run in runs for name in run.metrics)
    titles = ("", "dataset", "protocol", "split", "state", *names, "images/s", "time", "differs")
    shown = [title for title in titles if any(row.get(title) for row in rows)]
    table = Table(shown, [[row.get(title, "") for title in shown] for row in rows])
    return "\n".join([plain(table), *map(printable, _notes(runs, usual))])


def _row(run: ListedRun, usual: Mapping[str, Any]) -> dict[str, str]:
    from agegender_jax.splits import marked

    if run.recipe is None:
        return {"": run.path, "state": run.state}
    cells = {
        "": run.path,
        "dataset": run.data,
        "protocol": marked(run.protocol, run.leaky),
        "split": run.split_sha256[:_HASH],
        "state": run.state,
        "images/s": f"{run.images_per_second:.0f}" if run.images_per_second else "",
        "time": duration(run.seconds) if run.seconds is not None else "",
        "differs": _settings(
            {key: run.recipe.get(key) for key, value in usual[run.data].items() if run.recipe.get(key) != value}
        ),
    }
    for name, value in run.metrics.items():
        cells[name] = f"{value:.4f}"
        if name in run.intervals:
            cells[name] += " [{:.4f}, {:.4f}]".format(*run.intervals[name])
        if name in run.baseline:
            cells[name] += f" ({run.baseline[name]:.4f})"
    return cells


def _settings(values: Mapping[str, Any]) -> str:
    texts = {key: f"{value:g}" if isinstance(value, float) else str(value) or "''" for key, value in values.items()}
    return ", ".join(f"{key}={text}" for key, text in texts.items())


def _notes(runs: Sequence[ListedRun], usual: Mapping[str, Any]) -> list[str]:
    """Returns the lines under the table."""
    lines = []
    for dataset, common in usual.items():
        if common:
            count = sum(run.recipe is not None and run.data == dataset for run in runs)
            others = f"most of the {count} runs on {dataset}" if count > 2 else f"the other run on {dataset}"
            lines.append(f"differs: from {others}: {_settings(common)}")
    if any(run.baseline for run in runs):
        lines.append("(...): baseline, the same prediction for every example, chosen on the training labels")
    if any(run.intervals for run in runs):
        lines.append("[...]: 95 % interval over samples of test examples")
    if any(run.synthetic for run in runs):
        lines.append(DISCLAIMER)
    complete = [run for run in runs if run.metrics]
    datasets = dict.fromkeys(run.data for run in complete)
    for dataset in datasets:
        splits = list(dict.fromkeys(run.split_sha256[:_HASH] for run in complete if run.data == dataset))
        schemes = dict.fromkeys(run.age_groups for run in complete if run.data == dataset)
        if len(splits) > 1:
            names = ", ".join(splits[:_SPLITS]) + ", ..." * (len(splits) > _SPLITS)
            lines.append(f"{dataset} has {len(splits)} splits ({names}), whose metrics cannot be compared.")
        if len(schemes) > 1:
            lines.append(f"{dataset} has age groups {', '.join(schemes)}, whose accuracies cannot be compared.")
    if len(datasets) > 1:
        lines.append("Metrics of different datasets cannot be compared.")
    lines += [f"{run.path} is damaged: {run.reason}" for run in runs if run.reason]
    return lines
