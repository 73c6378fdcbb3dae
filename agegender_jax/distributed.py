"""Several processes that train one run together: how they meet, and how they agree.

All of them compute the same program on their parts of the batch. Process 0, the primary one, alone writes the run's
files and prints; checkpoints are written by all.
"""

import itertools
import json
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from agegender_jax import errors
from agegender_jax.errors import EXIT_USER_ERROR, UserError

T = TypeVar("T")

EXIT_SECONDS = 10.0
"""How long a process that ends with an error waits for the others to end, too; see `exit_together`."""

_DAY_SECONDS = 24 * 3600.0  # preparing a dataset may take hours; where a process dies, JAX ends the others sooner
_PADDING = 4096  # bytes; what is exchanged is padded to a multiple, so that one compiled program serves nearly all

_exchanges = itertools.count()
_preemption_checks = itertools.count(1)


def initialize(
    *,
    automatic: bool = False,
    coordinator: str | None = None,
    processes: int | None = None,
    process: int | None = None,
    timeout: int = 300,
) -> None:
    """Joins the processes of a run, before JAX is first used; does nothing where nothing is given.

    With `automatic` JAX detects the cluster: Slurm, Open MPI, Cloud TPU or GKE. Else `coordinator` is `host:port` of
    process 0, `processes` how many there are, `process` the number of this one, from 0. Where the others do not come
    within `timeout` seconds, it prints a sentence and ends the process: JAX would abort it with a trace.

    Raises:
      UserError: the values do not fit together, or no cluster is detected.
    """
    given = (coordinator, processes, process)
    if given == (None, None, None) and not automatic:
        return
    if automatic and given != (None, None, None):
        raise UserError("--distributed detects the processes; leave out --coordinator, --processes and --process.")
    if not automatic:
        _check(coordinator, processes, process)
    source = "--distributed" if automatic else f"--coordinator={coordinator}"

    def give_up() -> None:
        reason = f"the processes did not meet within {timeout} s"
        print(
            f"{source}: {reason}; check that all were started and that the port is open.", file=sys.stderr, flush=True
        )
        os._exit(EXIT_USER_ERROR)

    watch = threading.Timer(timeout, give_up)
    watch.daemon = True
    watch.start()
    try:
        jax.distributed.initialize(
            *given, cluster_detection_method=None if automatic else "deactivate", initialization_timeout=timeout + 60
        )
    except Exception as error:  # JAX, its clusters and gRPC raise many kinds
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        remedy = "start the processes by srun, mpirun or on a TPU, or give" if automatic else "choose another"
        raise UserError(f"{source}: the processes cannot meet ({reason}); {remedy} --coordinator.") from error
    finally:
        watch.cancel()


def _check(coordinator: str | None, processes: int | None, process: int | None) -> None:
    if coordinator is None or processes is None or process is None:
        raise UserError(
            "--coordinator, --processes and --process belong together; give all three, or --distributed where Slurm, "
            "Open MPI or a TPU starts the processes."
        )
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal():
        raise UserError(f"--coordinator={coordinator} is not right; it must be HOST:PORT of process 0.")
    if not 0 <= process < processes:
        raise UserError(
            f"--process={process} is out of range; with --processes={processes}, give 0 to {processes - 1}."
        )


def is_multiprocess() -> bool:
    """Returns whether there are other processes."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def is_primary() -> bool:
    """Returns whether this process writes the run's files and prints."""
    return not is_multiprocess() or jax.process_index() == 0


def name() -> str:
    """Returns what this process begins its own messages with; nothing where it is the primary one."""
    return "" if is_primary() else f"Process {jax.process_index()}: "


def log_primary(text: str) -> None:
    """Prints a line on stderr, once for all processes."""
    if is_primary():
        print(text, file=sys.stderr, flush=True)


@contextmanager
def all_or_none() -> Iterator[None]:
    """Runs its body in all processes, and raises what one of them raises in all, in the others as a UserError.

    Inside, processes may exchange values as long as all do so in the same order.
    """
    try:
        yield
    except BaseException as error:
        if not getattr(error, "shared", False):
            _exchange(error=error)
        raise
    _exchange()


@contextmanager
def primary_first() -> Iterator[None]:
    """As `all_or_none`, but the others wait until the primary process is done.

    For files: the others read those that the primary one wrote, where they share the folder, and else write their own.
    Nothing may be exchanged inside.
    """
    with all_or_none():
        if not is_primary():
            _exchange()
        yield
        if is_primary():
            _exchange()


def from_primary(value: T) -> T:
    """Returns the primary process's value, of JSON, in all of them."""
    return _exchange(value)[0]


def all_agree(good: bool) -> bool:
    """Returns whether it is true in all processes."""
    return all(_exchange(good))


def _exchange(value: Any = None, error: BaseException | None = None) -> list[Any]:
    """Returns the values of all processes, in their order, or raises the error that another one sends.

    All of them first wait at a barrier of the coordination service: a collective of the devices would time out.
    """
    if not is_multiprocess():
        return [value]
    _wait_for_all(str(next(_exchanges)), _DAY_SECONDS)
    content = json.dumps([value, type(error).__name__ if error else None, str(error)]).encode()
    with jax.transfer_guard("allow"):
        sizes = multihost_utils.process_allgather(np.int32(len(content)))
        room = -(-int(sizes.max()) // _PADDING) * _PADDING
        contents = multihost_utils.process_allgather(np.frombuffer(content.ljust(room), np.uint8))
    values = []
    for process, row in enumerate(contents):
        other, kind, text = json.loads(row.tobytes())
        if kind and error is None:
            if not hasattr(errors, kind):
                kind, text = "UserError", f"Process {process} failed with {kind}: {text}; see what it printed."
            theirs = getattr(errors, kind)(text)
            theirs.shared = True
            raise theirs
        values.append(other)
    return values


def _wait_for_all(key: str, seconds: float) -> None:
    """Waits until all processes call it with this key, each once; raises what jaxlib does where they do not in time."""
    from orbax.checkpoint.multihost import get_barrier_sync_fn  # takes a second; one process alone needs no barrier

    get_barrier_sync_fn()(key=f"agegender_jax/{key}", timeout_ms=round(seconds * 1000))


def exit_together(code: int) -> None:
    """Ends this process after an error that it has printed.

    Where the others end with an error, too, they end together, in order, and this function returns. Where they go on,
    it ends the process itself: JAX would wait at the exit for them, and they wait in a step for this one.
    """
    if not is_multiprocess():
        return
    try:
        _wait_for_all("exit", EXIT_SECONDS)
    except Exception:  # jaxlib's, of no documented kind
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


class PreemptionNotice:
    """Tells whether one of the processes received SIGTERM: all of them learn of it at the same call."""

    def is_set(self) -> bool:
        """Returns whether one did; all processes must call it equally often. Costs no exchange."""
        return multihost_utils.reached_preemption_sync_point(next(_preemption_checks))
