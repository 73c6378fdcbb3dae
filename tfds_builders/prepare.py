"""Preparing a dataset from Python, without TensorFlow and without the `tfds build` command."""

import contextlib
import errno
import importlib
import io
import json
import os
import sys
import tempfile
from pathlib import Path

from tfds_builders.archive import DataError

NAMES = ("utkface",)
"""Datasets that can be prepared: the folders of this package."""


def prepare(name: str, manual_dir: Path, data_dir: Path, *, progress: bool = True) -> Path:
    """Packages a downloaded dataset as ArrayRecord files, which `tfds.data_source` reads without TensorFlow.

    The examples are those that `tfds build --file_format=array_record` writes. What was kept and skipped, and the
    terms of use, are printed to stderr. After a failure nothing is left behind.

    Args:
      name: one of `NAMES`.
      manual_dir: where the downloaded archive lies.
      data_dir: where to put it: the result is `<data_dir>/<name>/<version>`. What is prepared there already is kept.
      progress: whether to draw a progress bar, on a terminal.

    Returns:
      The version's directory, for `tfds.builder_from_directory`.

    Raises:
      DataError: an unknown name; a missing or bad archive; a directory that cannot be written; a full disk.
    """
    if name not in NAMES:
        raise DataError(f"unknown dataset {name!r}; choose one of: {', '.join(NAMES)}.")
    import tensorflow_datasets as tfds  # a second of start-up that only preparation should pay

    module = importlib.import_module(f"tfds_builders.{name}.{name}_dataset_builder")
    manual_dir, data_dir = Path(manual_dir).expanduser(), Path(data_dir).expanduser()
    version_dir = data_dir / name / str(module.Builder.VERSION)
    if version_dir.exists():
        _check_prepared(version_dir)
        print(f"{name} is already prepared in {version_dir}; delete that folder to prepare it again.", file=sys.stderr)
        return version_dir
    module.find_source(manual_dir)  # raises before a directory is made
    new = [folder for folder in (version_dir.parent, *version_dir.parent.parents) if not folder.exists()]
    show = progress and sys.stderr.isatty()
    try:
        # TFDS insists on a download directory, and announces on stdout a download that does not take place.
        with tempfile.TemporaryDirectory() as downloads, contextlib.redirect_stdout(io.StringIO()):
            if not show:
                tfds.disable_progress_bar()
            builder = module.Builder(data_dir=data_dir, file_format="array_record")
            config = tfds.download.DownloadConfig(manual_dir=manual_dir, try_download_gcs=False)
            builder.download_and_prepare(download_dir=downloads, download_config=config)
            return version_dir
    except BaseException as error:
        for folder in new:
            with contextlib.suppress(OSError):  # not empty, or never made
                folder.rmdir()
        reason = None if isinstance(error, DataError) else write_failure(error)
        if reason is None:
            raise
        raise DataError(
            f"{data_dir}: the prepared dataset cannot be written ({reason}); "
            "free some space or choose another directory."
        ) from error
    finally:
        if not show:
            tfds.enable_progress_bar()


def _check_prepared(version_dir: Path) -> None:
    try:
        file_format = json.loads((version_dir / "dataset_info.json").read_text())["fileFormat"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{version_dir}: holds no prepared dataset; delete this folder and run again.") from error
    if file_format != "array_record":
        raise DataError(
            f"{version_dir}: was prepared as {file_format}, which only TensorFlow reads; delete this folder and run "
            "again, or give `tfds build` --file_format=array_record."
        )


def write_failure(error: BaseException | None) -> str | None:
    """The operating system's reason why something could not be written, from under what libraries wrapped around it."""
    full = os.strerror(errno.ENOSPC)  # array_record and TensorStore raise errors of their own, with its words in them
    while error is not None:
        if isinstance(error, OSError) and error.strerror:
            return error.strerror
        if full in str(error):
            return full
        error = error.__cause__ or error.__context__
    return None
