"""Decoding: every kind of image a dataset may hold, and damaged ones refused with their name."""

import io
import struct

import numpy as np
import pytest
from PIL import Image

from agegender_jax.data.decode_image import decode_image
from agegender_jax.errors import UserError
from tfds_builders.images import MAX_PIXELS


def _scene(width: int, height: int) -> Image.Image:
    """Smooth colours, so that formats and scalings that are equivalent agree: red to the right, green downwards."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([x, y, 255 - (x + y) / 2], -1).round().astype(np.uint8))


def _bytes(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _expected(width: int, height: int, size: int) -> np.ndarray:
    return np.asarray(_scene(width, height).resize((size, size), Image.Resampling.BOX), np.float64)


def _difference(got: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(got.astype(np.float64) - expected).mean())


@pytest.mark.parametrize(
    ("kind", "options"),
    [("PNG", {}), ("BMP", {}), ("TIFF", {}), ("WEBP", {"lossless": True}), ("JPEG", {"quality": 95})],
)
@pytest.mark.parametrize(("width", "height"), [(64, 64), (96, 50), (33, 71)])
def test_formats_and_shapes(kind: str, options: dict, width: int, height: int) -> None:
    got = decode_image(_bytes(_scene(width, height), kind, **options), 32)
    assert (got.shape, got.dtype) == ((32, 32, 3), np.uint8)
    assert _difference(got, _expected(width, height, 32)) < 2.0


def test_image_of_its_size_is_left_alone() -> None:
    np.testing.assert_array_equal(decode_image(_bytes(_scene(40, 40), "PNG"), 40), np.asarray(_scene(40, 40)))


def test_large_jpeg_is_decoded_at_reduced_scale_to_the_same_image() -> None:
    got = decode_image(_bytes(_scene(1600, 1200), "JPEG", quality=95), 64)
    assert _difference(got, _expected(1600, 1200, 64)) < 1.5


@pytest.mark.parametrize("mode", ["L", "1"])
def test_grey_becomes_rgb(mode: str) -> None:
    grey = _scene(48, 48).convert("L").point(lambda value: 255 * (value > 127))
    got = decode_image(_bytes(grey.convert(mode), "PNG"), 48)
    np.testing.assert_array_equal(got, np.repeat(np.asarray(grey)[:, :, None], 3, axis=-1))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_grey_is_scaled_not_cut_off(kind: str) -> None:
    grey = np.asarray(_scene(48, 48).convert("L"))
    got = decode_image(_bytes(Image.fromarray(grey.astype(np.uint16) * 257), kind), 48)
    np.testing.assert_array_equal(got, np.repeat(grey[:, :, None], 3, axis=-1))


def test_other_colour_models_become_rgb() -> None:
    scene, alpha = _scene(48, 48), _scene(48, 48)
    alpha.putalpha(Image.linear_gradient("L").resize((48, 48)))
    for content in (_bytes(alpha, "PNG"), _bytes(alpha, "WEBP", lossless=True, exact=True)):
        np.testing.assert_array_equal(decode_image(content, 48), np.asarray(scene))  # transparency is dropped
    palette = scene.quantize(64)
    colours = np.array(palette.getpalette()).reshape(-1, 3)[np.asarray(palette)]
    for options in ({}, {"transparency": 3}):
        np.testing.assert_array_equal(decode_image(_bytes(palette, "PNG", **options), 48), colours)
    broken = _bytes(scene, "JPEG", quality=95, exif=b"Exif\0\0garbage!")
    for content in (_bytes(scene.convert("CMYK"), "JPEG", quality=98), broken):
        assert _difference(decode_image(content, 48), np.asarray(scene)) < 4.0
    checks = (np.indices((512, 512)).sum(0) % 2 * 255).astype(np.uint8)
    scaled = decode_image(_bytes(Image.fromarray(checks), "PNG"), 32)
    assert np.abs(scaled.astype(int) - 127).max() <= 2  # averaged


# EXIF's own table: what the stored image must undergo to be upright.
UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: a[::-1].transpose(1, 0, 2),  # 90 degrees clockwise
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: a[:, ::-1].transpose(1, 0, 2),  # 90 degrees counter-clockwise
}


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_exif_orientation_is_honoured(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    got = decode_image(_bytes(_scene(64, 64), "JPEG", quality=95, exif=exif), 64)
    assert _difference(got, UPRIGHT[orientation](np.asarray(_scene(64, 64)))) < 2.0


NOISE = _scene(200, 200).effect_spread(9)
DAMAGED = [
    *[
        _bytes(NOISE, kind)[: int(part * len(_bytes(NOISE, kind)))]
        for kind in ("JPEG", "PNG")
        for part in (0.05, 0.5, 0.9)
    ],
    *[b"", b"age,gender\n31,0\n", b"\xff\xd8\xff\xe0" + bytes(200), b"\x89PNG\r\n\x1a\n"],
    _bytes(_scene(20, 20), "GIF"),  # a format that is not listed
    _bytes(Image.fromarray(np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16)), "TIFF"),  # of unknown range
]


@pytest.mark.parametrize("content", DAMAGED)
def test_what_cannot_be_decoded_is_refused_by_name(content: bytes) -> None:
    with pytest.raises(UserError, match=r"^faces/1\.jpg: "):
        decode_image(content, 32, "faces/1.jpg")


def _claiming(width: int, height: int) -> bytes:
    """A small JPEG whose header (SOF0: marker, length, precision, height, width) lies about its size."""
    content = _bytes(_scene(16, 16), "JPEG")
    at = content.index(b"\xff\xc0") + 5
    return content[:at] + struct.pack(">HH", height, width) + content[at + 4 :]


# The second is between our limit and Pillow's, the first beyond both.
@pytest.mark.parametrize(("width", "height"), [(60_000, 60_000), (10_000, 6_401)])
def test_huge_claims_are_refused_before_memory_is_taken(
    width: int, height: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert width * height > MAX_PIXELS

    def load(self: Image.Image) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", load)
    with pytest.raises(UserError, match=r"^faces/1\.jpg: "):
        decode_image(_claiming(width, height), 32, "faces/1.jpg")
