"""Decoding and the pipeline alone: images a second, streamed by ours and by PyTorch's DataLoader.

Ours is the loader of datasets that do not fit on the device: from array_record, decoded by as many processes as there
are cores, to batches on the device. The peer is a DataLoader with as many processes and the usual recipe
(Pillow's open, RGB, resize, a uint8 tensor, the default collate), which ends with batches in host memory. It is given
the very same encoded bytes from memory, which is kinder than files: nothing is opened or read. A window is one pass
over all images, shuffled, from asking for the first batch to the last; the first pass of each is not counted.

Ours decodes JPEG images at least twice as large as needed at a reduced scale (Pillow's `draft`), which is much less
work and part of the ratio. The usual recipe does not; in the second row (`peer drafts`) the peer does.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from agegender_jax.data.dataset import open_dataset
from agegender_jax.data.loader import make_loader
from agegender_jax.data.resources import cores
from agegender_jax.data.sampler import BatchSampler
from agegender_jax.errors import UserError
from agegender_jax.recipe_options import data_options
from benchmarks import bench_rows, jax_side, launch_runs, torch_side
from benchmarks.bench_rows import Row, make_row, paired, say

EXAMPLES = """examples:
  python -m benchmarks.input
  python -m benchmarks.input --config configs/utkface_small.py:cpu --manual_dir DIR --data_dir DATA --json input.json
  python -m benchmarks.input --set dataset.image_size=224 --peer_python ../torch/bin/python
"""


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command."""
    parser = bench_rows.parser("benchmarks.input", __doc__, EXAMPLES)
    launch_runs.add_options(parser, "configs/quickstart.py")
    torch_side.add_options(parser)
    bench_rows.add_options(parser)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    return bench_rows.run(measure, build_parser().parse_args(arguments))


def measure(arguments: argparse.Namespace) -> list[Row]:
    """The rows: beside the usual recipe, and beside one that decodes at a reduced scale as ours does."""
    if arguments.smoke:
        arguments.set += ["dataset.synthetic=160", "dataset.image_size=32", "train.batch_size=8"]
        arguments.set += ["train.steps_per_dispatch=2"]
        arguments.windows = bench_rows.LEAST_WINDOWS
    jax_side.prepare()
    recipe = jax_side.load_recipe(arguments.config, [*arguments.set, "compute.loader=stream"])
    about, with_peer = jax_side.about(), torch_side.available(arguments)
    size, batch = recipe.dataset.image_size, recipe.train.batch_size
    with launch_runs.folder(arguments) as folder:
        examples = open_dataset(
            data_options(recipe), manual_dir=arguments.manual_dir, data_dir=arguments.data_dir, kind="image"
        )
        steps = recipe.train.steps_per_dispatch
        blocks = len(examples) // (batch * steps)
        if not blocks:
            raise UserError(f"{len(examples)} images do not fill {steps} batches of {batch}; --set fewer or smaller.")
        order = BatchSampler(np.arange(len(examples)), batch, recipe.seed)
        loader = make_loader(examples, jax_side.one_device(), {}, order, blocks * steps)

        def pass_over() -> float:  # the processes that decode stay from pass to pass
            began = time.perf_counter()
            for block in range(blocks):
                jax.block_until_ready(loader.train_batches(block * steps, steps))
            return blocks * steps * batch / (time.perf_counter() - began)

        name = f"{recipe.dataset.name} to {size}x{size}, batch {batch}, {cores()} workers"
        try:
            pass_over()
            if not with_peer:
                return [make_row(name, *paired(pass_over, None, arguments.windows), "images/s", about)]
            about["versions"] |= torch_side.versions(arguments)
            path = _write(folder / "images.npz", examples.prepared, len(examples))
            rows = []
            for draft in (False, True):
                with torch_side.started(arguments) as child:
                    child.ask("input", path=str(path), size=size, batch_size=batch, workers=cores(), draft=draft)
                    rates = paired(pass_over, partial(child.ask, "pass"), arguments.windows)
                rows.append(make_row(name + (", peer drafts" if draft else ""), *rates, "images/s", about))
            return rows
        finally:
            loader.close()


def _write(path: Path, prepared: Any, count: int) -> Path:
    """Writes the encoded bytes of the images as the peer reads them; returns the path."""
    say("writing the images for the peer ...")
    source = prepared.open()
    contents = [source[row]["content"] for row in range(count)]
    ends = np.cumsum([len(content) for content in contents])
    np.savez(path, content=np.frombuffer(b"".join(contents), np.uint8), ends=ends)
    return path


if __name__ == "__main__":
    sys.exit(main())
