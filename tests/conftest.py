"""Shared by all tests: eight simulated devices, a small synthetic dataset, small recipes."""

import contextlib
import dataclasses
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import jax
import pytest
from flax import nnx
from ml_collections import ConfigDict

from agegender_jax import recipe as recipes
from agegender_jax.evaluate.loaded import LoadedModel
from agegender_jax.models.backbones import BACKBONES
from agegender_jax.synthetic.faces import write_utkface_archive
from agegender_jax.synthetic.voices import SPEAKER_PATTERN, write_voices
from agegender_jax.train.loop import train_recipe

jax.config.update("jax_num_cpu_devices", 8)  # before the first use of a device
# Many programs in flight on eight devices of few cores can wait for each other's threads until XLA aborts.
jax.config.update("jax_cpu_enable_async_dispatch", False)


@pytest.fixture(scope="session", autouse=True)
def _compilation_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Compiles each program once in a test run: its workers and the commands that they start share a cache."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        folder = tmp_path_factory.getbasetemp()
        folder = (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "compiled"
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)
        jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    with pytest.MonkeyPatch.context() as patch:
        for module in ("compilation", "train.command"):
            patch.setattr(f"agegender_jax.{module}.cache_compilations", lambda: None)
        yield


@pytest.fixture(scope="session")
def synthetic_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manual directory with UTKFace.tar.gz of 160 synthetic faces. Read only."""
    directory = tmp_path_factory.mktemp("synthetic")
    write_utkface_archive(directory / "UTKFace.tar.gz", 160, seed=1)
    return directory


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the session's prepared data and caches lie, shared so that each is made once."""
    return tmp_path_factory.mktemp("data")


@pytest.fixture
def small_recipe() -> ConfigDict:
    """A recipe that trains in seconds: 32x32, the thin net, 16 examples a step, 4 steps a dispatch."""
    return _small_recipe()


def _small_recipe() -> ConfigDict:
    recipe = recipes.base()
    recipe.dataset.image_size = 32
    recipe.model.variant = "thin"
    recipe.optimizer.update(name="adamw", learning_rate=1e-3, schedule="cosine", warmup=0.1, weight_decay=0.01)
    recipe.train.update(batch_size=16, epochs=4.0, steps_per_dispatch=4, ema_decay=0.9)
    recipe.evaluate.update(batch_size=32, report=False)  # which takes longer than such a run
    return recipe


@dataclasses.dataclass(frozen=True)
class Finished:
    """A finished run, and the printed text."""

    workdir: Path
    manual_dir: Path
    data_dir: Path
    recipe: ConfigDict
    summary: dict[str, Any]
    printed: str


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> Finished:
    """A complete run on 600 synthetic faces, with flip-averaged metrics and class weights. Read only.

    Its learning rate is constant, so runs of fewer steps share its compiled step.
    """
    manual_dir = tmp_path_factory.mktemp("synthetic600")
    write_utkface_archive(manual_dir / "UTKFace.tar.gz", 600, seed=2)
    recipe = _small_recipe()
    recipe.optimizer.update(learning_rate=2e-3, schedule="constant", warmup=0.0)
    recipe.heads.age_group.class_weights = True
    recipe.train.update(batch_size=32, epochs=6.0)
    recipe.evaluate.update(every_epochs=2.0, flip=True)
    workdir = tmp_path_factory.mktemp("runs") / "finished"
    printed = io.StringIO()
    with contextlib.redirect_stderr(printed):
        summary = train_recipe(recipe, workdir, manual_dir=manual_dir, data_dir=data_dir, progress=False).to_dict()
    return Finished(workdir, manual_dir, data_dir, recipe, summary, printed.getvalue())


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real datasets beside the repository; tests that need it skip where it is absent."""
    path = Path(__file__).parents[2] / "shared" / "data"
    if not path.is_dir():
        pytest.skip(f"real data are not at {path}")
    return path


class Ear(nnx.Module):
    """One layer on the loudness of each band, which compiles in no time."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.dense = nnx.Linear(32, 4, rngs=rngs)
        self.embedding_size = 4

    def __call__(self, x: jax.Array, *, train: bool = False, rngs: nnx.Rngs | None = None) -> jax.Array:
        return self.dense(x.mean((2, 3)))


@pytest.fixture(scope="session")
def voices(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> tuple[LoadedModel, Path, Path]:
    """A run of two steps on a synthetic corpus with speakers, its manual directory, and another corpus'. Read only."""
    folder = tmp_path_factory.mktemp("voices")
    for name, seed in (("here", 1), ("there", 2)):
        write_voices(folder / name, speakers_per_class=3, recordings_per_speaker=2, seed=seed, rate=8000,
                     classes=("female_20", "male_20", "female_60", "male_60"))  # fmt: skip
    recipe = recipes.base()
    recipe.evaluate.report = False
    recipe.dataset.update(name="voice_age_gender", image_size=32, speaker_pattern=SPEAKER_PATTERN)
    recipe.split.update(stratify="class", folds=3)
    recipe.heads.class_name.weight = 1.0
    recipe.model.backbone = "cnn180"
    recipe.train.update(batch_size=8, epochs=0.01, steps_per_dispatch=2)
    recipe.evaluate.update(batch_size=8, select="class_name/accuracy")
    with pytest.MonkeyPatch.context() as patch:
        spec = dataclasses.replace(BACKBONES["cnn180"], build=lambda options, rngs: Ear(rngs))
        patch.setitem(BACKBONES, "cnn180", spec)  # type: ignore[arg-type]
        train_recipe(recipe, folder / "run", manual_dir=folder / "here", data_dir=data_dir, progress=False)
        return LoadedModel.load(folder / "run"), folder / "here", folder / "there"


class Tiny(nnx.Module):
    """One layer on the mean colour, which compiles in no time."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.dense = nnx.Linear(3, 4, rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.embedding_size = 4

    def __call__(self, x: jax.Array, *, train: bool = False, rngs: nnx.Rngs | None = None) -> jax.Array:
        return self.norm(self.dense(x.mean((1, 2))), use_running_average=not train)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """The small CNN is a net of 4 x 3 multiply-adds, and its heads have 4 x 111."""
    spec = dataclasses.replace(BACKBONES["small_cnn"], build=lambda options, rngs: Tiny(rngs))
    monkeypatch.setitem(BACKBONES, "small_cnn", spec)  # type: ignore[arg-type]
