"""Several processes that train one run together: how they find each other, and how they agree.

All of them compute the same program on their parts of the batch. Process 0, the primary one, alone writes the run's
files and speaks to the terminal; checkpoints are written by all.
"""

import itertools
import json
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeVar

import jax
from jax.experimental import multihost_utils

from agegender_jax import errors
from agegender_jax.errors import EXIT_USER_ERROR, UserError

T = TypeVar("T")

_DAY_MS = 24 * 3600 * 1000  # a process that is gone ends the others sooner: JAX sees to that

PATIENCE = 10.0
"""Seconds in which the other processes end with an error, too, if they do; one that takes longer waits for a part."""


def _names(prefix: str) -> Iterator[str]:
    return (f"{prefix}/{number}" for number in itertools.count())


# Of what is exchanged, in the order in which all processes come by. What is exchanged inside another exchange is named
# after it: where it failed, not all of them came by the same number of those inside.
_points = [_names("agegender_jax")]
_calls = itertools.count(1)  # of `PreemptionNotice.is_set`, likewise


def initialize(
    *,
    automatic: bool = False,
    coordinator: str | None = None,
    processes: int | None = None,
    process: int | None = None,
    timeout: int = 300,
) -> None:
    """Joins the processes of a run, before JAX is first used; does nothing where nothing is given.

    Args:
      automatic: JAX finds out by itself: under Slurm and Open MPI, on Cloud TPU and GKE.
      coordinator: else, `host:port` of process 0.
      processes: how many there are.
      process: number of this one, from 0.
      timeout: seconds to wait for the others.

    Where the others do not come in time, it prints a sentence and ends the process: JAX would abort it with a trace.

    Raises:
      UserError: the values do not fit together, or no cluster is found.
    """
    given = (coordinator, processes, process)
    if automatic and given != (None, None, None):
        raise UserError("--distributed finds the processes by itself; leave out --coordinator, --processes, --process.")
    if not automatic and given == (None, None, None):
        return
    if not automatic:
        _check(coordinator, processes, process)
    watch = threading.Timer(timeout, _give_up, [timeout])
    watch.daemon = True
    watch.start()
    try:
        jax.distributed.initialize(
            coordinator,
            processes,
            process,
            cluster_detection_method=None if automatic else "deactivate",
            initialization_timeout=timeout + 60,
        )
    except Exception as error:  # JAX, its clusters and gRPC raise many kinds
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        if automatic and _state().coordinator_address is None:
            raise UserError(
                f"--distributed finds no cluster ({reason}); start the processes with srun, mpirun or on a TPU, or "
                "give --coordinator, --processes and --process."
            ) from error
        raise UserError(
            f"The processes cannot meet at {_state().coordinator_address} ({reason}); choose another --coordinator."
        ) from error
    finally:
        watch.cancel()


def _give_up(timeout: int) -> None:
    print(
        f"{name()}The processes did not find each other within {timeout} s at {_state().coordinator_address}; "
        "check that process 0 runs there, that all of them were started, and that the port is open.",
        file=sys.stderr,
        flush=True,
    )
    os._exit(EXIT_USER_ERROR)


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
            f"--process={process} is out of range; with --processes={processes} it must be 0 to {processes - 1}."
        )


def is_primary() -> bool:
    """Whether this process writes the run's files and speaks to the terminal."""
    return not is_multiprocess() or _state().process_id == 0


def is_multiprocess() -> bool:
    """Whether there are other processes."""
    return jax.distributed.is_initialized() and _state().num_processes > 1


def name() -> str:
    """How this process begins what it says for itself; nothing where it is the primary one."""
    return "" if is_primary() else f"Process {_state().process_id}: "


def log_primary(text: str) -> None:
    """Prints a line for people, once for all processes."""
    if is_primary():
        print(text, file=sys.stderr, flush=True)


def primary_first() -> AbstractContextManager[None]:
    """The primary process does what stands inside, then the others do it; what stops one of them stops all.

    For files: the others find those that the primary one wrote, where they share the folder, and else write their own.
    Nothing inside may compute on the devices of all.

    Raises:
      UserError: in the others, what stopped one.
    """
    return _agree(wait_for_primary=True)


def all_or_none() -> AbstractContextManager[None]:
    """As `primary_first`, but all do at the same time what stands inside."""
    return _agree(wait_for_primary=False)


@contextmanager
def _agree(*, wait_for_primary: bool) -> Iterator[None]:
    if not is_multiprocess():
        yield
        return
    point, me = next(_points[-1]), _state().process_id
    if me and wait_for_primary:
        _check_verdict(point, 0)
    _points.append(_names(f"{point}/inside"))
    try:
        yield
    except BaseException as error:
        _client().key_value_set(f"{point}/{me}", _verdict(error))
        raise
    finally:
        _points.pop()
    _client().key_value_set(f"{point}/{me}", _verdict(None))
    for other in range(_state().num_processes):
        _check_verdict(point, other)


def from_primary(value: T) -> T:
    """The primary process's value, in all of them; what JSON knows. Also inside `primary_first`."""
    if not is_multiprocess():
        return value
    point = next(_points[-1])
    if is_primary():
        _client().key_value_set(point, json.dumps(value))
        return value
    return json.loads(_client().blocking_key_value_get(point, _DAY_MS))


def all_agree(good: bool) -> bool:
    """Whether it is good in all processes."""
    if not is_multiprocess():
        return good
    point = next(_points[-1])
    _client().key_value_set(f"{point}/{_state().process_id}", str(int(good)))
    found = [_client().blocking_key_value_get(f"{point}/{number}", _DAY_MS) for number in range(_state().num_processes)]
    return all(map(int, found))


def exit_together(code: int) -> None:
    """To be called when this process ends with an error, after it was printed.

    Where the others end with one, too, they end together, in order. Where they go on, this one ends here and now: JAX
    would wait at the exit for them, and they wait in the middle of a step for this one.
    """
    if not is_multiprocess() or _client() is None:
        return
    try:
        _client().wait_at_barrier("agegender_jax/leave", round(PATIENCE * 1000))
    except Exception:  # jaxlib's, of no documented kind
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _state() -> Any:
    """Returns who this process is and its client, of which JAX's own and Orbax's barriers are made."""
    from jax._src.distributed import global_state  # private, so a command that needs one process does not import it

    return global_state


def _client() -> Any:
    return _state().client


def _verdict(error: BaseException | None) -> str:
    """What the others are told."""
    if error is None:
        return "{}"
    kind = type(error).__name__ if isinstance(error, UserError) else ""
    return json.dumps({"kind": kind, "text": str(error) if kind else f"{type(error).__name__}: {error}"})


def _check_verdict(point: str, process: int) -> None:
    found = json.loads(_client().blocking_key_value_get(f"{point}/{process}", _DAY_MS))
    if found and found["kind"]:
        raise getattr(errors, found["kind"])(found["text"])
    if found:
        raise UserError(f"Process {process} failed with {found['text']}; see what it printed.")


class PreemptionNotice:
    """Whether one of the processes was told to stop (SIGTERM): all of them hear of it at the same call."""

    def is_set(self) -> bool:
        """To be asked by all processes equally often; costs no exchange."""
        return multihost_utils.reached_preemption_sync_point(next(_calls))
