"""`agegender models`: what every backbone costs. Imports nothing heavy until the command runs."""

import argparse
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agegender_jax.errors import UserError, quiet_libraries

EXAMPLES = """examples:
  agegender models
  agegender models resnet18 vgg16_bn --image_size 224 --batch_size 64 --dtype bfloat16
  agegender models --no_step_time --json models.json
"""


def add_parser(commands: Any) -> None:
    """Adds `models`; it sets `function`, which takes the arguments and returns an exit code.

    Args:
      commands: what `ArgumentParser.add_subparsers` returned.
    """
    parser = commands.add_parser(
        "models",
        help="list the backbones and what they cost",
        description="Lists the backbones with their parameters, multiply-adds, and the time of a training step on this "
        "machine, which must be compiled first: seconds to minutes each.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="which backbones [all]")
    parser.add_argument("--image_size", type=_at_least(32), default=64, help="pixels [64]")
    parser.add_argument("--batch_size", type=_at_least(1), default=32, help="pictures in a training step [32]")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of the arithmetic")
    parser.add_argument("--no_step_time", action="store_true", help="time no training step")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    parser.set_defaults(function=models)


def models(arguments: argparse.Namespace) -> int:
    """Runs `models`."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    from agegender_jax.compilation import cache_compilations
    from agegender_jax.models.backbones import BACKBONES
    from agegender_jax.run import write_whole
    from agegender_jax.train import costs
    from agegender_jax.train.experiment import environment

    quiet_libraries()
    names = list(dict.fromkeys(arguments.names)) or list(BACKBONES)
    if unknown := [name for name in names if name not in BACKBONES]:
        raise UserError(f"There is no backbone {unknown[0]!r}; choose among: {', '.join(BACKBONES)}.")
    if arguments.json and not arguments.json.parent.is_dir():  # before minutes of measuring
        raise UserError(f"{arguments.json.parent} is no folder; choose another --json.")
    cache_compilations()
    found: dict[str, dict[str, Any]] = {}
    for number, name in enumerate(names, start=1):
        recipe = costs.recipe_of(
            name, image_size=arguments.image_size, batch_size=arguments.batch_size, dtype=arguments.dtype
        )
        print(f"{name} ({number} of {len(names)}) ...", file=sys.stderr, flush=True)
        found[name] = costs.measure(recipe, step_time=not arguments.no_step_time)
    result = {
        "image_size": arguments.image_size,
        "batch_size": arguments.batch_size,
        "dtype": arguments.dtype,
        **environment(),
        "models": found,
    }
    print(text(result))
    if arguments.json:
        try:
            write_whole(arguments.json, json.dumps(result, indent=1))
        except OSError as error:
            raise UserError(
                f"{arguments.json}: cannot be written ({error.strerror}); choose another --json."
            ) from error
    return 0


def text(result: Mapping[str, Any]) -> str:
    """The table, and under it what it was measured with.

    Args:
      result: `image_size`, `batch_size`, `dtype`, `models` (by name, what `costs.measure` returns), and what
        `experiment.environment` returns.
    """
    from agegender_jax.evaluate.report import text_table

    models = result["models"]
    columns = {
        "variant": {name: costs["variant"] for name, costs in models.items()},
        "parameters": {name: f"{costs['parameters']:,}" for name, costs in models.items()},
        "of the backbone": {name: f"{costs['backbone_parameters']:,}" for name, costs in models.items()},
        "multiply-adds": {name: f"{costs['multiply_adds'] / 1e9:.3f} G" for name, costs in models.items()},
    }
    timed = {name: costs["step_seconds"] for name, costs in models.items() if costs["step_seconds"] is not None}
    if timed:
        columns["ms a step"] = {name: f"{1000 * seconds:.1f}" for name, seconds in timed.items()}
        columns["pictures/s"] = {name: f"{result['batch_size'] / seconds:.0f}" for name, seconds in timed.items()}
    size, hardware, versions = result["image_size"], result["hardware"], result["versions"]
    lines = [
        text_table(columns),
        f"Multiply-adds are of one picture of {size}x{size} going forward.",
    ]
    if timed:
        lines.append(
            f"A step is one of training on {result['batch_size']} such pictures in {result['dtype']}, the median of "
            f"several, dispatched one by one on {hardware['devices']} {hardware['backend']} device(s) "
            f"({hardware['device']}; {hardware['processor']}, {hardware['cores']} cores)."
        )
    lines.append(", ".join(f"{package} {version}" for package, version in versions.items()))
    return "\n".join(lines)


def _at_least(least: int) -> Any:
    def whole(text: str) -> int:
        if not text.isdecimal() or not least <= int(text) < 2**31:
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number from {least} on")
        return int(text)

    return whole
