"""Progress bars: on a terminal, and nowhere else."""

import sys

from tqdm import tqdm


def progress_bar(
    total: int | None, description: str = "", *, unit: str = "examples", initial: int = 0, shown: bool = True
) -> "tqdm[None]":
    """Returns a progress bar on standard error, a context manager; its `update(count)` moves it on.

    Args:
      total: how many there will be; None where that is not known.
      description: what is being done.
      unit: what is counted, in the plural.
      initial: how many are done already.
      shown: False shows no bar on a terminal either.
    """
    hidden = not (shown and sys.stderr.isatty())
    return tqdm(
        total=total,
        initial=initial,
        desc=description or None,
        unit=f" {unit}",
        file=sys.stderr,
        dynamic_ncols=True,
        disable=hidden,
    )
