"""Where the peer is, if there is one: PyTorch in this interpreter or in another, in a process of its own."""

import argparse
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import jax

from agegender_jax.errors import UserError
from benchmarks.bench_rows import say
from benchmarks.pipe_rpc import Child, ChildFailed

_DEVICES = {"cpu": "cpu", "gpu": "cuda"}  # PyTorch's names, by backend


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds `--peer` and `--peer_python`."""
    parser.add_argument("--no_peer", dest="peer", action="store_false", help="do not measure the peer")
    parser.add_argument(
        "--peer_python",
        default=sys.executable,
        metavar="PATH",
        help="interpreter of an environment with the peer: PyTorch, torchvision and Pillow [this one]",
    )


def available(arguments: argparse.Namespace) -> bool:
    """Tells whether the peer is asked for and installed; prints what is missing.

    Raises:
      UserError: the interpreter that is named cannot be started.
    """
    if not arguments.peer:
        say("The peer is left out (--no_peer): its columns stay empty.")
        return False
    if jax.default_backend() not in _DEVICES:
        say(f"No peer on {jax.default_backend()}: its columns stay empty.")
        return False
    command = [arguments.peer_python, "-c", "import numpy, PIL, torch, torchvision"]
    try:
        check = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise UserError(f"--peer_python={command[0]}: cannot be started ({error.strerror}); name another.") from error
    if check.returncode:
        reason = (check.stderr.strip().splitlines() or ["it failed"])[-1]
        say(
            f"No peer with {command[0]} ({reason}): its columns stay empty. Install PyTorch and torchvision there "
            "(pip install -e '.[peers]'), or name an interpreter that has them with --peer_python."
        )
    return not check.returncode


def device() -> str:
    """Returns PyTorch's name of the kind of device that ours uses."""
    return _DEVICES[jax.default_backend()]


@contextmanager
def started(arguments: argparse.Namespace) -> Iterator[Child]:
    """Starts and ends the peer's process.

    Raises:
      UserError: it failed.
    """
    try:
        child = Child(arguments.peer_python, "benchmarks.torch_peer")
        try:
            yield child
        finally:
            child.close()
    except ChildFailed as error:
        raise UserError(f"The peer failed: {error}. Leave it out with --no_peer.") from error


def versions(arguments: argparse.Namespace) -> dict[str, str]:
    """Returns the versions of the peer's packages."""
    with started(arguments) as child:
        return child.ask("versions", device=device())
