"""`agegender compare`: whether two runs differ."""

import argparse
from typing import Any

from agegender_jax.commands.common import add, add_json, check_new, prepare, to_path, write_json
from agegender_jax.errors import UserError

EXAMPLES = """examples:
  agegender compare runs/small runs/resnet
  agegender compare runs/small runs/resnet --split validation --json compared.json
  agegender compare runs/plain runs/weighted               # two of launch.py --repeats: their means
"""


def add_parser(commands: Any) -> None:
    """Adds the command."""
    parser = add(
        commands,
        "compare",
        "compare two runs",
        "Compares two finished runs on the same examples: every metric of both, the difference with its 95 % interval "
        "(sampled by clusters: subjects, speakers, identical files), and p. Runs whose examples or labels differ are "
        "refused. The --workdir of a sweep, trained with --repeats, stands for the mean of its runs, and the interval "
        "then holds their spread. Of two single runs McNemar's test stands beside it.",
        EXAMPLES,
    )
    for name, which in (("first", "a run's directory, or a sweep's"), ("second", "what to compare it with")):
        parser.add_argument(name, type=to_path, metavar=name.upper(), help=which)
    parser.add_argument(
        "--split", choices=("validation", "test"), default="test", help="which part of the runs' split [test]"
    )
    add_json(parser)
    parser.set_defaults(function=_compare)


def _compare(arguments: argparse.Namespace) -> int:
    check_new(arguments.json, "--json")
    prepare()
    from agegender_jax.evaluate.comparison import compare, load, text

    if arguments.first.resolve() == arguments.second.resolve():
        raise UserError(f"{arguments.first} is named twice; name two runs.")
    result = compare(load(arguments.first, arguments.split), load(arguments.second, arguments.split))
    print(text(result))
    write_json(arguments.json, result)
    return 0
