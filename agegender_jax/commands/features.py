"""`agegender features`: the output of a run's backbone for each example."""

import argparse
from typing import Any

from agegender_jax.commands.common import add, add_data, add_part, add_run, check_new, prepare, title, to_path

EXAMPLES = """examples:
  agegender features runs/cpu --out features.npz
  agegender features runs/cpu --out test.npz --split test --manual_dir DIR
"""


def add_parser(commands: Any) -> None:
    """Adds the command."""
    parser = add(
        commands,
        "features",
        "write the output of a run's backbone for each example",
        "Writes the embeddings of a finished run's own examples, with their names, parts of the split and labels, as "
        "an .npz of plain arrays: `agegender classical` learns from it, and so may anything else.",
        EXAMPLES,
    )
    add_run(parser)
    parser.add_argument("--out", type=to_path, required=True, metavar="FILE", help="new file, named *.npz")
    add_part(parser, "all")
    add_data(parser)
    parser.set_defaults(function=_features)


def _features(arguments: argparse.Namespace) -> int:
    check_new(arguments.out, "--out")
    prepare()
    from agegender_jax.evaluate.features import write_features
    from agegender_jax.evaluate.loaded import LoadedModel

    metadata, (count, size) = write_features(
        LoadedModel.load(arguments.run),
        arguments.out,
        split=arguments.split,
        manual_dir=arguments.manual_dir,
        data_dir=arguments.data_dir,
    )
    print(title(metadata))
    print(
        f"{arguments.out}: embeddings of {size} numbers, {count} examples, the part {arguments.split} (it holds "
        "people's data: observe their terms of use)"
    )
    return 0
