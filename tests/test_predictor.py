"""A finished run on files and arrays: the evaluator's predictions to the last bit, and errors of some of them."""

import io
import itertools
import json
import shutil
import tarfile
import threading
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import soundfile
from PIL import Image

from agegender_jax import predictor as module
from agegender_jax.errors import UserError
from agegender_jax.evaluate.evaluate_run import evaluate_runs
from agegender_jax.evaluate.loaded import LoadedModel
from agegender_jax.evaluate.prediction_table import PredictionTable
from agegender_jax.evaluate.predictions import NAME, read_predictions
from agegender_jax.evaluate.targets import make_targets, measure_targets
from agegender_jax.predictor import AHEAD, WITHOUT_FACE, Detection, Predictor
from agegender_jax.synthetic.faces import generate_face
from tests.runs import mesh_of
from tfds_builders.faces import crop, crop_largest, find_faces


@pytest.fixture(scope="module")
def predictor(finished: Any) -> Predictor:
    return Predictor.load(finished.workdir)


@pytest.fixture(scope="module")
def faces(finished: Any, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The files of the run's test part, in the order of its metrics."""
    folder = tmp_path_factory.mktemp("faces")
    with tarfile.open(finished.manual_dir / "UTKFace.tar.gz") as tar:
        tar.extractall(folder, filter="data")
    there = {path.name: path for path in folder.rglob("*.jpg")}
    return [there[Path(key).name] for key in read_predictions(finished.workdir / NAME).of("test").key.tolist()]


def same(got: PredictionTable, expected: PredictionTable, rows: Any = slice(None), atol: float = 0.0) -> bool:
    """Whether predictions are those of some rows of others; batches of another size round differently."""
    return all(
        np.allclose(values, expected.distributions[name][rows], rtol=0, atol=atol)
        for name, values in got.distributions.items()
    )


def test_the_test_part_has_the_run_s_metrics_to_the_last_bit(
    finished: Any, predictor: Predictor, faces: list[Path]
) -> None:
    kept = read_predictions(finished.workdir / NAME).of("test")
    table = predictor.predict(faces)
    assert table.error == ("",) * len(faces)
    assert table.name == tuple(map(str, faces))
    for name, values in kept.distributions.items():
        np.testing.assert_array_equal(table.distributions[name], values)
    own = measure_targets(make_targets(predictor.heads, table.distributions, kept.labels))
    assert own == finished.summary["test"] == evaluate_runs(predictor.model, progress=False)["test"]
    gender = kept.targets()["gender"]
    assert table.targets["gender"].prediction == tuple(gender.head.names[i] for i in gender.predictions["class"])  # type: ignore[union-attr]
    np.testing.assert_array_equal(table.targets["age"].years, kept.targets()["age"].predictions["years"])  # type: ignore[union-attr]


@pytest.mark.slow
def test_a_few_are_computed_in_small_batches_and_agree_up_to_rounding(
    finished: Any, faces: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BATCH_SIZES", (1, 8))
    predictor = Predictor(LoadedModel.load(finished.workdir, mesh_of(1)))
    size = predictor.batch_size
    assert [predictor.batch_size_for(count) for count in (1, 2, 8, 9, size, 2 * size)] == [1, 8, 8, size, size, size]
    compiled = predictor.model.evaluator._distributions
    whole = predictor.predict(faces[: size + 1])
    assert compiled._cache_size() == 1  # the one that is left over is computed as the others are
    for count, programs in ((0, 1), (1, 2), (5, 3), (8, 3), (9, 3), (size, 3)):
        few = predictor.predict(faces[:count])
        assert compiled._cache_size() == programs
        assert same(few, whole, slice(count)) or 0 < count <= 8
        for name, values in few.distributions.items():
            np.testing.assert_allclose(values, whole.distributions[name][:count], rtol=1e-4, atol=1e-6)


def test_a_closed_predictor_runs_nothing(finished: Any, faces: list[Path]) -> None:
    before = set(threading.enumerate())
    with Predictor.load(finished.workdir) as predictor:
        predictor.predict(faces[:1], detect=True)
    left = {thread.name for thread in threading.enumerate() if thread not in before}
    assert not any(name.startswith(("decode", "predict")) for name in left)


def test_only_the_run_s_directory_is_needed(predictor: Predictor, moved: Path, faces: list[Path]) -> None:
    assert same(Predictor.load(moved).predict(faces[:3]), predictor.predict(faces[:3]))


@pytest.mark.parametrize("shape", [(40, 70, 3), (9, 9, 3), (32, 32, 3)])
def test_arrays_are_seen_as_files_are(shape: tuple[int, ...], predictor: Predictor, tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    Image.fromarray(image).save(tmp_path / "face.png")
    table = predictor.predict([image, tmp_path / "face.png", image[:, ::-1]])
    assert table.name == ("0", str(tmp_path / "face.png"), "2")
    for values in table.distributions.values():
        np.testing.assert_array_equal(values[0], values[1])


@pytest.mark.parametrize(
    "array",
    [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((4, 4, 4), np.uint8), np.zeros((0, 4, 3), np.uint8)],
)
def test_an_array_that_is_no_picture_is_a_sentence(array: np.ndarray, predictor: Predictor) -> None:
    with pytest.raises(UserError, match=r"\[height, width, 3\]"):
        predictor.predict([array])


@pytest.mark.parametrize(("name", "value"), [("level", 1.0), ("abstain_below", 1.5), ("abstain_wider", 0.0)])
def test_options_out_of_range(name: str, value: float, predictor: Predictor) -> None:
    with pytest.raises(UserError, match=name):
        predictor.predict([], **{name: value})


@pytest.mark.parametrize("count", [6, 40])  # few are decoded here, many by other processes
def test_bad_files_are_named_and_the_rest_is_predicted(
    count: int, predictor: Predictor, faces: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "text.jpg").write_text("none")
    files: list[Path] = [*faces[:count], tmp_path / "text.jpg", tmp_path / "absent.jpg", *faces[count : 2 * count]]
    table = predictor.predict(files, min_bytes=4)
    assert [bool(error) for error in table.error] == [False] * count + [True] * 2 + [False] * count
    assert "No such file" in table.error[count + 1]
    rest = [row for row, error in enumerate(table.error) if not error]
    assert same(predictor.predict(faces[: 2 * count]), table, rest)
    for values in table.distributions.values():
        assert np.isnan(values[count : count + 2]).all()
    nothing = predictor.predict([tmp_path / "absent"])
    assert (len(nothing), nothing.predicted, len(predictor.predict([]))) == (1, 0, 0)
    assert predictor.predict(files, min_bytes=5).error[count] != table.error[count]


def test_memory_is_bounded_by_what_is_asked_for(predictor: Predictor, faces: list[Path]) -> None:
    taken = itertools.count()
    endless = (faces[0] for _ in taken)
    tables = predictor.stream(endless)
    for number in range(1, 4):
        assert len(next(tables)) == predictor.batch_size
        assert next(taken) - number + 1 <= (AHEAD + number) * predictor.batch_size
    tables.close()


def test_faces_are_detected_in_a_picture(predictor: Predictor, tmp_path: Path) -> None:
    both = [generate_face(np.random.default_rng(seed), age=30, gender=seed) for seed in (0, 1)]
    picture = np.concatenate([np.pad(face, ((60, 60), (60, 60), (0, 0)), "edge") for face in both], axis=1)
    Image.fromarray(picture).save(tmp_path / "two.png")
    Image.new("RGB", (80, 80)).save(tmp_path / "none.png")
    (tmp_path / "text.png").write_text("x")
    files = [tmp_path / name for name in ("none.png", "two.png", "text.png")]
    table = predictor.predict(files, detect=Detection(margin=0.25))
    assert [Path(name).name for name in table.name] == ["none.png", "two.png", "two.png", "text.png"]
    assert [bool(error) for error in table.error] == [True, False, False, True]
    assert table.error[0] == WITHOUT_FACE
    boxes = find_faces(picture)
    assert table.boxes.tolist() == [[-1] * 4, *map(list, boxes), [-1] * 4]
    assert {box.x < 320 for box in boxes} == {True, False}
    assert same(predictor.predict([crop(picture, box, 0.25) for box in boxes]), table, slice(1, 3), atol=1e-6)
    assert list(table.columns())[:5] == ["file", "x", "y", "width", "height"]
    # As a dataset that is prepared so keeps the largest, and as training then sees it.
    (tmp_path / "kept.png").write_bytes(crop_largest((tmp_path / "two.png").read_bytes()))
    largest = predictor.predict([tmp_path / "two.png"], detect=Detection())
    assert same(predictor.predict([tmp_path / "kept.png"]), largest, slice(1), atol=1e-6)


@pytest.fixture
def face(tmp_path: Path) -> tuple[Path, np.ndarray]:
    """A picture with a face and room around it, as a file, and its pixels."""
    only = generate_face(np.random.default_rng(0), age=30, gender=0)
    picture = np.pad(only, ((60, 60), (60, 60), (0, 0)), "edge")
    Image.fromarray(picture).save(tmp_path / "face.png")
    return tmp_path / "face.png", picture


def test_a_run_of_cut_faces_is_shown_cut_faces(
    cropped: Path, predictor: Predictor, face: tuple[Path, np.ndarray]
) -> None:
    path, picture = face
    of_faces = Predictor.load(cropped)
    assert predictor.model.detection is None
    assert of_faces.model.detection == Detection()
    (box,) = find_faces(picture)
    shown = predictor.predict([crop(picture, box)])
    assert same(of_faces.predict([path, picture]), shown, [0, 0], atol=1e-6)
    assert same(of_faces.predict([path], detect=False), predictor.predict([path]))
    assert same(predictor.predict([path], detect=True), shown, atol=1e-6)
    assert not same(predictor.predict([path]), shown, atol=1e-4)


def test_one_picture_that_cannot_be_searched_is_named(
    predictor: Predictor, face: tuple[Path, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = face

    def find(image: np.ndarray, least: int) -> list[Any]:
        if image.shape == (9, 9, 3):
            raise cv2.error("OpenCV(4.0) resize.cpp:1: error:\n (-4) no memory")
        return find_faces(image, least)

    monkeypatch.setattr("agegender_jax.data.detect.find_faces", find)
    table = predictor.predict([path, np.zeros((9, 9, 3), np.uint8), path], detect=True)
    assert "error: (-4) no memory" in table.error[1]
    assert table.error[::2] == ("", "")


def test_of_many_faces_the_largest_are_predicted(
    predictor: Predictor, face: tuple[Path, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_FACES", 1)
    both = np.concatenate([face[1], face[1][:, ::-1]], axis=1)
    table = predictor.predict([both, face[0]], detect=True)
    assert [bool(error) for error in table.error] == [False, True, False]
    assert table.boxes[0].tolist() == list(find_faces(both)[0])
    assert table.boxes[1].tolist() == [-1] * 4


@pytest.fixture(scope="module")
def listener(voices: tuple[LoadedModel, Path, Path]) -> tuple[Predictor, Path]:
    """A run on voices, and these."""
    return Predictor(voices[0]), voices[1]


def test_recordings_have_the_run_s_metrics_to_the_last_bit(listener: tuple[Predictor, Path]) -> None:
    predictor, folder = listener
    kept = read_predictions(predictor.model.run.directory / NAME).of("test")
    paths = {path.name: path for path in folder.rglob("*.wav")}
    files = [paths[Path(key).name] for key in kept.key.tolist()]
    table = predictor.predict(files)
    for name, values in kept.distributions.items():
        np.testing.assert_array_equal(table.distributions[name], values)
    assert set(table.targets["class_name"].prediction) <= {*predictor.heads["class_name"].names}  # type: ignore


@pytest.mark.parametrize("kind", ["int16", "float32", "float64"])
def test_waveforms_are_heard_as_files_are(kind: str, listener: tuple[Predictor, Path]) -> None:
    predictor, folder = listener
    path = next(folder.rglob("*.wav"))
    wave, rate = soundfile.read(io.BytesIO(path.read_bytes()), dtype=kind)
    table = predictor.predict([wave, path], rate=rate)
    for values in table.distributions.values():
        np.testing.assert_array_equal(values[0], values[1])
    assert not same(predictor.predict([wave], rate=rate // 2), table, slice(1))  # the rate is heard


def test_what_is_no_recording_is_a_sentence(listener: tuple[Predictor, Path]) -> None:
    predictor, _ = listener
    with pytest.raises(UserError, match="at 0 Hz"):
        predictor.predict([np.zeros(9, np.float32)])
    with pytest.raises(UserError, match="uint8"):
        predictor.predict([np.zeros((9, 9, 3), np.uint8)], rate=8000)
    with pytest.raises(UserError, match="detection"):
        predictor.predict([], detect=Detection())
    table = predictor.predict([np.full(900, np.nan, np.float32)], rate=8000)
    assert table.error[0]


def test_another_way_to_make_spectrograms_is_refused(listener: tuple[Predictor, Path], tmp_path: Path) -> None:
    shutil.copytree(listener[0].model.run.directory, tmp_path / "run")
    metadata = json.loads((tmp_path / "run" / "run.json").read_text())
    metadata["spectrogram"] |= {"hop": 3}
    (tmp_path / "run" / "run.json").write_text(json.dumps(metadata))
    with pytest.raises(UserError, match="spectrogram"):
        Predictor.load(tmp_path / "run")
