"""Faces in images, for predictions of images that show more than one face."""

import dataclasses
import io

import numpy as np
from PIL import Image

from agegender_jax.data.decode_image import decode_image, to_square
from agegender_jax.errors import UserError
from tfds_builders.archive import DataError
from tfds_builders.faces import MARGIN, MIN_SIZE, Box, crop, find_faces

MAX_FACES = 32  # most faces of one image that are predicted, the largest: bounds the memory


class NoDetector(UserError):
    """No image can be searched: the detector is missing."""


@dataclasses.dataclass(frozen=True)
class Detection:
    """How images are searched for faces, each of which is predicted."""

    margin: float = MARGIN  # on each side of the detector's box, as a share of it
    min_size: int = MIN_SIZE  # smallest edge of that box, pixels of the image


def faces(
    image: np.ndarray, name: str, detection: Detection, size: int, most: int
) -> tuple[list[tuple[Box, np.ndarray]], int]:
    """Detects the faces in an image, and scales them as `decode_image` scales a file that holds a face.

    The image is uint8 `[height, width, 3]`, RGB. Returns the boxes of the `most` largest faces, the largest first, with
    the faces uint8 `[size, size, 3]`, and how many faces there are in all.

    Raises:
      UserError: the image cannot be searched; or OpenCV has no cascade here, which is a `NoDetector`.
    """
    try:
        boxes = find_faces(image, detection.min_size)
        scaled = [to_square(Image.fromarray(crop(image, box, detection.margin)), size) for box in boxes[:most]]
        return list(zip(boxes[:most], scaled, strict=True)), len(boxes)
    except DataError as error:
        raise NoDetector(str(error)) from error
    except Exception as error:  # of OpenCV, or for want of memory
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{name}: cannot be searched for faces ({reason}); shrink or remove it.") from error


def search_type(size: int, most: int) -> np.dtype:
    """Returns the dtype of the result of `search`: how many faces there are in all, boxes and pixels of the largest."""
    return np.dtype([("count", np.int32), ("boxes", np.int32, (most, 4)), ("faces", np.uint8, (most, size, size, 3))])


def search(content: bytes, name: str, *, size: int, margin: float, min_size: int, most: int) -> np.ndarray:
    """Decodes an image and cuts out its faces, for a `DecodePool`: one `search_type` as uint8 `[bytes]`.

    Raises:
      UserError: as `faces`, or the image cannot be decoded.
    """
    image = decode_image(content, 0, name)
    largest, count = faces(image, name, Detection(margin, min_size), size, most)
    result = np.zeros(1, search_type(size, most))
    result["count"] = count
    for place, (box, face) in enumerate(largest):
        result["boxes"][0, place], result["faces"][0, place] = box, face
    return result.view(np.uint8)


def as_file(image: np.ndarray) -> bytes:
    """Encodes an image uint8 `[height, width, 3]` without loss, so that it is decoded like any file."""
    stored = io.BytesIO()
    Image.fromarray(image).save(stored, "BMP")
    return stored.getvalue()
