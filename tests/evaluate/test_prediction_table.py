"""Tables of predictions: by arithmetic on paper."""

import numpy as np
import pytest

from agegender_jax.evaluate.prediction_table import (
    AgePredictions,
    ClassPredictions,
    PredictionTable,
    concatenate,
    make_prediction_table,
)
from agegender_jax.labels import AGE_GROUPS
from agegender_jax.models.heads import AgeGroupHead, AgeYearsHead, GenderHead, Head
from agegender_jax.models.heads.routing import route_by_gender

NAN = float("nan")


def uniform(low: int, high: int) -> np.ndarray:
    """Ages from `low` to `high`, all as likely."""
    probability = np.zeros(101, np.float32)
    probability[low : high + 1] = 1 / (high + 1 - low)
    return probability


def make(heads: dict[str, Head], distributions: dict[str, np.ndarray], **options: float) -> PredictionTable:
    """A table of examples without errors."""
    count = len(next(iter(distributions.values())))
    return make_prediction_table(heads, distributions, list("abc")[:count], [""] * count, np.arange(count), **options)


def ages(table: PredictionTable, name: str = "age") -> AgePredictions:
    target = table.targets[name]
    assert isinstance(target, AgePredictions)
    return target


def classes(table: PredictionTable, name: str = "gender") -> ClassPredictions:
    target = table.targets[name]
    assert isinstance(target, ClassPredictions)
    return target


def test_rows_with_an_error_stay_in_their_place() -> None:
    heads = {"gender": GenderHead(), "age": AgeYearsHead()}
    distributions = {
        "gender": np.array([[0.75, 0.25], [0.125, 0.875]], np.float32),
        "age": np.stack([uniform(20, 39)] * 2),
    }
    table = make_prediction_table(heads, distributions, ["a", "b", "c"], ["", "broken", ""], np.array([0, 2]))
    assert (len(table), table.predicted) == (3, 2)
    gender, age = classes(table), ages(table)
    assert gender.prediction == ("male", None, "female")
    np.testing.assert_array_equal(gender.probability, np.float32([[0.75, 0.25], [NAN, NAN], [0.125, 0.875]]))
    # 20 to 39 spread evenly over 19.5 to 39.5: 5 % of 20 years is one year.
    np.testing.assert_allclose(age.years, [29.5, NAN, 29.5], rtol=1e-6)
    np.testing.assert_allclose(age.low, [20.5, NAN, 20.5], rtol=1e-6)
    np.testing.assert_allclose(age.high, [38.5, NAN, 38.5], rtol=1e-6)
    columns = table.columns()
    names = ["file", "gender", "gender_male", "gender_female", "age", "age_low", "age_high", "error"]
    assert list(columns) == names
    assert columns["error"].tolist() == [None, "broken", None]
    assert columns["gender_female"].dtype == np.float32


def test_the_level_is_the_share_between() -> None:
    age = ages(make({"age": AgeYearsHead()}, {"age": uniform(0, 99)[None]}, level=0.5))
    np.testing.assert_allclose([age.low[0], age.high[0]], [24.5, 74.5], rtol=1e-5)


def test_a_regression_has_no_interval() -> None:
    age = ages(make({"age": AgeYearsHead(loss_name="l1")}, {"age": np.float32([[31.5]])}, abstain_wider=1))
    assert age.years.tolist() == [31.5]
    assert np.isnan([age.low[0], age.high[0]]).all()


@pytest.mark.parametrize(("below", "names"), [(0.0, ("male", "female")), (0.7, ("male", None)), (1.0, (None, None))])
def test_abstention_leaves_the_probabilities(below: float, names: tuple[str | None, ...]) -> None:
    distributions = {"gender": np.float32([[0.7, 0.3], [0.4, 0.6]])}
    distributions["gender"][0, 0] = np.nextafter(np.float32(0.7), np.float32(1))  # not the number below 0.7
    table = make({"gender": GenderHead()}, distributions, abstain_below=below)
    assert classes(table).prediction == names
    np.testing.assert_array_equal(classes(table).probability, distributions["gender"])
    assert table.predicted == 2  # no error


def test_an_age_is_left_out_where_its_interval_is_too_wide() -> None:
    """Of 20 and 40 years spread evenly the central 90 % are 18 and 36 wide."""
    distributions = {"age": np.stack([uniform(20, 39), uniform(20, 59)])}
    age = ages(make({"age": AgeYearsHead()}, distributions, abstain_wider=20))
    np.testing.assert_allclose(age.years, [29.5, NAN], rtol=1e-6)
    np.testing.assert_allclose(age.high - age.low, [18, 36], rtol=1e-5)


def test_an_ordinal_head_predicts_by_rank() -> None:
    probability = np.zeros((1, 8), np.float32)
    probability[0, [0, 3, 4]] = 0.4, 0.3, 0.3  # the likeliest is the first, the middle is the fourth
    head = AgeGroupHead(scheme=AGE_GROUPS["nearest"], loss_name="corn")
    # Abstention depends on the predicted class, not on the likeliest.
    for below, name in ((0.0, "15-20"), (0.25, "15-20"), (0.35, None)):
        table = make({"age_group": head}, {"age_group": probability}, abstain_below=below)
        assert classes(table, "age_group").prediction == (name,)


def test_a_routed_age_has_the_interval_of_the_predicted_gender_s_net() -> None:
    heads = route_by_gender({"gender": GenderHead(), "age": AgeYearsHead()})
    male, female = (np.tile(uniform(*ends), (2, 1)) for ends in ((10, 29), (50, 69)))
    distributions = {"gender": np.float32([[0.9, 0.1], [0.2, 0.8]]), "age_male": male, "age_female": female}
    table = make(heads, distributions)
    assert set(table.targets) == {*heads, "age_predicted", "age_soft"}
    age = ages(table, "age_predicted")
    np.testing.assert_allclose([age.low, age.years, age.high], [[10.5, 50.5], [19.5, 59.5], [28.5, 68.5]], rtol=1e-6)


def test_tables_are_joined_in_order() -> None:
    heads = {"gender": GenderHead(), "age": AgeYearsHead()}
    distributions = {
        "gender": np.float32([[0.75, 0.25], [0.5, 0.5], [0, 1]]),
        "age": np.stack([uniform(i, 90) for i in range(3)]),
    }
    boxes = np.arange(12, dtype=np.int32).reshape(3, 4)

    def some(rows: slice) -> PredictionTable:
        values = {name: values[rows] for name, values in distributions.items()}
        names = list("abc")[rows]
        good = np.arange(len(names))
        return make_prediction_table(heads, values, names, [""] * len(names), good, boxes=boxes[rows])

    joined, whole = concatenate([some(slice(0, 1)), some(slice(1, 3))]), some(slice(3))
    for column, values in joined.columns().items():
        np.testing.assert_array_equal(values, whole.columns()[column])
    np.testing.assert_array_equal(joined.distributions["age"], distributions["age"])
