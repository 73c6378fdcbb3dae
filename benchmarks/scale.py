"""The same training on 1, 2, 4 and 8 simulated devices, on two processes, and moved from one to the other.

Runs `launch.py` (by default on synthetic data) with `JAX_NUM_CPU_DEVICES`. The simulated devices share this machine's
cores, so what is shown is that the losses are equal: the speeds show what splitting costs, not what devices
bring. Each step's loss is compared with that of the run on one device: the row has the largest relative difference.

All train with SGD at a small rate, whatever the recipe has. Adam divides each gradient by its own size, so those that
are nothing but rounding move parameters as far as any, and runs that differ in the last bit part within ten steps.
With SGD they part too, but later: once an activation that is almost zero falls on the other side, gradients differ by
1e-4, and within 24 steps losses by 8e-5 (`--steps 24`).

strong: one batch, split over the devices. weak: as many images for each device, so every run has its own losses.
processes: the batch split over two processes, really two, that talk over the loopback device.
moved: begun on eight devices, stopped by SIGTERM, gone on on one, stopped, and ended by two processes.
"""

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import bench_rows, launch_runs
from benchmarks.bench_rows import Row, make_row, say

EXAMPLES = """examples:
  python -m benchmarks.scale
  python -m benchmarks.scale --set model.backbone=resnet18 model.variant= --json scale.json
"""
_DIFFERENCE = "largest relative difference"
_WITHIN = 1e-5
_PLAIN_SGD = (
    "optimizer.name=sgd",
    "optimizer.learning_rate=0.001",
    "optimizer.schedule=constant",
    "optimizer.warmup=0.0",
)


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command."""
    parser = bench_rows.parser("benchmarks.scale", __doc__, EXAMPLES)
    launch_runs.add_options(parser, "configs/quickstart.py")
    whole = bench_rows.at_least(1)
    parser.add_argument("--devices", type=whole, nargs="+", default=[1, 2, 4, 8], help="how many [1 2 4 8]")
    parser.add_argument("--batch_size", type=whole, default=64, help="images in a step, of strong scaling [64]")
    parser.add_argument("--steps", type=bench_rows.at_least(6), default=10, help="of training [10]")
    bench_rows.add_options(parser, windows=None)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    return bench_rows.run(measure, build_parser().parse_args(arguments))


def measure(arguments: argparse.Namespace) -> list[Row]:
    """The rows: strong and weak scaling, two processes, and a run that is moved."""
    if arguments.smoke:
        arguments.set += ["dataset.synthetic=160", "dataset.image_size=32"]
        arguments.devices, arguments.batch_size, arguments.steps = [1, 2], 16, 12
    batch, most, steps = arguments.batch_size, max(arguments.devices), arguments.steps
    a_device = -(-batch // most)
    with launch_runs.folder(arguments) as folder:
        start = Starter(arguments, folder)
        one = start("strong-1", batch, 1)
        result = _speed("strong, 1 device", one, one)
        for count in arguments.devices:
            if count > 1:
                run = start(f"strong-{count}", batch, count)
                result += _speed(f"strong, {count} devices", run, one)
                result += _losses(f"strong, {count} devices", run, one)
        one_weak = start("weak-1", a_device, 1)
        for count in arguments.devices:
            if count > 1:
                run = start(f"weak-{count}", a_device * count, count)
                result += _speed(f"weak, {count} devices", run, one_weak)
        run = start("processes", batch, 1, processes=2)
        result += _speed("2 processes of 1 device", run, one) + _losses("2 processes of 1 device", run, one)
        start("moved", batch, most, stop_at=steps // 3)
        start("moved", batch, 1, stop_at=2 * steps // 3)
        moved = start("moved", batch, 1, processes=2)
        result += _losses(f"moved: {most} devices, 1, 2 processes", moved, one)
    unequal = [row.name for row in result if row.unit == _DIFFERENCE and not row.ours <= _WITHIN]
    print(f"Losses equal to {_WITHIN:g}: " + (f"all but {', '.join(unequal)}." if unequal else "all."))
    return result


class Starter:
    """Starts runs of so many steps, in a folder, on data that are prepared first."""

    def __init__(self, arguments: argparse.Namespace, folder: Path) -> None:
        self._arguments, self._folder = arguments, folder
        say("preparing the data ...")
        prepare = launch_runs.run(
            launch_runs.command(arguments, folder / "prepare", ["train.epochs=1e-6"]), folder / "prepare"
        )
        self._examples = prepare.summary["train_examples"]

    def __call__(
        self, name: str, batch: int, devices: int, *, processes: int = 1, stop_at: int | None = None
    ) -> launch_runs.Finished:
        """A run, or one that goes on; `devices` are those of each process."""
        say(f"{name}: {processes} x {devices} device(s) ...")
        settings = [
            f"train.batch_size={batch}",
            "train.steps_per_dispatch=1",
            f"train.epochs={self._arguments.steps * batch / self._examples}",
            "evaluate.every_epochs=1000.0",
            *_PLAIN_SGD,
        ]
        workdir = self._folder / name
        return launch_runs.run(
            launch_runs.command(self._arguments, workdir, settings),
            workdir,
            processes=processes,
            stop_at=stop_at,
            JAX_PLATFORMS="cpu",
            JAX_NUM_CPU_DEVICES=str(devices),
        )


def _speed(name: str, run: launch_runs.Finished, one: launch_runs.Finished) -> list[Row]:
    """Images a second, step by step, beside those of one device; the first step compiles and is left out."""
    mine, theirs = ([line["images_per_second"] for line in finished.dispatches[1:]] for finished in (run, one))
    return [make_row(name, mine, theirs, "images/s", launch_runs.about(run))]


def _losses(name: str, run: launch_runs.Finished, one: launch_runs.Finished) -> list[Row]:
    """The largest difference of a step's loss from that on one device, relative to it."""
    mine, theirs = ({line["step"]: line["train/loss"] for line in finished.dispatches} for finished in (run, one))
    largest = max(abs(mine[step] / theirs[step] - 1) for step in mine) if mine.keys() == theirs.keys() else math.inf
    return [make_row(f"{name}: loss", [largest], None, _DIFFERENCE, launch_runs.about(run))]


if __name__ == "__main__":
    sys.exit(main())
