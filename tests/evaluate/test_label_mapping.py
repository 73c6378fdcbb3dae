"""A run's heads on a dataset that labels in another way."""

import numpy as np

from agegender_jax.evaluate.label_mapping import for_another_dataset, unmapped
from agegender_jax.labels import AGE_GROUPS
from agegender_jax.models.heads import AgeGroupHead, AgeYearsHead, ClassNameHead, GenderHead
from agegender_jax.models.heads.routing import route_by_gender

NAN = np.nan
ADIENCE = {  # as Adience annotates
    "age": np.array([NAN, NAN, 35, NAN, NAN], np.float32),
    "age_low": np.array([25, 27, 35, 8, NAN], np.float32),
    "age_high": np.array([32, 32, 35, 23, NAN], np.float32),
    "gender": np.array([0, 1, 2, -1, 1], np.int32),
    "class_name": np.array([""] * 5),
}
UTKFACE = {  # exact ages
    "age": np.array([1, 3, 30, 36, 99], np.float32),
    "age_low": np.array([1, 3, 30, 36, 99], np.float32),
    "age_high": np.array([1, 3, 30, 36, 99], np.float32),
    "gender": np.array([0, 1, 0, 1, 0], np.int32),
}


def test_a_head_of_utkface_takes_adience_s_ranges() -> None:
    head = AgeGroupHead(scheme=AGE_GROUPS["nearest"])
    assert for_another_dataset(head) is head
    # The middles are 28.5, 29.5, 35, 15.5: groups 25-32, 25-32, 25-32 (35 is its upper edge), 15-20.
    np.testing.assert_array_equal(head.column(ADIENCE), [4, 4, 4, 3, -1])


def test_a_head_of_adience_takes_exact_ages() -> None:
    head = AgeGroupHead(scheme=AGE_GROUPS["levi_hassner"])
    np.testing.assert_array_equal(head.column(UTKFACE), [-1] * 5)  # nobody is annotated in Adience's words
    np.testing.assert_array_equal(for_another_dataset(head).column(UTKFACE), [0, -1, 4, -1, 7])
    assert for_another_dataset(head).names == head.names


def test_heads_of_either_gender_are_counted_as_one() -> None:
    heads = route_by_gender({"gender": GenderHead(), "age_group": AgeGroupHead(scheme=AGE_GROUPS["literal"])})
    assert unmapped(heads, ADIENCE) == {
        "gender": {"count": 1, "annotated": 4, "commonest": {"undefined": 1}},
        "age_group": {"count": 2, "annotated": 4, "commonest": {"35": 1, "8-23": 1}},
    }


def test_a_kind_of_head_that_nothing_is_known_of_is_left_alone() -> None:
    class Other:
        only_gender = None

    assert unmapped({"other": Other()}, ADIENCE) == {}  # type: ignore[dict-item]
    other = Other()
    assert for_another_dataset(other) is other  # type: ignore[arg-type, comparison-overlap]


def test_what_has_no_class_is_counted_and_named() -> None:
    heads = {"gender": GenderHead(), "age_group": AgeGroupHead(scheme=AGE_GROUPS["literal"]), "age": AgeYearsHead()}
    assert unmapped(heads, ADIENCE) == {
        "gender": {"count": 1, "annotated": 4, "commonest": {"undefined": 1}},
        # 27-32 lies in 25-32; 35 lies between two groups, and 8-23 over several.
        "age_group": {"count": 2, "annotated": 4, "commonest": {"35": 1, "8-23": 1}},
        "age": {"count": 3, "annotated": 4, "commonest": {"25-32": 1, "27-32": 1, "8-23": 1}},
    }
    assert unmapped({"gender": GenderHead()}, UTKFACE) == {}


def test_classes_of_another_dataset_are_matched_by_name() -> None:
    head = ClassNameHead(names=("female_20", "male_30"))
    columns = ADIENCE | {"class_name": np.array(["male_30", "female_21", "", "female_20", "female_21"])}
    assert unmapped({"class_name": head}, columns) == {
        "class_name": {"count": 2, "annotated": 4, "commonest": {"female_21": 2}}
    }
