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

        builder = tfds.builder_from_directory(prepared.directory)
        self.terms = str(dict(builder.info.metadata or {}).get("terms", ""))
        self._records = builder.as_data_source(split="all", decoders={"image": tfds.decode.SkipDecoding()})

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, row: int) -> Mapping[str, Any]:
        """The example: `image` (encoded bytes) and a value for each of `COLUMNS`."""
        example = dict(self._records[row])
        for name, kind in COLUMNS.items():
            if kind is np.str_ and isinstance(example[name], bytes):
                example[name] = example[name].decode()
        return example


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
        versions = sorted((data_dir / name).glob("*/dataset_info.json"), key=lambda path: _version(path.parent.name))
        if not versions:
            raise UserError(
                f"{data_dir} holds no prepared {name}; give --manual_dir=DIR with the downloaded archive in it, or "
                f"--data_dir=DIR with what `tfds build` wrote."
            )
        return _prepared(name, versions[-1].parent)
    parent = data_dir / "prepared" / f"{name}-{_fingerprint(name, manual_dir)}"
    found = sorted((parent / name).glob("*/dataset_info.json"), key=lambda path: _version(path.parent.name))
    if found:
        return _prepared(name, found[-1].parent)
    try:
        return _prepared(name, prepare(name, manual_dir, parent, progress=progress))
    except DataError as error:
        raise UserError(str(error)) from error


def _prepared(name: str, directory: Path) -> Prepared:
    info = directory / "dataset_info.json"
    digest = hashlib.sha256(info.read_bytes())
    for path in sorted(directory.glob("*.array_record*")):
        status = path.stat()
        digest.update(f"{path.name} {status.st_size} {status.st_mtime_ns}".encode())
    return Prepared(name, directory, digest.hexdigest()[:12])


def _fingerprint(name: str, manual_dir: Path) -> str:
    """Changes when what lies there does: names, sizes and times, since reading gigabytes at every start is slow."""
    try:
        entries = [entry for entry in os.scandir(manual_dir) if not entry.name.startswith(".")]
        # Next to the archive may lie anything, the prepared data included; it must not count.
        named = [entry for entry in entries if name in entry.name.lower()]
        lines = [
            f"{entry.name} {entry.stat().st_size if entry.is_file() else 0} {entry.stat().st_mtime_ns}"
            for entry in named or entries
        ]
    except OSError as error:
        raise UserError(f"{manual_dir}: cannot be read ({error.strerror}); check the path of --manual_dir.") from error
    return hashlib.sha256("\n".join([str(manual_dir.resolve()), *sorted(lines)]).encode()).hexdigest()[:12]


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", text))
