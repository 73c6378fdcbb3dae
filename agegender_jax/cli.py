"""The `agegender` command: everything but training."""

import argparse
import sys
from collections.abc import Sequence

from agegender_jax.commands import (
    classical,
    compare,
    data,
    evaluate,
    explain,
    features,
    models,
    predict,
    profile,
    report,
    runs,
)
from agegender_jax.errors import UserError
from agegender_jax.text import printable

_COMMANDS = (evaluate, compare, runs, report, predict, explain, features, classical, models, profile, data)


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
        print(printable(f"agegender: {error}", keep="\n"), file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("agegender: interrupted.", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    examples = [module.EXAMPLES for module in _COMMANDS]
    parser = argparse.ArgumentParser(
        prog="agegender",
        description="Evaluates and explains runs, lists models, profiles trainings, describes and synthesizes data.",
        epilog="examples:\n" + "".join(each.partition("\n")[2] for each in examples),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for module in _COMMANDS:
        module.add_parser(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
