"""The base class of the dataset builders: a TFDS `GeneratorBasedBuilder` in bounded memory, with reproducible files.

TFDS orders the examples of a split by a hash of their keys. It keeps up to 1 GB of them in memory for that, and needs
TensorFlow for more. Here it orders small examples: the encoded image or recording of each lies in a temporary file
until the example is written.
"""

import itertools
import os
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.proto import tf_example_pb2  # TFDS's own copy of tf.train.Example, free of TensorFlow

from tfds_builders.archive import SYNTHETIC_FILE
from tfds_builders.labels import COLUMNS

_ORIGIN = ("labels", "identities", "terms")  # keys of `info.metadata` that are printed


def features(*columns: str, **others: tfds.features.FeatureConnector) -> tfds.features.FeaturesDict:
    """Returns the features of a dataset: the content and other columns by name, and some of `labels.COLUMNS`."""
    shared = {
        name: tfds.features.Text(doc=doc) if dtype is np.str_ else tfds.features.Scalar(dtype, doc=doc)
        for name, (dtype, doc) in ((name, COLUMNS[name]) for name in columns)
    }
    return tfds.features.FeaturesDict(others | shared)


def image_feature(crop: str) -> tfds.features.Image:
    """Returns the feature of encoded images; they are stored as they are, so TensorFlow is not needed."""
    return tfds.features.Image(shape=(None, None, 3), encoding_format="png" if crop else "jpeg")


class _DatasetInfo(tfds.core.DatasetInfo):
    def initialize_from_bucket(self) -> None:
        """Does nothing. TFDS would look for the dataset in its own bucket, and leave a temporary folder each time."""


class DatasetBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Builds a dataset; derive from it as from `tfds.core.GeneratorBasedBuilder`.

    `_generate_examples` yields `self.store(content)` in place of an encoded image or a recording. After preparation
    `report` and the labels, identities and terms in `info.metadata` are printed to stderr.
    """

    report: Any = ""  # what was kept and rejected, set by the subclass; anything that prints

    def store(self, content: bytes) -> bytes:
        """Stores an encoded image or recording in a temporary file; returns a reference for the yielded example."""
        return self._writer.store(content)

    def info_of(
        self, columns: tfds.features.FeaturesDict, labels: str, identities: str, terms: str, homepage: str | None = None
    ) -> tfds.core.DatasetInfo:
        """Returns the metadata of a dataset: its features, and where labels and identities come from."""
        documents = self.get_metadata()  # README.md, CITATIONS.bib and TAGS.txt beside the builder
        return _DatasetInfo(
            builder=self,
            description=documents.description,
            citation=documents.citation,
            features=columns,
            homepage=homepage,
            supervised_keys=None,
            metadata=tfds.core.MetadataDict(terms=terms, labels=labels, identities=identities),
        )

    def _example_writer(self) -> tfds.core.ExampleWriter:
        return self._writer

    def _download_and_prepare(
        self, dl_manager: tfds.download.DownloadManager, download_config: tfds.download.DownloadConfig
    ) -> None:
        if Path(os.fspath(dl_manager.manual_dir), SYNTHETIC_FILE).exists():
            self.info.metadata["synthetic"] = True
        with tempfile.TemporaryFile(dir=self.data_path) as file:
            self._writer = ExampleWriter(self.info.file_format, file)
            super()._download_and_prepare(dl_manager, download_config)
        sizes = iter(self._writer.sizes)  # TFDS counted references
        self.info.set_splits(
            tfds.core.SplitDict(
                [
                    split.replace(num_bytes=sum(itertools.islice(sizes, split.num_shards)))
                    for split in self.info.splits.values()
                ]
            )
        )

    def _post_download_and_prepare_hook(self) -> None:
        metadata = self.info.metadata
        lines = [f"  {key + ':':12}{metadata[key]}" for key in _ORIGIN if key in metadata]
        if metadata.get("synthetic"):
            lines = ["  synthetic: labels, identities and terms of the original do not apply"]
        text = "\n".join([str(self.report), *lines])
        # Names of files and folders may hold what steers a terminal.
        print("".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text), file=sys.stderr)


class ExampleWriter(tfds.core.ExampleWriter):
    """Writes examples with their stored content, and with their features in sorted order.

    TFDS serializes features in the order of a hash map, which changes from one process to the next; sorted, the same
    files give the same bytes every time.
    """

    def __init__(self, file_format: tfds.core.FileFormat, file: IO[bytes]) -> None:
        super().__init__(file_format)
        self.sizes: list[int] = []  # of the shards, in bytes, in the order of writing
        self._file, self._prefix = file, os.urandom(16)

    def store(self, content: bytes) -> bytes:
        """Appends content to the file, which is open for writing and reading; returns a reference to it."""
        reference = self._prefix + self._file.tell().to_bytes(8, "big") + len(content).to_bytes(8, "big")
        self._file.write(content)
        return reference

    def write(self, path: os.PathLike[str], examples: Iterable[tuple[Any, bytes]]) -> Any:
        """Writes (key, serialized example) pairs to one shard."""
        self.sizes.append(0)
        return super().write(path, ((key, self._complete(example)) for key, example in examples))

    def _complete(self, serialized: bytes) -> bytes:
        """Returns a serialized example with the content that its references stand for."""
        example = tf_example_pb2.Example.FromString(serialized)
        for feature in example.features.feature.values():
            values = feature.bytes_list.value
            for i, value in enumerate(values):
                if value.startswith(self._prefix):
                    offset, size = (int.from_bytes(number, "big") for number in (value[16:24], value[24:]))
                    self._file.seek(offset)
                    values[i] = self._file.read(size)
        serialized = example.SerializeToString(deterministic=True)
        self.sizes[-1] += len(serialized)
        return serialized
