"""`agegender attention`: where a run with attention modules looked."""

import argparse
from pathlib import Path
from typing import Any

from agegender_jax.commands.common import add, add_data, add_part, prepare
from agegender_jax.labels import DISCLAIMER

EXAMPLES = """examples:
  agegender attention runs/ensemble --out maps
  agegender attention runs/ensemble --out maps --count 40 --split validation
"""


def add_parser(commands: Any) -> None:
    """Adds the command; it sets `function`, which takes the arguments and returns an exit code."""
    parser = add(
        commands,
        "attention",
        "show where a finished run looked",
        "Writes pictures of a finished run's attention maps over its examples, evenly spaced over a part of its split, "
        "and a sheet of them all. The run's backbone is residual_attention or attention_ensemble.",
        EXAMPLES,
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="the run's directory (the --workdir of launch.py)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder, new or empty")
    parser.add_argument("--count", type=int, default=16, help="of examples [16]")
    add_part(parser)
    add_data(parser, "where the run's data lie now, or other data")
    parser.set_defaults(function=_attention)


def _attention(arguments: argparse.Namespace) -> int:
    prepare()
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
