"""Processes that decode examples for this one, and hand them over in memory that both see.

Threads would be simpler, but decoders let go of Python's lock only while they work on pixels or samples: two threads
did 1.3 times as much as one, two processes nearly twice as much (docs/RESULTS.md).
"""

import contextlib
import json
import math
import mmap
import os
import queue
import subprocess
import sys
import tempfile
import threading
import weakref
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from agegender_jax.data.examples import cores
from agegender_jax.errors import UserError

_CHUNK_BYTES = 2**21  # of decoded examples that a process hands over at a time: a few, where they are large
_MEMORY_FILES = hasattr(os, "memfd_create")  # which only Linux has
_CHUNK = 128  # at most, where they are small: more would leave a process waiting for another at a block's end


class Workers:
    """As many processes as there are cores, started when they are first needed and ended with this object.

    Not those of `multiprocessing`: these need no guard in the user's script, die with this process however it ends, and
    outlive the signal that tells a whole job to save its state and stop.

    Args:
      decoding: what they do, see `inputs.Inputs`.
      shape: of a decoded example.
      dtype: of a decoded example.
    """

    def __init__(self, decoding: Mapping[str, Any], shape: Sequence[int], dtype: Any) -> None:
        self._decoding, self._shape, self._dtype = decoding, tuple(shape), np.dtype(dtype)
        self._chunk = max(1, min(_CHUNK, _CHUNK_BYTES // (math.prod(shape) * self._dtype.itemsize)))
        self._idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        self._threads: ThreadPoolExecutor | None = None
        self._starting = threading.Lock()

    def decode(
        self,
        read: Callable[[np.ndarray], tuple[Sequence[bytes | None], list[str]]],
        places: np.ndarray,
        out: np.ndarray,
        wrong: MutableMapping[int, str] | None = None,
    ) -> None:
        """Fills places of `out`; may be called by several threads.

        Args:
          read: the stored bytes and the names of the examples that belong at some of the places. Where there are no
            bytes but None, the name is a file's path, and the process that decodes it reads it itself.
          places: int `[m]`.
          out: `[n, *shape]`.
          wrong: takes, by place, what is wrong with an example that cannot be read or decoded, or that ends the process
            which tries; its place in `out` stays as it is. None makes the first of them an error.

        Raises:
          UserError: an example cannot be decoded, or a process was killed; or of `read`.
        """
        count = cores()
        with self._starting:
            if self._threads is None:
                for _ in range(count):
                    self._idle.put(self._worker())
                self._threads = ThreadPoolExecutor(count + 1, thread_name_prefix="decode")  # one reads ahead

        def fill(some: np.ndarray) -> None:
            contents, names = read(some)
            worker = self._idle.get()
            ended = False
            try:
                decoded, unusable = worker.decode(contents, names)
                if not unusable:
                    out[some] = decoded
                elif wrong is None:
                    raise UserError(unusable[min(unusable)])
                else:
                    good = np.array([place not in unusable for place in range(len(some))])
                    out[some[good]] = decoded[good]
                    wrong.update((int(some[place]), reason) for place, reason in unusable.items())
            except _Ended:
                if wrong is None:
                    raise
                worker, ended = self._worker(), True
            finally:
                self._idle.put(worker)
            if ended and wrong is not None:
                if len(some) == 1:
                    wrong[int(some[0])] = f"{names[0]}: ends the process that decodes it; shrink or remove it."
                else:  # to find out which of them does
                    for part in np.array_split(some, 2):
                        fill(part)

        size = min(self._chunk, max(1, -(-len(places) // (2 * count))))  # every process gets its part
        for _ in self._threads.map(fill, (places[i : i + size] for i in range(0, len(places), size))):
            pass

    def _worker(self) -> "_Worker":
        return _Worker(self._decoding, (self._chunk, *self._shape), self._dtype)


class _Ended(UserError):
    """A process is no more."""


class _Worker:
    """A process of `worker.py`, and the memory that is shared with it."""

    def __init__(self, decoding: Mapping[str, Any], shape: Sequence[int], dtype: np.dtype) -> None:
        size = math.prod(shape) * dtype.itemsize
        with os.fdopen(os.memfd_create("decoded"), "r+b") if _MEMORY_FILES else tempfile.TemporaryFile() as file:
            file.truncate(size)
            self._decoded = np.frombuffer(mmap.mmap(file.fileno(), size), dtype).reshape(shape)
            task = {"decoding": dict(decoding), "shape": list(shape), "dtype": dtype.str, "file": file.fileno()}
            self._process = subprocess.Popen(
                [sys.executable, "-m", "agegender_jax.data.worker", json.dumps(task)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=[file.fileno()],
                # A checkout that is not installed is found by where this process was started from.
                env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
        weakref.finalize(self, _end, self._process)

    def decode(self, contents: Sequence[bytes | None], names: Sequence[str]) -> tuple[np.ndarray, dict[int, str]]:
        """Decoded examples, which the next call overwrites, and what is wrong with some of them, by their number.

        Raises:
          _Ended: the process was killed.
        """
        source, answers = self._process.stdin, self._process.stdout
        assert source is not None
        assert answers is not None
        try:
            sizes = [None if content is None else len(content) for content in contents]
            source.write(json.dumps({"names": names, "sizes": sizes}).encode() + b"\n")
            source.writelines(filter(None, contents))
            source.flush()
            answer = answers.readline()
        except BrokenPipeError:
            answer = b""
        if not answer:
            raise _Ended(
                f"A process that decodes examples ended ({self._process.wait()}), perhaps for want of memory; run the "
                "same command again, and give it more memory if it happens again."
            )
        return self._decoded[: len(contents)], dict(json.loads(answer))


def _end(process: subprocess.Popen) -> None:
    """Ends a process, which has nothing left to do."""
    with contextlib.suppress(OSError), process:  # one that was killed may have left something to be written
        pass
