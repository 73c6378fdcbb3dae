"""What a training does when it is told to stop."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from agegender_jax import distributed
from agegender_jax.distributed import log_primary


@contextmanager
def preemption() -> Iterator[threading.Event | distributed.PreemptionNotice]:
    """An event that SIGTERM sets, and those around it; with several processes, JAX's notice that one got it."""
    if distributed.is_multiprocess():  # whose handler would be replaced by the one below
        yield distributed.PreemptionNotice()
        return
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():  # only there may handlers be installed
        yield stop
        return

    def note(number: int, frame: Any) -> None:
        stop.set()
        if callable(before):  # of a study, which then begins no other run
            before(number, frame)
        else:
            log_primary("SIGTERM: stopping once what is running is saved.")

    before = signal.signal(signal.SIGTERM, note)
    try:
        yield stop
    finally:
        with suppress(TypeError):
            signal.signal(signal.SIGTERM, before)
