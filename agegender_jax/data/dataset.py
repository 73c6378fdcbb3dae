"""From a recipe's `dataset` section to decoded examples in memory."""

import sys
from pathlib import Path

from ml_collections import ConfigDict

from agegender_jax.data import resident
from agegender_jax.data.source import Prepared, locate
from agegender_jax.errors import UserError
from agegender_jax.labels import DISCLAIMER

DRAWN_SEED = 0  # of the faces that recipes draw: one archive serves them all


def open_dataset(
    options: ConfigDict, *, manual_dir: Path | None, data_dir: Path, progress: bool = True
) -> tuple[Prepared, resident.Resident]:
    """Finds, draws or prepares a dataset, and decodes it, each only where it has not been done before.

    Args:
      options: `name`, `image_size` and `drawn`.
      manual_dir: where the downloaded archive lies, or None.
      data_dir: where prepared datasets and caches lie.
      progress: whether to draw progress bars on a terminal.

    Raises:
      UserError: the dataset is not there, or bad, or nothing can be written.
    """
    if options.drawn:
        if manual_dir is not None:
            raise UserError(
                f"This recipe draws its faces, and --manual_dir={manual_dir} is given; leave that out, or set "
                "--config.dataset.drawn=0."
            )
        manual_dir = data_dir / "drawn" / f"{options.name}-{options.drawn}-{DRAWN_SEED}"
        archive = manual_dir / "UTKFace.tar.gz"
        try:
            if not archive.exists():
                _draw(archive, options.drawn, progress)
        except OSError as error:
            raise UserError(
                f"{archive}: cannot be written ({error.strerror}); free some space or choose another --data_dir."
            ) from error
    prepared = locate(options.name, manual_dir=manual_dir, data_dir=data_dir, progress=progress)
    return prepared, resident.load(prepared, options.image_size, data_dir / "cache", progress=progress)


def _draw(archive: Path, count: int, progress: bool) -> None:
    from agegender_jax.data.synthetic import write_utkface_archive  # OpenCV, which only drawing needs

    print(f"Drawing {count} faces into {archive} ({DISCLAIMER}).", file=sys.stderr)
    try:
        write_utkface_archive(archive, count, seed=DRAWN_SEED, progress=progress)
    except UserError:
        if not archive.exists():  # another process may have been first: it drew the same
            raise
