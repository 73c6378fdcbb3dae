"""A prepared dataset on disk: where it lies, and its examples in random order of access, without TensorFlow."""

import dataclasses
import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from agegender_jax.errors import UserError
from tfds_builders.archive import DataError

COLUMNS = {
    "key": np.str_,
    "age": np.float32,
    "gender": np.int32,
    "race": np.int32,
    "subject": np.int64,
    "sha256": np.str_,
}
"""What is known of an example besides its image or sound; see `agegender_jax.labels` for unknown values."""


def default_data_dir() -> Path:
    """Where prepared datasets lie unless `--data_dir` says otherwise: where `tfds build` puts them."""
    return Path(os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")).expanduser()


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A prepared dataset.

    Attributes:
      name: of the dataset, as in recipes.
      directory: the version's folder, which TFDS reads.
      identity: changes whenever the prepared bytes do.
    """

    name: str
    directory: Path
    identity: str

    @property
    def version(self) -> str:
        """Of the builder that prepared it."""
        return self.directory.name

    def open(self) -> "Source":
        """Opens the examples."""
        return Source(self)


class Source:
    """The examples of a prepared dataset: encoded content and columns, by row."""

    def __init__(self, prepared: Prepared) -> None:
        import tensorflow_datasets as tfds  # more than a second; a start from the decoded cache does without

        self._directory = prepared.directory
        try:
            builder = tfds.builder_from_directory(prepared.directory)
            self.terms = str(dict(builder.info.metadata or {}).get("terms", ""))
            self._records = builder.as_data_source(split="all", decoders={"image": tfds.decode.SkipDecoding()})
        except Exception as error:  # TFDS and array_record raise many kinds
            raise self._unreadable(error) from error

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, row: int) -> Mapping[str, Any]:
        """The example: `image` (encoded bytes) and a value for each of `COLUMNS`."""
        try:
            example = dict(self._records[row])
        except Exception as error:
            raise self._unreadable(error) from error
        for name, kind in COLUMNS.items():
            if kind is np.str_ and isinstance(example[name], bytes):
                example[name] = example[name].decode()
        return example

    def _unreadable(self, error: Exception) -> UserError:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        return UserError(
            f"{self._directory}: this prepared dataset cannot be read ({lines[0][:200]}); delete the folder and "
            "prepare it again (`tfds build` needs --file_format=array_record)."
        )


def locate(name: str, *, manual_dir: Path | None, data_dir: Path, progress: bool = True) -> Prepared:
    """Finds a prepared dataset, and prepares it first where only the downloaded archive is there.

    With `manual_dir` the dataset is what lies there, prepared under `data_dir` in a folder of its own, so two archives
    of one format never mix. Without, it is what `tfds build` put into `data_dir`.

    Args:
      name: of the dataset.
      manual_dir: where the downloaded archive or the unpacked folder lies, or None.
      data_dir: where prepared datasets lie.
      progress: whether to draw progress bars.

    Raises:
      UserError: nothing is found, or it cannot be prepared; says where it looked and what to put there.
    """
    from tfds_builders.prepare import NAMES, prepare

    if name not in NAMES:
        raise UserError(f"There is no dataset {name!r}; choose one of: {', '.join(NAMES)}.")
    if manual_dir is None:
        directory = _newest(data_dir / name)
        if directory is None:
            raise UserError(
                f"{data_dir} holds no prepared {name}; give --manual_dir=DIR with the downloaded archive in it, or "
                f"--data_dir=DIR with what `tfds build` wrote."
            )
        return _prepared(name, directory)
    parent = data_dir / "prepared" / f"{name}-{_fingerprint(name, manual_dir)}"
    if directory := _newest(parent / name):
        return _prepared(name, directory)
    try:
        directory = prepare(name, manual_dir, parent, progress=progress)
    except (DataError, OSError) as error:
        directory = _newest(parent / name)  # another process may have been first: what it made is as good
        if directory is None:
            sentence = f"{parent}: cannot be written ({error.strerror})." if isinstance(error, OSError) else str(error)
            raise UserError(sentence) from error
    return _prepared(name, directory)


def _newest(folder: Path) -> Path | None:
    """The folder of the newest prepared version in `folder`."""
    found = [path.parent for path in folder.glob("*/dataset_info.json")]
    return max(found, key=lambda path: _version(path.name)) if found else None


def _prepared(name: str, directory: Path) -> Prepared:
    try:
        digest = hashlib.sha256((directory / "dataset_info.json").read_bytes())
        for path in sorted(directory.glob("*.array_record*")):
            status = path.stat()
            digest.update(f"{path.name} {status.st_size} {status.st_mtime_ns}".encode())
    except OSError as error:
        raise UserError(f"{directory}: cannot be read ({error.strerror}); check its permissions.") from error
    return Prepared(name, directory, digest.hexdigest()[:12])


def _fingerprint(name: str, manual_dir: Path) -> str:
    """Changes when what lies there does: names, sizes and times, since reading gigabytes at every start is slow."""
    try:
        entries = [Path(entry.path) for entry in os.scandir(manual_dir) if not entry.name.startswith(".")]
        # Next to the archive, or to loose images, may lie anything, the prepared data included; it must not count.
        named = [path for path in entries if name in path.name.lower()]
        paths = named or [path for path in entries if path.is_file()]
        # A folder's own time does not tell of a change further down.
        paths += [path for folder in named if folder.is_dir() for path in folder.rglob("*") if path.is_file()]
        lines = []
        for path in paths:
            status = path.stat()
            size = status.st_size if path.is_file() else 0
            lines.append(f"{path.relative_to(manual_dir)} {size} {status.st_mtime_ns}")
    except OSError as error:
        raise UserError(f"{manual_dir}: cannot be read ({error.strerror}); check the path of --manual_dir.") from error
    return hashlib.sha256("\n".join([str(manual_dir.resolve()), *sorted(lines)]).encode()).hexdigest()[:12]


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", text))
