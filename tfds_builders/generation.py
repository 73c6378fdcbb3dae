"""How the builders make their examples: in one process or on Apache Beam, with the same bytes and report.

TFDS has two writers. Its plain one keeps up to 1 GB of examples in memory, and needs TensorFlow beyond; its Beam one
keeps whole shards in memory, and cuts them at other places. So the builders share one way of their own, whose memory
does not grow with the files' sizes:

1. The launching process lists the `Work`: names, labels, and where each file's bytes lie. An archive has one reader.
2. Each file is checked and made into a serialized example, which goes to a temporary file, the spool.
3. The launching process goes through the results in the order of the listing: it decides which are kept, and reports.
4. What is kept is sorted by TFDS's hash of its key and copied from the spool into shards of TFDS's usual sizes.

On Beam, workers do the second and the fourth step; only small numbers pass through Beam itself. The spool takes as much
disk as the dataset, in its directory, while it is prepared.
"""

import abc
import array
import collections
import contextlib
import dataclasses
import functools
import importlib
import itertools
import json
import os
import re
import struct
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import tensorflow_datasets as tfds
from etils import epath
from tensorflow_datasets.core import dataset_builder, example_serializer, hashing, utils
from tensorflow_datasets.core.utils import shard_utils

from tfds_builders.archive import MAX_FILE_BYTES, SYNTHETIC_FILE, DataError, iter_members, list_members
from tfds_builders.writing import ReproducibleWriter

_CHUNK = 64  # files that a Beam worker makes at a time, at least
_CHUNKS = 256  # chunks at most: a shard's writer keeps a file of each open
_ORIGIN = {
    "labels": "labels",
    "people": "identities",
    "terms": "terms",
}  # words of the report, and the keys of info.metadata
_ENTRY = struct.Struct(">16sIQI")  # hash of the key, number of the spool's file, offset, length: sorts by the hash


class Content(NamedTuple):
    """Where a file's bytes lie.

    Attributes:
      path: of the file that holds them; a worker reads it by the same path.
      offset: of the first, in bytes.
      size: how many.
    """

    path: str
    offset: int
    size: int

    def read(self) -> bytes:
        """Reads them.

        Raises:
          DataError: they are not there; a reason that several files may share.
        """
        try:
            with epath.Path(self.path).open("rb") as file:
                file.seek(self.offset)
                content = file.read(self.size)
        except OSError as error:
            raise DataError(f"unreadable ({error.strerror})") from error
        if len(content) < self.size:
            raise DataError("cut short while they were read")
        return content


class Work(NamedTuple):
    """A file to make an example of.

    Attributes:
      split: name of the split that it belongs to.
      name: of the file, for reports.
      item: what `make_example` needs to know besides the content: plain values that JSON keeps.
      content: the bytes, where they lie, or why there are none.
    """

    split: str
    name: str
    item: Any
    content: bytes | Content | DataError


class Made(NamedTuple):
    """What came of a file.

    Attributes:
      split: as in `Work`.
      name: as in `Work`.
      item: as in `Work`; tuples may have become lists.
      error: why it cannot be used, or "".
      key: the example's key.
      values: the example without those of its values that are bytes.
      place: where in the spool it is: number of the file, offset, length in bytes.
    """

    split: str
    name: str
    item: Any
    error: str = ""
    key: str = ""
    values: dict[str, Any] = {}
    place: tuple[int, int, int] = (0, 0, 0)


def members(
    source: Path, oversized: Callable[[str, int], object] | None = None
) -> Iterator[tuple[str, bytes | Content]]:
    """The files of an archive with their content, or those of a folder with where their content lies.

    Args:
      source: the archive or the folder.
      oversized: called with the name and the size of a file above `MAX_FILE_BYTES`, instead of raising.

    Yields:
      (name, content), as `iter_members`.

    Raises:
      DataError: as `iter_members`.
    """
    if not source.is_dir():
        yield from iter_members(source, oversized=oversized)
        return
    listed = list_members(source)[::-1]
    while listed:  # its memory is given back as what is known of the examples grows
        name, size = listed.pop()
        if size <= MAX_FILE_BYTES:
            yield name, Content(str(source / name), 0, size)
        elif oversized:
            oversized(name, size)
        else:
            raise DataError(
                f"{source}: member {name!r} has {size} bytes, and at most {MAX_FILE_BYTES} are read; "
                "is this the right archive or folder?"
            )


class SpooledBuilder(dataset_builder.FileReaderBuilder, skip_registration=True):
    """A builder whose examples are made in one process or on Beam: on Beam if TFDS was given options or a runner of it.

    The module of the builder has a pure function `make_example(item, content, options) -> (key, example)`, which
    raises `DataError` with the reason where a file is not usable. DecodePool import that module. Its `info.metadata`
    says `labels`, `identities` and `terms`, which are printed when all is prepared, after `_report`: what was kept and
    left out, as text, which the builder sets when it lists its work.
    """

    _report: Any

    SPLITS: ClassVar[tuple[str, ...]] = ("train",)
    """Names of the splits. TFDS reserves `all` for their sum, and calls the only split of a dataset `train`."""

    @abc.abstractmethod
    def _work(self, manual_dir: Path) -> Iterator[Work]:
        """Lists the work. What it counts itself must not be counted in `_keep` as well."""

    @abc.abstractmethod
    def _keep(self, made: Iterable[Made]) -> Iterator[Made]:
        """Gives back what is kept, each key once; reports on it all at the end. `made` comes in the work's order."""

    def _options(self) -> dict[str, Any]:
        """What `make_example` needs to know of the configuration: plain values that JSON keeps."""
        return {}

    def _post_download_and_prepare_hook(self) -> None:
        """Says what was made of the files, whose labels these are, and under which terms they may be used."""
        metadata = self.info.metadata
        lines = [f"  {word:8} {metadata[key]}" for word, key in _ORIGIN.items()]
        if metadata.get("synthetic"):
            lines = ["  drawn from a seed: labels, identities and terms of the original do not apply"]
        print(self._report, *lines, sep="\n", file=sys.stderr)

    def _example_writer(self) -> tfds.core.ExampleWriter:
        return ReproducibleWriter(self.info.file_format)

    def _download_and_prepare(
        self, dl_manager: tfds.download.DownloadManager, download_config: tfds.download.DownloadConfig
    ) -> None:
        on_beam = bool(download_config.beam_options or download_config.beam_runner)
        folder = self.data_path / f"spool-{uuid.uuid4().hex}"
        folder.mkdir()
        try:
            maker = _Maker(type(self).__module__, self.name, self._options(), self.info.features)
            manual_dir = Path(os.fspath(dl_manager.manual_dir))
            if (manual_dir / SYNTHETIC_FILE).exists():
                self.info.metadata["synthetic"] = True
            work = self._work(manual_dir)
            made = _make_on_beam(work, maker, folder, download_config) if on_beam else _make_here(work, maker, folder)
            entries: dict[str, list[bytes]] = {split: [] for split in self.SPLITS}
            hashers = {split: hashing.Hasher(split) for split in self.SPLITS}
            with contextlib.closing(made):  # its files, before the folder goes
                shown = utils.tqdm(made, desc="Making examples...", unit=" files", leave=False, mininterval=1.0)
                for kept in self._keep(shown):
                    if len(entries[kept.split]) != download_config.max_examples_per_split:
                        key = hashers[kept.split].hash_key(kept.key).to_bytes(16, "big")
                        entries[kept.split].append(_ENTRY.pack(key, *kept.place))
            infos, shards = [], []
            for split in self.SPLITS:
                size = sum(_ENTRY.unpack(entry)[3] for entry in entries[split])
                parts = _parts(f"{self.name}, split {split}", entries[split], size, download_config.get_shard_config())
                names = self._get_filename_template(split)
                for number, part in enumerate(parts):
                    plan = folder / f"plan-{len(shards)}"
                    plan.write_bytes(b"".join(part))
                    path = names.sharded_filepath(shard_index=number, num_shards=len(parts))
                    shards.append((os.fspath(plan), os.fspath(path)))
                infos.append(
                    tfds.core.SplitInfo(
                        name=split, shard_lengths=[len(part) for part in parts], num_bytes=size, filename_template=names
                    )
                )
            write = functools.partial(_write_shard, folder=os.fspath(folder), writer=self._example_writer())
            if on_beam:
                _map_on_beam(write, shards, download_config)
            else:
                collections.deque(map(write, shards), maxlen=0)
            self.info.set_splits(tfds.core.SplitDict(infos))
        finally:
            folder.rmtree()


@dataclasses.dataclass(frozen=True)
class _Maker:
    """Makes serialized examples of items and contents.

    Attributes:
      module: of the builder, as the launching process knows it: `tfds build` gives it a name of its own.
      name: of the builder.
      options: of `make_example`.
      features: of the dataset.
    """

    module: str
    name: str
    options: dict[str, Any]
    features: tfds.features.FeaturesDict

    def __call__(self, item: Any, content: bytes | Content | DataError) -> tuple[str, dict[str, Any], bytes]:
        """Returns (key, values that are not bytes, serialized example); raises `DataError`."""
        if isinstance(content, DataError):
            raise content
        if isinstance(content, Content):
            content = content.read()
        key, example = self._make_example(item, content, self.options)
        data = self._serializer.serialize_example(self.features.encode_example(example))
        return key, {name: value for name, value in example.items() if not isinstance(value, bytes)}, data

    @functools.cached_property
    def _make_example(self) -> Callable[[Any, bytes, dict[str, Any]], tuple[str, dict[str, Any]]]:
        # Imported under a second name, the module would register its dataset a second time.
        module = sys.modules.get(self.module) or importlib.import_module(
            f"tfds_builders.{self.name}.{self.name}_dataset_builder"
        )
        return module.make_example

    @functools.cached_property
    def _serializer(self) -> example_serializer.ExampleSerializer:
        return example_serializer.ExampleSerializer(self.features.get_serialized_info())

    def __getstate__(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}


def _make_here(work: Iterable[Work], maker: _Maker, folder: epath.Path) -> Iterator[Made]:
    with _spool_file(folder, 0).open("wb") as spool:
        for split, name, item, content in work:
            try:
                key, values, data = maker(item, content)
            except DataError as error:
                yield Made(split, name, item, str(error))
                continue
            place = (0, spool.tell(), len(data))
            spool.write(data)
            yield Made(split, name, item, "", key, values, place)


def _make_on_beam(
    work: Iterable[Work], maker: _Maker, folder: epath.Path, config: tfds.download.DownloadConfig
) -> Iterator[Made]:
    """Lists the work in a file, lets Beam make chunks of it, and reads what came of them."""
    lines = array.array("Q")  # where each begins
    with contextlib.ExitStack() as stack:
        listing = stack.enter_context((folder / "work").open("wb"))
        contents = folder / "contents"
        staged = stack.enter_context(contents.open("wb"))
        for split, name, item, content in work:
            # DecodePool of a cloud see its buckets, but not the disk of the launching machine.
            if isinstance(content, Content) and _is_remote(contents):
                content = content.read()
            if isinstance(content, bytes):
                place = Content(os.fspath(contents), staged.tell(), len(content))
                staged.write(content)
                content = place
            lines.append(listing.tell())
            record = [split, name, item, str(content) if isinstance(content, DataError) else content]
            listing.write(json.dumps(record).encode() + b"\n")
    size = max(_CHUNK, -(-len(lines) // _CHUNKS))
    chunks = [(number, lines[start], size) for number, start in enumerate(range(0, len(lines), size))]
    _map_on_beam(functools.partial(_make_chunk, maker=maker, folder=os.fspath(folder)), chunks, config)
    with (folder / "work").open("rb") as listing:
        for number, _, _ in chunks:
            with (folder / f"made-{number}").open("rb") as results:
                for result in results:
                    split, name, item, _ = json.loads(listing.readline())
                    error, key, values, offset, length = json.loads(result)
                    yield Made(split, name, item, error, key, values, (number, offset, length))


def _make_chunk(chunk: tuple[int, int, int], maker: _Maker, folder: str) -> None:
    """Makes one chunk of the work. A worker may do it again after another has failed, or beside it."""
    number, start, size = chunk
    root, attempt = epath.Path(folder), uuid.uuid4().hex
    made, spool = root / f"{attempt}-made", root / f"{attempt}-spool"
    with (root / "work").open("rb") as work, made.open("wb") as results, spool.open("wb") as examples:
        work.seek(start)
        for line in itertools.islice(work, size):
            _, _, item, content = json.loads(line)
            offset = examples.tell()
            try:
                key, values, data = maker(item, DataError(content) if isinstance(content, str) else Content(*content))
            except DataError as error:
                result = [str(error), "", {}, offset, 0]
            else:
                result = ["", key, values, offset, len(data)]
                examples.write(data)
            results.write(json.dumps(result).encode() + b"\n")
    # Two attempts differ at most in the order of an example's features, which is settled when a shard is written.
    spool.replace(_spool_file(root, number))
    made.replace(root / f"made-{number}")


def _parts(what: str, entries: list[bytes], size: int, config: shard_utils.ShardConfig) -> Sequence[list[bytes]]:
    """Sorts a split's entries, and parts them into shards as TFDS does: by the bytes of all, all of one length."""
    if not entries:
        raise DataError(f"{what}: there is no example; check the dataset's files.")
    entries.sort()
    for one, other in itertools.pairwise(entries):
        if one[:16] == other[:16]:
            raise DataError(f"{what}: two examples have the same key; remove one of their files.")
    ends = shard_utils.get_shard_boundaries(len(entries), config.get_number_shards(size, len(entries)))
    return [entries[start:end] for start, end in itertools.pairwise([0, *ends])]


def _write_shard(shard: tuple[str, str], folder: str, writer: tfds.core.ExampleWriter) -> None:
    """Copies examples from the spool into a shard, in the order of a plan.

    Args:
      shard: the paths of the plan and of the shard.
      folder: the spool.
      writer: writes the examples.
    """
    plan, path = shard
    with contextlib.ExitStack() as stack:
        entries = stack.enter_context(epath.Path(plan).open("rb"))

        @functools.cache
        def spool(number: int) -> Any:
            return stack.enter_context(_spool_file(epath.Path(folder), number).open("rb"))

        def examples() -> Iterator[tuple[int, bytes]]:
            while entry := entries.read(_ENTRY.size):
                key, number, offset, length = _ENTRY.unpack(entry)
                spool(number).seek(offset)
                yield int.from_bytes(key, "big"), spool(number).read(length)

        # ArrayRecord's writer knows local files alone.
        beside = None if _is_remote(path) else os.path.dirname(path)
        local = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=beside)), "shard")
        writer.write(local, examples())
        if beside:
            local.replace(path)
        else:
            epath.Path(local).copy(path, overwrite=True)


def _map_on_beam(
    function: Callable[[Any], None], elements: Sequence[Any], config: tfds.download.DownloadConfig
) -> None:
    """Calls the function with each element on Beam's workers, and waits.

    Raises:
      DataError: a worker failed, or Beam itself; with what it said in the end.
    """
    try:
        import apache_beam as beam

        with beam.Pipeline(runner=config.beam_runner, options=config.beam_options) as pipeline:
            _ = pipeline | beam.Create(elements) | beam.Reshuffle() | "Prepare" >> beam.Map(function)
    except Exception as error:  # runners fail with errors of every kind
        # A worker's error comes as its whole traceback in one text, and ends with the step that it was in.
        found = re.findall(r"([^\n]+) \[while running 'Prepare", str(error)) or [f"{type(error).__name__}: {error}"]
        reason = found[-1].splitlines()[0].strip()
        raise DataError(f"Apache Beam failed ({reason}); the lines above this one may tell more.") from error


def _spool_file(folder: epath.Path, number: int) -> epath.Path:
    return folder / f"spool-{number}"


def _is_remote(path: os.PathLike[str] | str) -> bool:
    return "://" in os.fspath(path)
