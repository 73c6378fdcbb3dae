"""Training and measuring from a stream: the same bits as from a resident dataset, going on included."""

import contextlib
import dataclasses
import io
import os
import signal
import tarfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from agegender_jax import recipe as recipes
from agegender_jax.data.dataset import ResidentDataset
from agegender_jax.data.loader import StreamingLoader, make_loader
from agegender_jax.data.sampler import BatchSampler
from agegender_jax.data.source import Source
from agegender_jax.errors import Preempted, UserError
from agegender_jax.evaluate.evaluate_run import evaluate_runs
from agegender_jax.evaluate.features import read_features, write_features
from agegender_jax.evaluate.loaded import LoadedModel
from agegender_jax.mesh import replicated
from agegender_jax.models.backbones.small_cnn import VARIANTS, ConvBlock, Variant
from agegender_jax.recipe_options import train_options
from agegender_jax.run import Run
from agegender_jax.train import evaluation
from agegender_jax.train.loop import train_recipe
from agegender_jax.train.optimizer import make_optimizer
from agegender_jax.train.setup import build_setup
from agegender_jax.train.state import initial_state
from agegender_jax.train.step import jit_train_steps
from tests.runs import assert_same_bits, mesh_of, steps_of


@pytest.fixture(scope="module", autouse=True)
def _tiny_net() -> Iterator[None]:
    """Two convolutions, which compile quickly, with batch normalisation and dropout."""
    with pytest.MonkeyPatch.context() as patch:
        blocks = (ConvBlock(8, pool=(4, 4)), ConvBlock(16, pool=(2, 2)))
        patch.setitem(VARIANTS, "tiny", Variant(blocks, hidden=(16,)))
        yield


def make_recipe(feed: str) -> ConfigDict:
    """24 steps in over three epochs, evaluated every 8, with all that is random: augmentation, dropout."""
    recipe = recipes.base()
    recipe.evaluate.report = False
    recipe.dataset.image_size = 32
    recipe.model.variant = "tiny"
    recipe.optimizer.update(learning_rate=1e-3)
    recipe.augment.update(flip=True, shift=0.1, brightness=0.1, contrast=0.1, erase=0.2)
    recipe.train.update(batch_size=16, epochs=3.5, steps_per_dispatch=4, ema_decay=0.9)
    recipe.evaluate.update(batch_size=32, every_epochs=1.2, flip=True)
    recipe.compute.loader = feed
    return recipe


@dataclasses.dataclass
class Two:
    """Two runs of one recipe: resident, and streamed, which was stopped after step 12 and went on."""

    resident: Path
    streamed: Path
    streamed_summary: dict[str, Any]
    stopped_at: int
    printed: str


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, synthetic: dict[str, Any]) -> Two:
    folder, printed = tmp_path_factory.mktemp("runs"), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(printed):
        patch.setattr(evaluation, "_write_images", lambda *_: None)
        train_recipe(make_recipe("resident"), folder / "resident", **synthetic)
        batches, asked = StreamingLoader.train_batches, 0

        def counted(self: Any, step: int, steps: int) -> Any:
            nonlocal asked
            asked += 1
            if asked == 3:
                os.kill(os.getpid(), signal.SIGTERM)
            return batches(self, step, steps)

        patch.setattr(StreamingLoader, "train_batches", counted)
        with pytest.raises(Preempted):
            train_recipe(make_recipe("stream"), folder / "streamed", **synthetic)
    stopped_at = steps_of(folder / "streamed")[-1]
    summary = train_recipe(make_recipe("stream"), folder / "streamed", **synthetic).to_dict()
    return Two(folder / "resident", folder / "streamed", summary, stopped_at, printed.getvalue())


@pytest.mark.slow
def test_a_streamed_run_that_was_stopped_ends_in_the_bits_of_the_resident_one(two: Two) -> None:
    """On two devices; the stop is between two evaluations."""
    assert two.stopped_at == 12
    assert steps_of(two.streamed)[-1] == 24
    assert_same_bits(two.streamed, two.resident)


def test_their_metrics_are_the_same(two: Two) -> None:
    expected = Run.load(two.resident).summary()
    for part in ("test", "validation", "baseline"):
        assert two.streamed_summary[part] == expected[part]
    assert two.streamed_summary["data_sha256"] == expected["data_sha256"]


def test_what_is_chosen_is_said(two: Two) -> None:
    assert "\nLoading: stream (0.00 GB decoded, 50% of the memory that is free for each device is " in two.printed
    assert "bytes of decoded examples on all devices and" in two.printed


def test_a_streamed_run_is_measured_from_a_stream(two: Two, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its metrics and embeddings, with nothing resident."""
    resident_run, run = LoadedModel.load(two.resident), LoadedModel.load(two.streamed)
    write_features(resident_run, tmp_path / "resident.npz", progress=False)
    monkeypatch.setattr(ResidentDataset, "decode_all", lambda *_, **__: pytest.fail("all is decoded"))
    assert evaluate_runs(run, progress=False)["test"] == two.streamed_summary["test"]
    write_features(run, tmp_path / "streamed.npz", progress=False)
    mine, its = (read_features(tmp_path / f"{name}.npz") for name in ("streamed", "resident"))
    np.testing.assert_array_equal(mine.embedding, its.embedding)
    np.testing.assert_array_equal(mine.key, its.key)


@pytest.mark.slow
def test_one_device_finds_the_same_bits_in_both_feeds(synthetic: dict[str, Any]) -> None:
    mesh = mesh_of(1)
    ended = []
    for feed in ("resident", "stream"):
        recipe = make_recipe(feed)
        setup = build_setup(recipe, **synthetic)
        optimizer = make_optimizer(train_options(recipe).optimizer, 8, 10.0)
        shapes = [setup.model.params, setup.model.stats]
        # Not the model's own values: their initialisation takes longer to compile than all the rest.
        params, stats = jax.tree.map(
            lambda leaf: np.linspace(0, 0.1, leaf.size, dtype=leaf.dtype).reshape(leaf.shape), shapes
        )
        begin = partial(initial_state, optimizer=optimizer, average=True)
        state = jax.jit(begin, out_shardings=replicated(mesh))(params, stats)
        steps = jit_train_steps(
            setup.model.graphdef, setup.heads, optimizer, train_options(recipe), setup.preprocessor, mesh
        )
        order = BatchSampler(setup.split.train, 16, recipe.seed)
        source = make_loader(setup.dataset, mesh, setup.labels, order, 8)
        with jax.set_mesh(mesh):
            for step in (0, 4):
                state, metrics = steps(state, source.data, source.train_batches(step, 4))
        source.close()
        assert np.isfinite(metrics["loss"]).all()
        ended.append([np.asarray(leaf) for leaf in jax.tree.leaves((state, metrics))])
    for a, b in zip(*ended, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_damaged_picture_ends_a_streamed_run_in_a_sentence(
    synthetic: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = make_recipe("stream")
    setup = build_setup(recipe, **synthetic)
    bad = str(setup.dataset.columns["key"][BatchSampler(setup.split.train, 16, recipe.seed).batches(5, 1)[0, 3]])

    contents = Source.contents

    def damaged(source: Source, rows: Sequence[int]) -> list[bytes]:
        names = setup.dataset.columns["key"][rows]
        return [b"\xff\xd8" if n == bad else c for n, c in zip(names, contents(source, rows), strict=True)]

    monkeypatch.setattr(Source, "contents", damaged)
    with pytest.raises(UserError, match=f"{bad}: is no image that can be decoded") as caught:
        train_recipe(recipe, tmp_path / "run", **synthetic)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_damaged_picture_that_is_decoded_first_leaves_no_trace_in_the_run(
    synthetic_dir: Path, tmp_path: Path
) -> None:
    """Once the file is mended the same command works, though its data are then others."""
    folder = tmp_path / "in" / "UTKFace"
    folder.mkdir(parents=True)
    with tarfile.open(synthetic_dir / "UTKFace.tar.gz") as tar:
        for member in tar:
            if member.isfile() and (file := tar.extractfile(member)):
                (folder / Path(member.name).name).write_bytes(file.read())
    picture = sorted(folder.iterdir())[70]
    sound = picture.read_bytes()
    damaged = sound.replace(b"\xff\xdb", b"\xff\xfe")  # its tables of quantization are comments now: none is left
    assert damaged != sound
    picture.write_bytes(damaged)
    recipe = make_recipe("resident")
    recipe.train.epochs = 0.4
    options: dict[str, Any] = {"manual_dir": tmp_path / "in", "data_dir": tmp_path / "data", "progress": False}
    with pytest.raises(UserError, match=f"{picture.name}: is no image that can be decoded"):
        train_recipe(recipe, tmp_path / "run", **options)
    assert {path.name for path in (tmp_path / "run").iterdir()} & {"split.json", "run.json", "seen_sha256.txt"} == set()
    picture.write_bytes(sound)
    assert train_recipe(recipe, tmp_path / "run", **options).to_dict()["steps"] == 4
    assert (tmp_path / "run" / "split.json").exists()
