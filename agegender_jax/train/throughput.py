"""How long dispatches take, where else the time goes, and what is done only now and then."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np


class RateLimiter:
    """Says at most so often, in seconds, that something is due; the first time it is."""

    def __init__(self, seconds: float) -> None:
        self._seconds, self._last = seconds, float("-inf")

    def due(self) -> bool:
        """Whether it is time again; if so, the next time is counted from now."""
        if time.monotonic() - self._last < self._seconds:
            return False
        self._last = time.monotonic()
        return True


class ThroughputMeter:
    """How long dispatches take. The first is left out: it also waits for what is used for the first time."""

    def __init__(self) -> None:
        self._last = time.monotonic()
        self._seconds: list[float] | None = None

    def restart(self) -> None:
        """Begins to count anew, after something that is no dispatch."""
        self._last = time.monotonic()

    def lap(self) -> float:
        """A dispatch has ended: the seconds since the one before."""
        now = time.monotonic()
        seconds, self._last = now - self._last, now
        if self._seconds is None:
            self._seconds = []
        else:
            self._seconds.append(seconds)
        return seconds

    @property
    def median(self) -> float | None:
        """Seconds a dispatch, None before there were two."""
        return float(np.median(self._seconds)) if self._seconds else None


class TimeBreakdown:
    """Seconds of a training, since its last start, by what they went to.

    `compilation` of the step; `input`, the host's wait for examples; `step`, its wait for the devices; `evaluation` of
    the validation part; `checkpoint`, what saving keeps the host from; `idle`, all else, such as the first state and
    logging: the devices have nothing to do then, unless a dispatch is under way.
    """

    def __init__(self) -> None:
        self._begin = time.monotonic()
        self._seconds = dict.fromkeys(("compilation", "input", "step", "evaluation", "checkpoint"), 0.0)

    @contextmanager
    def on(self, what: str) -> Iterator[None]:
        """Counts the time inside; these do not nest."""
        begin = time.monotonic()
        try:
            yield
        finally:
            self._seconds[what] += time.monotonic() - begin

    @property
    def seconds(self) -> dict[str, float]:
        """All of them until now; their sum is the time since the beginning."""
        whole = time.monotonic() - self._begin
        return self._seconds | {"idle": whole - sum(self._seconds.values())}
