"""`agegender evaluate`: measuring finished runs."""

import argparse
from typing import Any

from agegender_jax.commands import common
from agegender_jax.commands.common import add, to_path

EXAMPLES = """examples:
  agegender evaluate runs/cpu
  agegender evaluate runs/cpu --split validation --json validation.json
  agegender evaluate runs/small runs/resnet                # each of them, and their average
  agegender evaluate runs/cpu --dataset utkface --manual_dir DIR
  agegender evaluate runs/cpu --dataset adience --manual_dir DIR   # another dataset: labels are matched by name
  agegender evaluate runs/voices --dataset voice_age_gender --config ravdess --manual_dir DIR
"""


def add_parser(commands: Any) -> None:
    """Adds the command."""
    parser = add(
        commands,
        "evaluate",
        "measure a finished run, or the average of several",
        "Measures a finished run on a part of its own split, or on another archive: there, files that the run was "
        "trained on (recognised by content) are left out and counted. Several runs, which must have one split, are "
        "measured each, and as an ensemble: the mean of their distributions.",
        EXAMPLES,
    )
    parser.add_argument(
        "runs", type=to_path, nargs="+", metavar="RUN", help="a run's directory (the --workdir of launch.py)"
    )
    common.add_part(parser)
    parser.add_argument("--dataset", help="format of another archive, such as utkface")
    parser.add_argument("--config", metavar="NAME", help="configuration of the other archive's builder [the first]")
    common.add_data(parser, "where it lies, or where the run's own lies now")
    common.add_json(parser)
    parser.set_defaults(function=_evaluate)


def _evaluate(arguments: argparse.Namespace) -> int:
    common.check_new(arguments.json, "--json")
    common.prepare()
    from agegender_jax.evaluate.evaluate_run import as_columns, evaluate_runs
    from agegender_jax.evaluate.loaded import LoadedModel
    from agegender_jax.evaluate.summary_text import ABOUT_INTERVALS, metrics_table

    result = evaluate_runs(
        [LoadedModel.load(directory) for directory in arguments.runs],
        split=arguments.split,
        dataset=arguments.dataset,
        config=arguments.config,
        manual_dir=arguments.manual_dir,
        data_dir=arguments.data_dir,
    )
    several = "runs" in result
    print(common.title(result))
    if result["left_out"]:
        who = "a run" if several else "the run"
        print(f"{result['left_out']} files were left out: {who} was trained or selected on the same files.")
    if seen := result["files_of_seen_subjects"]:
        who = "those that a run" if several else "those it"
        print(f"{seen} files are of subjects named like {who} learnt from: if they are the same people, this is leaky.")
    for target, unmapped in result["unmapped"].items():
        names = ", ".join(f"{text} ({count})" for text, count in unmapped["commonest"].items())
        print(f"{target}: {unmapped['count']} of {unmapped['annotated']} annotations have no class in the run: {names}")
    if several:
        print(f"ensemble: the mean distributions of {len(result['runs'])} runs; all metrics are of {result['split']}")
    columns = as_columns(result)
    print(metrics_table(columns, {next(iter(columns)): next(iter(result["intervals"].values()))}))
    print(ABOUT_INTERVALS)
    common.write_json(arguments.json, result)
    return 0
