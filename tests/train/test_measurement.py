"""What the best checkpoint is chosen by."""

import pytest

from agegender_jax.errors import UserError
from agegender_jax.labels import AGE_GROUPS
from agegender_jax.models.heads import AgeGroupHead, AgeYearsHead, GenderHead, Head
from agegender_jax.train.measurement import selection_metric, selection_score

HEADS: dict[str, Head] = {
    "gender": GenderHead(),
    "age_group": AgeGroupHead(scheme=AGE_GROUPS["nearest"]),
    "age": AgeYearsHead(),
}


@pytest.mark.parametrize(
    ("name", "better", "worse"),
    [
        ("gender/accuracy", 0.9, 0.8),
        ("age_group/f1", 0.5, 0.4),
        ("age/cs5", 0.6, 0.5),
        ("age/mae", 4.0, 5.0),
        ("age/median_error", 3.0, 4.0),
    ],
)
def test_the_better_metric_is_the_greater_score(name: str, better: float, worse: float) -> None:
    assert selection_score(name, HEADS, {name: better}) > selection_score(name, HEADS, {name: worse})


@pytest.mark.parametrize("name", ["age/mea", "race/accuracy", "n", "gender/n", "age/n", "age/bias", "accuracy", ""])
def test_what_cannot_choose_a_checkpoint_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=r"config\.evaluate\.select"):
        selection_metric(name, HEADS)
