"""Shared by all tests: eight simulated devices, a small synthetic dataset, small recipes."""

import contextlib
import dataclasses
import fcntl
import io
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import jax
import pytest
from absl import logging
from flax import nnx
from ml_collections import ConfigDict

from agegender_jax import recipe as recipes
from agegender_jax.evaluate.loaded import LoadedModel
from agegender_jax.mesh import make_mesh
from agegender_jax.models.backbones import BACKBONES
from agegender_jax.run import Run
from agegender_jax.synthetic.faces import write_utkface_archive
from agegender_jax.synthetic.voices import SPEAKER_PATTERN, write_voices
from agegender_jax.train.loop import train_recipe
from tests.runs import two_devices

jax.config.update("jax_num_cpu_devices", 8)  # before the first use of a device
# Many programs in flight on eight devices of few cores can wait for each other's threads until XLA aborts.
jax.config.update("jax_cpu_enable_async_dispatch", False)


@pytest.fixture(scope="session")
def shared_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all processes of a test run share."""
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


def make_once(folder: Path, make: Callable[[Path], object]) -> Path:
    """Makes a folder by the first process that asks for it, while the others wait; returns the folder."""
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.with_suffix(".made").exists():
            shutil.rmtree(folder, ignore_errors=True)  # of a process that failed
            folder.mkdir()
            make(folder)
            folder.with_suffix(".made").touch()
    return folder


@pytest.fixture(scope="session", autouse=True)
def _compile_little(shared_dir: Path) -> Iterator[None]:
    """Compiles each program once in a test run, and whole runs for two devices, which takes half as long as for eight.

    The processes of a test run and the commands that they start share a cache of compiled programs.
    """
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(shared_dir / "compiled")
        jax.config.update("jax_compilation_cache_dir", str(shared_dir / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    with pytest.MonkeyPatch.context() as patch:
        for module in ("compilation", "train.command"):
            patch.setattr(f"agegender_jax.{module}.cache_compilations", lambda: None)
        for module in ("train.setup", "evaluate.loaded"):
            patch.setattr(f"agegender_jax.{module}.make_mesh", two_devices)
        yield


@pytest.fixture
def eight_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole runs use all eight devices."""
    for module in ("train.setup", "evaluate.loaded"):
        monkeypatch.setattr(f"agegender_jax.{module}.make_mesh", make_mesh)


@pytest.fixture(scope="session")
def synthetic_dir(shared_dir: Path) -> Path:
    """A manual directory with UTKFace.tar.gz of 160 synthetic faces. Read only."""
    return make_once(shared_dir / "synthetic", lambda at: write_utkface_archive(at / "UTKFace.tar.gz", 160, seed=1))


@pytest.fixture(scope="session")
def data_dir(shared_dir: Path) -> Path:
    """Where prepared data and caches lie, shared so that each is made once."""
    return make_once(shared_dir / "data", lambda at: None)


@pytest.fixture(scope="session")
def synthetic(synthetic_dir: Path, data_dir: Path) -> dict[str, Any]:
    """Where the synthetic faces are, as `train_recipe` and `build_setup` take it."""
    return {"manual_dir": synthetic_dir, "data_dir": data_dir, "progress": False}


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

    @property
    def options(self) -> dict[str, Any]:
        """Where its data are, as `train_recipe` and `build_setup` take it."""
        return {"manual_dir": self.manual_dir, "data_dir": self.data_dir, "progress": False}


@pytest.fixture(scope="session")
def finished(shared_dir: Path, data_dir: Path) -> Finished:
    """A complete run on 600 synthetic faces, with flip-averaged metrics and class weights. Read only.

    Its learning rate is constant, so runs of fewer steps share its compiled step.
    """
    recipe = _small_recipe()
    recipe.optimizer.update(learning_rate=2e-3, schedule="constant", warmup=0.0)
    recipe.heads.age_group.class_weights = True
    recipe.model.dropout = 0.2
    recipe.train.update(batch_size=32, epochs=4.0)
    recipe.evaluate.update(every_epochs=2.0, flip=True)

    def train(folder: Path) -> None:
        (folder / "manual").mkdir()
        write_utkface_archive(folder / "manual" / "UTKFace.tar.gz", 600, seed=2)
        options: dict[str, Any] = {"data_dir": data_dir, "progress": False}
        printed = io.StringIO()
        with contextlib.redirect_stderr(printed):
            summary = train_recipe(recipe, folder / "finished", manual_dir=folder / "manual", **options)
        (folder / "summary.json").write_text(json.dumps(summary.to_dict()))
        (folder / "printed.txt").write_text(printed.getvalue())

    folder = make_once(shared_dir / "finished", train)
    summary = json.loads((folder / "summary.json").read_text())
    printed = (folder / "printed.txt").read_text()
    return Finished(folder / "finished", folder / "manual", data_dir, recipe, summary, printed)


@pytest.fixture(scope="session")
def loaded(finished: Finished) -> LoadedModel:
    """The finished run's model. Read only."""
    return LoadedModel.load(finished.workdir)


@pytest.fixture(scope="session")
def moved(finished: Finished, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The finished run without its data, split and predictions. Read only."""
    ignored = shutil.ignore_patterns("split.json", "seen_sha256.txt", "predictions.npz")
    run = Run.load(shutil.copytree(finished.workdir, tmp_path_factory.mktemp("moved") / "run", ignore=ignored))
    run.write("run.json", {**run.metadata(), "manual_dir": "/nowhere", "data_dir": "/nowhere"})
    return run.directory


@pytest.fixture(scope="session")
def cropped(finished: Finished, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The finished run as if its data had been cut out by the detector. Read only."""
    run = Run.load(shutil.copytree(finished.workdir, tmp_path_factory.mktemp("cropped") / "run"))
    run.recipe.dataset.crop = "haar"
    (run.directory / "recipe.json").write_text(recipes.to_json(run.recipe))
    return run.directory


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real datasets beside the repository; tests that need it skip where it is absent."""
    path = Path(__file__).parents[2] / "shared" / "data"
    if not path.is_dir():
        pytest.skip(f"real data are not at {path}")
    return path


@pytest.fixture
def warnings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The warnings that are logged."""
    logged: list[str] = []
    monkeypatch.setattr(logging, "warning", lambda text, *args: logged.append(text % args))
    return logged


class Ear(nnx.Module):
    """One layer on the loudness of each band, which compiles in no time."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.dense = nnx.Linear(32, 4, rngs=rngs)
        self.embedding_size = 4

    def __call__(self, x: jax.Array, *, train: bool = False, rngs: nnx.Rngs | None = None) -> jax.Array:
        return self.dense(x.mean((2, 3)))


@pytest.fixture(scope="session")
def voices(shared_dir: Path, data_dir: Path) -> tuple[LoadedModel, Path, Path]:
    """A run of two steps on a synthetic corpus with speakers, its manual directory, and another corpus'. Read only."""
    recipe = recipes.base()
    recipe.evaluate.report = False
    recipe.dataset.update(name="voice_age_gender", image_size=32, speaker_pattern=SPEAKER_PATTERN)
    recipe.split.update(stratify="class", folds=3)
    recipe.heads.class_name.weight = 1.0
    recipe.model.backbone = "cnn180"
    recipe.train.update(batch_size=8, epochs=0.01, steps_per_dispatch=2)
    recipe.evaluate.update(batch_size=8, select="class_name/accuracy")

    def train(folder: Path) -> None:
        for name, seed in (("here", 1), ("there", 2)):
            write_voices(folder / name, speakers_per_class=3, recordings_per_speaker=2, seed=seed, rate=8000,
                         classes=("female_20", "male_20", "female_60", "male_60"))  # fmt: skip
        train_recipe(recipe, folder / "run", manual_dir=folder / "here", data_dir=data_dir, progress=False)

    with pytest.MonkeyPatch.context() as patch:
        spec = dataclasses.replace(BACKBONES["cnn180"], build=lambda options, rngs: Ear(rngs))
        patch.setitem(BACKBONES, "cnn180", spec)  # type: ignore[arg-type]
        folder = make_once(shared_dir / "voices", train)
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
