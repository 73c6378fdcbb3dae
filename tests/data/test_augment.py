"""Augmentation against NumPy, SciPy and what it promises of its randomness."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from agegender_jax.data.augment import augment, resampling_matrix
from agegender_jax.data.preprocess import normalize
from agegender_jax.mesh import by_batch, make_mesh

SIZE = 12
IMAGES = np.random.default_rng(0).integers(0, 256, (8, SIZE, SIZE, 3), dtype=np.uint8)
ROWS = np.arange(100, 108, dtype=np.int32)
EVERYTHING = dict(flip=True, shift=0.2, zoom=0.2, brightness=0.3, contrast=0.4, saturation=0.5, erase=0.5)  # noqa: C408
_augment = jax.jit(augment, static_argnames=tuple(EVERYTHING))


def _matrix(size: int, zoom: float, shift: float, flip: bool) -> np.ndarray:
    return np.asarray(resampling_matrix(size, jnp.float32(zoom), jnp.float32(shift), jnp.array(flip)))


def test_normalize_by_arithmetic() -> None:
    images = np.array([0, 51, 255], np.uint8).reshape(1, 1, 1, 3)
    got = normalize(jnp.asarray(images), (0.5, 0.2, 0.4), (0.25, 0.5, 0.3))
    np.testing.assert_allclose(np.asarray(got).ravel(), [-2.0, 0.0, 2.0], atol=1e-6)
    assert got.dtype == jnp.float32


def test_nothing_asked_for_changes_nothing() -> None:
    got = _augment(IMAGES, ROWS, jax.random.key(0))
    assert got.dtype == jnp.float32
    np.testing.assert_array_equal(got, IMAGES)


def test_flip_is_exact_and_happens_half_of_the_time() -> None:
    images = np.repeat(IMAGES[:1, :4, :4], 1000, axis=0)
    got = np.asarray(_augment(images, np.arange(1000), jax.random.key(0), flip=True))
    mirrored = (got == images[:, :, ::-1]).all((1, 2, 3))
    assert (mirrored | (got == images).all((1, 2, 3))).all()
    assert 430 < mirrored.sum() < 570  # 4.4 standard deviations either way


@pytest.mark.parametrize(("zoom", "shift"), [(1.0, 0.0), (1.3, 0.0), (0.7, 2.25), (1.0, -30.0), (2.0, 5.5)])
@pytest.mark.parametrize("size", [1, 12])
@pytest.mark.parametrize("flip", [False, True])
def test_rows_of_the_matrix_sum_to_one(size: int, zoom: float, shift: float, flip: bool) -> None:
    matrix = _matrix(size, zoom, shift, flip)
    np.testing.assert_allclose(matrix.sum(1), 1.0, atol=1e-5)
    assert (matrix >= 0).all()


@pytest.mark.parametrize("shift", [-5, -1, 0, 2, 7])
def test_whole_pixels_of_shift_are_a_crop_of_the_padded_image(shift: int) -> None:
    line = IMAGES[0, 0, :, 0].astype(np.float32)
    padded = np.pad(line, 8, mode="edge")
    np.testing.assert_array_equal(_matrix(SIZE, 1.0, shift, False) @ line, padded[8 + shift : 8 + shift + SIZE])


def test_mirrored_matrix_reverses_the_shifted_view_of_the_mirror() -> None:
    line = IMAGES[0, 0, :, 0].astype(np.float32)
    np.testing.assert_array_equal(_matrix(SIZE, 1.0, 0.0, True) @ line, line[::-1])
    got = _matrix(SIZE, 1.2, 1.5, True) @ line
    np.testing.assert_allclose(got, _matrix(SIZE, 1.2, 1.5, False) @ line[::-1], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(("zoom", "shift"), [(1.0, 0.25), (1.25, 0.0), (0.8, 0.0), (1.1, -1.7), (0.9, 2.3)])
def test_zoom_and_shift_match_scipy(zoom: float, shift: float) -> None:
    image = IMAGES[0, :, :, 0].astype(np.float64)
    matrix = _matrix(SIZE, zoom, shift, False)
    centre = (SIZE - 1) / 2
    expected = ndimage.affine_transform(
        image, [1 / zoom, 1 / zoom], offset=centre - centre / zoom + shift, order=1, mode="nearest"
    )
    np.testing.assert_allclose(matrix @ image @ matrix.T, expected, atol=1e-3)


def test_zoom_stays_within_its_limit() -> None:
    ramp = np.broadcast_to(np.arange(21, dtype=np.uint8)[:, None] * 10, (300, 21, 21, 3))
    got = np.asarray(_augment(ramp, np.arange(300), jax.random.key(3), zoom=0.25))
    magnification = 80 / (got[:, 10, 14, 0] - got[:, 10, 6, 0])  # 8 pixels, 10 levels each
    np.testing.assert_allclose(got[:, 10, 10], 100.0, atol=1e-2)  # the centre stays
    assert 1 / 1.25 - 1e-3 < magnification.min() < 0.82
    assert 1.22 < magnification.max() < 1.25 + 1e-3


def test_shift_moves_both_axes_within_its_limit() -> None:
    # An image of its own coordinates: what arrives in the middle says how far it came.
    ramp = np.broadcast_to(np.arange(20, dtype=np.uint8) * 10, (20, 20))
    images = np.repeat(np.stack([ramp, ramp.T, ramp], -1)[None], 300, axis=0)
    got = np.asarray(_augment(images, np.arange(300), jax.random.key(3), shift=0.25))
    moved = got[:, 10, 10, :2] / 10 - 10  # pixels right and down
    assert np.abs(moved).max() <= 5.0 + 1e-3  # 0.25 * 20
    assert (moved.max(0) > 4.5).all()
    assert (moved.min(0) < -4.5).all()
    assert abs(np.corrcoef(moved.T)[0, 1]) < 0.2  # independent


def test_brightness_contrast_and_saturation_by_arithmetic() -> None:
    image = np.array([[[100, 100, 130], [140, 120, 131]], [[100, 150, 110], [121, 121, 123]]], np.uint8)
    images = np.repeat(image[None], 50, axis=0)
    rows, key = np.arange(50), jax.random.key(1)

    brighter = np.asarray(_augment(images, rows, key, brightness=0.1)) - images
    np.testing.assert_allclose(brighter, brighter[:, :1, :1, :1] + np.zeros_like(brighter), atol=1e-3)  # one amount
    assert 20 < brighter.max() <= 25.5 + 1e-3  # 0.1 * 255
    assert -25.5 - 1e-3 <= brighter.min() < -20

    level = image.mean()
    factor = (np.asarray(_augment(images, rows, key, contrast=0.3)) - level) / (image - level)
    np.testing.assert_allclose(factor, factor[:, :1, :1, :1] + np.zeros_like(factor), atol=1e-4)
    assert 0.7 - 1e-4 <= factor.min() < 0.8
    assert 1.2 < factor.max() <= 1.3 + 1e-4

    grey = image.mean(-1, keepdims=True)
    colour = np.asarray(_augment(images, rows, key, saturation=0.5)) - grey
    np.testing.assert_allclose(colour.mean(-1), 0.0, atol=1e-3)  # the grey level stays
    factor = colour[:, 0, 0, 2] / (image - grey)[0, 0, 2]
    np.testing.assert_allclose(colour, factor[:, None, None, None] * (image - grey), atol=1e-3)
    assert 0.5 - 1e-4 <= factor.min() < 0.6
    assert 1.4 < factor.max() <= 1.5 + 1e-4


def test_erased_rectangles_have_the_size_and_frequency_asked_for() -> None:
    images = np.zeros((400, 40, 40, 3), np.uint8)
    got = np.asarray(_augment(images, np.arange(400), jax.random.key(2), erase=0.25))
    grey = (got == 127.5).all(-1)
    assert set(np.unique(got)) == {0.0, 127.5}
    struck = grey.any((1, 2))
    assert 65 < struck.sum() < 135  # 100 expected, standard deviation 8.7
    heights, widths = grey.any(2).sum(1)[struck], grey.any(1).sum(1)[struck]
    np.testing.assert_array_equal(grey.sum((1, 2))[struck], heights * widths)  # a whole rectangle
    for edges in (heights, widths):
        assert edges.min() >= 3  # 4 to 13.2 pixels, give or take the rounding
        assert edges.max() <= 14
        assert edges.max() - edges.min() >= 7


def test_a_view_depends_on_key_and_row_alone() -> None:
    key = jax.random.key(7)
    whole = np.asarray(_augment(IMAGES, ROWS, key, **EVERYTHING))
    backwards = np.asarray(_augment(IMAGES[::-1], ROWS[::-1], key, **EVERYTHING))
    np.testing.assert_allclose(backwards[::-1], whole, atol=1e-3)
    part = np.asarray(_augment(IMAGES[5:7], ROWS[5:7], key, **EVERYTHING))
    np.testing.assert_allclose(part, whole[5:7], atol=1e-3)
    same = np.repeat(IMAGES[:1], 8, axis=0)
    every = np.concatenate([_augment(same, ROWS, jax.random.key(seed), **EVERYTHING) for seed in (0, 1)])
    assert 0 <= every.min() < every.max() <= 255
    distance = np.abs(every[:, None] - every[None]).max((2, 3, 4))
    assert distance[~np.eye(16, dtype=bool)].min() > 1


def test_eight_devices_give_the_same_views_as_one() -> None:
    key = jax.random.key(7)
    sharding = by_batch(make_mesh())
    spread = _augment(jax.device_put(IMAGES, sharding), jax.device_put(ROWS, sharding), key, **EVERYTHING)
    assert len(spread.sharding.device_set) == 8
    np.testing.assert_allclose(spread, _augment(IMAGES, ROWS, key, **EVERYTHING), atol=1e-3)
