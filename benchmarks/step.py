"""One training step on data that lie on the device: images a second, and the share of what the device can do.

Ours runs the product's own step, several a dispatch; the peer is PyTorch with the same net, batch, precision,
augmentation and optimizer, in a process of its own. Both use one device. A window is as many steps as take ours about
`--seconds`, and the peer as many, one after the other; what is compiled, loaded or cached at first is done before.

The share of peak is multiply-adds of a forward pass x 6 x images/s (an addition and a product each, and a backward pass
that costs two forward ones), over the operations a second of a matrix product in the same precision, each framework's
own.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from agegender_jax.errors import UserError
from agegender_jax.models.backbones import BACKBONES
from agegender_jax.models.backbones.small_cnn import VARIANTS
from agegender_jax.models.costs import forward_costs
from agegender_jax.models.heads import build_heads
from agegender_jax.models.model import define_model
from agegender_jax.recipe_options import model_options
from agegender_jax.train.model_profile import recipe_of
from benchmarks import bench_rows, jax_side, torch_side
from benchmarks.bench_rows import Row, make_row, paired, say
from benchmarks.pipe_rpc import Child

EXAMPLES = """examples:
  python -m benchmarks.step
  python -m benchmarks.step --nets small_cnn:thin resnet18 --peer_python ../torch/bin/python --json step.json
  python -m benchmarks.step --nets vgg16 resnet50 --image_size 224 --batch_size 32 --dtype bfloat16
"""
_NETS = ("small_cnn:thin", "small_cnn:a", "resnet18")
_PEER_NETS = ("small_cnn", "alexnet", "vgg11", "vgg11_bn", "vgg16", "vgg16_bn", "resnet18", "resnet34", "resnet50")
_PEER_NETS += ("resnet101", "densenet161")


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command."""
    parser = bench_rows.parser("benchmarks.step", __doc__, EXAMPLES)
    whole = bench_rows.at_least(1)
    add = parser.add_argument
    add("--nets", nargs="+", default=_NETS, metavar="NET", help=f"BACKBONE or BACKBONE:VARIANT [{' '.join(_NETS)}]")
    add("--image_size", type=bench_rows.at_least(32), default=64, help="pixels [64]")
    add("--batch_size", type=whole, default=64, help="images in a step [64]")
    add("--dtype", choices=("float32", "bfloat16"), default="float32", help="of the arithmetic [float32]")
    add("--steps_per_dispatch", type=whole, default=20, help="of ours [20]")
    add("--seconds", type=float, default=2.0, help="about how long a window takes ours [2]")
    add("--no_augment", dest="augment", action="store_false", help="else as in configs/utkface_small.py:cpu")
    add(
        "--peer_modes",
        nargs="+",
        choices=("eager", "compile", "graphs"),
        default=("eager", "compile"),
        help="the fastest of them is taken: torch.compile or not, or with CUDA graphs [eager compile]",
    )
    torch_side.add_options(parser)
    bench_rows.add_options(parser)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    return bench_rows.run(measure, build_parser().parse_args(arguments))


def measure(arguments: argparse.Namespace) -> list[Row]:
    """The rows: the matrix product, then of each net images a second and the share of peak."""
    if arguments.smoke:
        arguments.nets, arguments.image_size, arguments.batch_size = ["small_cnn:thin"], 32, 4
        arguments.steps_per_dispatch, arguments.seconds, arguments.windows = 2, 0.0, bench_rows.LEAST_WINDOWS
        arguments.peer_modes = ["eager"]
    jax_side.prepare(share=arguments.peer)
    recipes = {net: _recipe(net, arguments) for net in dict.fromkeys(arguments.nets)}
    about, with_peer = jax_side.about(), torch_side.available(arguments)
    if with_peer:
        about["versions"] |= torch_side.versions(arguments)
    peaks = _peaks(arguments, with_peer)
    name = f"matrix product, {peaks['edge']}x{peaks['edge']} {arguments.dtype}"
    theirs = [peaks["peer"] / 1e9] if with_peer else None
    rows = [make_row(name, [peaks["ours"] / 1e9], theirs, "GFLOP/s", about)]
    for net, recipe in recipes.items():
        say(f"{net} ...")
        if with_peer and recipe.model.backbone in _PEER_NETS:
            with torch_side.started(arguments) as child:
                rows += _measure_net(net, recipe, arguments, child, peaks, about)
        else:
            rows += _measure_net(net, recipe, arguments, None, peaks, about)
    return rows


def _recipe(net: str, arguments: argparse.Namespace) -> ConfigDict:
    backbone, _, variant = net.partition(":")
    options = {name: getattr(arguments, name) for name in ("image_size", "batch_size", "dtype")}
    recipe = recipe_of(backbone, **options)
    recipe.model.variant = variant
    recipe.train.steps_per_dispatch = arguments.steps_per_dispatch
    if arguments.augment:
        recipe.augment.update(jax_side.AUGMENTATION)
    return recipe


def _peaks(arguments: argparse.Namespace, with_peer: bool) -> dict[str, float]:
    edge = 128 if arguments.smoke else jax_side.matrix_edge()
    peaks = {"edge": edge, "ours": jax_side.matmul_peak(arguments.dtype, edge)}
    if with_peer:
        with torch_side.started(arguments) as child:
            peaks["peer"] = child.ask("peak", dtype=arguments.dtype, edge=edge, device=torch_side.device())
    return peaks


def _measure_net(
    net: str,
    recipe: ConfigDict,
    arguments: argparse.Namespace,
    child: Child | None,
    peaks: Mapping[str, float],
    about: Mapping[str, Any],
) -> list[Row]:
    steps = jax_side.Steps(recipe, jax_side.one_device())
    dispatches = max(1, round(arguments.seconds / steps.run(1)))
    images = dispatches * steps.images
    if child is not None:
        about = dict(about, versions=about["versions"] | _set_up(child, recipe, steps, arguments.peer_modes))
    count = dispatches * recipe.train.steps_per_dispatch
    mine, theirs = paired(
        lambda: images / steps.run(dispatches),
        None if child is None else lambda: images / child.ask("run", count=count),
        arguments.windows,
    )
    name = f"{net} {arguments.image_size}x{arguments.image_size}, batch {arguments.batch_size}, {arguments.dtype}"
    options = model_options(recipe)
    operations = (
        6 * forward_costs(define_model(options, build_heads(options.heads)), recipe.dataset.image_size)["multiply_adds"]
    )
    shares = [operations * rate / peaks["ours"] for rate in mine]
    their_shares = None if theirs is None else [operations * rate / peaks["peer"] for rate in theirs]
    return [
        make_row(name, mine, theirs, "images/s", about),
        make_row(f"{net}, share of peak", shares, their_shares, "of the product", about),
    ]


def _set_up(child: Child, recipe: ConfigDict, steps: jax_side.Steps, modes: Sequence[str]) -> dict[str, str]:
    """Has the peer make the same step; returns how it does."""
    made = child.ask("steps", **specification(recipe, steps.outputs), device=torch_side.device(), modes=modes)
    if made["parameters"] != steps.parameters:
        raise UserError(f"The peer's net has {made['parameters']:,} parameters, and ours {steps.parameters:,}: a bug.")
    say(f"  the peer: {', '.join(f'{mode} {result}' for mode, result in made['tried'].items())}")
    mode = {"eager": "not used", "compile": "used", "graphs": "used, with CUDA graphs"}[made["mode"]]
    return {"torch.compile": mode, "torch's fused optimizer": "used" if made["fused"] else "not used"}


def specification(recipe: ConfigDict, outputs: Mapping[str, int]) -> dict[str, Any]:
    """What the peer must know of a recipe.

    Args:
      recipe: of ours.
      outputs: logits of each head.

    Raises:
      UserError: a variant that is not written in PyTorch.
    """
    layout = None
    if recipe.model.backbone == "small_cnn":
        variant = VARIANTS[BACKBONES["small_cnn"].variant(recipe.model.variant)]
        if variant.norm == "local_response":
            raise UserError("The peer has no local response normalisation; choose another variant, or --no_peer.")
        blocks = [[block.filters, block.kernel, block.stride, block.padding, block.pool] for block in variant.blocks]
        layout = {"blocks": blocks, "norm": variant.norm, "hidden": variant.hidden}
    elif recipe.model.variant:
        raise UserError(f"The peer has no variants of {recipe.model.backbone}; leave it out, or --no_peer.")
    return {
        "net": recipe.model.backbone,
        "outputs": dict(outputs),
        "layout": layout,
        "image_size": recipe.dataset.image_size,
        "batch_size": recipe.train.batch_size,
        "dropout": recipe.model.dropout,
        "dtype": recipe.model.dtype,
        "augmentation": {name: recipe.augment[name] for name in jax_side.AUGMENTATION},
        "mean": recipe.preprocess.mean,
        "std": recipe.preprocess.std,
        "learning_rate": recipe.optimizer.learning_rate,
    }


if __name__ == "__main__":
    sys.exit(main())
