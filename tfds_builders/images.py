"""Encoded images: checked without decoding, and turned upright."""

import io
import warnings

import numpy as np
from PIL import Image, ImageOps

from tfds_builders.archive import DataError

MAX_SIDE = 16_384  # longest side of an image in a dataset, in pixels
MAX_PIXELS = 64_000_000  # largest area of an image, in pixels


def check_image(content: bytes, formats: tuple[str, ...] = ("JPEG", "PNG")) -> tuple[int, int]:
    """Checks an image by its header and its end marker, without decoding it.

    >>> buffer = io.BytesIO()
    >>> Image.new("RGB", (30, 20)).save(buffer, "JPEG")
    >>> check_image(buffer.getvalue())
    (20, 30)

    Returns (height, width) in pixels, as the header claims.

    Raises:
      DataError: not an image of these formats, empty, too large or truncated. The message is a short reason without
        the file's name, for `Rejected.add`.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's own limit of size is looser than ours
            with Image.open(io.BytesIO(content), formats=formats) as image:
                width, height = image.size
    except Image.DecompressionBombError as error:
        raise DataError(f"more than {MAX_PIXELS:,} pixels") from error
    except Exception as error:  # Pillow raises exceptions of any kind on hostile bytes
        raise DataError(f"not a readable {' or '.join(formats)} image") from error
    if width < 1 or height < 1:
        raise DataError("an image without pixels")
    if max(width, height) > MAX_SIDE:
        raise DataError(f"more than {MAX_SIDE:,} pixels a side")
    if width * height > MAX_PIXELS:
        raise DataError(f"more than {MAX_PIXELS:,} pixels")
    complete = _jpeg_has_end(content) if content.startswith(b"\xff\xd8") else b"IEND" in content
    if not complete:
        raise DataError("a truncated image (it has no end marker)")
    return height, width


def _jpeg_has_end(content: bytes) -> bool:
    """Returns whether an end-of-image marker follows the first scan (ITU-T T.81, annex B); bytes after it are allowed.

    The segments before the scan are skipped, because a thumbnail in them has an end marker of its own. Inside
    a scan 0xFF is always followed by 0x00 or a restart marker, so the first FF D9 there is the real end.
    """
    position = 2
    while position + 4 <= len(content):
        marker = content[position + 1]
        if content[position] != 0xFF or marker == 0xFF:  # stray or fill byte
            position += 1
        elif marker in (0x00, 0x01) or 0xD0 <= marker <= 0xD7:  # markers without a length
            position += 2
        elif marker == 0xDA:
            return content.find(b"\xff\xd9", position) != -1
        else:
            position += 2 + int.from_bytes(content[position + 2 : position + 4], "big")
    return False


def upright(file: Image.Image) -> Image.Image:
    """Returns an opened image turned as its EXIF orientation says, as RGB without transparency.

    Raises:
      ValueError: the range of its pixels is unknown (modes "I" and "F").
      Exception: of many kinds, where the image is damaged.
    """
    # Each of these copies the whole image, also where it changes nothing.
    has_orientation = file.format != "JPEG" or "exif" in file.info or "xmp" in file.info
    image = ImageOps.exif_transpose(file) if has_orientation else file
    if image.mode.startswith("I;16"):  # Pillow's own conversion would make every value above 255 white
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise ValueError(f"the range of its {image.mode!r} pixels is unknown")
    return image if image.mode == "RGB" else image.convert("RGB")
