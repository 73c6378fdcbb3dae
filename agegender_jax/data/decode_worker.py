"""Decodes examples in a process for the one that started it (`decode_pool.DecodePool`); it imports next to nothing.

When it is ready it writes the line `READY` to the pipe that it was started with as its standard output. Tasks come on
the standard input, a line of JSON (`names`, `stored`) and then the bytes of the examples one after another: `stored` is
their number, or the path of a file that is to be read here. The decoded examples are left in memory that both processes
see, and the reply is a line of JSON: pairs of the number of an example that cannot be decoded and the reason. The end
of the input, also where the other process is killed, ends this one.
"""

import importlib
import json
import mmap
import os
import sys
from functools import partial

import numpy as np

from agegender_jax.data.files import read_file
from agegender_jax.errors import UserError, quiet_libraries

READY = b"ready\n"  # the first line that the process writes


def main() -> None:
    """Decodes until there is nothing more to do.

    The only argument is JSON: the `function` that decodes (`module:name`), its `options`, the `dtype` and `shape` of
    all that fits into the shared memory, and the descriptor of the `file` that it is.
    """
    # What a C library prints must not come between the replies: its standard output is the standard error from here on.
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    quiet_libraries()
    task = json.loads(sys.argv[1])
    module, name = task["function"].split(":")
    decode = partial(getattr(importlib.import_module(module), name), **task["options"])
    shape, dtype = task["shape"], np.dtype(task["dtype"])
    memory = mmap.mmap(task["file"], int(np.prod(shape)) * dtype.itemsize)
    decoded = np.frombuffer(memory, dtype).reshape(shape)
    source = sys.stdin.buffer
    replies.write(READY)
    replies.flush()
    while line := source.readline():
        request, wrong = json.loads(line), []
        content = source.read(sum(stored for stored in request["stored"] if isinstance(stored, int)))
        begin = 0
        for place, (name, stored) in enumerate(zip(request["names"], request["stored"], strict=True)):
            end = begin + (stored if isinstance(stored, int) else 0)
            try:
                example = read_file(stored, name) if isinstance(stored, str) else content[begin:end]
                decoded[place] = decode(example, name=name)
            except UserError as error:
                wrong.append((place, str(error)))
            begin = end
        replies.write(json.dumps(wrong).encode() + b"\n")
        replies.flush()


if __name__ == "__main__":
    main()
