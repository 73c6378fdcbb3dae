"""Images that are accepted, and those that must be refused by their bytes."""

import io
import struct
import zlib

import pytest
from PIL import Image

from tfds_builders.archive import DataError
from tfds_builders.images import check_image


def encoded(kind: str, size: tuple[int, int] = (30, 20), **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise(size, 50).convert("RGB").save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("kind", "options"),
    [("JPEG", {}), ("JPEG", {"progressive": True}), ("PNG", {})],
    ids=["baseline", "progressive", "png"],
)
def test_the_size_is_returned(kind: str, options: dict[str, bool]) -> None:
    assert check_image(encoded(kind, **options)) == (20, 30)
    assert check_image(encoded(kind, **options) + b"trailing") == (20, 30)


@pytest.mark.parametrize("content", [b"", b"\xff\xd8", b"\xff\xd8\xff\xe0\x00\x10JFIF", b"text" * 100, encoded("GIF")])
def test_other_formats_are_refused(content: bytes) -> None:
    with pytest.raises(DataError):
        check_image(content)
    with pytest.raises(DataError):
        check_image(encoded("PNG"), formats=("JPEG",))


def claim(content: bytes, width: int, height: int) -> bytes:
    """Rewrites the size in a JPEG's SOF0 segment: FF C0, length (2), precision (1), height (2), width (2)."""
    start = content.index(b"\xff\xc0") + 5
    return content[:start] + struct.pack(">HH", height, width) + content[start + 4 :]


def claim_png(content: bytes, width: int, height: int) -> bytes:
    """Rewrites the size in a PNG's header: signature (8), length (4), "IHDR" (4), sizes (8), 5 more, CRC."""
    header = b"IHDR" + struct.pack(">II", width, height) + content[24:29]
    return content[:12] + header + struct.pack(">I", zlib.crc32(header)) + content[33:]


def test_a_size_above_the_limits_is_refused_by_the_header() -> None:
    assert check_image(claim(encoded("JPEG"), 16_384, 3_906)) == (3_906, 16_384)
    for size in ((60_000, 60_000), (16_385, 8), (8, 16_385), (12_000, 6_000), (16_384, 3_907)):
        with pytest.raises(DataError):
            check_image(claim(encoded("JPEG"), *size))
    with pytest.raises(DataError):
        check_image(claim_png(encoded("PNG"), 60_000, 60_000))


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_truncated_image_is_refused(kind: str) -> None:
    content = encoded(kind, (200, 200))
    with pytest.raises(DataError):
        check_image(content[: len(content) * 3 // 4])


def test_a_thumbnail_does_not_hide_a_truncation() -> None:
    exif = b"Exif\0\0" + b"II*\0\x08\0\0\0\0\0\0\0\0\0" + encoded("JPEG", (16, 16))
    content = encoded("JPEG", (200, 200), exif=exif)
    assert content.count(b"\xff\xd9") == 2
    assert check_image(content) == (200, 200)
    with pytest.raises(DataError):
        check_image(content[:-2])
