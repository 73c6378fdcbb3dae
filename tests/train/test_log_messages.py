"""The lines that a training prints."""

import numpy as np
import pytest

from agegender_jax import recipe as recipes
from agegender_jax.train import log_messages


@pytest.mark.parametrize(("epochs", "total", "hint"), [
    (0.2, 20, True),  # 12.8 steps were asked for
    (8.0, 40, False),  # 512: cut short, and no other size of a dispatch would do
    (8.0, 520, False),
])  # fmt: skip
def test_blocks_of_steps_are_named_where_they_are_the_cause(epochs: float, total: int, hint: bool) -> None:
    recipe = recipes.base()
    recipe.train.update(epochs=epochs, batch_size=10, steps_per_dispatch=20)
    line = log_messages.model_message(recipe, {"kernel": np.zeros((2, 3))}, total, 640)
    assert line.startswith(f"model    small_cnn, 6 parameters; {total} steps of 10 ({total / 64:.1f} epochs")
    assert ("comes closest" in line) == hint
