"""`agegender attention`: where a finished run looked. Imports nothing heavy until the command runs."""

import argparse
import os
from pathlib import Path
from typing import Any

EXAMPLES = """examples:
  agegender attention runs/ensemble --out maps
  agegender attention runs/ensemble --out maps --count 40 --split validation
"""


def add_parser(commands: Any) -> None:
    """Adds `attention`, which sets `function`: it takes the arguments and returns an exit code.

    Args:
      commands: what `ArgumentParser.add_subparsers` returned.
    """
    parser = commands.add_parser(
        "attention",
        help="show where a finished run looked",
        description="Writes pictures of a finished run's attention maps over its examples, evenly spaced over a part "
        "of its split, and a sheet of them all. The run's backbone is residual_attention or attention_ensemble.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path, help="the run's directory (the --workdir of launch.py)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder, new or empty")
    parser.add_argument("--count", type=int, default=16, help="of examples [16]")
    parser.add_argument("--split", choices=("train", "val", "validation", "test", "all"), help="[test]")
    parser.add_argument("--manual_dir", type=Path, metavar="DIR", help="where the run's data lie now, or other data")
    parser.add_argument("--data_dir", type=Path, metavar="DIR", help="where prepared data lie [as in the run]")
    parser.set_defaults(function=attention)


def attention(arguments: argparse.Namespace) -> int:
    """Runs `attention`."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    from agegender_jax.compilation import cache_compilations
    from agegender_jax.errors import quiet_libraries
    from agegender_jax.evaluate.attention import export
    from agegender_jax.labels import DISCLAIMER
    from agegender_jax.run import Run

    quiet_libraries()
    cache_compilations()
    opened = export(
        Run.load(arguments.run),
        arguments.out,
        count=arguments.count,
        split="validation" if arguments.split == "val" else arguments.split,
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
