"""Faces of encoded pictures: cut as datasets are, and what cannot be searched is named."""

import io

import numpy as np
import pytest
from PIL import Image

from agegender_jax.data import detect
from agegender_jax.data.decode_image import decode_image, decode_whole
from agegender_jax.data.detect import Detection, NoDetector, faces
from agegender_jax.errors import UserError
from agegender_jax.synthetic.faces import generate_face
from tfds_builders.archive import DataError
from tfds_builders.faces import Box, crop_largest


def picture() -> bytes:
    drawn = [generate_face(np.random.default_rng(seed), age=30, gender=seed) for seed in (0, 1)]
    both = np.concatenate([np.pad(face, ((60, 60), (60, 60), (0, 0)), "edge") for face in drawn], axis=1)
    stored = io.BytesIO()
    Image.fromarray(both).save(stored, "PNG")
    return stored.getvalue()


def image() -> np.ndarray:
    return decode_whole(picture())


def test_the_largest_is_that_of_a_prepared_dataset() -> None:
    found, count = faces(image(), "a", Detection(), 32, 9)
    assert len(found) == count == 2
    np.testing.assert_array_equal(found[0][1], decode_image(crop_largest(picture()), 32))
    (one,), count = faces(image(), "a", Detection(), 32, most=1)
    assert count == 2
    assert one[0] == found[0][0]


@pytest.mark.parametrize("error", [MemoryError(), ValueError("of OpenCV,\nsay")])
def test_what_fails_on_the_way_is_the_picture_s_sentence(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> list[Box]:
        raise error

    monkeypatch.setattr(detect, "find_faces", fail)
    with pytest.raises(UserError, match=r"^a: cannot be searched for faces \((MemoryError|of OpenCV, say)\); shrink"):
        faces(image(), "a", Detection(), 32, 9)


def test_a_missing_cascade_is_no_picture_s_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> list[Box]:
        raise DataError("OpenCV has none.")

    monkeypatch.setattr(detect, "find_faces", fail)
    with pytest.raises(NoDetector, match=r"^OpenCV has none\.$"):
        faces(image(), "a", Detection(), 32, 9)
