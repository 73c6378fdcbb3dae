"""Face detection and crops: boxes, lost faces, and datasets of crops."""

import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from agegender_jax import recipe as recipes
from agegender_jax.data.dataset import open_dataset
from agegender_jax.data.source import locate
from agegender_jax.errors import UserError
from agegender_jax.recipe_options import data_options
from agegender_jax.synthetic.faces import generate_face
from tests.tfds_builders.files import metadata, pack_utkface, read
from tfds_builders import faces
from tfds_builders.adience.fold_files import COLUMNS, FILES
from tfds_builders.archive import DataError
from tfds_builders.faces import MARGIN, MAX_EDGE, Box, crop, crop_largest, cropper, find_faces
from tfds_builders.images import upright
from tfds_builders.prepare import prepare

TIME = "20170116174525125"


def face(seed: int = 0, size: int = 200, around: int = 60) -> np.ndarray:
    """Returns a synthetic face with a margin, in which the cascade detects it."""
    image = generate_face(np.random.default_rng(seed), age=30, gender=seed % 2, size=size)
    return np.pad(image, ((around, around), (around, around), (0, 0)), "edge")


def encoded(image: np.ndarray, kind: str = "JPEG") -> bytes:
    stored = io.BytesIO()
    Image.fromarray(image).save(stored, kind)
    return stored.getvalue()


def is_inside(box: Box, left: int, top: int, size: int) -> bool:
    """Returns whether a box covers the middle of a face, and is about as large."""
    across, down = box.x + box.width / 2 - left - size / 2, box.y + box.height / 2 - top - size / 2
    return max(abs(across), abs(down)) < 0.2 * size and 0.5 * size < box.width < 1.1 * size


@pytest.fixture(scope="module")
def two() -> np.ndarray:
    """A small face on the left and a large one on the right: at (60, 60) with 200 and at (390, 70) with 280 pixels."""
    image = np.full((420, 740, 3), 128, np.uint8)
    image[:320, :320] = face(1)
    image[:, 320:] = face(0, 280, 70)
    return image


def test_faces_are_detected_where_they_are_the_largest_first(two: np.ndarray) -> None:
    large, small = find_faces(two)
    assert is_inside(large, 390, 70, 280)
    assert is_inside(small, 60, 60, 200)
    (box,) = find_faces(two, min_size=180)
    assert is_inside(box, 390, 70, 280)
    assert find_faces(two, min_size=400) == []
    assert find_faces(np.full((90, 120, 3), 200, np.uint8)) == []
    assert find_faces(np.zeros((1, 1, 3), np.uint8)) == []


def test_a_face_detected_at_two_scales_is_one(two: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the search gives: a face, the same again within it, and two faces within one large box that is none."""

    class Cascade:
        def detectMultiScale(self, *_: Any, **__: Any) -> np.ndarray:
            return np.array(
                [[0, 0, 100, 100], [30, 30, 50, 50], [200, 0, 200, 200], [205, 60, 60, 60], [330, 60, 60, 60]]
            )

    monkeypatch.setattr(faces._LOCAL, "cascade", Cascade(), raising=False)
    assert find_faces(two) == [(200, 0, 200, 200), (0, 0, 100, 100), (205, 60, 60, 60), (330, 60, 60, 60)]


def test_a_large_image_is_searched_smaller_and_its_boxes_are_its_own() -> None:
    image = np.full((2 * MAX_EDGE, 2 * MAX_EDGE, 3), 128, np.uint8)
    image[900:1720, 1000:1820] = np.asarray(Image.fromarray(face()).resize((820, 820)))
    (box,) = find_faces(image)
    left, top, size = 1000 + 60 * 820 // 320, 900 + 60 * 820 // 320, 200 * 820 // 320
    assert is_inside(box, left, top, size)


def test_threads_detect_the_same(two: np.ndarray) -> None:
    expected = find_faces(two)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda _: find_faces(two), range(8))) == [expected] * 8


def test_a_crop_has_the_margin_on_every_side_and_lies_a_tenth_lower() -> None:
    image = np.arange(100 * 80).reshape(100, 80)
    np.testing.assert_array_equal(crop(image, Box(30, 40, 20, 10)), image[41:51, 30:50])
    np.testing.assert_array_equal(crop(image, Box(30, 40, 20, 10), margin=0.5), image[36:56, 20:60])
    beyond = crop(image, Box(0, 90, 10, 10), margin=1.0)
    assert beyond.shape == (30, 30)
    np.testing.assert_array_equal(beyond[:19, 10:], image[81:, :20])
    np.testing.assert_array_equal(beyond[19:], np.tile(beyond[18], (11, 1)))
    np.testing.assert_array_equal(beyond[:, :10], np.tile(beyond[:, 10:11], (1, 10)))


def test_a_crop_far_beyond_the_image_is_bounded_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, columns = np.mgrid[:60, :80]
    image = np.stack([4 * rows, 3 * columns, rows + columns], -1).astype(np.uint8)
    box = Box(10, 5, 60, 50)
    whole = Image.fromarray(crop(image, box, margin=2.0))
    assert whole.size == (300, 250)
    monkeypatch.setattr("tfds_builders.faces.MAX_PIXELS", 250 * 300 // 25)
    reduced = crop(image, box, margin=2.0)
    assert reduced.shape[0] * reduced.shape[1] <= 250 * 300 // 25
    assert abs(reduced.shape[0] - 50) <= 2
    assert abs(reduced.shape[1] - 60) <= 2
    expected = np.asarray(whole.resize(reduced.shape[1::-1], Image.Resampling.BILINEAR), np.float32)
    assert np.abs(reduced - expected).max() <= 12  # half a reduced pixel


def test_the_largest_face_is_stored_without_loss(two: np.ndarray) -> None:
    content = encoded(two)
    image = np.asarray(upright(Image.open(io.BytesIO(content))))
    stored = Image.open(io.BytesIO(crop_largest(content)))
    assert stored.format == "PNG"
    np.testing.assert_array_equal(np.asarray(stored), crop(image, find_faces(image)[0], MARGIN))
    assert crop_largest(encoded(np.full((60, 60, 3), 9, np.uint8))) is None
    with pytest.raises(DataError):
        crop_largest(b"text")


def test_a_turned_photograph_is_set_upright_first() -> None:
    image = Image.fromarray(np.rot90(face()))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    stored = io.BytesIO()
    image.save(stored, "JPEG", exif=exif)
    seen = np.asarray(upright(Image.open(stored)))
    (box,) = find_faces(seen)
    assert is_inside(box, 60, 60, 200)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes]]:
    """UTKFace.tar.gz with three faces and two images without one, and its files."""
    folder = tmp_path_factory.mktemp("manual")
    nothing = [encoded(np.full((90, 90, 3), shade, np.uint8)) for shade in (40, 200)]
    files = {
        f"26_0_2_{TIME}.jpg": encoded(face(0)),
        f"31_1_2_{TIME}.jpg": encoded(face(1)),
        f"38_1_0_{TIME}.jpg": encoded(face(3)),
        f"29_1_1_{TIME}.jpg": nothing[0],
        f"80_0_{TIME}.jpg": nothing[1],
    }
    return pack_utkface(folder, files), files


def test_utkface_is_prepared_with_its_faces_cut_out(
    archive: tuple[Path, dict[str, bytes]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manual, files = archive
    whole = read(prepare("utkface", manual, tmp_path))
    version_dir = prepare("utkface", manual, tmp_path, options={"crop": "haar"})
    printed = capsys.readouterr().err
    for line in (
        "no face detected in 2 of 5 images (40.0 %)",
        "gender female: 1 of 3 (33.3 %)",
        "race Asian: 0 of 2 (0.0 %)",
        "race unknown: 1 of 1 (100.0 %)",
        "age 20-29: 1 of 2 (50.0 %)",
        "age 80-89: 1 of 1 (100.0 %)",
    ):
        assert f"    {line}\n" in printed or f"  {line}\n" in printed
    examples = read(version_dir)
    assert set(examples) == set(list(files)[:3])
    for key, example in examples.items():
        assert example["image"] == crop_largest(files[key])
        for column in ("age", "gender", "race", "sha256"):  # of the file, by which it is known again
            assert example[column] == whole[key][column]
    about = metadata(version_dir)
    assert dict(about["without_face"])["all"] == [2, 5]
    assert (about["kept"], about["cropper"]) == (3, cropper())


def test_cut_data_have_another_place_and_identity(archive: tuple[Path, dict[str, bytes]], tmp_path: Path) -> None:
    prepared = [
        locate("utkface", manual_dir=archive[0], data_dir=tmp_path, options=options, progress=False)
        for options in ({}, {"crop": "haar"}, {})
    ]
    assert prepared[0] == prepared[2]
    assert prepared[0].identity != prepared[1].identity
    assert prepared[0].directory != prepared[1].directory
    assert (prepared[0].count, prepared[1].count) == (5, 3)
    for option, value in (("crop", "dlib"), ("csv", "x")):
        with pytest.raises(UserError, match=option):
            locate("utkface", manual_dir=archive[0], data_dir=tmp_path, options={option: value}, progress=False)


@pytest.mark.parametrize("setting", ["MARGIN", "DOWN", "MIN_SIZE", "MAX_EDGE", "_SCALE", "_NEIGHBOURS", "OpenCV"])
def test_every_setting_has_data_of_its_own(
    setting: str, archive: tuple[Path, dict[str, bytes]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wishes = {"crop": "haar"}

    def place(options: dict[str, str]) -> str:
        with pytest.MonkeyPatch.context() as patch:  # nothing is prepared: where it would be is enough
            patch.setattr("tfds_builders.prepare.prepare", lambda name, manual, parent, **_: parent / name / "1.0.0")
            patch.setattr("agegender_jax.data.source._prepared", lambda name, directory, _: directory)
            return str(locate("utkface", manual_dir=archive[0], data_dir=tmp_path, options=options))

    cut, whole = place(wishes), place({})
    assert place(wishes) == cut
    if setting == "OpenCV":
        monkeypatch.setattr("cv2.__version__", "4.0.0")
    else:
        monkeypatch.setattr(faces, setting, getattr(faces, setting) + 1)
    assert place(wishes) != cut
    assert place({}) == whole  # which is not cut


def test_a_recipe_asks_for_it(archive: tuple[Path, dict[str, bytes]], tmp_path: Path) -> None:
    recipe = recipes.base()
    recipe.dataset.update(image_size=32, crop="haar")
    recipes.check(recipe)
    data = open_dataset(data_options(recipe), manual_dir=archive[0], data_dir=tmp_path, progress=False)
    assert len(data) == 3
    recipe.dataset.crop = "dlib"
    with pytest.raises(UserError, match=r"config\.dataset\.crop"):
        recipes.check(recipe)


def test_adience_is_prepared_with_its_faces_cut_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manual = tmp_path / "manual"
    for fold, name in enumerate(FILES):
        rows = [(f"{fold}@N01", "a.jpg", str(fold), "(25, 32)", "f", *["0"] * 7)]
        rows += [("0@N01", "b.jpg", "9", "(0, 2)", "u", *["0"] * 7)] if not fold else []
        (manual / "aligned" / f"{fold}@N01").mkdir(parents=True)
        (manual / name).write_text("".join("\t".join(row) + "\n" for row in [tuple(COLUMNS), *rows]))
        image = manual / "aligned" / f"{fold}@N01" / f"landmark_aligned_face.{fold}.a.jpg"
        image.write_bytes(encoded(face()))
    nothing = manual / "aligned" / "0@N01" / "landmark_aligned_face.9.b.jpg"
    nothing.write_bytes(encoded(np.full((90, 90, 3), 40, np.uint8)))
    version_dir = prepare("adience", manual, tmp_path / "data", options={"crop": "haar"})  # one in six is no face
    printed = capsys.readouterr().err
    assert "no face detected in 1 of 6 images (16.7 %)" in printed
    assert "gender u: 1 of 1 (100.0 %)" in printed
    assert "age 20-29: 0 of 5 (0.0 %)" in printed
    examples = read(version_dir)
    assert len(examples) == 5
    assert {example["image"] for example in examples.values()} == {crop_largest(encoded(face()))}
