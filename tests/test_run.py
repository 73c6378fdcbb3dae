"""A run's directory: begun once, gone on with by the same recipe alone, never half-written."""

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ml_collections import ConfigDict

from agegender_jax import recipe as recipes
from agegender_jax.errors import UserError
from agegender_jax.evaluate.loaded import trained_heads
from agegender_jax.run import Run


def test_start_makes_the_directory_and_keeps_the_recipe(tmp_path: Path, small_recipe: ConfigDict) -> None:
    directory = tmp_path / "runs" / "first"
    run = Run.start(directory, small_recipe)
    assert run.name == "first"
    assert [path.name for path in directory.iterdir()] == ["recipe.json"]
    assert recipes.differences(Run.load(directory).recipe, small_recipe) == []
    assert (run.metadata(), run.summary(), run.split(np.array(["a"]))) == ({}, None, None)


def test_start_refuses_another_recipe_and_shows_the_difference(tmp_path: Path, small_recipe: ConfigDict) -> None:
    Run.start(tmp_path, small_recipe)
    small_recipe.train.epochs = 8.0
    Run.start(tmp_path, small_recipe)  # nothing has been learned yet
    before = (tmp_path / "recipe.json").read_bytes()
    assert recipes.from_json(before.decode()).train.epochs == 8.0
    (tmp_path / "split.json").write_text("{}")
    small_recipe.train.epochs = 9.0
    with pytest.raises(UserError, match=r"train\.epochs"):
        Run.start(tmp_path, small_recipe)
    (tmp_path / "split.json").rename(tmp_path / "summary.json")  # complete, and its split is lost
    with pytest.raises(UserError, match=r"train\.epochs"):
        Run.start(tmp_path, small_recipe)
    assert (tmp_path / "recipe.json").read_bytes() == before


def test_a_run_goes_on_however_it_is_computed(tmp_path: Path, small_recipe: ConfigDict) -> None:
    Run.start(tmp_path, small_recipe)
    (tmp_path / "split.json").write_text("{}")
    before = (tmp_path / "recipe.json").read_bytes()
    small_recipe.compute.update(fsdp=True, model=2)
    run = Run.start(tmp_path, small_recipe)
    assert (run.recipe.compute.fsdp, run.recipe.compute.model) == (True, 2)
    assert (tmp_path / "recipe.json").read_bytes() == before
    small_recipe.train.microbatches = 2
    with pytest.raises(UserError, match=r"train\.microbatches"):
        Run.start(tmp_path, small_recipe)


def test_a_directory_without_a_run_is_named(tmp_path: Path, small_recipe: ConfigDict) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    for directory in (tmp_path, tmp_path / "thesis.tex", tmp_path / "thesis.tex" / "run"):
        with pytest.raises(UserError, match=str(directory)):
            Run.start(directory, small_recipe)
        with pytest.raises(UserError, match=str(directory)):
            Run.load(directory)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b'{"optimiser": 1}', b'{"train": {"epochs": "x"}}'])
def test_a_damaged_recipe_is_named(tmp_path: Path, small_recipe: ConfigDict, content: bytes) -> None:
    (tmp_path / "recipe.json").write_bytes(content)
    (tmp_path / "split.json").write_text("{}")
    for attempt in (lambda: Run.load(tmp_path), lambda: Run.start(tmp_path, small_recipe)):
        with pytest.raises(UserError, match=r"recipe\.json"):
            attempt()
    assert (tmp_path / "recipe.json").read_bytes() == content


@pytest.mark.parametrize("content", [b"", b'{"a": 1', b"[1]", b"3", b"\xff"])
def test_damaged_metadata_and_summaries_are_named(tmp_path: Path, small_recipe: ConfigDict, content: bytes) -> None:
    run = Run.start(tmp_path, small_recipe)
    for name, read in (("run.json", run.metadata), ("summary.json", run.summary)):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=name):
            read()


def test_the_heads_have_the_class_weights_of_training(tmp_path: Path, small_recipe: ConfigDict) -> None:
    run = Run.start(tmp_path, small_recipe)
    head = trained_heads(run)["age_group"]
    assert head.class_weights is None
    run.write("run.json", {"class_weights": {"age_group": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]}})
    head = trained_heads(run)["age_group"]
    weights = head.class_weights
    assert weights.dtype == np.float32
    np.testing.assert_array_equal(weights, np.arange(1, 9))


def test_a_full_disk_leaves_no_half_written_file(
    tmp_path: Path, small_recipe: ConfigDict, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", fail)
        with pytest.raises(UserError, match=str(tmp_path)):
            Run.start(tmp_path, small_recipe)
    assert list(tmp_path.iterdir()) == []
    run = Run.start(tmp_path, small_recipe)  # so the same command may be given again
    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", fail)
        with pytest.raises(UserError, match=r"summary\.json"):
            run.write("summary.json", {})
    assert run.summary() is None


def test_what_is_written_is_read(tmp_path: Path, small_recipe: ConfigDict) -> None:
    run = Run.start(tmp_path, small_recipe)
    content = {"test": {"age/mae": 5.25, "n": 3}, "name": "Größe", "none": None}
    run.write("summary.json", content | {"undefined": float("nan")})
    assert Run.start(tmp_path, small_recipe).summary() == content | {"undefined": None}
