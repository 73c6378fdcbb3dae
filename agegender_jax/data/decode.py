"""Image bytes -> pixels, with limits on what is accepted."""

import io
import warnings

import numpy as np
import PIL
from PIL import Image, ImageOps

from agegender_jax.errors import UserError

MAX_PIXELS = 64_000_000
"""Largest image that is decoded, in pixels; checked on the header, before memory is taken."""

# The limit above is lower; to change and restore filters for each picture is slow, and not safe in threads.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

DECODER = f"pillow-{PIL.__version__}-bilinear"
"""Names what `decode_image` does; part of the key of every cache of decoded images."""


def decode_image(content: bytes, size: int, name: str = "image") -> np.ndarray:
    """Decodes an encoded image and scales it to a square.

    The whole picture is scaled, with antialiasing; a picture that is not square is squeezed. EXIF orientation is
    honoured, transparency dropped, grey turned to RGB.

    Args:
      content: JPEG, PNG, WebP, BMP or TIFF bytes.
      size: edge of the result, pixels.
      name: the image's name, for messages.

    Returns:
      uint8 `[size, size, 3]`.

    Raises:
      UserError: the content is not an image, is damaged, or claims more than `MAX_PIXELS` pixels.
    """
    try:
        file = Image.open(io.BytesIO(content), formats=("JPEG", "PNG", "WEBP", "BMP", "TIFF"))
        width, height = file.size
        if width * height > MAX_PIXELS:
            raise UserError(
                f"{name}: claims {width}x{height} pixels, more than the {MAX_PIXELS:,} accepted; shrink or remove it."
            )
        file.draft("RGB", (size, size))  # JPEG: decodes at a reduced scale where that is enough
        # Each of these copies the whole picture, also where it changes nothing.
        turned = file.format != "JPEG" or "exif" in file.info or "xmp" in file.info
        image = ImageOps.exif_transpose(file) if turned else file
        if image.mode.startswith("I;16"):  # Pillow's own conversion would make every value above 255 white
            image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        elif image.mode in ("I", "F"):
            raise ValueError(f"the range of its {image.mode!r} pixels is unknown")
        image = image if image.mode == "RGB" else image.convert("RGB")
        return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))
    except UserError:
        raise
    except Exception as error:  # Pillow raises many kinds on damaged files
        raise UserError(f"{name}: is no image that can be decoded ({error}); repair or remove it.") from error
