"""Faces in images: cut as datasets are, and errors that name the image."""

import numpy as np
import pytest
from PIL import Image

from agegender_jax.data import detect
from agegender_jax.data.decode_image import decode_image
from agegender_jax.data.detect import Detection, NoDetector, as_file, faces
from agegender_jax.errors import UserError
from agegender_jax.synthetic.faces import generate_face
from tfds_builders.archive import DataError
from tfds_builders.faces import Box, crop_largest


def test_the_largest_is_that_of_a_prepared_dataset() -> None:
    both = [generate_face(np.random.default_rng(seed), age=30, gender=seed) for seed in (0, 1)]
    image = np.concatenate([np.pad(face, ((60, 60), (60, 60), (0, 0)), "edge") for face in both], axis=1)
    detected, count = faces(image, "a", Detection(), 32, 9)
    assert len(detected) == count == 2
    np.testing.assert_array_equal(detected[0][1], decode_image(crop_largest(as_file(image)), 32))
    (one,), count = faces(image, "a", Detection(), 32, most=1)
    assert count == 2
    assert one[0] == detected[0][0]


@pytest.mark.parametrize(
    ("error", "kind", "name"),
    [
        (MemoryError(), UserError, "^a: .*MemoryError"),
        (ValueError("of OpenCV,\nsay"), UserError, "^a: .*of OpenCV, say"),
        (DataError("OpenCV has none."), NoDetector, "OpenCV"),
    ],
)
def test_errors_name_the_image_or_the_detector(
    error: Exception, kind: type[Exception], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> list[Box]:
        raise error

    monkeypatch.setattr(detect, "find_faces", fail)
    with pytest.raises(kind, match=name):
        faces(np.asarray(Image.new("RGB", (9, 9))), "a", Detection(), 32, 9)
