"""Pictures of maps: what is written, and what is refused before anything is."""

import csv
import dataclasses
import io
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy.stats import spearmanr

from agegender_jax import recipe as recipes
from agegender_jax.errors import UserError
from agegender_jax.evaluate import explain
from agegender_jax.evaluate.evaluate_run import open_data
from agegender_jax.evaluate.explain import MAX_COUNT, SIDE, export, prediction_text, saliency_sheet
from agegender_jax.evaluate.loaded import LoadedModel, trained_heads
from agegender_jax.evaluate.saliency import Explained, Explainer
from agegender_jax.models.backbones.attention import VARIANTS, Variant
from agegender_jax.models.model import define_model
from agegender_jax.recipe_options import model_options
from agegender_jax.run import Run
from agegender_jax.synthetic.faces import generate_face
from tfds_builders.faces import crop_largest


@pytest.fixture(scope="module")
def explainer(loaded: LoadedModel) -> Explainer:
    return Explainer(loaded)


@pytest.fixture(scope="module")
def attentive(finished: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoadedModel]:
    """The finished run with another net, one small attention module whose parameters are random, not learned."""
    with pytest.MonkeyPatch.context() as patch:
        tiny = Variant(8, (8, 16), (1,), outer_units=0, trunk_units=1, last_units=1, residual=18)
        patch.setitem(VARIANTS, "tiny", tiny)  # type: ignore[arg-type]
        folder = tmp_path_factory.mktemp("attentive") / "run"
        shutil.copytree(finished.workdir, folder, ignore=shutil.ignore_patterns("checkpoints", "tensorboard"))
        run = Run.load(folder)
        run.recipe.model.update(backbone="residual_attention", variant="tiny", dropout=0.5)
        run.recipe.evaluate.update(batch_size=8, flip=False)
        (folder / "recipe.json").write_text(recipes.to_json(run.recipe))
        model = define_model(model_options(run.recipe), trained_heads(run))
        shapes = [model.params, model.stats]
        random = np.random.default_rng(0)
        params, stats = jax.tree.map(lambda leaf: jnp.asarray(random.uniform(0, 0.2, leaf.shape), leaf.dtype), shapes)
        checkpoints = run.checkpoints()
        checkpoints.save(finished.summary["evaluated_step"], {"model": (params, stats)})
        checkpoints.close()
        yield LoadedModel.load(folder)


@pytest.fixture
def faces(loaded: LoadedModel, tmp_path: Path) -> list[Path]:
    """Three of the run's own examples as files."""
    content = open_data(loaded, progress=False).data.read(np.arange(3))
    paths = [tmp_path / f"face {number} $x_1$.png" for number in range(3)]
    for path, pixels in zip(paths, content, strict=True):
        Image.fromarray(pixels).save(path)
    return paths


def table(out: Path) -> list[dict[str, str]]:
    with open(out / "examples.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_files_are_shown_without_the_data_and_bad_ones_are_left_out(
    moved: Path, explainer: Explainer, faces: list[Path], tmp_path: Path
) -> None:
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"\xff\xd8 no picture")
    out = tmp_path / "new" / "maps"
    files = [faces[0], bad, tmp_path / "missing.jpg", tmp_path, *faces[1:]]
    exported = export(LoadedModel.load(moved), out, files, progress=False)
    assert [path.name for path in sorted(out.iterdir())] == [
        *("001.png", "002.png", "003.png"),
        *("examples.csv", "sheet.png"),
    ]
    assert [path.name for path in out.parent.iterdir()] == ["maps"]
    assert (exported.count, exported.map_size, exported.terms) == (3, [(2, 2)], "")
    assert [sentence.split(": ")[0] for sentence in exported.skipped] == [
        str(path) for path in (bad, tmp_path / "missing.jpg", tmp_path)
    ]
    rows = table(out)
    assert [row["example"] for row in rows] == [str(path) for path in faces]
    content = np.stack([np.asarray(Image.open(path)) for path in faces])
    explained = explainer(content)
    for row, probability, predicted in zip(
        rows, explained.predictions["probability"], explained.predictions["class"], strict=True
    ):
        assert row["prediction"] == row["map_of"] == ("male", "female")[predicted]
        assert float(row["probability"]) == pytest.approx(probability[predicted], abs=1e-3)
    for number, pixels in enumerate(content, start=1):
        with Image.open(out / f"{number:03d}.png") as image:
            assert (image.mode, image.size) == ("RGB", (2 * SIDE, SIDE))
            shown = np.asarray(image.crop((0, 0, SIDE, SIDE)).resize((32, 32), Image.Resampling.BOX), float)
        assert np.abs(shown - pixels).mean() < 8


def test_examples_of_the_run_from_both_ends_of_a_part(loaded: LoadedModel, tmp_path: Path) -> None:
    exported = export(loaded, tmp_path / "out", count=3, split="validation", head="age", method="layer_cam")
    opened = open_data(loaded, progress=False)
    rows = table(tmp_path / "out")
    first, *_, last = opened.split.validation
    assert [rows[0]["example"], rows[-1]["example"]] == opened.data.columns["key"][[first, last]].tolist()
    assert {(row["method"], row["head"], row["probability"], row["map_of"]) for row in rows} == {
        ("layer_cam", "age", "", "")
    }
    assert all(0 < float(row["prediction"]) < 101 for row in rows)
    assert exported.terms == opened.data.terms
    assert not exported.synthetic  # its archive was given to it, as real ones are


def test_names_in_the_table_are_no_formulas_and_of_any_bytes(
    loaded: LoadedModel, faces: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = [Path("=1+1.png"), Path(os.fsdecode(b"\xe9.png"))]
    for name in names:
        shutil.copy(faces[0], name)
    assert export(loaded, tmp_path / "out", names, progress=False).count == 2
    assert [row["example"] for row in table(tmp_path / "out")] == ["'=1+1.png", "\\udce9.png"]


def test_a_run_of_cut_faces_is_shown_the_largest_face(loaded: LoadedModel, cropped: Path, tmp_path: Path) -> None:
    face = generate_face(np.random.default_rng(0), age=30, gender=0)
    photo, stored = np.pad(face, ((60, 60), (60, 60), (0, 0)), "edge"), io.BytesIO()
    Image.fromarray(photo).save(stored, "PNG")
    (tmp_path / "photo.png").write_bytes(stored.getvalue())
    (tmp_path / "face.png").write_bytes(crop_largest(stored.getvalue()))
    Image.new("RGB", (80, 80)).save(tmp_path / "none.png")
    exported = export(LoadedModel.load(cropped), tmp_path / "cut", [tmp_path / "photo.png", tmp_path / "none.png"])
    assert [sentence.split(":")[0] for sentence in exported.skipped] == [f"{tmp_path}/none.png"]
    export(loaded, tmp_path / "whole", [tmp_path / "face.png"])
    with Image.open(tmp_path / "cut" / "001.png") as one, Image.open(tmp_path / "whole" / "001.png") as other:
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))


def test_attention_changes_with_what_was_learned(attentive: LoadedModel) -> None:
    """The sanity check of Adebayo et al. (2018), of the masks."""
    content = open_data(attentive, progress=False).data.read(np.arange(8))
    explainer = Explainer(attentive, "attention")
    (before,) = explainer(content).maps
    params, stats = attentive.model_state
    random = np.random.default_rng(1)
    again = jax.tree.map(lambda leaf: jnp.asarray(random.uniform(-0.2, 0.2, leaf.shape), leaf.dtype), params)
    again = jax.device_put(again, jax.tree.map(lambda leaf: leaf.sharding, params))
    (after,) = Explainer(dataclasses.replace(attentive, model_state=(again, stats)), "attention")(content).maps
    pairs = zip(before.reshape(8, -1), after.reshape(8, -1), strict=True)
    assert np.mean([spearmanr(*pair)[0] for pair in pairs]) < 0.5


def test_attention_has_a_panel_a_stage_and_needs_no_head(attentive: LoadedModel, tmp_path: Path) -> None:
    exported = export(attentive, tmp_path / "out", count=9, method="attention", progress=False)
    assert exported.map_size == [(8, 8)]
    with Image.open(tmp_path / "out" / "009.png") as image:
        assert image.width == 2 * SIDE
    assert {row["map_of"] for row in table(tmp_path / "out")} == {""}
    content = open_data(attentive, progress=False).data.read(np.arange(9))  # batches of 8
    explainer = Explainer(attentive, "attention")
    (masks,) = explainer(content).maps
    assert ((masks > 0) & (masks < 1)).all()
    assert np.ptp(masks, axis=(1, 2)).min() > 0
    np.testing.assert_allclose(explainer(content[8:]).maps[0][0], masks[8], atol=1e-5)


def test_the_map_lies_over_the_image_from_0_to_its_highest_value(explainer: Explainer) -> None:
    maps = [np.array([[[0.0, 0], [0, 3]], [[0, 0], [0, 0]]])]
    explained = Explained({"class": np.zeros(2, int)}, None, maps)
    first, second = explain._panels(explainer, np.zeros((2, 64, 64, 3), np.uint8), explained)
    assert first[:16, SIDE : SIDE + 16].max() <= 2  # inferno begins at black
    assert first[-1, -1].tolist() == [126, 127, 82]  # and ends at (252, 254.6, 164.5), half of which is shown
    assert second.max() <= 2


def test_predictions_as_text(loaded: LoadedModel, explainer: Explainer) -> None:
    predictions = {"probability": np.array([[0.25, 0.75]], np.float32), "class": np.array([1])}
    assert prediction_text(explainer, Explained(predictions, np.array([1]), []), 0) == "female 0.75"
    assert "male 0.25" in prediction_text(explainer, Explained(predictions, np.array([0]), []), 0)
    age = Explainer(loaded, head="age")
    assert prediction_text(age, Explained({"years": np.array([31.26])}, None, []), 0) == "age 31.3 years"


def test_a_sheet_for_a_report(loaded: LoadedModel) -> None:
    content = open_data(loaded, progress=False).data.read(np.arange(3))
    captions = ["two " * 40, "\u0000$three_$", ""]
    sheet = saliency_sheet(loaded, content, captions, method="layer_cam", head="gender", columns=2)
    assert (sheet.dtype, sheet.ndim) == (np.uint8, 3)
    height, width, _ = sheet.shape
    assert (sheet[height // 2 + 20 :, width // 2 + 20 :] == 255).all()  # the fourth place is empty
    assert (sheet < 100).any()


def test_what_cannot_be_shown_is_refused_and_leaves_nothing(
    loaded: LoadedModel, faces: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, text = tmp_path / "out", tmp_path / "text.jpg"
    text.write_text("none")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    before = {path.name for path in tmp_path.iterdir()}
    for options, name in (
        ({"count": 0}, "--count"),
        ({"files": [faces[0]] * (MAX_COUNT + 1)}, "101"),
        ({"files": faces, "split": "test"}, "--split"),
        ({"split": "best"}, "best"),
        ({"files": [text, tmp_path]}, "text.jpg"),
        ({"files": faces, "out": text}, "text.jpg"),
        ({"files": faces, "out": tmp_path / "full"}, "full"),
    ):
        with pytest.raises(UserError, match=name):
            export(loaded, **{"out": out, "progress": False, **options})  # type: ignore[arg-type]
    monkeypatch.setattr(explain, "grid_image", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(UserError, match=r"out: .*No space left"):
        export(loaded, out, faces, progress=False)
    assert {path.name for path in tmp_path.iterdir()} == before
