"""How the builders write their examples."""

import os
from collections.abc import Iterable
from typing import Any

import tensorflow_datasets as tfds
from tensorflow_datasets.proto import tf_example_pb2  # TFDS's own copy of tf.train.Example, free of TensorFlow


class ReproducibleWriter(tfds.core.ExampleWriter):
    """Writes an example's features in sorted order.

    TFDS serializes them in the order of a hash map, which changes from one process to the next; sorted, the same
    archive gives the same bytes every time, with TensorFlow and without.
    """

    def write(self, path: os.PathLike[str], examples: Iterable[tuple[Any, bytes]]) -> Any:
        """Writes (key, serialized example) pairs to one shard; arguments and result as in `tfds.core.ExampleWriter`."""
        ordered = (
            (key, tf_example_pb2.Example.FromString(example).SerializeToString(deterministic=True))
            for key, example in examples
        )
        return super().write(path, ordered)
