"""Faces in images: cut as datasets are, and errors that name the image."""

from functools import partial

import numpy as np
import pytest
from PIL import Image

from agegender_jax.data import detect
from agegender_jax.data.decode_image import decode_image
from agegender_jax.data.decode_pool import DecodePool
from agegender_jax.data.detect import Detection, NoDetector, as_file, faces, search, search_type
from agegender_jax.errors import UserError
from agegender_jax.synthetic.faces import generate_face
from tfds_builders.archive import DataError
from tfds_builders.faces import MARGIN, MIN_SIZE, Box, crop_largest


def test_the_largest_is_that_of_a_prepared_dataset() -> None:
    both = [generate_face(np.random.default_rng(seed), age=30, gender=seed) for seed in (0, 1)]
    image = np.concatenate([np.pad(face, ((60, 60), (60, 60), (0, 0)), "edge") for face in both], axis=1)
    detected, count = faces(image, "a", Detection(), 32, 9)
    assert len(detected) == count == 2
    np.testing.assert_array_equal(detected[0][1], decode_image(crop_largest(as_file(image)), 32))
    (one,), count = faces(image, "a", Detection(), 32, most=1)
    assert count == 2
    assert one[0] == detected[0][0]
    search_one = partial(search, size=32, margin=MARGIN, min_size=MIN_SIZE, most=1)
    kind, results = search_type(32, 1), np.empty((20, search_type(32, 1).itemsize), np.uint8)
    with DecodePool(search_one, results.shape[1:], np.uint8) as pool:
        pool.decode(lambda places: ([as_file(image)] * len(places), ["a"] * len(places)), np.arange(20), results)
    for result in results.view(kind)[:, 0]:
        assert (result["count"], tuple(result["boxes"][0])) == (2, one[0])
        np.testing.assert_array_equal(result["faces"][0], one[1])


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
