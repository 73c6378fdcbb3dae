"""Both loaders: the same batches, decoded ahead in bounded memory where they are streamed."""

import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

from agegender_jax.data import loader
from agegender_jax.data.dataset import (
    PREFETCH,
    DataOptions,
    Dataset,
    DatasetOptions,
    LoadingOptions,
    ResidentDataset,
    StreamedDataset,
    open_dataset,
    read_columns,
)
from agegender_jax.data.decode_image import decode_image
from agegender_jax.data.decode_pool import DecodePool
from agegender_jax.data.loader import DeviceLoader, make_loader
from agegender_jax.data.preprocess import ImagePreprocessor, PreprocessOptions
from agegender_jax.data.sampler import BatchSampler
from agegender_jax.data.source import Prepared, Source, locate
from agegender_jax.errors import UserError
from agegender_jax.mesh import by_batch, make_mesh, replicated
from agegender_jax.synthetic.voices import SPEAKER_PATTERN, write_voices
from tests.runs import mesh_of

SIZE, BATCH, STEPS = 32, 8, 3  # pixels, examples in a batch, batches in a dispatch
ROWS = np.arange(5, 70)  # to train on


@pytest.fixture(scope="module")
def pixels(members: dict[str, bytes]) -> dict[str, np.ndarray]:
    """Every file of the archive by name, decoded."""
    return {name: decode_image(content, SIZE) for name, content in members.items()}


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
            stored = contents(source, rows)
            return [b"" if name == bad else content for name, content in zip(names, stored, strict=True)]

        monkeypatch.setattr(Source, "contents", noted)

    def after(self, count: int) -> int:
        """Returns how many there are some time after there were so many."""
        until = time.monotonic() + 60
        while len(self.names) < count and time.monotonic() < until:
            time.sleep(0.01)
        time.sleep(0.3)
        return len(self.names)


def count_decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The places of what is decoded from now on."""
    decoded: list[int] = []
    decode = DecodePool.decode

    def noted(workers: DecodePool, read: Any, places: np.ndarray, *rest: Any) -> None:
        decoded.extend(places.tolist())
        decode(workers, read, places, *rest)

    monkeypatch.setattr(DecodePool, "decode", noted)
    return decoded


def test_examples_are_decoded_as_they_are_asked_for(
    streamed: Dataset, pixels: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = streamed.columns["key"]
    everything = np.stack([pixels[key] for key in keys.tolist()])
    assert len(streamed) == len(everything) == 160
    shuffled = np.random.default_rng(0).permutation(160)
    with streamed.reader() as reader:
        for rows in (np.arange(0), np.array(7), shuffled, shuffled.reshape(4, 8, 5)):
            decoded = reader.read(rows)
            assert decoded.dtype == np.uint8
            np.testing.assert_array_equal(decoded, everything[rows])
    with pytest.raises(ValueError, match="closed"):  # a thread that decodes ahead may be late
        reader.read(shuffled)
    # What is asked for twice is decoded once.
    read = Read(monkeypatch, keys)
    np.testing.assert_array_equal(streamed.read(np.array([4, 2, 4, 4])), everything[[4, 2, 4, 4]])
    assert sorted(read.names) == sorted([keys[2], keys[4]])


def test_recordings_are_streamed_too(tmp_path: Path) -> None:
    write_voices(tmp_path / "in", classes=("female_20", "male_60"), speakers_per_class=2, recordings_per_speaker=2,
                 seed=1, rate=8000)  # fmt: skip
    dataset = DatasetOptions("voice_age_gender", builder={"speaker_pattern": SPEAKER_PATTERN})
    streamed, resident = (
        open_dataset(
            DataOptions(dataset, PreprocessOptions(SIZE), LoadingOptions(choice)),
            manual_dir=tmp_path / "in", data_dir=tmp_path / "data", progress=False,
        ) for choice in ("stream", "resident")
    )  # fmt: skip
    assert isinstance(resident, ResidentDataset)
    decoded, expected = streamed.read(np.arange(8)), resident.decode_all(progress=False)
    assert decoded.dtype == np.int16
    np.testing.assert_array_equal(decoded, expected)
    assert expected.std() > 100


def test_a_damaged_record_is_named(prepared: Prepared, tmp_path: Path) -> None:
    folder = shutil.copytree(prepared.directory, tmp_path / "utkface" / "1.1.0")
    copied = locate("utkface", manual_dir=None, data_dir=tmp_path)
    columns = read_columns(copied, tmp_path / "cache", progress=False)
    dataset = StreamedDataset(copied, ImagePreprocessor(PreprocessOptions(SIZE)), *columns)
    record = next(folder.glob("*.array_record*"))
    content = bytearray(record.read_bytes())
    content[len(content) // 3 : len(content) // 3 + 5000] = bytes(5000)
    record.write_bytes(content)
    with pytest.raises(UserError, match=str(folder)) as caught:
        dataset.read(np.arange(160))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("choice", "kind"), [("stream", StreamedDataset), ("auto", ResidentDataset)])
def test_opening_decodes_nothing(
    synthetic_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, choice: str, kind: type
) -> None:
    decoded = count_decoded(monkeypatch)
    options = DataOptions(DatasetOptions("utkface"), PreprocessOptions(SIZE), LoadingOptions(choice))
    dataset = open_dataset(options, manual_dir=synthetic_dir, data_dir=tmp_path, progress=False)
    assert isinstance(dataset, kind)
    assert dataset.placement.startswith("stream" if choice == "stream" else "resident")
    assert decoded == []
    (cache,) = (tmp_path / "cache").iterdir()
    assert sum(path.stat().st_size for path in cache.iterdir()) < 100_000
    if isinstance(dataset, ResidentDataset):
        dataset.decode_all(progress=False)
        assert len(decoded) == 160


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
        batches = source.train_batches(start, steps)
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
    batches = list(make_loader(streamed, mesh).eval_batches(rows))
    assert len(batches) == 5
    for batch, wanted in zip(batches, rows, strict=True):
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
    loader.put_content(streamed.read, rows, Half())  # type: ignore[arg-type]
    keys = streamed.columns["key"]
    assert sorted(read.names) == sorted(keys[rows[:, 4:8].ravel()])
    for piece, columns in zip(pieces, (slice(4, 6), slice(6, 8)), strict=True):
        wanted = [[pixels[key] for key in keys[row]] for row in rows[:, columns]]
        np.testing.assert_array_equal(piece, np.array(wanted))


def test_what_is_decoded_ahead_is_bounded_and_ends_with_training(
    streamed: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = Read(monkeypatch, streamed.columns["key"])
    source = training(streamed, mesh_of(8), last=4 * STEPS)
    for dispatch in range(4):
        source.train_batches(dispatch * STEPS, STEPS)
        expected = sum(different(number) for number in range(min(4, dispatch + 1 + PREFETCH)))
        assert read.after(expected) == expected
    source.close()
    source.close()


def test_a_damaged_example_is_named(streamed: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = str(streamed.columns["key"][BatchSampler(ROWS, BATCH, seed=3).batches(4, 1)[0, 5]])
    Read(monkeypatch, streamed.columns["key"], bad)
    source = training(streamed, mesh_of(8))
    source.train_batches(0, STEPS)
    with pytest.raises(UserError, match=bad) as caught:
        source.train_batches(STEPS, STEPS)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=bad):
        list(make_loader(streamed, mesh_of(8)).eval_batches(np.arange(160).reshape(10, 16)))


def test_a_resident_dataset_lies_whole_on_every_device(
    resident: Callable[[int, Path], ResidentDataset], data_dir: Path, pixels: dict[str, np.ndarray]
) -> None:
    dataset, mesh = resident(SIZE, data_dir / "cache"), make_mesh()
    source = training(dataset, mesh)
    keys, content = dataset.columns["key"].tolist(), source.data["content"]
    assert content.sharding == source.data["labels"]["age"].sharding == replicated(mesh)
    assert content.dtype == np.uint8
    assert len(content.addressable_shards) == jax.device_count() == 8
    np.testing.assert_array_equal(content.addressable_shards[7].data, np.stack([pixels[key] for key in keys]))
    np.testing.assert_array_equal(source.data["labels"]["age"], dataset.columns["age"])
    batches, rows = source.train_batches(2, STEPS), BatchSampler(ROWS, BATCH, seed=3).batches(2, STEPS)
    assert batches.keys() == {"rows"}
    np.testing.assert_array_equal(batches["rows"], rows)
    np.testing.assert_array_equal(source.read(rows[0]), np.stack([pixels[keys[row]] for row in rows[0]]))
