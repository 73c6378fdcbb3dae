"""A second process that works on request: one request, one reply, each a line of JSON on a pipe.

The two never compute at the same time, and neither's threads, memory or libraries are the other's.
"""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
"""Of the checkout."""


class ChildFailed(Exception):
    """The process could not be started, has ended, or failed; the message is its own reason."""


class Child:
    """The process, from the side that asks.

    Args:
      python: its interpreter.
      module: what it runs, which calls `serve`.

    Raises:
      ChildFailed: here and from `ask`.
    """

    def __init__(self, python: str, module: str) -> None:
        try:
            self._process = subprocess.Popen(
                [python, "-m", module], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
        except OSError as error:
            raise ChildFailed(f"{python} cannot be started ({error.strerror})") from error

    def ask(self, do: str, **options: Any) -> Any:
        """Sends a request and returns the result."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            print(json.dumps({"do": do, **options}), file=self._process.stdin, flush=True)
            line = self._process.stdout.readline()
        except OSError:
            line = ""
        if not line:
            raise ChildFailed(f"its process ended with {self._process.wait()}")
        reply = json.loads(line)
        if "error" in reply:
            raise ChildFailed(reply["error"])
        return reply["result"]

    def close(self) -> None:
        """Ends the process."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # what was asked last may not have been read
            self._process.stdin.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


def serve(handle: Callable[..., Any]) -> None:
    """Handles requests until there are no more.

    Args:
      handle: called with the `do` and the options of a request; what it returns is the result.
    """
    with os.fdopen(os.dup(1), "w") as channel:
        os.dup2(2, 1)  # what libraries print must not stand among the replies
        for line in sys.stdin:
            try:
                reply = {"result": handle(**json.loads(line))}
            except Exception as error:
                reply = {"error": f"{type(error).__name__}: {error}"}
            print(json.dumps(reply), file=channel, flush=True)
