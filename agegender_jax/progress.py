"""Progress bars: on a terminal, and nowhere else."""

import sys

from tqdm import tqdm


def progress_bar(
    total: int | None, description: str = "", *, unit: str = "examples", initial: int = 0, shown: bool = True
) -> "tqdm[None]":
    """Returns a progress bar on standard error, a context manager; its `update(count)` moves it on.

    It counts `unit`s from `initial` to `total` (None where that is not known), and is hidden off a terminal.
    """
    return tqdm(
        total=total,
        initial=initial,
        desc=description or None,
        unit=f" {unit}",
        file=sys.stderr,
        dynamic_ncols=True,
        disable=not (shown and sys.stderr.isatty()),
    )
