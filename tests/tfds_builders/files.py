"""Files of small datasets, and what is read from a prepared one."""

import io
import struct
import tarfile
import zlib
from pathlib import Path
from typing import Any, Literal

import numpy as np
import soundfile
import tensorflow_datasets as tfds
from PIL import Image


def jpeg(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (20, 24), (shade, 0, 0)).save(buffer, "JPEG")
    return buffer.getvalue()


def png_header(width: int, height: int) -> bytes:
    """Returns a PNG that claims a size, with right checksums and hardly any pixels."""
    chunks = {b"IHDR": struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0), b"IDAT": zlib.compress(b"\0" * 9)}
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks.items()
    )


def sound(seed: int, kind: str = "WAV", rate: int = 8_000, frames: int = 800) -> bytes:
    buffer = io.BytesIO()
    noise = 0.1 * np.random.default_rng(seed).standard_normal(frames).clip(-3, 3)
    soundfile.write(buffer, noise, rate, format=kind)
    return buffer.getvalue()


def lay(folder: Path, files: dict[str, bytes]) -> Path:
    """Writes files into a folder; returns the folder."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def pack(path: Path, files: list[tuple[str, bytes]], mode: Literal["w", "w:gz"] = "w:gz") -> Path:
    """Writes files into an archive, which may hold a name twice; returns the archive."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode, **({"compresslevel": 1} if mode == "w:gz" else {})) as tar:
        for name, content in files:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def pack_utkface(folder: Path, files: dict[str, bytes]) -> Path:
    """Writes UTKFace.tar.gz of these files into a folder; returns the folder."""
    return pack(folder / "UTKFace.tar.gz", [(f"UTKFace/{name}", content) for name, content in files.items()]).parent


def members(folder: Path) -> dict[str, bytes]:
    """Returns the files of a folder's UTKFace.tar.gz by name, read with the standard library alone."""
    with tarfile.open(folder / "UTKFace.tar.gz") as tar:
        return {Path(info.name).name: file.read() for info in tar if (file := tar.extractfile(info)) is not None}


def read(version_dir: Path, split: str = "all") -> dict[str, dict[str, Any]]:
    """Returns the examples of a prepared dataset by key, in the order in which they are stored."""
    builder = tfds.builder_from_directory(version_dir)
    decoders = {"image": tfds.decode.SkipDecoding()} if "image" in builder.info.features else None
    return {example["key"].decode(): example for example in builder.as_data_source(split=split, decoders=decoders)}


def metadata(version_dir: Path) -> dict[str, Any]:
    return dict(tfds.builder_from_directory(version_dir).info.metadata)


def records(version_dir: Path) -> list[bytes]:
    """Returns the bytes of the prepared files, without the metadata."""
    return [path.read_bytes() for path in sorted(version_dir.glob("*array_record*"))]
