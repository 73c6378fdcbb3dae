"""The benchmark of the step, made tiny; and the same step for the peer."""

from collections.abc import Callable
from typing import Any

import pytest

from agegender_jax import recipe as recipes
from agegender_jax.errors import UserError
from benchmarks import step


@pytest.mark.usefixtures("tiny")
def test_smoke_without_a_peer(measured: Callable[..., Any]) -> None:
    rows = measured(step.main, "--no_peer")
    assert list(rows) == [
        "matrix product, 128x128 float32",
        "small_cnn:thin 32x32, batch 4, float32",
        "small_cnn:thin, share of peak",
    ]
    assert all(row["peer"] is None and row["ours"] > 0 for row in rows.values())
    product, rate, share = (row["ours"] for row in rows.values())
    assert share == pytest.approx(6 * (4 * 3 + 4 * 111) * rate / (product * 1e9), rel=1e-6)


def test_a_peer_that_is_not_installed_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert step.main(["--smoke", "--peer_python=/no/python"]) == 2
    assert "--peer_python=/no/python" in capsys.readouterr().err


def test_the_specification_has_the_layers() -> None:
    recipe = recipes.base()
    recipe.dataset.image_size = 64
    recipe.model.variant = "thin"
    spec = step.specification(recipe, {"gender": 2})
    assert spec["layout"]["blocks"][:2] == [[24, 3, 1, "SAME", (2, 2)], [48, 3, 1, "SAME", (2, 2)]]
    assert spec["layout"]["hidden"] == (512, 512)
    assert (spec["image_size"], spec["batch_size"], spec["dropout"], spec["dtype"]) == (64, 32, 0.5, "float32")


def test_nets_that_the_peer_lacks_are_refused() -> None:
    recipe = recipes.base()
    recipe.model.variant = "levi_hassner"
    with pytest.raises(UserError, match="--no_peer"):
        step.specification(recipe, {})
    recipe.model.update(backbone="resnet50", variant="v1")
    with pytest.raises(UserError, match="resnet50"):
        step.specification(recipe, {})
