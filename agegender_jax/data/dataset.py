"""From a recipe to open examples."""

import dataclasses
import sys
from functools import partial
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from agegender_jax.data import resident, stream
from agegender_jax.data.examples import Dataset
from agegender_jax.data.loader import choose
from agegender_jax.data.preprocess import Preprocessor, make_preprocessor
from agegender_jax.data.source import Prepared, locate
from agegender_jax.errors import UserError
from agegender_jax.labels import DISCLAIMER
from agegender_jax.synthetic.generate import builder_options, generate

SYNTHETIC_SEED = 0  # of the examples that recipes draw: one drawing serves them all

_BUILDER_OPTIONS = ("label_pattern", "speaker_pattern", "recording_pattern", "csv", "max_bad", "crop")


def open_dataset(
    recipe: ConfigDict, *, manual_dir: Path | None, data_dir: Path, kind: str | None = None, progress: bool = True
) -> tuple[Prepared, Dataset, Preprocessor]:
    """Finds, draws or prepares a recipe's dataset, each only where it has not been done before.

    Only what is known of the examples is read here. Their content is read, or decoded, by `Dataset.ready` or where it
    is asked for.

    Args:
      recipe: of the run.
      manual_dir: where the downloaded data lie, or None.
      data_dir: where prepared datasets and caches lie.
      kind: of `source.KINDS`, what its content must be; None takes either.
      progress: whether to draw progress bars on a terminal.

    Raises:
      UserError: the dataset is not there, or bad, or nothing can be written; the recipe does not fit its kind.
    """
    dataset = recipe.dataset
    options: dict[str, Any] = {name: dataset[name] for name in _BUILDER_OPTIONS if dataset[name]}
    if options and manual_dir is None and not dataset.synthetic:
        raise UserError(
            f"config.dataset.{next(iter(options))} says how data are prepared, and without --manual_dir they are taken "
            "as they were prepared; give --manual_dir=DIR, or leave it out."
        )
    if dataset.synthetic:
        if manual_dir is not None:
            raise UserError(
                f"This recipe draws its data, and --manual_dir={manual_dir} is given; leave that out, or set "
                "--config.dataset.synthetic=0."
            )
        options = builder_options(dataset.name) | options
        manual_dir = data_dir / "synthetic" / f"{dataset.name}-{dataset.synthetic}-{SYNTHETIC_SEED}"
        if not manual_dir.exists():
            print(f"Drawing {dataset.synthetic} examples into {manual_dir} ({DISCLAIMER}).", file=sys.stderr)
            generate(dataset.name, manual_dir, dataset.synthetic, seed=SYNTHETIC_SEED, progress=progress)
    prepared = locate(
        dataset.name,
        manual_dir=manual_dir,
        data_dir=data_dir,
        config=dataset.config,
        options=options,
        progress=progress,
    )
    if kind not in (None, prepared.kind):
        raise UserError(
            f"{dataset.name} holds content of the kind {prepared.kind!r}, and {kind!r} is wanted here; "
            "choose another dataset or configuration."
        )
    if dataset.synthetic:  # by an earlier version, which left no note
        prepared = dataclasses.replace(prepared, synthetic=True)
    inputs = make_preprocessor(recipe, prepared.kind)
    streamed, line = choose(recipe, prepared, inputs)
    where = (prepared, inputs, data_dir / "cache")
    examples = stream.load(*where, progress=progress)
    decode = None if streamed else partial(resident.load, *where, progress=progress)
    return prepared, dataclasses.replace(examples, feed=line, decode=decode), inputs
