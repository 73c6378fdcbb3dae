"""Images for TensorBoard, made without a display."""

import subprocess
import sys
from pathlib import Path

import numpy as np

from agegender_jax.evaluate.tensorboard_images import confusion_image, grid_image


def is_image(image: np.ndarray) -> bool:
    return image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3 and image.flags.c_contiguous


def test_a_confusion_matrix_shows_its_counts_and_its_title() -> None:
    counts = np.array([[5, 1], [0, 6]])
    matrix = confusion_image(counts, ("male", "female"), "gender")
    assert is_image(matrix)
    np.testing.assert_array_equal(matrix, confusion_image(counts, ("male", "female"), "gender"))
    same_shares = confusion_image(10 * counts, ("male", "female"), "gender")
    other_title = confusion_image(counts, ("male", "female"), "age")
    for other in (same_shares, other_title):
        assert other.shape == matrix.shape
        assert (other != matrix).any()


def test_a_class_name_is_no_formula() -> None:
    image = confusion_image(np.eye(2, dtype=int), (r"$\nothing$", "a\x00"), "class_name")
    assert image.std() > 0


def test_a_confusion_matrix_grows_with_its_classes_and_may_be_empty() -> None:
    small = confusion_image(np.zeros((2, 2), int), ("a", "b"), "t")
    large = confusion_image(np.zeros((24, 24), int), [str(i) for i in range(24)], "t")
    assert is_image(large)
    assert large.shape[0] > 2 * small.shape[0]


def test_a_grid_shows_every_image_in_its_place() -> None:
    images = np.zeros((5, 16, 16, 3), np.uint8)
    dark = grid_image(images, [""] * 5, columns=4)
    assert is_image(dark)
    for place in range(5):
        lit = images.copy()
        lit[place] = 255, 0, 0
        changed = np.argwhere((grid_image(lit, [""] * 5, columns=4) != dark).any(-1)).mean(0)
        cell = changed // (dark.shape[0] / 2, dark.shape[1] / 4)
        assert cell.tolist() == [place // 4, place % 4]


def test_a_grid_shows_its_captions_and_may_be_empty() -> None:
    images = np.zeros((2, 16, 16, 3), np.uint8)
    assert (grid_image(images, ["male 31", "a"]) != grid_image(images, ["male 32", "a"])).any()
    assert is_image(grid_image(images[:0], []))


def test_no_display_is_needed() -> None:
    code = (
        "import sys, numpy as np\n"
        "from agegender_jax.evaluate.tensorboard_images import confusion_image\n"
        "confusion_image(np.eye(2, dtype=int), ('a', 'b'), 't')\n"
        "sys.exit('matplotlib.pyplot' in sys.modules or 'tkinter' in sys.modules)"
    )
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code], cwd=root, env={"HOME": "/nonexistent"}, check=True)
