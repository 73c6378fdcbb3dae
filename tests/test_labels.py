"""Age groups against ages worked out by hand and published counts; class weights against scikit-learn."""

import math
import tarfile
from pathlib import Path

import numpy as np
import pytest
from sklearn.utils.class_weight import compute_class_weight

from agegender_jax.errors import UserError
from agegender_jax.labels import AGE_GROUPS, UNKNOWN, AgeGroups, age_groups, class_weights

UTKFACE = Path(__file__).resolve().parents[2] / "shared" / "data" / "utkface" / "UTKFace.tar.gz"

# Counts on the 23,705 labelled faces of UTKFace (aligned and cropped), from an independent count of the file names.
PUBLISHED = {
    "nearest": [1894, 739, 861, 2124, 9489, 2987, 2473, 3138],
    "lower": [1894, 739, 1018, 3252, 8980, 2534, 2600, 2688],
    "upper": [1605, 889, 1000, 1383, 8798, 3879, 2156, 3995],
    "five_year": [
        2167, 895, 589, 942, 2310, 5034, 2290, 2246, 1181, 1064, 1345, 954,
        730, 586, 373, 326, 237, 267, 102, 35, 14, 5, 6, 7,
    ],
}  # fmt: skip
ADIENCE_NAMES = ("0-2", "4-6", "8-12", "15-20", "25-32", "38-43", "48-53", "60+")


@pytest.mark.parametrize(
    ("scheme", "ages", "groups"),
    [
        # An edge belongs to the younger group; half way between 12 and 15 is 13.5.
        ("nearest", [0, 0.5, 3, 3.01, 7, 7.5, 13, 13.5, 13.6, 14], [0, 0, 0, 1, 1, 2, 2, 2, 3, 3]),
        ("nearest", [22, 22.5, 23, 35, 35.1, 36, 45, 45.5, 46, 56, 56.5, 57, 116],
         [3, 3, 4, 4, 5, 5, 5, 5, 6, 6, 6, 7, 7]),
        ("lower", [0, 3, 3.9, 4, 7, 8, 14, 14.9, 15, 24, 25, 37, 38, 47, 48, 59, 60],
         [0, 0, 0, 1, 1, 2, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7]),
        ("upper", [0, 2, 2.9, 3, 6, 7, 13, 14, 20, 21, 32, 33, 43, 44, 53, 54, 116],
         [0, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7]),
        ("literal", [0, 2, 2.9, 3, 4, 6.5, 7, 8, 12.9, 13, 14, 15, 20, 21, 24, 25],
         [0, 0, 0, -1, 1, 1, -1, 2, 2, -1, -1, 3, 3, -1, -1, 4]),
        ("literal", [32, 33, 37, 38, 43, 44, 47, 48, 53, 54, 59, 59.9, 60, 116],
         [4, -1, -1, 5, 5, -1, -1, 6, 6, -1, -1, -1, 7, 7]),
        ("five_year", [0, 4, 4.9, 5, 26, 115, 119, 119.9, 120], [0, 0, 0, 1, 5, 23, 23, 23, -1]),
    ],
)  # fmt: skip
def test_ages_at_and_between_the_edges(scheme, ages, groups):
    assigned = AGE_GROUPS[scheme].assign(np.array(ages))
    assert assigned.dtype == np.int32
    assert assigned.tolist() == groups


def test_nearest_is_the_group_at_the_least_distance():
    spans = [(0, 2), (4, 6), (8, 12), (15, 20), (25, 32), (38, 43), (48, 53), (60, 116)]
    for age in range(117):
        distances = [max(low - age, age - high, 0) for low, high in spans]
        assert AGE_GROUPS["nearest"].assign(age) == distances.index(min(distances)), age


@pytest.mark.parametrize("scheme", AGE_GROUPS)
def test_unknown_and_impossible_ages_have_no_group(scheme):
    ages = np.array([[math.nan, math.inf], [-math.inf, -0.5]], np.float32)
    assert AGE_GROUPS[scheme].assign(ages).tolist() == [[UNKNOWN, UNKNOWN], [UNKNOWN, UNKNOWN]]


def test_names_of_groups():
    assert AGE_GROUPS["nearest"].names == AGE_GROUPS["literal"].names == ADIENCE_NAMES
    assert AGE_GROUPS["lower"].names == ("0-3", "4-7", "8-14", "15-24", "25-37", "38-47", "48-59", "60+")
    assert AGE_GROUPS["upper"].names == ("0-2", "3-6", "7-13", "14-20", "21-32", "33-43", "44-53", "54+")
    assert len(AGE_GROUPS["five_year"]) == 24
    assert AGE_GROUPS["five_year"].names[0] == "0-4"
    assert AGE_GROUPS["five_year"].names[-1] == "115-119"
    assert all(name == scheme.name for name, scheme in AGE_GROUPS.items())


def test_an_unknown_scheme_is_refused_and_the_known_ones_are_listed():
    assert age_groups("lower") is AGE_GROUPS["lower"]
    with pytest.raises(UserError, match=r"'decades'.*nearest, lower, upper, literal, levi_hassner, five_year"):
        age_groups("decades")


@pytest.mark.parametrize(("lower", "upper"), [((0, 5), (6, 10)), ((5, 0), (10, 5)), ((0,), (5, 10)), ((), ())], ids=str)
def test_bounds_that_make_no_scheme_are_refused(lower, upper):
    with pytest.raises(ValueError, match="'mine'"):
        AgeGroups("mine", ("a", "b")[: len(lower)], lower, upper, "")


def test_class_weights_equal_scikit_learns_balanced():
    labels = np.random.RandomState(0).choice(8, size=500, p=[0.01, 0.02, 0.05, 0.07, 0.4, 0.25, 0.1, 0.1])
    weights = class_weights(labels, 8)
    assert weights.dtype == np.float32
    np.testing.assert_allclose(weights, compute_class_weight("balanced", classes=np.arange(8), y=labels), rtol=1e-6)


def test_class_weights_of_utkface():
    labels = np.repeat(np.arange(8), PUBLISHED["nearest"])
    # 23705 / (8 m_i) with pencil and paper.
    np.testing.assert_allclose(class_weights(labels, 8), [1.56, 4.01, 3.44, 1.40, 0.31, 0.99, 1.20, 0.94], atol=0.005)


def test_class_weights_leave_out_unknown_labels_and_absent_classes():
    weights = class_weights(np.array([0, 0, 0, 2, -1, -1]), 4)
    # Two classes occur, m = (3, 1), mean 2.
    np.testing.assert_allclose(weights, [2 / 3, 0, 2, 0], rtol=1e-6)
    assert 3 * weights[0] + weights[2] == pytest.approx(4)


@pytest.mark.parametrize("labels", [[], [-1, -1], [0, 3], [0, -2]], ids=str)
def test_class_weights_refuse_labels_that_make_no_sense(labels):
    with pytest.raises(UserError, match=r"[Cc]lass weights"):
        class_weights(np.array(labels, int), 3)


@pytest.fixture(scope="module")
def utkface_ages():
    if not UTKFACE.exists():
        pytest.skip(f"needs the UTKFace archive at {UTKFACE}")
    with tarfile.open(UTKFACE) as archive:
        return np.array([int(Path(member.name).name.split("_")[0]) for member in archive if member.isfile()])


@pytest.mark.parametrize("scheme", PUBLISHED)
def test_real_ages_fall_as_published(utkface_ages, scheme):
    published = np.array(PUBLISHED[scheme])
    n, total = len(utkface_ages), published.sum()
    assert total == 23705
    groups = AGE_GROUPS[scheme].assign(utkface_ages)
    assert groups.min() >= 0
    counts = np.bincount(groups, minlength=len(published))
    assert (counts <= published).all()
    # The archive at hand may hold a part of the 23,705 files: a draw without replacement, so hypergeometric.
    share = published / total
    deviation = np.sqrt(n * share * (1 - share) * (total - n) / (total - 1))
    assert (np.abs(counts - n * share) <= 4 * deviation + 1).all(), counts


def test_published_groups_leave_29_5_percent_of_real_ages_without_one(utkface_ages):
    share = (AGE_GROUPS["literal"].assign(utkface_ages) >= 0).mean()
    assert share == pytest.approx(16716 / 23705, abs=0.005)
