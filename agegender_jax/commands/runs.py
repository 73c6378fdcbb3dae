"""`agegender runs`: the runs in a folder, what differs in their recipes, and their figures."""

import argparse
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from agegender_jax.commands.common import add, add_json, check_json, prepare, write_json
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
    """Adds the command; it sets `function`, which takes the arguments and returns an exit code."""
    parser = add(
        commands,
        "runs",
        "list runs, what differs in their recipes, and their figures",
        f"Lists the runs in a folder and up to {DEPTH} folders below it in one table: dataset, protocol, split, state, "
        "test figures with 95 % intervals, and where its recipe differs from what most runs on its dataset have. Says "
        "which figures cannot be compared. A damaged run is named with its reason.",
        EXAMPLES,
    )
    parser.add_argument("directory", type=Path, nargs="?", default=Path("runs"), metavar="DIR", help="[runs]")
    add_json(parser)
    parser.set_defaults(function=_runs)


def _runs(arguments: argparse.Namespace) -> int:
    check_json(arguments.json)
    prepare()
    found = [describe(arguments.directory, directory) for directory in find(arguments.directory)]
    if not found:
        raise UserError(
            f"{arguments.directory} holds no runs (no recipe.json in it or up to {DEPTH} folders below it); "
            "give the folder that their --workdir lies in."
        )
    result = {"directory": str(arguments.directory), "runs": found, "differing": differing(found)}
    print(table(result))
    write_json(arguments.json, result)
    return 0


def find(directory: Path) -> Iterator[Path]:
    """Directories of runs, sorted by path; what lies within a run is no run, and links are not followed.

    Raises:
      UserError: the directory is none, or cannot be read.
    """
    if not directory.is_dir():
        raise UserError(f"{directory} is no folder; give the folder that the --workdir of your runs lies in.")
    yield from _below(directory, 0)


def _below(directory: Path, depth: int) -> Iterator[Path]:
    try:
        entries = sorted(os.scandir(directory), key=lambda entry: entry.name)
    except OSError as error:
        if not depth:
            raise UserError(f"{directory}: cannot be read ({error.strerror}); check it.") from error
        return
    if any(entry.name == "recipe.json" for entry in entries):
        yield directory
    elif depth < DEPTH:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _below(Path(entry.path), depth + 1)


def describe(root: Path, directory: Path) -> dict[str, Any]:
    """What is known of a run.

    Args:
      root: which its path is told from.
      directory: of the run.

    Returns:
      `path`, `study` (the folder of the study that it is a member of, or None) and `state`: `complete`, `damaged`, or
      `step n of m`, of the last step that was logged. `reason` of a damaged one. Of others `recipe` (values by key),
      `dataset`, `drawn`, `protocol`, `age_groups`, `split_sha256`, `figures` and `constant` by name, `intervals` by
      name (`low`, `high`), `images_per_second`, `seconds`; None or empty where they are not known yet.
    """
    relative = os.path.relpath(directory, root)
    study = os.path.dirname(relative) if (directory.parent / "study.json").exists() and relative != "." else None
    known: dict[str, Any] = {"path": directory.resolve().name if relative == "." else relative, "study": study}
    try:
        return known | _known(directory)
    except UserError as error:
        return known | {"state": "damaged", "reason": str(error)}
    except (KeyError, TypeError, ValueError, AttributeError) as error:  # JSON of another form than this version's
        reason = f"{directory}: its files are of another version ({type(error).__name__}: {error}); restore them."
        return known | {"state": "damaged", "reason": reason}


def _known(directory: Path) -> dict[str, Any]:
    """The rest of `describe`; raises where the run is damaged."""
    from agegender_jax.report.content import leaves
    from agegender_jax.run import Run

    run = Run.load(directory)
    recipe, metadata, summary = run.recipe, run.metadata(), run.summary()
    known = {
        "recipe": leaves(recipe),
        "dataset": recipe.dataset.name,
        "synthetic": bool(metadata.get("synthetic", recipe.dataset.synthetic)),
        "protocol": recipe.split.protocol,
        "age_groups": recipe.age_groups,
        "split_sha256": metadata.get("split_sha256"),
        **{"figures": {}, "constant": {}, "intervals": {}, "images_per_second": None, "seconds": None},
    }
    if summary is None:
        return known | {"state": _progress(run)}
    test, constant, intervals = summary["test"], summary["constant"], summary["intervals"]["test"]
    names = [name for name, metric in summary["metrics"].items() if metric["main"] and test.get(name) is not None]
    return known | {
        "state": "complete",
        "synthetic": bool(summary["synthetic"]),
        "split_sha256": str(summary["split_sha256"]),
        "figures": {name: float(test[name]) for name in names},
        "constant": {name: constant.get(name) for name in names},
        "intervals": {
            name: {"low": float(low), "high": float(high)} for name, (low, high) in intervals.items() if name in names
        },
        "images_per_second": summary["images_per_second"],
        "seconds": float(summary["seconds"]),
    }


def _progress(run: Any) -> str:
    """How far a run is that is not complete."""
    from agegender_jax.splits import Split
    from agegender_jax.train.options import Schedule

    if not (run.directory / "split.json").exists():
        return "not begun"
    total = Schedule.from_recipe(run.recipe, len(Split.load(run.directory / "split.json").train)).total
    last, path = 0, run.directory / "metrics.jsonl"
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    for line in reversed(lines):
        try:
            last = int(json.loads(line)["step"])
            break
        except (ValueError, KeyError, TypeError):  # torn, where the run was killed
            continue
    return f"step {last:,} of {total:,}"


def differing(found: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """By dataset, drawn ones apart, keys of the recipes that are not the same in all its runs: what most of them have.

    >>> runs = [{"dataset": "utkface", "recipe": {"seed": seed, "name": "small"}} for seed in (0, 1, 0)]
    >>> differing([*runs, {"dataset": "adience", "recipe": {"seed": 0, "name": "large"}}])
    {'utkface': {'seed': 0}, 'adience': {}}
    """
    of_dataset: dict[str, list[Mapping[str, Any]]] = {}
    for run in found:
        if "recipe" in run:
            of_dataset.setdefault(dataset_of(run), []).append(run["recipe"])
    return {dataset: _common(recipes) for dataset, recipes in of_dataset.items()}


def dataset_of(run: Mapping[str, Any]) -> str:
    """What a run was trained on, as the table says it."""
    return str(run["dataset"]) + (" (drawn)" if run.get("synthetic") else "")


def _common(recipes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    common = {}
    for key in sorted({key for recipe in recipes for key in recipe}):
        texts = Counter(json.dumps(recipe.get(key)) for recipe in recipes)
        if len(texts) > 1:
            common[key] = json.loads(texts.most_common(1)[0][0])
    return common


def table(result: Mapping[str, Any]) -> str:
    """The runs as text: one row a run, those of a study under its name; below, what cannot be compared."""
    found, usual = result["runs"], result["differing"]
    figures = list(dict.fromkeys(name for run in found for name in run.get("figures", {})))
    rows: list[dict[str, str]] = []
    study = None
    for run in found:
        if run["study"] != study and run["study"]:
            count = sum(each["study"] == run["study"] for each in found)
            rows.append({"": f"{run['study']}/", "state": f"{count} run{'s' if count > 1 else ''}"})
        study = run["study"]
        rows.append({"": run["path"]} | _row(run, figures, usual))
    titles = ("", "dataset", "protocol", "split", "state", *figures, "images/s", "time", "differs")
    titles = tuple(title for title in titles if any(row.get(title) for row in rows))
    lines = plain(Table(titles, [[row.get(title, "") for title in titles] for row in rows]))
    return "\n".join([lines, *_notes(found, usual)])


def _row(run: Mapping[str, Any], figures: Sequence[str], usual: Mapping[str, Any]) -> dict[str, str]:
    from agegender_jax.splits import marked

    if "recipe" not in run:
        return {"state": run["state"]}
    common = usual[dataset_of(run)]
    own = {key: run["recipe"].get(key) for key, value in common.items() if run["recipe"].get(key) != value}
    cells = {
        "dataset": printable(dataset_of(run)),
        "protocol": marked(run["protocol"]),
        "split": (run["split_sha256"] or "")[:_HASH],
        "state": run["state"],
        "images/s": f"{run['images_per_second']:.0f}" if run["images_per_second"] else "",
        "time": duration(run["seconds"]) if run["seconds"] is not None else "",
        "differs": ", ".join(f"{key}={_value(value)}" for key, value in own.items()),
    }
    for name in figures:
        if name in run["figures"]:
            ends, constant = run["intervals"].get(name), run["constant"].get(name)
            cells[name] = f"{run['figures'][name]:.4f}"
            if ends:
                cells[name] += f" [{ends['low']:.4f}, {ends['high']:.4f}]"
            if constant is not None:
                cells[name] += f" ({constant:.4f})"
    return cells


def _notes(found: Sequence[Mapping[str, Any]], usual: Mapping[str, Any]) -> list[str]:
    """The lines under the table."""
    lines = []
    for dataset, common in usual.items():
        if common:
            most = ", ".join(f"{key}={_value(value)}" for key, value in common.items())
            count = sum("recipe" in run and dataset_of(run) == dataset for run in found)
            whom = (
                f"what most of the {count} runs on {printable(dataset)} have"
                if count > 2
                else f"the other on {printable(dataset)}"
            )
            lines.append(f"differs: from {whom}: {most}")
    if any(run.get("constant") for run in found):
        lines.append("(in brackets): the best constant guess from the training labels, on the same test part")
    if any(run.get("intervals") for run in found):
        lines.append("[in square ones]: 95 % intervals over the test examples")
    if any(run.get("synthetic") for run in found):
        lines.append(DISCLAIMER)
    lines += _incomparable(found)
    lines += [f"{printable(run['path'])} is damaged: {printable(run['reason'])}" for run in found if "reason" in run]
    return lines


def _incomparable(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """Which figures must not be compared, dataset by dataset."""
    lines = []
    done = [run for run in found if run.get("figures")]
    for dataset in dict.fromkeys(map(dataset_of, done)):
        runs = [run for run in done if dataset_of(run) == dataset]
        splits = dict.fromkeys(run["split_sha256"][:_HASH] for run in runs)
        schemes = dict.fromkeys(run["age_groups"] for run in runs)
        if len(splits) > 1:
            named = [*list(splits)[:_SPLITS], f"{len(splits) - _SPLITS} more"] if len(splits) > _SPLITS else splits
            lines.append(
                f"{printable(dataset)} has {len(splits)} splits ({', '.join(named)}): figures under different splits "
                "cannot be compared."
            )
        if len(schemes) > 1:
            lines.append(
                f"{printable(dataset)} has age groups {', '.join(schemes)}: accuracies under different ones cannot be "
                "compared."
            )
    if len(set(map(dataset_of, done))) > 1:
        lines.append("Figures of different datasets cannot be compared.")
    return lines


def _value(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else printable(str(value)) or "''"
