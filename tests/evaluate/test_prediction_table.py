"""What a user reads of what the heads say: by arithmetic on paper."""

import numpy as np
import pytest

from agegender_jax.evaluate.prediction_table import AgePredictions, ClassPredictions, concatenate, make_prediction_table
from agegender_jax.labels import AGE_GROUPS
from agegender_jax.models.heads import AgeGroupHead, AgeYearsHead, GenderHead
from agegender_jax.models.heads.routing import route_by_gender

NAN = float("nan")


def uniform(low: int, high: int) -> np.ndarray:
    """Ages from `low` to `high`, all as likely."""
    probability = np.zeros(101, np.float32)
    probability[low : high + 1] = 1 / (high + 1 - low)
    return probability


def test_rows_without_an_answer_stay_in_their_place() -> None:
    heads = {"gender": GenderHead(), "age": AgeYearsHead()}
    said = {"gender": np.array([[0.75, 0.25], [0.125, 0.875]], np.float32), "age": np.stack([uniform(20, 39)] * 2)}
    found = make_prediction_table(heads, said, ["a", "b", "c"], ["", "broken", ""], np.array([0, 2]))
    assert (len(found), found.answered) == (3, 2)
    gender, age = found.targets["gender"], found.targets["age"]
    assert isinstance(gender, ClassPredictions)
    assert isinstance(age, AgePredictions)
    assert gender.answer == ("male", None, "female")
    np.testing.assert_array_equal(gender.probability, np.float32([[0.75, 0.25], [NAN, NAN], [0.125, 0.875]]))
    # AgePredictions 20 to 39 spread evenly over 19.5 to 39.5: 5 % of 20 years is one year.
    np.testing.assert_allclose(age.years, [29.5, NAN, 29.5], rtol=1e-6)
    np.testing.assert_allclose(age.low, [20.5, NAN, 20.5], rtol=1e-6)
    np.testing.assert_allclose(age.high, [38.5, NAN, 38.5], rtol=1e-6)
    columns = found.columns()
    names = ["file", "gender", "gender_male", "gender_female", "age", "age_low", "age_high", "error"]
    assert list(columns) == names
    assert columns["error"].tolist() == [None, "broken", None]
    assert columns["gender_female"].dtype == np.float32


def test_the_level_is_the_share_between() -> None:
    said = {"age": uniform(0, 99)[None]}
    found = make_prediction_table({"age": AgeYearsHead()}, said, ["a"], [""], np.array([0]), level=0.5).targets["age"]
    assert isinstance(found, AgePredictions)
    np.testing.assert_allclose([found.low[0], found.high[0]], [24.5, 74.5], rtol=1e-5)


def test_a_regression_has_no_interval() -> None:
    said = {"age": np.float32([[31.5]])}
    found = make_prediction_table({"age": AgeYearsHead(loss_name="l1")}, said, ["a"], [""], np.array([0])).targets[
        "age"
    ]
    assert isinstance(found, AgePredictions)
    assert found.years.tolist() == [31.5]
    assert np.isnan([found.low[0], found.high[0]]).all()


@pytest.mark.parametrize(("below", "answer"), [(0.0, ("male", "female")), (0.7, ("male", None)), (1.0, (None, None))])
def test_abstention_leaves_the_probabilities(below: float, answer: tuple[str | None, ...]) -> None:
    said = {"gender": np.float32([[0.7, 0.3], [0.4, 0.6]])}
    said["gender"][0, 0] = np.nextafter(np.float32(0.7), np.float32(1))  # not the number below 0.7
    found = make_prediction_table(
        {"gender": GenderHead()}, said, ["a", "b"], ["", ""], np.arange(2), abstain_below=below
    )
    gender = found.targets["gender"]
    assert isinstance(gender, ClassPredictions)
    assert gender.answer == answer
    np.testing.assert_array_equal(gender.probability, said["gender"])
    assert found.answered == 2  # it was looked at


def test_an_age_is_left_out_where_its_interval_is_too_wide() -> None:
    """Of 20 and 40 years spread evenly the central 90 % are 18 and 36 wide; a regression has no width."""
    said = {"age": np.stack([uniform(20, 39), uniform(20, 59)])}
    found = make_prediction_table({"age": AgeYearsHead()}, said, ["a", "b"], ["", ""], np.arange(2), abstain_wider=20)
    age = found.targets["age"]
    assert isinstance(age, AgePredictions)
    np.testing.assert_allclose(age.years, [29.5, NAN], rtol=1e-6)
    np.testing.assert_allclose(age.high - age.low, [18, 36], rtol=1e-5)
    assert found.answered == 2  # it was looked at
    said = {"age": np.float32([[31.5]])}
    found = make_prediction_table(
        {"age": AgeYearsHead(loss_name="l1")}, said, ["a"], [""], np.array([0]), abstain_wider=1
    )
    assert found.columns()["age"].tolist() == [31.5]


def test_an_ordinal_head_answers_by_rank() -> None:
    probability = np.zeros((1, 8), np.float32)
    probability[0, [0, 3, 4]] = 0.4, 0.3, 0.3  # the likeliest is the first, the middle is the fourth
    head = AgeGroupHead(scheme=AGE_GROUPS["nearest"], loss_name="corn")
    found = make_prediction_table({"age_group": head}, {"age_group": probability}, ["a"], [""], np.array([0]))
    group = found.targets["age_group"]
    assert isinstance(group, ClassPredictions)
    assert group.answer == ("15-20",)
    # Whether it is answered depends on what would be answered, not on the likeliest.
    for below, answer in ((0.25, "15-20"), (0.35, None)):
        again = make_prediction_table(
            {"age_group": head}, {"age_group": probability}, ["a"], [""], np.array([0]), abstain_below=below
        )
        assert again.targets["age_group"].answer == (answer,)  # type: ignore[union-attr]


def test_a_routed_age_has_the_interval_of_the_predicted_gender_s_net() -> None:
    heads = route_by_gender({"gender": GenderHead(), "age": AgeYearsHead()})
    male, female = (np.tile(uniform(*ages), (2, 1)) for ages in ((10, 29), (50, 69)))
    distributions = {"gender": np.float32([[0.9, 0.1], [0.2, 0.8]]), "age_male": male, "age_female": female}
    table = make_prediction_table(heads, distributions, ["a", "b"], ["", ""], np.arange(2))
    assert set(table.targets) == {*heads, "age_predicted", "age_soft"}
    age = table.targets["age_predicted"]
    assert isinstance(age, AgePredictions)
    np.testing.assert_allclose([age.low, age.years, age.high], [[10.5, 50.5], [19.5, 59.5], [28.5, 68.5]], rtol=1e-6)


def test_parts_are_joined_in_order() -> None:
    heads = {"gender": GenderHead(), "age": AgeYearsHead()}
    said = {
        "gender": np.float32([[0.75, 0.25], [0.5, 0.5], [0, 1]]),
        "age": np.stack([uniform(i, 90) for i in range(3)]),
    }
    boxes = np.arange(12, dtype=np.int32).reshape(3, 4)
    whole = make_prediction_table(heads, said, list("abc"), [""] * 3, np.arange(3), boxes=boxes)
    parts = [
        make_prediction_table(
            heads,
            {name: values[some] for name, values in said.items()},
            list("abc")[some],
            [""] * count,
            np.arange(count),
            boxes=boxes[some],
        )
        for some, count in ((slice(0, 1), 1), (slice(1, 3), 2))
    ]
    for column, values in concatenate(parts).columns().items():
        np.testing.assert_array_equal(values, whole.columns()[column])
    np.testing.assert_array_equal(concatenate(parts).distributions["age"], said["age"])
