"""Exporting attention maps: what is written, and what is refused before anything is."""

import csv
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from PIL import Image

from agegender_jax import cli
from agegender_jax import recipe as recipes
from agegender_jax.errors import UserError
from agegender_jax.evaluate.attention import SIDE, attention_maps, export
from agegender_jax.evaluate.measure import open_run
from agegender_jax.models.attention import VARIANTS, Variant
from agegender_jax.models.model import model_structure
from agegender_jax.run import Run


@pytest.fixture(scope="module")
def attentive(finished: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """The finished run with another net, one small attention module whose parameters are drawn, not learned."""
    with pytest.MonkeyPatch.context() as patch:
        tiny = Variant(8, (8, 16), (1,), outer_units=0, trunk_units=1, last_units=1, residual=18)
        patch.setitem(VARIANTS, "tiny", tiny)  # type: ignore[arg-type]
        # One device: what eight of them add is tested elsewhere, and costs compile time.
        mesh = jax.make_mesh((1, 1), ("data", "model"), (AxisType.Auto,) * 2, devices=jax.devices()[:1])
        patch.setattr("agegender_jax.evaluate.measure.make_mesh", lambda: mesh)
        folder = tmp_path_factory.mktemp("attentive") / "run"
        shutil.copytree(finished.workdir, folder, ignore=shutil.ignore_patterns("checkpoints", "tensorboard"))
        run = Run.load(folder)
        run.recipe.model.update(backbone="residual_attention", variant="tiny")
        run.recipe.evaluate.batch_size = 8
        (folder / "recipe.json").write_text(recipes.to_json(run.recipe))
        _, *model = model_structure(run.recipe, run.heads())
        random = np.random.default_rng(0)
        params, stats = jax.tree.map(lambda leaf: jnp.asarray(random.uniform(0, 0.2, leaf.shape), leaf.dtype), model)
        checkpoints = run.checkpoints()
        checkpoints.save(finished.summary["evaluated_step"], {"params": params}, (params, stats), None)
        checkpoints.close()
        yield run


def test_a_picture_an_example_and_a_sheet(attentive: Run, tmp_path: Path) -> None:
    out = tmp_path / "new" / "maps"
    opened = export(attentive, out, count=3, progress=False)
    names = ["001.png", "002.png", "003.png"]
    assert [path.name for path in sorted(out.iterdir())] == [*names, "examples.csv", "sheet.png"]
    assert [path.name for path in out.parent.iterdir()] == ["maps"]
    assert opened.split is not None
    first, *_, last = opened.split.test
    with open(out / "examples.csv", encoding="utf-8", newline="") as file:
        (_, *pictures), (_, *keys) = zip(*csv.reader(file), strict=True)
    assert pictures == names
    assert [keys[0], keys[-1]] == opened.data.columns["key"][[first, last]].tolist()
    for name, row in (("001.png", first), ("003.png", last)):  # evenly spaced: both ends
        with Image.open(out / name) as image:
            assert (image.size, image.mode) == ((2 * SIDE, SIDE), "RGB")
            shown = np.asarray(image.crop((0, 0, SIDE, SIDE)).resize((32, 32), Image.Resampling.BOX), float)
        assert np.abs(shown - opened.data.content[row]).mean() < 8
    with Image.open(out / "sheet.png") as sheet:
        assert sheet.mode == "RGB"


def test_maps_are_means_of_masks_and_do_not_depend_on_the_batch(attentive: Run) -> None:
    opened = open_run(attentive, progress=False)
    content = np.asarray(opened.data.content[:9])  # batches of 8
    (found,) = attention_maps(opened, content)
    assert (found.shape, found.dtype) == ((9, 8, 8), np.float32)
    assert ((found > 0) & (found < 1)).all()
    assert np.ptp(found, axis=(1, 2)).min() > 0
    np.testing.assert_allclose(attention_maps(opened, content[8:])[0][0], found[8], atol=1e-5)


def test_the_command_writes_to_an_empty_folder_and_says_what_the_pictures_show(
    attentive: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agegender_jax.compilation.cache_compilations", lambda: None)  # the tests' own cache stays
    (tmp_path / "out").mkdir()
    arguments = ["attention", str(attentive.directory), "--out", str(tmp_path / "out"), "--count", "1"]
    assert cli.main([*arguments, "--split", "val"]) == 0
    assert (tmp_path / "out" / "001.png").exists()
    said = capsys.readouterr().out
    assert "sheet.png" in said
    assert "share them only as the dataset's terms allow" in said
    assert cli.main(arguments) == 2
    assert "out is not empty; choose another --out" in capsys.readouterr().err


def test_what_cannot_be_shown_is_refused_and_leaves_nothing(attentive: Run, tmp_path: Path) -> None:
    out, other = tmp_path / "out", Run.load(attentive.directory)
    other.recipe.model.update(backbone="small_cnn", variant="thin")
    with pytest.raises(UserError, match=r"has no attention to show: its backbone is small_cnn; give a run of"):
        export(other, out, progress=False)
    with pytest.raises(UserError, match="choose a --count from 1 to 100"):
        export(attentive, out, count=0, progress=False)
    with pytest.raises(UserError, match="There is no part 'best'; choose one of: train, validation, test, all"):
        export(attentive, out, split="best", progress=False)
    shutil.copytree(attentive.directory, tmp_path / "begun", ignore=shutil.ignore_patterns("summary.json"))
    with pytest.raises(UserError, match="begun is not complete"):
        export(Run.load(tmp_path / "begun"), out, progress=False)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match=r"file: is no folder to write to .*choose another --out"):
        export(attentive, tmp_path / "file", progress=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["begun", "file"]
