"""A complete run, before it is asked about anything."""

from typing import Any

from agegender_jax.errors import UserError
from agegender_jax.run import Run


def complete(run: Run) -> tuple[dict[str, Any], dict[str, Any]]:
    """The `summary.json` and the `run.json` of a run.

    Raises:
      UserError: it is not complete, or one of them is damaged.
    """
    summary, metadata = run.summary(), run.metadata()
    if summary is None or not metadata:
        raise UserError(f"{run.directory} is not complete; run its launch.py command again to finish it.")
    return summary, metadata
