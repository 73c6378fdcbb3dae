"""Prepares a dataset from Python, without TensorFlow and without the `tfds build` command."""

import contextlib
import dataclasses
import errno
import importlib
import io
import json
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tfds_builders
from tfds_builders.archive import DataError


def dataset_names() -> list[str]:
    """Returns the datasets that can be prepared: the folders NAME of this package with a NAME_dataset_builder.py."""
    paths = [path for folder in tfds_builders.__path__ for path in Path(folder).glob("*/*_dataset_builder.py")]
    return sorted(path.parent.name for path in paths)


def builder_version(name: str) -> str:
    """Returns the version of a dataset's builder: from its package, which imports no TFDS, else from the builder."""
    package = importlib.import_module(f"tfds_builders.{name}")
    if hasattr(package, "VERSION"):
        return str(package.VERSION)
    return str(importlib.import_module(f"tfds_builders.{name}.{name}_dataset_builder").Builder.VERSION)


def prepare(
    name: str,
    manual_dir: Path,
    data_dir: Path,
    *,
    config: str = "",
    options: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> Path:
    """Converts a downloaded dataset to ArrayRecord files, which `tfds.data_source` reads without TensorFlow.

    The examples are those that `tfds build --file_format=array_record` writes. The builder's report and the terms of
    use are printed to stderr. After a failure no files are left behind.

    The downloaded archive lies in `manual_dir`. A dataset that is in `data_dir` already is kept. `config` names one of
    the builder's configurations, "" the first; `options` replace fields of it.

    Returns:
      The version's directory, `<data_dir>/<name>[/<configuration>]/<version>`, for `tfds.builder_from_directory`.

    Raises:
      DataError: an unknown name, configuration or option; a missing or bad archive; a directory that cannot be
        written; a full disk.
    """
    if name not in dataset_names():
        raise DataError(f"unknown dataset {name!r}; choose one of: {', '.join(dataset_names())}.")
    import tensorflow_datasets as tfds  # importing it takes a second

    module = importlib.import_module(f"tfds_builders.{name}.{name}_dataset_builder")
    configs = module.Builder.BUILDER_CONFIGS or ([module.OPTIONS] if options and hasattr(module, "OPTIONS") else [])
    builder_config = _configure(name, configs, config, options or {})
    manual_dir, data_dir = Path(manual_dir).expanduser(), Path(data_dir).expanduser()
    version_dir = data_dir / name / (builder_config.name if builder_config else "") / str(module.Builder.VERSION)
    if version_dir.exists():
        _check_prepared(version_dir)
        print(f"{name} is already prepared in {version_dir}; delete that folder to prepare it again.", file=sys.stderr)
        return version_dir
    module.find_source(manual_dir, builder_config)  # raises before a directory is made
    new_folders = [folder for folder in (version_dir.parent, *version_dir.parent.parents) if not folder.exists()]
    config_folder = data_dir / name / ".config"  # TFDS writes it before all other files
    had_config_folder = config_folder.exists()
    show = progress and sys.stderr.isatty()
    absl = logging.getLogger("absl")
    try:
        absl.addFilter(_is_worth_logging)
        # TFDS requires a download directory, and prints a line on a download that does not take place.
        with tempfile.TemporaryDirectory() as downloads, contextlib.redirect_stdout(io.StringIO()):
            if not show:
                tfds.disable_progress_bar()
            builder = module.Builder(data_dir=data_dir, file_format="array_record", config=builder_config)
            download = tfds.download.DownloadConfig(manual_dir=manual_dir, try_download_gcs=False)
            builder.download_and_prepare(download_dir=downloads, download_config=download)
            return version_dir
    except BaseException as error:
        if not had_config_folder:
            shutil.rmtree(config_folder, ignore_errors=True)
        for folder in new_folders:
            with contextlib.suppress(OSError):  # not empty, or absent
                folder.rmdir()
        reason = None if isinstance(error, DataError) else write_failure(error)
        if reason is None:
            raise
        raise DataError(
            f"{data_dir}: the prepared dataset cannot be written ({reason}); "
            "free some space or choose another directory."
        ) from error
    finally:
        absl.removeFilter(_is_worth_logging)
        if not show:
            tfds.enable_progress_bar()


def _is_worth_logging(record: logging.LogRecord) -> bool:
    return "custom data configuration" not in record.getMessage()


def _configure(name: str, configs: Sequence[Any], config: str, options: Mapping[str, Any]) -> Any:
    """Returns the builder's configuration of that name with the options replaced; None if it has no configurations."""
    by_name = {each.name: each for each in configs}
    if config and config not in by_name:
        remedy = f"choose one of: {', '.join(by_name)}" if by_name else "it has none: leave it out"
        raise DataError(f"{name} has no configuration {config!r}; {remedy}.")
    chosen = by_name[config] if config else next(iter(configs), None)
    fields = {field.name for field in dataclasses.fields(chosen)} if chosen else set()
    if unknown := sorted(set(options) - fields):
        raise DataError(f"{name} has no option {unknown[0]!r}; leave it out.")
    if chosen is None or all(getattr(chosen, field) == value for field, value in options.items()):
        return chosen
    # TFDS reserves the names of the configurations that a builder lists for these very objects.
    return dataclasses.replace(chosen, name=f"{chosen.name}_custom", **options)


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
    """Returns the operating system's reason for a failed write, which libraries wrap in their own; None without."""
    full = os.strerror(errno.ENOSPC)  # array_record and TensorStore raise their own errors that contain this message
    while error is not None:
        if isinstance(error, OSError) and error.strerror:
            return error.strerror
        if full in str(error):
            return full
        error = error.__cause__ or error.__context__
    return None
