"""The `agegender` command: everything but training."""

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agegender_jax.describe import commands as data_commands
from agegender_jax.errors import UserError, quiet_libraries
from agegender_jax.labels import DISCLAIMER
from agegender_jax.train import profiling

_EVALUATE_EXAMPLES = """examples:
  agegender evaluate runs/cpu
  agegender evaluate runs/cpu --split validation --json validation.json
  agegender evaluate runs/small runs/resnet                # each of them, and their average
  agegender evaluate runs/cpu --dataset utkface --manual_dir DIR
  agegender evaluate runs/voices --dataset voice_age_gender --config ravdess --manual_dir DIR
"""
_FEATURES_EXAMPLES = """examples:
  agegender features runs/cpu --out features.npz
  agegender features runs/cpu --out test.npz --split test --manual_dir DIR
"""
_CLASSICAL_EXAMPLES = """examples:
  agegender classical features.npz
  agegender classical features.npz --only forest --json forest.json
"""
_ATTENTION_EXAMPLES = """examples:
  agegender attention runs/ensemble --out maps
  agegender attention runs/ensemble --out maps --count 40 --split validation
"""
_MODELS_EXAMPLES = """examples:
  agegender models
  agegender models resnet18 vgg16_bn --image_size 224 --batch_size 64 --dtype bfloat16
  agegender models --no_step_time --json models.json
"""
_SPLITS = ("train", "val", "validation", "test", "all")
_CLASSICAL = ("svm", "forest")  # as in evaluate/classical.py, which takes seconds to import


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code.

    Args:
      argv: arguments; None takes those of the process.
    """
    arguments = _parser().parse_args(argv)
    try:
        code: int = arguments.function(arguments)
        return code
    except UserError as error:
        print(f"agegender: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    examples = (
        _EVALUATE_EXAMPLES,
        _FEATURES_EXAMPLES,
        _CLASSICAL_EXAMPLES,
        _ATTENTION_EXAMPLES,
        _MODELS_EXAMPLES,
        profiling.EXAMPLES,
        data_commands.EXAMPLES,
    )
    parser = argparse.ArgumentParser(
        prog="agegender",
        description="Measures and explains finished runs, lists models, profiles trainings, describes and draws data.",
        epilog="examples:\n" + "".join(each.partition("\n")[2] for each in examples),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    _add_evaluate(commands)
    _add_features(commands)
    _add_classical(commands)
    _add_attention(commands)
    _add_models(commands)
    profiling.add_parser(commands)
    data_commands.add_parsers(commands)
    return parser


def _add(commands: Any, name: str, text: str, description: str, examples: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=text,
        description=description,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    return parser


def _add_part(parser: argparse.ArgumentParser, default: str | None = None) -> None:
    parser.add_argument("--split", choices=_SPLITS, type=_part, default=default, help=f"[{default or 'test'}]")


def _add_data(parser: argparse.ArgumentParser, manual_dir: str = "where the run's data lie now") -> None:
    parser.add_argument("--manual_dir", type=Path, metavar="DIR", help=manual_dir)
    parser.add_argument("--data_dir", type=Path, metavar="DIR", help="where prepared data lie [as in the run]")


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", type=Path, metavar="FILE", help="new file: also write the figures there")


def _add_evaluate(commands: Any) -> None:
    parser = _add(
        commands,
        "evaluate",
        "measure a finished run, or the average of several",
        "Measures a finished run on a part of its own split, or on another archive: there, files that the run was "
        "trained on (found by content) are left out and counted. Several runs are measured each, and averaged: what "
        "their heads say, probability by probability. They must have one split.",
        _EVALUATE_EXAMPLES,
    )
    parser.add_argument(
        "runs", type=Path, nargs="+", metavar="RUN", help="a run's directory (the --workdir of launch.py)"
    )
    _add_part(parser)
    parser.add_argument("--dataset", help="format of another archive, such as utkface")
    parser.add_argument("--config", metavar="NAME", help="configuration of the other archive's builder [the first]")
    _add_data(parser, "where it lies, or where the run's own lies now")
    _add_json(parser)
    parser.set_defaults(function=_evaluate)


def _add_features(commands: Any) -> None:
    parser = _add(
        commands,
        "features",
        "write what a run's backbone makes of each example",
        "Writes the embeddings of a finished run's own examples, with their names, parts of the split and labels, as "
        "an .npz of plain arrays: `agegender classical` learns from it, and so may anything else.",
        _FEATURES_EXAMPLES,
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="the run's directory (the --workdir of launch.py)")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="new file, named *.npz")
    _add_part(parser, "all")
    _add_data(parser)
    parser.set_defaults(function=_features)


def _add_classical(commands: Any) -> None:
    parser = _add(
        commands,
        "classical",
        "fit an SVM and a random forest on embeddings",
        "Fits scikit-learn's support vector machine and random forest on the training part of a file that `agegender "
        "features` wrote, one for each head, and measures them on its test part. Embeddings are standardised by the "
        "training part. The settings are scikit-learn's own, but the forest of ages tries a third of the numbers at "
        "each cut (Breiman 2001), not all of them: nothing is chosen by the data. 14,000 examples take minutes.",
        _CLASSICAL_EXAMPLES,
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="what `agegender features` wrote")
    parser.add_argument("--only", type=_classical_models, default=_CLASSICAL, help="svm, forest or both [svm,forest]")
    _add_json(parser)
    parser.set_defaults(function=_classical)


def _add_attention(commands: Any) -> None:
    parser = _add(
        commands,
        "attention",
        "show where a finished run looked",
        "Writes pictures of a finished run's attention maps over its examples, evenly spaced over a part of its split, "
        "and a sheet of them all. The run's backbone is residual_attention or attention_ensemble.",
        _ATTENTION_EXAMPLES,
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="the run's directory (the --workdir of launch.py)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder, new or empty")
    parser.add_argument("--count", type=int, default=16, help="of examples [16]")
    _add_part(parser)
    _add_data(parser, "where the run's data lie now, or other data")
    parser.set_defaults(function=_attention)


def _add_models(commands: Any) -> None:
    parser = _add(
        commands,
        "models",
        "list the backbones and what they cost",
        "Lists the backbones with their parameters, multiply-adds, and the time of a training step on this machine, "
        "which must be compiled first: seconds to minutes each.",
        _MODELS_EXAMPLES,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="which backbones [all]")
    parser.add_argument("--image_size", type=_at_least(32), default=64, help="pixels [64]")
    parser.add_argument("--batch_size", type=_at_least(1), default=32, help="pictures in a training step [32]")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of the arithmetic")
    parser.add_argument("--no_step_time", action="store_true", help="time no training step")
    _add_json(parser)
    parser.set_defaults(function=_models)


def _evaluate(arguments: argparse.Namespace) -> int:
    _check_json(arguments.json)
    _prepare()
    from agegender_jax.evaluate.measure import as_columns, measure
    from agegender_jax.evaluate.report import table
    from agegender_jax.run import Run

    result = measure(
        [Run.load(directory) for directory in arguments.runs],
        split=arguments.split,
        dataset=arguments.dataset,
        config=arguments.config,
        manual_dir=arguments.manual_dir,
        data_dir=arguments.data_dir,
    )
    several = "runs" in result
    print(_title(result))
    if result["left_out"]:
        who = "a run" if several else "the run"
        print(f"{result['left_out']} files were left out: {who} was trained or chosen on their very content.")
    if seen := result["files_of_seen_subjects"]:
        who = "those that a run" if several else "those it"
        print(f"{seen} files are of subjects named like {who} learnt from: if they are the same people, this is leaky.")
    if several:
        print(f"ensemble: the mean of what {len(result['runs'])} runs say, all figures of the part {result['split']}")
    print(table(as_columns(result)))
    _write_json(arguments.json, result)
    return 0


def _features(arguments: argparse.Namespace) -> int:
    _prepare()
    from agegender_jax.evaluate.features import write_features
    from agegender_jax.run import Run

    facts, (count, size) = write_features(
        Run.load(arguments.run),
        arguments.out,
        split=arguments.split,
        manual_dir=arguments.manual_dir,
        data_dir=arguments.data_dir,
    )
    print(_title(facts))
    print(
        f"{arguments.out}: embeddings of {size} numbers, {count} examples, the part {arguments.split} (it holds "
        "people's data: mind the terms)"
    )
    return 0


def _classical(arguments: argparse.Namespace) -> int:
    _check_json(arguments.json)
    _prepare()
    from agegender_jax.evaluate.classical import CLASSICAL, classical
    from agegender_jax.evaluate.features import read_features
    from agegender_jax.evaluate.report import table

    result = classical(read_features(arguments.file), arguments.only)
    print(_title(result))
    print(f"fitted on {result['train_examples']} examples, tested on {result['test_examples']}")
    if result["heads_left_out"]:
        print(f"left out for want of one class or years to learn: {', '.join(result['heads_left_out'])}")
    print(table({name: result[name] for name in (*CLASSICAL, "constant") if name in result}))
    print(f"constant: the best guess without looking ({', '.join(result['constant_names'].values())})")
    _write_json(arguments.json, result)
    return 0


def _attention(arguments: argparse.Namespace) -> int:
    _prepare()
    from agegender_jax.evaluate.attention import export
    from agegender_jax.run import Run

    opened = export(
        Run.load(arguments.run),
        arguments.out,
        count=arguments.count,
        split=arguments.split,
        manual_dir=arguments.manual_dir,
        data_dir=arguments.data_dir,
    )
    print(f"{arguments.out}: a picture an example, and all of them in {arguments.out / 'sheet.png'}.")
    if opened.prepared.drawn:
        print(f"The examples are {DISCLAIMER}.")
    else:
        shown = "people's voices" if opened.prepared.kind == "audio" else "people"
        print(f"They show {shown}: share them only as the dataset's terms allow. {opened.data.terms}")
    return 0


def _models(arguments: argparse.Namespace) -> int:
    _check_json(arguments.json)
    _prepare()
    from agegender_jax.evaluate.report import costs_report
    from agegender_jax.models.backbones import BACKBONES
    from agegender_jax.train import costs
    from agegender_jax.train.experiment import environment

    names = list(dict.fromkeys(arguments.names)) or list(BACKBONES)
    if unknown := [name for name in names if name not in BACKBONES]:
        raise UserError(f"There is no backbone {unknown[0]!r}; choose among: {', '.join(BACKBONES)}.")
    options = {name: getattr(arguments, name) for name in ("image_size", "batch_size", "dtype")}
    found = {}
    for number, name in enumerate(names, start=1):
        print(f"{name} ({number} of {len(names)}) ...", file=sys.stderr, flush=True)
        found[name] = costs.measure(costs.recipe_of(name, **options), step_time=not arguments.no_step_time)
    result = {**options, **environment(), "models": found}
    print(costs_report(result))
    _write_json(arguments.json, result)
    return 0


def _prepare() -> None:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    from agegender_jax.compilation import cache_compilations

    quiet_libraries()
    cache_compilations()


def _part(name: str) -> str:
    return "validation" if name == "val" else name


def _title(result: Mapping[str, Any]) -> str:
    """What figures are of, as a line."""
    from agegender_jax.splits import marked

    split = f", split {result['split_sha256'][:16]}" if result["split_sha256"] else ""
    drawn = f" ({DISCLAIMER})" if result["drawn"] else ""
    return (
        f"{result['run']}: {result['dataset']}{drawn}, protocol {marked(result['protocol'])}, "
        f"age groups {result['age_groups']}{split}"
    )


def _check_json(path: Path | None) -> None:
    """Refuses, before minutes of work, a file that could not be written after them or that is there already."""
    if path is None:
        return
    if not os.path.isdir(path.parent):
        raise UserError(f"{path.parent} is no folder; make it, or choose another --json.")
    if os.path.lexists(path):
        raise UserError(f"{path} is there already, and nothing is overwritten; choose another --json.")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise UserError(f"{path.parent}: nothing may be written there; choose another --json.")


def _write_json(path: Path | None, result: dict[str, Any]) -> None:
    from agegender_jax.run import without_nan, write_whole

    if path is None:
        return
    _check_json(path)  # again: much may have happened since
    try:
        write_whole(path, json.dumps(without_nan(result), indent=1, allow_nan=False))
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); choose another --json.") from error


def _at_least(least: int) -> Any:
    def whole(text: str) -> int:
        if not text.isdecimal() or not least <= int(text) < 2**31:
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number from {least} on")
        return int(text)

    return whole


def _classical_models(text: str) -> tuple[str, ...]:
    names = text.split(",")
    if not set(names) <= set(_CLASSICAL):
        raise argparse.ArgumentTypeError(f"{text!r} is none of: svm, forest, svm,forest")
    return tuple(name for name in _CLASSICAL if name in names)


if __name__ == "__main__":
    sys.exit(main())
