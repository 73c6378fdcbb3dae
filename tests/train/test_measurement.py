"""What the best checkpoint is chosen by."""

import pytest

from agegender_jax.errors import UserError
from agegender_jax.train.measurement import selection_score


@pytest.mark.parametrize(
    ("name", "better", "worse"),
    [
        ("gender/accuracy", 0.9, 0.8),
        ("age_group/f1", 0.5, 0.4),
        ("age/cs5", 0.6, 0.5),
        ("age/mae", 4.0, 5.0),
        ("routed/predicted_mae", 4.0, 5.0),
        ("age/median_error", 3.0, 4.0),
        ("age/bias", -0.5, 2.0),
        ("age/bias", 0.5, -2.0),
    ],
)
def test_the_better_figure_is_the_greater_goodness(name: str, better: float, worse: float) -> None:
    assert selection_score(name, {name: better}) > selection_score(name, {name: worse})


def test_an_unknown_figure_is_a_sentence() -> None:
    with pytest.raises(UserError, match=r"config\.evaluate\.select='age/mea' is no figure; choose one of: age/mae\."):
        selection_score("age/mea", {"age/mae": 5.0})
