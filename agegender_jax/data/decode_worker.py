"""A process that decodes examples for the one that started it (`workers.DecodePool`); it imports next to nothing.

When it is ready it says so on the standard output, in a line. Tasks come on the standard input, a line of JSON
(`names`, `stored`) and then examples' bytes one after another: `stored` is their number, or the path of a file that is
to be read here. The decoded examples are left in memory that both processes see, and the answer on the standard output
is a line of JSON: pairs of the number of an example that cannot be decoded and what is wrong with it. The end of the
input, also where the other process is killed, ends this one.
"""

import json
import mmap
import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from agegender_jax.data.files import read_file
from agegender_jax.errors import UserError, quiet_libraries

READY = b"ready\n"
"""The first line of the standard output."""


def decoder(spec: Mapping[str, Any]) -> Callable[..., np.ndarray]:
    """What decodes an example's bytes (and takes its `name`), from `Inputs.decoding`."""
    options = dict(spec)
    if options.pop("kind") == "image":
        from agegender_jax.data.decode_image import decode_image

        return partial(decode_image, **options)
    from agegender_jax.data.decode_audio import decode_audio

    return partial(decode_audio, **options)


def main() -> None:
    """Decodes until there is nothing more to do.

    The only argument is JSON: `decoding`, the `dtype` and `shape` of all that fits into the shared memory, and the
    descriptor of the `file` that it is.
    """
    quiet_libraries()
    task = json.loads(sys.argv[1])
    decode, shape, dtype = decoder(task["decoding"]), task["shape"], np.dtype(task["dtype"])
    memory = mmap.mmap(task["file"], int(np.prod(shape)) * dtype.itemsize)
    decoded = np.frombuffer(memory, dtype).reshape(shape)
    source, answers = sys.stdin.buffer, sys.stdout.buffer
    answers.write(READY)
    answers.flush()
    while line := source.readline():
        asked, wrong = json.loads(line), []
        content = source.read(sum(stored for stored in asked["stored"] if isinstance(stored, int)))
        begin = 0
        for place, (name, stored) in enumerate(zip(asked["names"], asked["stored"], strict=True)):
            end = begin + (stored if isinstance(stored, int) else 0)
            try:
                example = read_file(stored, name) if isinstance(stored, str) else content[begin:end]
                decoded[place] = decode(example, name=name)
            except UserError as error:
                wrong.append((place, str(error)))
            begin = end
        answers.write(json.dumps(wrong).encode() + b"\n")
        answers.flush()


if __name__ == "__main__":
    main()
