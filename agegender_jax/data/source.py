"""Prepared datasets on disk: where one lies, and its examples in random order of access, without TensorFlow."""

import contextlib
import dataclasses
import hashlib
import importlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from agegender_jax import atomic
from agegender_jax.data.preprocess import PREPROCESSORS
from agegender_jax.errors import UserError
from tfds_builders import labels
from tfds_builders.archive import SYNTHETIC_FILE, DataError
from tfds_builders.faces import cropper

COLUMNS: dict[str, Any] = {name: dtype for name, (dtype, _) in labels.COLUMNS.items()}
"""The metadata of an example, dtypes by name: the columns of the table that stands beside the images or recordings.

They are described in `tfds_builders.labels`. Where the age is exact, `age_low` and `age_high` are it, too; `fold` is -1
where the dataset was published without folds.
"""

_SMALL = 2**18  # bytes; the hash of a larger file is remembered
_HASHES = ".sha256.json"  # file in the data directory: hashes of large files by path


def default_data_dir() -> Path:
    """Returns where prepared datasets lie unless `--data_dir` says otherwise: where `tfds build` puts them."""
    return Path(os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")).expanduser()


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A prepared dataset."""

    name: str  # as in recipes
    directory: Path  # the version's folder, which TFDS reads
    identity: str  # changes whenever the prepared bytes do
    kind: str = "image"  # of the content, one of preprocess.PREPROCESSORS
    synthetic: bool = False  # whether it was generated from a seed, and not collected from people

    @property
    def config(self) -> str:
        """Returns the builder's configuration, "" where it has none."""
        folder = self.directory.parent.name
        return "" if folder == self.name else folder

    @property
    def version(self) -> str:
        """Returns the version of the builder that prepared it."""
        return self.directory.name

    @property
    def count(self) -> int:
        """Returns the number of examples, without opening them."""
        try:
            splits = json.loads((self.directory / "dataset_info.json").read_text(encoding="utf-8"))["splits"]
            return sum(int(length) for split in splits for length in split["shardLengths"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise _unreadable(self.directory, error) from error

    def open(self) -> "Source":
        """Opens the examples."""
        return Source(self)


class Source:
    """The examples of a prepared dataset: encoded content and columns, by row."""

    def __init__(self, prepared: Prepared) -> None:
        import tensorflow_datasets as tfds  # more than a second; a start from the decoded cache does without

        self._directory, self._kind = prepared.directory, prepared.kind
        try:
            builder = tfds.builder_from_directory(prepared.directory)
            self.metadata: dict[str, Any] = dict(builder.info.metadata or {})
            decoders = {"image": tfds.decode.SkipDecoding()} if prepared.kind == "image" else None
            raw = tfds.decode.DeserializeMethod.RAW_BYTES
            self._records = builder.as_data_source(split="all", decoders=decoders)
            self._raw_records = builder.as_data_source(split="all", deserialize_method=raw)
        except Exception as error:  # TFDS and array_record raise many kinds
            raise _unreadable(self._directory, error) from error

    def __len__(self) -> int:
        return len(self._records)

    @property
    def terms(self) -> str:
        """Returns the terms under which the dataset may be used."""
        return str(self.metadata.get("terms", ""))

    def __getitem__(self, row: int) -> dict[str, Any]:
        """Returns an example: `content` (encoded bytes) and a value for each of `COLUMNS`."""
        try:
            stored = self._records[row]
            age = stored["age"]
            absent = {"age_low": age, "age_high": age, "race": -1, "group": -1, "fold": -1, "class_name": ""}
            example = {name: stored.get(name, absent.get(name)) for name in COLUMNS}
            content = stored[self._kind]
        except Exception as error:
            raise _unreadable(self._directory, error) from error
        for name, value in example.items():
            if isinstance(value, bytes):
                example[name] = value.decode()
        return example | {"content": content}

    def contents(self, rows: Sequence[int]) -> list[bytes]:
        """Reads the encoded content of several examples and nothing else, which is much less work."""
        from tensorflow_datasets.proto import tf_example_pb2

        try:
            records = self._raw_records.__getitems__(rows)  # as PyTorch reads batches
            features = [tf_example_pb2.Example.FromString(record).features.feature for record in records]
            return [feature[self._kind].bytes_list.value[0] for feature in features]
        except Exception as error:
            raise _unreadable(self._directory, error) from error


def _unreadable(directory: Path, error: Exception) -> UserError:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return UserError(
        f"{directory}: this prepared dataset cannot be read ({lines[0][:200]}); delete the folder and "
        "prepare it again (`tfds build` needs --file_format=array_record)."
    )


def locate(
    name: str,
    *,
    manual_dir: Path | None,
    data_dir: Path,
    config: str = "",
    options: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> Prepared:
    """Locates a prepared dataset, and prepares it first where only the downloaded archive is there.

    With `manual_dir` the dataset is what lies there, prepared under `data_dir` in a folder of its own, so two archives
    of one format never mix. Without, it is what `tfds build` put into `data_dir`.

    The arguments are those of `tfds_builders.prepare.prepare`.

    Raises:
      UserError: there is no such dataset, or it cannot be prepared; the message names the folder.
    """
    from tfds_builders.prepare import dataset_names, prepare

    if name not in dataset_names():
        raise UserError(f"There is no dataset {name!r}; choose one of: {', '.join(dataset_names())}.")
    if manual_dir is None:
        directory = _newest(data_dir / name / config)
        if directory is None:
            wanted = f"{name}, configuration {config}" if config else name
            before = any((data_dir / "prepared").glob(f"{name}-*"))
            again = " (what was prepared from it before is used again)" if before else ""
            raise UserError(
                f"{data_dir} holds no {wanted} that `tfds build` prepared; give --manual_dir=DIR with the downloaded "
                f"data in it{again}, or --data_dir=DIR with what `tfds build` wrote."
            )
        return _prepared(name, directory, data_dir)
    wishes = {"config": config, **(options or {})} if config or options else {}
    if wishes.get("crop"):
        wishes["cropper"] = cropper()
    parent = data_dir / "prepared" / f"{name}-{_fingerprint(name, manual_dir, data_dir, wishes)}"
    if directory := _newest(parent / name):
        return _prepared(name, directory, data_dir)
    try:
        directory = prepare(name, manual_dir, parent, config=config, options=options, progress=progress)
    except (DataError, OSError) as error:
        directory = _newest(parent / name)  # another process may have been first: what it made is as good
        if directory is None:
            sentence = f"{parent}: cannot be written ({error.strerror})." if isinstance(error, OSError) else str(error)
            raise UserError(sentence) from error
    return _prepared(name, directory, data_dir)


def _newest(folder: Path) -> Path | None:
    """Returns the folder of the newest prepared version in `folder`, or in the only configuration that lies there."""
    versions = [path.parent for path in folder.glob("*/dataset_info.json")]
    if not versions:
        versions = [path.parent for path in folder.glob("*/*/dataset_info.json")]
        if len(names := sorted({path.parent.name for path in versions})) > 1:
            raise UserError(
                f"{folder} holds several configurations: {', '.join(names)}; name one with config.dataset.config."
            )
    return max(versions, key=lambda path: [int(number) for number in re.findall(r"\d+", path.name)], default=None)


def _prepared(name: str, directory: Path, data_dir: Path) -> Prepared:
    try:
        features = json.loads((directory / "features.json").read_text(encoding="utf-8"))["featuresDict"]["features"]
        kind = next(kind for kind in PREPROCESSORS if kind in features)
        metadata = directory / "metadata.json"
        synthetic = metadata.exists() and bool(json.loads(metadata.read_text(encoding="utf-8")).get("synthetic"))
        digest = hashlib.sha256((directory / "dataset_info.json").read_bytes())
        for path, content in _hashes(sorted(directory.glob("*.array_record*")), data_dir).items():
            digest.update(f"{path.name} {content}".encode())
    except OSError as error:
        raise UserError(f"{directory}: cannot be read ({error.strerror}); check its permissions.") from error
    except (ValueError, KeyError, TypeError, StopIteration) as error:
        raise UserError(
            f"{directory}: this prepared dataset is damaged (features.json or metadata.json); delete the folder and "
            "prepare it again."
        ) from error
    return Prepared(name, directory, digest.hexdigest()[:12], kind, synthetic)


def _fingerprint(name: str, manual_dir: Path, data_dir: Path, wishes: Mapping[str, Any]) -> str:
    """Computes a hash of the names and contents of the files there, of the builder's version and of its options.

    Small files, such as loose images, are known by size and time of change: there may be many thousands of them.
    """
    # Next to the archive, or to loose images, may lie anything, the prepared data included; it must not count.
    from tfds_builders.prepare import builder_version

    patterns = getattr(importlib.import_module(f"tfds_builders.{name}"), "SOURCES", ("*",))
    try:
        own = {data_dir.resolve(), *(data_dir.resolve() / name for name in ("prepared", "cache", "synthetic"))}
        paths = [
            Path(entry.path)
            for entry in os.scandir(manual_dir)
            if not entry.name.startswith(".") and any(fnmatch(entry.name.lower(), pattern) for pattern in patterns)
        ]
        folders = [path for path in paths if path.is_dir() and path.resolve() not in own]
        # A folder's own time does not tell of a change further down.
        paths = [path for path in paths if path.is_file()]
        paths += [path for folder in folders for path in folder.rglob("*") if path.is_file()]
        synthetic = (manual_dir / SYNTHETIC_FILE).exists()
        lines = [json.dumps([builder_version(name), wishes, synthetic], sort_keys=True)]
        statuses = {path: path.stat() for path in paths}
        hashes = _hashes([path for path, status in statuses.items() if status.st_size > _SMALL], data_dir)
        for path, status in statuses.items():
            content = hashes.get(path) or f"{status.st_size} {status.st_mtime_ns}"
            lines.append(f"{path.relative_to(manual_dir)} {content}")
    except NotADirectoryError as error:
        raise UserError(f"{manual_dir}: is no folder; --manual_dir is the folder that the files lie in.") from error
    except OSError as error:
        raise UserError(f"{manual_dir}: cannot be read ({error.strerror}); check the path of --manual_dir.") from error
    return hashlib.sha256("\n".join(sorted(lines)).encode(errors="surrogateescape")).hexdigest()[:12]


def _hashes(paths: Sequence[Path], data_dir: Path) -> dict[Path, str]:
    """Computes the SHA-256 of files.

    Reading gigabytes at every start is slow: those of large files are kept in `data_dir`, and computed again where
    size, times or inode of a file have changed.
    """
    memory = data_dir / _HASHES
    try:
        known = dict(json.loads(memory.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):  # there is none, or it is damaged
        known = {}
    hashes, new = {}, {}
    for path in paths:
        status, key = path.stat(), str(path.resolve())
        state = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
        entry = known.get(key)
        if isinstance(entry, dict) and entry.get("state") == state and isinstance(entry.get("sha256"), str):
            hashes[path] = entry["sha256"]
            continue
        with open(path, "rb") as file:
            hashes[path] = hashlib.file_digest(file, "sha256").hexdigest()
        if status.st_size > _SMALL:
            new[key] = {"state": state, "sha256": hashes[path]}
    if new:
        with contextlib.suppress(OSError):  # a folder that only its owner may write to: then they are computed again
            data_dir.mkdir(parents=True, exist_ok=True)
            atomic.write_text(memory, json.dumps(known | new))
    return hashes
