"""Faces of encoded pictures, for whoever asks a run about pictures that are more than a face."""

import dataclasses
import io
from collections.abc import Callable

import numpy as np
from PIL import Image

from agegender_jax.data.decode_image import decode_whole
from agegender_jax.errors import UserError
from tfds_builders.archive import DataError
from tfds_builders.faces import MARGIN, MIN_SIZE, Box, crop, find_faces

MAX_FACES = 32
"""Most faces of one picture that are answered for, the largest: bounds the memory."""


class NoDetector(UserError):
    """No picture can be searched."""


@dataclasses.dataclass(frozen=True)
class Detection:
    """That pictures are searched for faces, each of which is answered for.

    Attributes:
      margin: on each side of the detector's box, as a share of it.
      min_size: smallest edge of that box, pixels of the picture.
    """

    margin: float = MARGIN
    min_size: int = MIN_SIZE


def detection_of(crop: str) -> Detection | None:
    """Returns how data prepared with this `dataset.crop` were searched for faces; None where they were not."""
    return Detection() if crop else None


def faces(
    content: bytes, name: str, detection: Detection, decode: Callable[..., np.ndarray], most: int
) -> tuple[list[tuple[Box, np.ndarray]], int]:
    """The faces of an encoded picture: boxes with decoded examples, the largest first; and how many there are in all.

    Args:
      content: as `decode_image` takes it.
      name: the image's name, for messages.
      detection: what to look for.
      decode: as `Preprocessor.decode`.
      most: faces that are decoded.

    Raises:
      UserError: the picture cannot be decoded or searched; or OpenCV has no cascade here, which is a `NoDetector`.
    """
    picture = decode_whole(content, name)
    try:
        boxes = find_faces(picture, detection.min_size)
        # From here on a face is a file like any other.
        examples = [decode(as_file(crop(picture, box, detection.margin)), name=name) for box in boxes[:most]]
        return list(zip(boxes[:most], examples, strict=True)), len(boxes)
    except UserError:
        raise
    except DataError as error:
        raise NoDetector(str(error)) from error
    except Exception as error:  # of OpenCV, or for want of memory
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{name}: cannot be searched for faces ({reason}); shrink or remove it.") from error


def as_file(picture: np.ndarray) -> bytes:
    """A picture uint8 `[height, width, 3]` as a file without loss, so that it goes the way of all files."""
    stored = io.BytesIO()
    Image.fromarray(picture).save(stored, "BMP")
    return stored.getvalue()
