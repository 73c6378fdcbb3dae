"""`agegender report`: the report of a finished run in one page."""

import argparse
from typing import Any

from agegender_jax.commands.common import add, add_data, add_run, prepare, to_path
from agegender_jax.errors import UserError

EXAMPLES = """examples:
  agegender report runs/cpu
  agegender report runs/cpu --with_images --out private/cpu.html
"""


def add_parser(commands: Any) -> None:
    """Adds the command."""
    parser = add(
        commands,
        "report",
        "report a finished run in one page",
        "Writes a page that needs nothing but itself, RUN/report/index.html: metrics with intervals beside a baseline, "
        "groups, confusion, calibration, learning curves, mistakes, data, split and model card. report.json beside it "
        "holds the numbers. Only a page of its own kind is replaced.",
        EXAMPLES,
    )
    add_run(parser)
    parser.add_argument(
        "--with_images",
        action="store_true",
        help="embed images of mistakes, and saliency maps: mind the dataset's terms",
    )
    parser.add_argument("--out", type=to_path, metavar="FILE", help="the page [RUN/report/index.html]")
    add_data(parser, "with --with_images: where the run's data lie now")
    parser.set_defaults(function=_report)


def _report(arguments: argparse.Namespace) -> int:
    if not arguments.with_images and (arguments.manual_dir or arguments.data_dir):
        raise UserError("--manual_dir and --data_dir are for --with_images; leave them out.")
    prepare()
    from agegender_jax.report.write import write_report
    from agegender_jax.run import Run

    run = Run.load(arguments.run)
    path = write_report(
        run,
        out=arguments.out,
        with_images=arguments.with_images,
        manual_dir=arguments.manual_dir,
        data_dir=arguments.data_dir,
    )
    people = arguments.with_images and not (run.summary() or {})["synthetic"]
    held = "; it contains people's data; their terms of use are named in it" if people else ""
    print(f"{path} ({path.stat().st_size / 1e6:.2f} MB{held})")
    return 0
