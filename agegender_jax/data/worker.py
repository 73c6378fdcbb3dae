"""A process that decodes examples for the one that started it (`workers.Workers`); it imports next to nothing.

Tasks come on the standard input, a line of JSON (`names`, `sizes`) and then the examples' bytes one after another; one
without a size is a file whose path is its name. The decoded examples are left in memory that both processes see, and
the answer on the standard output is a line of JSON: pairs of the number of an example that cannot be decoded and what
is wrong with it. The end of the input, also where the other process is killed, ends this one.
"""

import json
import mmap
import signal
import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from agegender_jax.data.files import read_file
from agegender_jax.errors import UserError


def decoder(spec: Mapping[str, Any]) -> Callable[..., np.ndarray]:
    """What decodes an example's bytes (and takes its `name`), from `Inputs.decoding`."""
    options = dict(spec)
    if options.pop("kind") == "image":
        from agegender_jax.data.decode import decode_image

        return partial(decode_image, **options)
    from agegender_jax.data.sound import decode_sound

    return partial(decode_sound, **options)


def main() -> None:
    """Decodes until there is nothing more to do.

    The only argument is JSON: `decoding`, the `dtype` and `shape` of all that fits into the shared memory, and the
    descriptor of the `file` that it is.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the other process ends its step first, and for that it needs examples
    task = json.loads(sys.argv[1])
    decode, shape, dtype = decoder(task["decoding"]), task["shape"], np.dtype(task["dtype"])
    memory = mmap.mmap(task["file"], int(np.prod(shape)) * dtype.itemsize)
    decoded = np.frombuffer(memory, dtype).reshape(shape)
    source, answers = sys.stdin.buffer, sys.stdout.buffer
    while line := source.readline():
        asked, wrong = json.loads(line), []
        content = source.read(sum(filter(None, asked["sizes"])))
        begin = 0
        for place, (name, size) in enumerate(zip(asked["names"], asked["sizes"], strict=True)):
            end = begin + (size or 0)
            try:
                decoded[place] = decode(read_file(name) if size is None else content[begin:end], name=name)
            except UserError as error:
                wrong.append((place, str(error)))
            begin = end
        answers.write(json.dumps(wrong).encode() + b"\n")
        answers.flush()


if __name__ == "__main__":
    main()
