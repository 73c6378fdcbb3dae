"""`agegender models`: the backbones and what they cost."""

import argparse
import sys
from collections.abc import Mapping
from typing import Any

from agegender_jax.commands.common import add, add_json, at_least, check_new, prepare, write_json
from agegender_jax.errors import UserError
from agegender_jax.text import by_row, plain

EXAMPLES = """examples:
  agegender models
  agegender models resnet18 vgg16_bn --image_size 224 --batch_size 64 --dtype bfloat16
  agegender models --no_step_time --json models.json
"""


def add_parser(commands: Any) -> None:
    """Adds the command."""
    parser = add(
        commands,
        "models",
        "list the backbones and what they cost",
        "Lists the backbones with their parameters, multiply-adds, and the time of a training step on this machine, "
        "which must be compiled first: seconds to minutes each.",
        EXAMPLES,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="which backbones [all]")
    parser.add_argument("--image_size", type=at_least(32), default=64, help="pixels [64]")
    parser.add_argument("--batch_size", type=at_least(1), default=32, help="images in a training step [32]")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of the arithmetic")
    parser.add_argument("--no_step_time", action="store_true", help="time no training step")
    add_json(parser)
    parser.set_defaults(function=_models)


def _models(arguments: argparse.Namespace) -> int:
    check_new(arguments.json, "--json")
    prepare()
    from agegender_jax.models.backbones import BACKBONES
    from agegender_jax.train import model_profile
    from agegender_jax.train.setup import environment

    names = list(dict.fromkeys(arguments.names)) or list(BACKBONES)
    if unknown := [name for name in names if name not in BACKBONES]:
        raise UserError(f"There is no backbone {unknown[0]!r}; choose among: {', '.join(BACKBONES)}.")
    options = {name: getattr(arguments, name) for name in ("image_size", "batch_size", "dtype")}
    profiles = {}
    for number, name in enumerate(names, start=1):
        print(f"{name} ({number} of {len(names)}) ...", file=sys.stderr, flush=True)
        profiles[name] = model_profile.profile_model(name, **options, step_time=not arguments.no_step_time)
    result = {**options, **environment(), "models": profiles}
    print(_text(result))
    write_json(arguments.json, result)
    return 0


def _text(result: Mapping[str, Any]) -> str:
    """Returns what the backbones cost as a table, and under it what it was measured with."""
    profiles = result["models"]
    columns = {
        "variant": {name: profile["variant"] for name, profile in profiles.items()},
        "parameters": {name: f"{profile['parameters']:,}" for name, profile in profiles.items()},
        "of the backbone": {name: f"{profile['backbone_parameters']:,}" for name, profile in profiles.items()},
        "multiply-adds": {name: f"{profile['multiply_adds'] / 1e9:.3f} G" for name, profile in profiles.items()},
    }
    seconds = {name: profile["step_seconds"] for name, profile in profiles.items() if profile["step_seconds"]}
    if seconds:
        columns["ms/step"] = {name: f"{1000 * each:.1f}" for name, each in seconds.items()}
        columns["images/s"] = {name: f"{result['batch_size'] / each:.0f}" for name, each in seconds.items()}
    size, hardware = result["image_size"], result["hardware"]
    lines = [plain(by_row(columns)), f"Multiply-adds are those of a forward pass of one image of {size}x{size}."]
    if seconds:
        lines.append(
            f"A step trains on {result['batch_size']} such images in {result['dtype']}; the median of several, "
            f"dispatched one by one on {hardware['devices']} {hardware['backend']} device(s) ({hardware['device']}; "
            f"{hardware['processor']}, {hardware['cores']} cores)."
        )
    lines.append(", ".join(f"{package} {version}" for package, version in result["versions"].items()))
    return "\n".join(lines)
