"""A child of `benchmarks.pipe_rpc` that returns its request."""

import sys
from typing import Any

from benchmarks import pipe_rpc


def echo(do: str, **options: Any) -> Any:
    print("what a library prints")
    if do == "raise":
        raise ValueError("no such request")
    if do == "end":
        sys.exit(3)
    return {"do": do, **options}


if __name__ == "__main__":
    pipe_rpc.serve(echo)
