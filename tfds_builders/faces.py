"""Face detection with OpenCV's Haar cascade, and face crops: the same for builders and for predictions.

The cascade is `haarcascade_frontalface_alt2`, as in Imamdin et al. (2024), section 3.4, who do not publish the
settings; these are OpenCV's defaults. It misses faces, and not equally often in all groups of people: a dataset
prepared with it reports how many faces of each group are lost.
"""

import io
import math
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from tfds_builders.archive import DataError
from tfds_builders.images import MAX_PIXELS, upright

CROPS = ("", "haar")
"""How images may be cropped when a dataset is prepared; "" leaves them whole."""

MARGIN = 0.0
"""Added on each side of the detector's box, as a share of the box. UTKFace's crops show the whole head, and so does the
box: where these crops are padded, the median box is as wide as they are."""

DOWN = 0.1  # shift of the crop's centre below the box's, as a share of the box: the median on UTKFace's crops
MIN_SIZE = 40  # smallest edge of the detector's box, in pixels of the image
MAX_EDGE = 1280  # larger images are searched at this length of their longer edge, in pixels
NO_FACE = "no face detected"  # reason why an image has no crop
_CASCADE = "haarcascade_frontalface_alt2.xml"
_LOCAL = threading.local()  # a classifier must not be used by two threads at a time
_SCALE, _NEIGHBOURS = 1.1, 3  # ratio of successive scales, and boxes that must agree; OpenCV's defaults


class Box(NamedTuple):
    """Bounding box of a face, in pixels of the upright image, from its upper left corner."""

    x: int
    y: int
    width: int
    height: int


def cropper() -> str:
    """Returns an identifier of the detector, its version and all settings that change a crop."""
    import cv2

    search = f"alt2-{_SCALE:g}-{_NEIGHBOURS}-min{MIN_SIZE}-edge{MAX_EDGE}"
    return f"opencv-{cv2.__version__}-{search}-margin{MARGIN:g}-down{DOWN:g}"


def find_faces(image: np.ndarray, min_size: int = MIN_SIZE) -> list[Box]:
    """Detects the faces in an image uint8 `[height, width, 3]`, RGB; returns their boxes, the largest first.

    Raises DataError where OpenCV comes without the cascade.
    """
    import cv2  # a third of a second, needed here alone

    cascade = getattr(_LOCAL, "cascade", None)
    if cascade is None:
        path = Path(getattr(getattr(cv2, "data", None), "haarcascades", ""), _CASCADE)
        cascade = cv2.CascadeClassifier(str(path)) if path.is_file() else None
        if cascade is None or cascade.empty():
            raise DataError(f"OpenCV {cv2.__version__} has no {_CASCADE}; install opencv-python-headless below 5.")
        _LOCAL.cascade = cascade
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    reduction = max(1.0, max(grey.shape) / MAX_EDGE)
    if reduction > 1:
        size = [max(1, round(edge / reduction)) for edge in grey.shape[::-1]]
        grey = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
    smallest = max(1, math.ceil(min_size / reduction))
    detections = cascade.detectMultiScale(grey, _SCALE, _NEIGHBOURS, minSize=(smallest, smallest))
    boxes = [Box(*(round(float(number) * reduction) for number in box)) for box in detections]
    # The order of OpenCV's detections depends on its threads.
    return without_nested(sorted(boxes, key=lambda box: (-box.width * box.height, box)))


def without_nested(boxes: Sequence[Box]) -> list[Box]:
    """Returns the boxes, the largest first, without those whose centre lies in the middle of an earlier one.

    They are faces detected at two scales. The middle is half as wide and half as high. A box elsewhere in a larger one
    stays: the larger may be an error.

    >>> without_nested([Box(0, 0, 80, 80), Box(10, 20, 40, 40), Box(50, 0, 30, 30)])
    [Box(x=0, y=0, width=80, height=80), Box(x=50, y=0, width=30, height=30)]
    """
    kept: list[Box] = []
    for box in boxes:
        across, down = 2 * box.x + box.width, 2 * box.y + box.height  # of the centre, doubled: whole numbers
        if not any(
            2 * abs(across - 2 * other.x - other.width) < other.width
            and 2 * abs(down - 2 * other.y - other.height) < other.height
            for other in kept
        ):
            kept.append(box)
    return kept


def crop(image: np.ndarray, box: Box, margin: float = MARGIN) -> np.ndarray:
    """Returns a face with its surroundings; beyond the image's edge, the edge's pixels are repeated.

    A crop of more than `MAX_PIXELS` pixels, which only a margin beyond a large image gives, is returned at a smaller
    scale, so that memory stays bounded.

    >>> crop(np.arange(16).reshape(4, 4), Box(2, 0, 2, 2), margin=0.5)
    array([[ 1,  2,  3,  3],
           [ 1,  2,  3,  3],
           [ 5,  6,  7,  7],
           [ 9, 10, 11, 11]])

    `image` is `[height, width, ...]`; the crop's centre lies `DOWN` below the box's; `margin` is a share of the box.
    """
    margins = round(margin * box.height), round(margin * box.width)
    starts = box.y - margins[0] + round(DOWN * box.height), box.x - margins[1]
    sizes = box.height + 2 * margins[0], box.width + 2 * margins[1]
    scale = math.sqrt(MAX_PIXELS / (sizes[0] * sizes[1]))
    if scale < 1:
        smaller = [max(1, int(edge * scale)) for edge in image.shape[1::-1]]
        image = np.asarray(Image.fromarray(image).resize(smaller, Image.Resampling.BILINEAR))
        starts, sizes = ((int(scale * pair[0]), int(scale * pair[1])) for pair in (starts, sizes))
    rows, columns = (
        np.arange(start, start + size).clip(0, limit - 1)
        for start, size, limit in zip(starts, sizes, image.shape, strict=False)
    )
    return image[rows[:, None], columns]


def crop_largest(content: bytes) -> bytes | None:
    """Returns the largest face of an encoded image with its margin, encoded without loss as PNG; None without a face.

    Raises:
      DataError: the image cannot be decoded. The message is a short reason without the file's name.
    """
    try:
        image = np.asarray(upright(Image.open(io.BytesIO(content))))
    except Exception as error:  # Pillow raises many kinds on damaged files
        raise DataError("an image that cannot be decoded") from error
    boxes = find_faces(image)
    if not boxes:
        return None
    stored = io.BytesIO()
    Image.fromarray(crop(image, boxes[0])).save(stored, "PNG", compress_level=1)
    return stored.getvalue()


def check_crop(value: Any) -> None:
    """Raises a DataError where a builder's option `crop` is none of `CROPS`."""
    if value not in CROPS:
        raise DataError(f"there is no crop {value!r}; choose {' or '.join(map(repr, CROPS))}.")
