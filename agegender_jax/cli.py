"""The `agegender` command: everything but training."""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from agegender_jax.describe import commands as data_commands
from agegender_jax.errors import UserError, quiet_libraries
from agegender_jax.labels import DISCLAIMER

_EXAMPLES = """examples:
  agegender evaluate runs/cpu
  agegender evaluate runs/cpu --split validation --json validation.json
  agegender evaluate runs/cpu --dataset utkface --manual_dir DIR
  agegender evaluate runs/voices --dataset voice_age_gender --config ravdess --manual_dir DIR
"""


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
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="agegender",
        description="Measures finished runs, and describes and draws datasets.",
        epilog=_EXAMPLES + data_commands.EXAMPLES.partition("\n")[2],
        formatter_class=form,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    evaluate = commands.add_parser(
        "evaluate",
        help="measure a finished run",
        description="Measures a finished run on a part of its own split, or on another archive: there, files that "
        "the run was trained on (found by content) are left out and counted.",
        epilog=_EXAMPLES,
        formatter_class=form,
    )
    evaluate.add_argument("run", type=Path, help="the run's directory (the --workdir of launch.py)")
    evaluate.add_argument("--split", choices=("train", "val", "validation", "test", "all"), help="[test]")
    evaluate.add_argument("--dataset", help="format of another archive, such as utkface")
    evaluate.add_argument("--config", metavar="NAME", help="configuration of the other archive's builder [the first]")
    evaluate.add_argument(
        "--manual_dir", type=Path, metavar="DIR", help="where it lies, or where the run's own lies now"
    )
    evaluate.add_argument("--data_dir", type=Path, metavar="DIR", help="where prepared data lie [as in the run]")
    evaluate.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    evaluate.set_defaults(function=_evaluate)
    data_commands.add_parsers(commands)
    return parser


def _evaluate(arguments: argparse.Namespace) -> int:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    from agegender_jax.compilation import cache_compilations
    from agegender_jax.evaluate.measure import as_columns, measure
    from agegender_jax.evaluate.report import table
    from agegender_jax.run import Run, write_whole
    from agegender_jax.splits import marked

    quiet_libraries()
    cache_compilations()
    result = measure(
        Run.load(arguments.run),
        split="validation" if arguments.split == "val" else arguments.split,
        dataset=arguments.dataset,
        config=arguments.config,
        manual_dir=arguments.manual_dir,
        data_dir=arguments.data_dir,
    )
    split = f", split {result['split_sha256'][:16]}" if result["split_sha256"] else ""
    drawn = f" ({DISCLAIMER})" if result["drawn"] else ""
    print(
        f"{result['run']}: {result['dataset']}{drawn}, protocol {marked(result['protocol'])}, "
        f"age groups {result['age_groups']}{split}"
    )
    if result["left_out"]:
        print(f"{result['left_out']} files were left out: the run was trained or chosen on their very content.")
    if seen := result["files_of_seen_subjects"]:
        print(
            f"{seen} files are of subjects named like those it learnt from: if they are the same people, this is leaky."
        )
    print(table(as_columns(result)))
    if arguments.json:
        try:
            write_whole(arguments.json, json.dumps(result, indent=1))
        except OSError as error:
            raise UserError(
                f"{arguments.json}: cannot be written ({error.strerror}); choose another --json."
            ) from error
    return 0


if __name__ == "__main__":
    sys.exit(main())
