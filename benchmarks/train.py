"""Training end to end through the product's own path, beside nothing but its steps on data that lie on the device.

Runs what `launch.py` runs, twice an epoch long in each window, and takes the second epoch: with the dataset resident on
the devices, and streamed. In the same window, before or after it, the bare step of the same recipe is timed. Epochs are
given without and with what comes at their end: the evaluation and the checkpoint.
`cold` is one epoch of a new process, from the command on: decoding and compiling included, preparing not.
The host's time is what it spends on a dispatch while the device has nothing to do: the batch's rows, the call, and
logging; while training runs, the device works on the dispatch before in the meantime.
The column `peer` is the bare step.
"""

import argparse
import contextlib
import io
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from agegender_jax.mesh import make_mesh
from agegender_jax.models.backbones import BACKBONES
from agegender_jax.train.logging import Writers
from agegender_jax.train.loop import train_recipe
from benchmarks import bench_rows, jax_side, launch_runs
from benchmarks.bench_rows import Row, make_row, paired, say

EXAMPLES = """examples:
  python -m benchmarks.train
  python -m benchmarks.train --config configs/utkface_small.py:cpu --manual_dir DIR --data_dir DATA --json train.json
  python -m benchmarks.train --set model.backbone=resnet18 model.variant= train.batch_size=32
"""
_HOST_DISPATCHES = 20


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command."""
    parser = bench_rows.parser("benchmarks.train", __doc__, EXAMPLES)
    launch_runs.add_options(parser, "configs/quickstart.py")
    loaders = ("resident", "stream")
    parser.add_argument("--loaders", nargs="+", choices=loaders, default=loaders, help="compute.loader [both]")
    parser.add_argument("--seconds", type=float, default=2.0, help="about how long a window of the bare step takes [2]")
    parser.add_argument("--cold", type=int, default=1, help="how many cold epochs are run [1]")
    bench_rows.add_options(parser, windows=5)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    return bench_rows.run(measure, build_parser().parse_args(arguments))


def measure(arguments: argparse.Namespace) -> list[Row]:
    """The rows: of each loader an epoch without and with the evaluation; cold; and the host's time."""
    if arguments.smoke:
        arguments.set += ["dataset.synthetic=160", "dataset.image_size=32", "train.batch_size=8"]
        arguments.set += ["train.steps_per_dispatch=2", "augment.shift=0.0", "augment.zoom=0.0"]
        arguments.windows, arguments.cold, arguments.seconds = 1, 0, 0.0
    with launch_runs.folder(arguments) as folder:
        # First, in processes of their own: they need the device that this one will take.
        cold = _cold(arguments, folder) if arguments.cold else []
        jax_side.prepare()
        recipe = jax_side.load_recipe(
            arguments.config, [*arguments.set, "train.epochs=2.0", "evaluate.every_epochs=1.0", "evaluate.report=False"]
        )
        about, name = jax_side.about(), _name(recipe)
        say("compiling the bare step ...")
        steps = jax_side.Steps(recipe, make_mesh())
        dispatches = max(1, round(arguments.seconds / steps.run(1)))

        def bare_step() -> float:
            return dispatches * steps.images / steps.run(dispatches)

        result, bare = [], []
        for loader in arguments.loaders:
            say(f"{loader} ...")
            recipe.compute.loader = loader
            epochs = Epochs(recipe, arguments, folder)
            mine, theirs = paired(epochs.run, bare_step, arguments.windows)
            assert theirs is not None
            bare += theirs
            result.append(make_row(f"{name}, {loader}: epoch", mine, theirs, "images/s", about))
            result.append(make_row(f"{name}, {loader}: with evaluation", epochs.whole, theirs, "images/s", about))
        if cold:
            theirs = [statistics.median(bare)] * len(cold)
            result.append(make_row(f"{name}, cold: first epoch", cold, theirs, "images/s", about))
        result.append(make_row(f"{name}: host, of a dispatch", *_host(steps), "ms", about))
    return result


def _name(recipe: ConfigDict) -> str:
    net = ":".join(
        filter(None, (recipe.model.backbone, BACKBONES[recipe.model.backbone].variant(recipe.model.variant)))
    )
    return f"{net} {recipe.dataset.image_size}x{recipe.dataset.image_size}, batch {recipe.train.batch_size}"


class Epochs:
    """Runs of a recipe that is two epochs long; the second epoch is what is measured.

    The first run, which decodes and compiles what is not in the caches, is not.

    Attributes:
      whole: of each run images a second, the evaluation and the checkpoint between the epochs included.
    """

    def __init__(self, recipe: ConfigDict, arguments: argparse.Namespace, folder: Path) -> None:
        self._recipe, self._arguments, self._folder = recipe.copy_and_resolve_references(), arguments, folder
        self.whole: list[float] = []
        if not arguments.smoke:
            self.run()
            self.whole.clear()

    def run(self) -> float:
        """Images a second of the second epoch, nothing but training."""
        workdir = Path(tempfile.mkdtemp(dir=self._folder))
        with contextlib.redirect_stderr(io.StringIO()):
            train_recipe(
                self._recipe,
                workdir,
                manual_dir=self._arguments.manual_dir,
                data_dir=self._arguments.data_dir,
                progress=False,
            )
        plain, whole = second_epoch(launch_runs.read_lines(workdir), images_of(self._recipe))
        self.whole.append(whole)
        return plain


def images_of(recipe: ConfigDict) -> int:
    """Images of a dispatch."""
    return recipe.train.batch_size * recipe.train.steps_per_dispatch


def second_epoch(lines: Sequence[Mapping[str, Any]], images: int) -> tuple[float, float]:
    """Images a second of a run's second epoch, by the times that the run itself wrote down.

    Args:
      lines: of `metrics.jsonl`.
      images: of a dispatch.

    Returns:
      That of training alone, from giving the first dispatch to the end of the last; and with the evaluation and the
      checkpoint that lie between the epochs.
    """
    dispatches = [line for line in lines if "train/loss" in line]
    end = next(line["step"] for line in lines if "validation/n" in line)  # of the first epoch
    before = next(line for line in dispatches if line["step"] == end)
    epoch = [line for line in dispatches if end < line["step"] <= 2 * end]
    seconds = sum(images / line["images_per_second"] for line in epoch)
    return images * len(epoch) / seconds, images * len(epoch) / (epoch[-1]["seconds"] - before["seconds"])


def _cold(arguments: argparse.Namespace, folder: Path) -> list[float]:
    """Images a second of the first epoch of new processes that find prepared data, and nothing decoded or compiled."""
    say("preparing the data ...")
    launch_runs.run(launch_runs.command(arguments, folder / "prepare", ["train.epochs=1e-6"]), folder / "prepare")
    rates = []
    for number in range(arguments.cold):
        say("a cold epoch ...")
        data = folder / f"data{number}"
        data.mkdir()
        for path in arguments.data_dir.iterdir():
            if path.name != "cache":
                (data / path.name).symlink_to(path)
        changed = argparse.Namespace(**vars(arguments) | {"data_dir": data})
        workdir = folder / f"cold{number}"
        command = launch_runs.command(changed, workdir, ["train.epochs=1.0", "evaluate.every_epochs=1.0"])
        run = launch_runs.run(command, workdir, JAX_COMPILATION_CACHE_DIR=str(folder / f"compiled{number}"))
        rates.append(first_epoch(run))
    return rates


def first_epoch(run: launch_runs.Finished) -> float:
    """Images a second of a run of one epoch, from the command to the end of its last dispatch."""
    first, last = run.dispatches[0], run.dispatches[-1]
    seconds = run.summary["first_step_seconds"] + last["seconds"] - first["seconds"]
    return run.summary["train_examples"] * run.summary["epochs"] / seconds


def _host(steps: jax_side.Steps) -> tuple[list[float], list[float]]:
    """Milliseconds of the host's own work on a dispatch, and of the whole dispatch, one after the other."""
    host, whole = [], []
    with tempfile.TemporaryDirectory() as name, Writers(Path(name), 0) as writers:
        for number in range(_HOST_DISPATCHES):
            began = time.perf_counter()
            metrics = steps.dispatch()
            given = time.perf_counter()
            values = jax.device_get(metrics)
            done = time.perf_counter()
            writers.scalars(number, {key: float(value.mean()) for key, value in values.items()})
            logged = time.perf_counter()
            host.append(1000 * (given - began + logged - done))
            whole.append(1000 * (done - began))
    return host, whole


if __name__ == "__main__":
    sys.exit(main())
