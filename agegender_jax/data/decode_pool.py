"""Processes that decode examples for this one, and hand them over in memory that both see.

Threads would be simpler, but decoders release Python's lock only while they work on pixels or samples: where one thread
decodes an image in 173 µs, two decode one in 118, and two processes read, decode and hand over one in 104
(docs/RESULTS.md).
"""

import contextlib
import json
import math
import mmap
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import weakref
from collections.abc import Callable, MutableMapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np

from agegender_jax.data.decode_worker import READY
from agegender_jax.data.files import read_file
from agegender_jax.data.resources import cores
from agegender_jax.errors import UserError

_CHUNK_BYTES = 2**21  # of decoded examples that a process hands over at a time: a few, where they are large
_MEMORY_FILES = hasattr(os, "memfd_create")  # which only Linux has
_CHUNK = 128  # at most, where they are small: more would leave a process waiting for another at a block's end
_AT_ONCE = 16  # examples: so few are not worth waiting for other processes
_PATIENCE = 5.0  # seconds for a process to end by itself


class DecodePool:
    """As many processes as there are cores, each started when it is first needed; a context manager.

    Not those of `multiprocessing`: these need no guard in the user's script, die with this process however it ends, and
    outlive the signal that tells a whole job to save its state and stop.

    `decode` is a function of a module with its options, called with an example's bytes and its `name` for messages. The
    processes import it by its name; it returns an array and raises UserError for what it cannot decode.
    """

    def __init__(self, decode: "partial[np.ndarray]", shape: Sequence[int], dtype: Any) -> None:
        self._decode, self._shape, self._dtype = decode, tuple(shape), np.dtype(dtype)
        self._chunk = max(1, min(_CHUNK, _CHUNK_BYTES // (math.prod(shape) * self._dtype.itemsize)))
        self._idle: queue.SimpleQueue[_Worker | None] = queue.SimpleQueue()  # None: not started, or no more
        self._count = cores()
        for _ in range(self._count):
            self._idle.put(None)
        self._threads: ThreadPoolExecutor | None = None
        self._starting = threading.Lock()

    def __enter__(self) -> "DecodePool":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the processes, once they are done with what they were given; `decode` would start them again."""
        with self._starting:
            threads, self._threads = self._threads, None
        if threads is not None:
            threads.shutdown(cancel_futures=True)
        for worker in [self._idle.get() for _ in range(self._count)]:
            if worker:
                worker.close()
            self._idle.put(None)

    def decode(
        self,
        read: Callable[[np.ndarray], tuple[Sequence[bytes | None], list[str]]],
        places: np.ndarray,
        out: np.ndarray,
        wrong: MutableMapping[int, str] | None = None,
    ) -> None:
        """Fills places of `out`; may be called by several threads. A few are decoded in this process.

        Args:
          read: returns the stored bytes and the names of the examples at some of the places. Where there are no bytes
            but None, the name is a file's path, which is read where it is decoded.
          places: int `[m]`.
          out: `[n, *shape]`.
          wrong: takes, by place, what is wrong with an example that cannot be read or decoded, or that twice ends the
            process which tries; its place in `out` stays as it is. None makes the first of them an error.

        Raises:
          UserError: an example cannot be decoded, a process was killed or cannot be started; or of `read`.
        """
        if len(places) <= _AT_ONCE:
            self._decode_here(read, places, out, wrong)
            return
        count = self._count
        with self._starting:
            if self._threads is None:
                self._threads = ThreadPoolExecutor(count + 1, thread_name_prefix="decode")  # one reads ahead
            threads = self._threads  # `close`, called by another thread, sets the attribute to None

        def fill(some: np.ndarray, *, again: bool = False) -> None:
            contents, names = read(some)
            try:
                unusable = self._filled(contents, names, some, out)
            except _Ended:
                if wrong is None:
                    raise
                if len(some) > 1:  # to find out which of them did it, if one did
                    for part in np.array_split(some, 2):
                        fill(part)
                elif not again:
                    fill(some, again=True)
                else:
                    wrong[int(some[0])] = f"{names[0]}: ends the process that decodes it; shrink or remove it."
                return
            if unusable and wrong is None:
                raise UserError(unusable[min(unusable)])
            if wrong is not None:
                wrong.update((int(some[place]), reason) for place, reason in unusable.items())

        size = min(self._chunk, max(1, -(-len(places) // (2 * count))))  # every process gets its part
        for _ in threads.map(fill, (places[i : i + size] for i in range(0, len(places), size))):
            pass

    def _decode_here(self, read: Any, places: np.ndarray, out: np.ndarray, wrong: Any) -> None:
        for place in places.tolist():  # one at a time, as their content may be large
            (content,), (name,) = read(np.array([place]))
            try:
                out[place] = self._decode(read_file(name) if content is None else content, name=name)
            except UserError as error:
                if wrong is None:
                    raise
                wrong[place] = str(error)

    def _filled(
        self, contents: Sequence[bytes | None], names: Sequence[str], places: np.ndarray, out: np.ndarray
    ) -> dict[int, str]:
        """Has a process decode examples into places of `out`; returns what is wrong with the others, by number."""
        idle, usable = self._idle.get(), None
        try:
            worker = idle or _Worker(self._decode, (self._chunk, *self._shape), self._dtype)
            decoded, unusable = worker.decode(contents, names)
            good = np.array([number not in unusable for number in range(len(places))], bool)
            if good.all():
                out[places] = decoded
            else:
                out[places[good]] = decoded[good]
            usable = worker
            return unusable
        finally:
            self._idle.put(usable)  # None where anything went wrong: the next one starts another


class _Ended(UserError):
    """A process is no more."""


class _Worker:
    """A process of `decode_worker.py`, and the memory that is shared with it."""

    def __init__(self, decode: "partial[np.ndarray]", shape: Sequence[int], dtype: np.dtype) -> None:
        size = math.prod(shape) * dtype.itemsize
        function = f"{decode.func.__module__}:{decode.func.__qualname__}"
        try:
            with os.fdopen(os.memfd_create("decoded"), "r+b") if _MEMORY_FILES else tempfile.TemporaryFile() as file:
                file.truncate(size)
                self._decoded = np.frombuffer(mmap.mmap(file.fileno(), size), dtype).reshape(shape)
                task = {"function": function, "options": decode.keywords}
                memory = {"shape": list(shape), "dtype": dtype.str, "file": file.fileno()}
                self._process = _started(json.dumps(task | memory), file.fileno())
        except OSError as error:
            raise UserError(
                f"A process that decodes examples cannot be started ({error.strerror or error}); give it more memory."
            ) from error
        self.close = weakref.finalize(self, _end, self._process)
        assert self._process.stdout is not None
        if self._process.stdout.readline() != READY:
            raise UserError(
                f"A process that decodes examples ended before its first one ({self._process.wait()}), perhaps for "
                "want of memory; see what it says above."
            )

    def decode(self, contents: Sequence[bytes | None], names: Sequence[str]) -> tuple[np.ndarray, dict[int, str]]:
        """Returns decoded examples, which the next call overwrites, and what is wrong with some, by number."""
        source, replies = self._process.stdin, self._process.stdout
        assert source is not None
        assert replies is not None
        stored = [
            _absolute(name) if content is None else len(content) for content, name in zip(contents, names, strict=True)
        ]
        try:
            source.write(json.dumps({"names": list(names), "stored": stored}).encode() + b"\n")
            source.writelines(filter(None, contents))
            source.flush()
            reply = replies.readline()
        except BrokenPipeError:
            reply = b""
        if not reply.endswith(b"\n"):  # killed, perhaps while it replied
            raise _Ended(
                f"A process that decodes examples ended ({self._process.wait()}), perhaps for want of memory; run the "
                "same command again, and give it more memory if it happens again."
            )
        return self._decoded[: len(contents)], dict(json.loads(reply))


def _started(task: str, file: int) -> subprocess.Popen[bytes]:
    """Starts `decode_worker.py` with a descriptor of this process."""
    # It ends with this process, which first ends its step, for which it needs examples: signals that stop a job are
    # not for it, from its very beginning, and it takes what this thread blocks.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        return subprocess.Popen(
            # -P: what lies in the working directory, a user's folder perhaps, is not imported.
            [sys.executable, "-P", "-m", "agegender_jax.data.decode_worker", task],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=[file],
            # A checkout that is not installed is imported from where it was here; "" is the working directory.
            env=os.environ | {"PYTHONPATH": os.pathsep.join(map(_absolute, sys.path))},
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _absolute(path: str) -> str:
    """Returns a path that means the same in a process elsewhere; `abspath` would mistake `..` after a link."""
    try:
        return path if os.path.isabs(path) else os.path.join(os.getcwd(), path)
    except OSError:  # the working directory is no more, and what is below it neither
        return path


def _end(process: subprocess.Popen) -> None:
    """Ends a process, which has nothing left to do."""
    for stream in filter(None, (process.stdin, process.stdout)):
        with contextlib.suppress(OSError):  # one that was killed may have left something to be written
            stream.close()
    try:
        process.wait(_PATIENCE)
    except subprocess.TimeoutExpired:  # it was stopped, or is not done with its last example
        process.kill()
        process.wait()
