"""The streamed feed: the resident one's batches, decoded ahead, in bounded memory; and which of the two is chosen."""

import os
import shutil
import tarfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh
from ml_collections import ConfigDict

from agegender_jax import recipe as recipes
from agegender_jax.data import resident, stream
from agegender_jax.data.dataset import open_dataset
from agegender_jax.data.decode_image import decode_image
from agegender_jax.data.decode_pool import DecodePool
from agegender_jax.data.examples import Dataset
from agegender_jax.data.loader import DeviceLoader, make_loader
from agegender_jax.data.preprocess import ImagePreprocessor
from agegender_jax.data.sampler import BatchSampler
from agegender_jax.data.source import COLUMNS, Prepared, Source, locate
from agegender_jax.errors import UserError
from agegender_jax.mesh import by_batch, replicated
from agegender_jax.synthetic.voices import SPEAKER_PATTERN, write_voices

SIZE, BATCH, STEPS = 32, 8, 3  # pixels, examples in a batch, batches in a dispatch
ROWS = np.arange(5, 70)  # to train on


def sized(size: int = SIZE, **compute: Any) -> ConfigDict:
    recipe = recipes.base()
    recipe.dataset.update(name="utkface", image_size=size)
    recipe.compute.update(**compute)
    return recipe


@pytest.fixture
def streamed(prepared: Prepared, data_dir: Path) -> Dataset:
    return stream.load(prepared, ImagePreprocessor(sized()), data_dir / "cache", progress=False)


@pytest.fixture(scope="module")
def pixels(synthetic_dir: Path) -> dict[str, np.ndarray]:
    """Every file of the archive by name, decoded: read with the standard library alone."""
    with tarfile.open(synthetic_dir / "UTKFace.tar.gz") as tar:
        files = {Path(i.name).name: file.read() for i in tar if (file := tar.extractfile(i)) is not None}
    return {name: decode_image(content, SIZE) for name, content in files.items()}


def mesh_of(devices: int, model: int = 1) -> Mesh:
    shape, types = (devices // model, model), (AxisType.Auto, AxisType.Auto)
    return jax.make_mesh(shape, ("data", "model"), axis_types=types, devices=jax.devices()[:devices])


def training(examples: Dataset, mesh: Mesh, last: int = 100) -> DeviceLoader:
    labels = {"age": examples.columns["age"]}
    return make_loader(examples, mesh, labels, BatchSampler(ROWS, BATCH, seed=3), last)


def different(dispatch: int) -> int:
    """How many different examples a dispatch has: where an epoch ends in it, one may come twice."""
    return len(np.unique(BatchSampler(ROWS, BATCH, seed=3).batches(dispatch * STEPS, STEPS)))


class Read:
    """Notes whose content is read, to be decoded then, and may damage one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, keys: np.ndarray, bad: str = "") -> None:
        self.names: list[str] = []
        contents = Source.contents

        def noted(source: Source, rows: Sequence[int]) -> list[bytes]:
            names = keys[rows].tolist()
            self.names += names
            found = contents(source, rows)
            return [b"" if name == bad else content for name, content in zip(names, found, strict=True)]

        monkeypatch.setattr(Source, "contents", noted)

    def after(self, count: int) -> int:
        """How many there are some time after there were so many."""
        until = time.monotonic() + 60
        while len(self.names) < count and time.monotonic() < until:
            time.sleep(0.01)
        time.sleep(0.3)
        return len(self.names)


def count_decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The places of what is decoded from now on."""
    found: list[int] = []
    decode = DecodePool.decode

    def noted(workers: DecodePool, read: Any, places: np.ndarray, *rest: Any) -> None:
        found.extend(places.tolist())
        decode(workers, read, places, *rest)

    monkeypatch.setattr(DecodePool, "decode", noted)
    return found


# ---------------------------------------------------------------------------------------- content and columns


def test_content_is_decoded_as_it_is_asked_for(streamed: Dataset, pixels: dict[str, np.ndarray]) -> None:
    everything = np.stack([pixels[key] for key in streamed.columns["key"].tolist()])
    assert len(streamed) == len(everything) == 160
    shuffled = np.random.default_rng(0).permutation(160)
    asked: list[Any] = [
        7, -1, slice(150, None), np.arange(0), shuffled, shuffled.reshape(4, 8, 5), np.array([[3, 9], [9, 3]])
    ]  # fmt: skip
    for rows in asked:
        found = streamed.content[rows]
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found, everything[rows])


def test_what_is_asked_for_twice_is_decoded_once(streamed: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    read = Read(monkeypatch, streamed.columns["key"])
    found = streamed.content[np.array([4, 2, 4, 4])]
    keys = streamed.columns["key"]
    assert sorted(read.names) == sorted([keys[2], keys[4]])
    np.testing.assert_array_equal(found[0], found[3])
    assert (found[0] != found[1]).any()


def test_columns_are_those_of_the_resident_dataset(prepared: Prepared, streamed: Dataset, tmp_path: Path) -> None:
    other = resident.load(prepared, ImagePreprocessor(sized()), tmp_path, progress=False)
    for name in COLUMNS:
        np.testing.assert_array_equal(streamed.columns[name], other.columns[name])
        assert streamed.columns[name].dtype == other.columns[name].dtype
    assert (streamed.sha256, streamed.terms, len(streamed)) == (other.sha256, other.terms, len(other))


def test_recordings_are_streamed_too(tmp_path: Path) -> None:
    write_voices(tmp_path / "in", classes=("female_20", "male_60"), speakers_per_class=2, recordings_per_speaker=2,
                 seed=1, rate=8000)  # fmt: skip
    opened = {}
    for wanted in ("stream", "resident"):
        recipe = sized(feed=wanted)
        recipe.dataset.update(name="voice_age_gender", speaker_pattern=SPEAKER_PATTERN)
        examples = open_dataset(recipe, manual_dir=tmp_path / "in", data_dir=tmp_path / "data", progress=False)[1]
        opened[wanted] = examples.ready()
    found, expected = opened["stream"].content[np.arange(8)], opened["resident"].content[np.arange(8)]
    assert found.dtype == np.int16
    np.testing.assert_array_equal(found, expected)
    assert expected.std() > 100


def test_a_damaged_record_is_a_sentence(prepared: Prepared, tmp_path: Path) -> None:
    folder = shutil.copytree(prepared.directory, tmp_path / "utkface" / "1.1.0")
    copied = locate("utkface", manual_dir=None, data_dir=tmp_path)
    examples = stream.load(copied, ImagePreprocessor(sized()), tmp_path / "cache", progress=False)
    record = next(folder.glob("*.array_record*"))
    content = bytearray(record.read_bytes())
    content[len(content) // 3 : len(content) // 3 + 5000] = bytes(5000)
    record.write_bytes(content)
    with pytest.raises(UserError, match=f"{folder}: this prepared dataset cannot be read") as caught:
        examples.content[np.arange(160)]
    assert "\n" not in str(caught.value)


def test_columns_are_read_once_without_decoding(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DecodePool, "decode", lambda *_: pytest.fail("an example was decoded"))
    first = stream.load(prepared, ImagePreprocessor(sized()), tmp_path, progress=False)
    monkeypatch.setattr(Source, "__getitem__", lambda *_: pytest.fail("an example was read"))
    second = stream.load(prepared, ImagePreprocessor(sized(48)), tmp_path, progress=False)  # of any size
    np.testing.assert_array_equal(first.columns["sha256"], second.columns["sha256"])
    (cache,) = tmp_path.iterdir()
    assert sum(path.stat().st_size for path in cache.iterdir()) < 100_000


@pytest.mark.parametrize("damaged", ["columns.npz", "meta.json"])
def test_damaged_columns_are_read_again(prepared: Prepared, tmp_path: Path, warnings: list[str], damaged: str) -> None:
    first = stream.load(prepared, ImagePreprocessor(sized()), tmp_path, progress=False)
    (cache,) = tmp_path.iterdir()
    os.truncate(cache / damaged, 50)
    again = stream.load(prepared, ImagePreprocessor(sized()), tmp_path, progress=False)
    assert len(warnings) == 1
    assert "damaged" in warnings[0]
    assert again.sha256 == first.sha256
    stream.load(prepared, ImagePreprocessor(sized()), tmp_path, progress=False)
    assert len(warnings) == 1


def test_open_dataset_decodes_nothing_where_it_is_to_stream(
    synthetic_dir: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = count_decoded(monkeypatch)
    _, examples, _ = open_dataset(
        sized(33, loader="stream"), manual_dir=synthetic_dir, data_dir=data_dir, progress=False
    )
    assert isinstance(examples.content, stream.LazyContent)
    assert examples.feed.startswith("stream")
    assert decoded == []


def test_open_dataset_reads_no_content_before_it_is_ready(
    synthetic_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, warnings: list[str]
) -> None:
    options: dict[str, Any] = {"manual_dir": synthetic_dir, "data_dir": tmp_path, "progress": False}
    decoded = count_decoded(monkeypatch)
    _, first, _ = open_dataset(sized(), **options)
    assert first.feed.startswith("resident")
    assert not first.streamed
    assert decoded == []
    ready = first.ready()
    assert isinstance(ready.content, np.ndarray)
    assert ready.feed == first.feed
    assert len(decoded) == 160
    expected = np.array(ready.content)  # it is the file, which is damaged below
    # With a cache nothing is read but its columns: no other cache, not the dataset, not the content.
    shutil.rmtree(next((tmp_path / "cache").glob("*-columns-*")))
    content = next((tmp_path / "cache").glob("*/content.npy"))
    damaged = bytearray(content.read_bytes())
    damaged[-9] ^= 1
    content.write_bytes(damaged)
    with monkeypatch.context() as patch:
        patch.setattr(Prepared, "open", lambda _: pytest.fail("the examples were opened"))
        _, second, _ = open_dataset(sized(), **options)
    assert second.sha256 == first.sha256
    assert warnings == []
    np.testing.assert_array_equal(second.ready().content, expected)
    assert len(warnings) == 1
    assert "is damaged" in warnings[0]
    assert len(decoded) == 320


def test_content_may_be_had_before_all_is_ready(
    synthetic_dir: Path, data_dir: Path, pixels: dict[str, np.ndarray]
) -> None:
    examples = open_dataset(sized(), manual_dir=synthetic_dir, data_dir=data_dir, progress=False)[1]
    np.testing.assert_array_equal(examples.content[3], pixels[examples.columns["key"][3]])


# ---------------------------------------------------------------------------------------- batches


@pytest.mark.parametrize(("devices", "model"), [(1, 1), (8, 1), (4, 2)])
def test_batches_are_those_of_the_order(
    streamed: Dataset, pixels: dict[str, np.ndarray], devices: int, model: int
) -> None:
    """Over the end of an epoch, going on, jumping back, and in dispatches of another length."""
    mesh, keys = mesh_of(devices, model), streamed.columns["key"]
    source = training(streamed, mesh)
    assert set(source.data) == {"labels"}
    np.testing.assert_array_equal(source.data["labels"]["age"], streamed.columns["age"])
    order = BatchSampler(ROWS, BATCH, seed=3)
    for start, steps in [(0, 3), (3, 3), (6, 3), (9, 3), (3, 3), (6, 1), (7, 1), (99, 1), (98, 4)]:
        batches = source.batches(start, steps)
        rows = order.batches(start, steps)
        np.testing.assert_array_equal(batches["rows"], rows)
        np.testing.assert_array_equal(
            batches["content"], np.stack([pixels[k] for k in keys[rows.ravel()]]).reshape(steps, BATCH, SIZE, SIZE, 3)
        )
        assert batches["content"].dtype == np.uint8
        for array in batches.values():
            assert array.sharding.is_equivalent_to(by_batch(mesh, axis=1), array.ndim)
    source.close()


def test_an_evaluation_gets_the_rows_that_it_asks_for(streamed: Dataset, pixels: dict[str, np.ndarray]) -> None:
    mesh, keys = mesh_of(8), streamed.columns["key"]
    rows = np.random.default_rng(1).integers(0, 160, (5, 16))
    rows[-1, 3:] = 0  # padding
    found = list(make_loader(streamed, mesh).contents(rows))
    assert len(found) == 5
    for batch, wanted in zip(found, rows, strict=True):
        assert set(batch) == {"content"}
        assert batch["content"].sharding.is_equivalent_to(by_batch(mesh), 4)
        np.testing.assert_array_equal(batch["content"], np.stack([pixels[key] for key in keys[wanted]]))


def test_each_process_decodes_what_its_devices_hold(
    streamed: Dataset, pixels: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second half of the devices are taken for another process's."""
    mesh = mesh_of(8)
    sharding = by_batch(mesh, axis=1)
    mine = {device: sharding.devices_indices_map((2, 16))[device] for device in mesh.devices.ravel()[2:4]}

    class Half:
        def addressable_devices_indices_map(self, _: Any) -> Any:
            return mine

    pieces: list[np.ndarray] = []

    def make_array(shape: tuple[int, ...], _: Any, piece: Any) -> Any:
        assert shape == (2, 16, SIZE, SIZE, 3)
        pieces.extend(piece((*index, slice(None), slice(None), slice(None))) for index in mine.values())

    monkeypatch.setattr(jax, "make_array_from_callback", make_array)
    read = Read(monkeypatch, streamed.columns["key"])
    rows = np.arange(40, 72).reshape(2, 16)
    stream.put_content(streamed.content, rows, Half())  # type: ignore[arg-type]
    keys = streamed.columns["key"]
    assert sorted(read.names) == sorted(keys[rows[:, 4:8].ravel()])
    for piece, columns in zip(pieces, (slice(4, 6), slice(6, 8)), strict=True):
        wanted = [[pixels[key] for key in keys[row]] for row in rows[:, columns]]
        np.testing.assert_array_equal(piece, np.array(wanted))


def test_what_is_decoded_ahead_is_bounded(streamed: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    read = Read(monkeypatch, streamed.columns["key"])
    source = training(streamed, mesh_of(8))
    for dispatch in range(2):
        source.batches(dispatch * STEPS, STEPS)
        expected = sum(different(number) for number in range(dispatch + 1 + stream.AHEAD))
        assert read.after(expected) == expected
    source.close()
    source.close()


def test_nothing_is_decoded_after_the_last_step(streamed: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    read = Read(monkeypatch, streamed.columns["key"])
    source = training(streamed, mesh_of(8), last=2 * STEPS)
    source.batches(0, STEPS)
    source.batches(STEPS, STEPS)
    expected = different(0) + different(1)
    assert read.after(expected) == expected


def test_a_damaged_example_is_a_sentence_that_names_it(streamed: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = str(streamed.columns["key"][BatchSampler(ROWS, BATCH, seed=3).batches(4, 1)[0, 5]])
    Read(monkeypatch, streamed.columns["key"], bad)
    source = training(streamed, mesh_of(8))
    source.batches(0, STEPS)
    with pytest.raises(UserError, match=f"{bad}: is no image") as caught:
        source.batches(STEPS, STEPS)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=bad):
        list(make_loader(streamed, mesh_of(8)).contents(np.arange(160).reshape(10, 16)))


def test_labels_lie_on_every_device(streamed: Dataset) -> None:
    mesh = mesh_of(8)
    assert training(streamed, mesh).data["labels"]["age"].sharding.is_equivalent_to(replicated(mesh), 1)
