"""Image bytes -> pixels, with limits on what is accepted."""

import io
import re

import numpy as np
import PIL
from PIL import Image

from agegender_jax.errors import UserError
from tfds_builders.images import MAX_PIXELS, upright

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")  # of images that are decoded
IMAGE_DECODER = f"pillow-{PIL.__version__}-bilinear"  # part of the key of every cache of decoded images


def decode_image(content: bytes, size: int, name: str = "image") -> np.ndarray:
    """Decodes an image of one of `FORMATS` and scales it to a square.

    The whole image is scaled, with antialiasing; one that is not square is squeezed. EXIF orientation is
    honoured, transparency dropped, grey turned to RGB.

    Returns uint8 `[size, size, 3]`, or for a size of 0 the image's own `[height, width, 3]`.

    Raises:
      UserError: the content is not an image, is damaged, or claims more than `MAX_PIXELS` pixels.
    """
    try:
        file = Image.open(io.BytesIO(content), formats=FORMATS)
        width, height = file.size
        if width * height > MAX_PIXELS:
            raise UserError(
                f"{name}: claims {width}x{height} pixels, more than the {MAX_PIXELS:,} accepted; shrink or remove it."
            )
        if not size:
            return np.asarray(upright(file))
        file.draft("RGB", (size, size))  # JPEG: decodes at a reduced scale where that is enough
        return to_square(upright(file), size)
    except UserError:
        raise
    except Exception as error:  # Pillow raises many kinds on damaged files
        reason = re.sub(r" <_io\.BytesIO[^>]*>", "", " ".join(str(error).split())) or type(error).__name__
        if isinstance(error, PIL.UnidentifiedImageError):
            reason = f"not a whole {', '.join(FORMATS[:-1])} or {FORMATS[-1]} file"
        raise UserError(f"{name}: is no image that can be decoded ({reason}); convert, repair or remove it.") from error


def to_square(image: Image.Image, size: int) -> np.ndarray:
    """Scales an RGB image to a square, with antialiasing: uint8 `[size, size, 3]`."""
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))
