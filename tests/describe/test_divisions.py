"""What the protocols would do."""

from collections.abc import Callable

import numpy as np

from agegender_jax.describe.divisions import divisions, strata

Make = Callable[..., dict[str, np.ndarray]]


def test_what_is_stratified_by(columns: Make) -> None:
    assert strata(columns(2, age=[1, 2])) == ("age_group",)
    assert strata(columns(2)) == ("gender",)
    assert strata(columns(2, class_name=["male", "female"])) == ("gender", "class")


def test_disjoint_parts_share_nobody_and_the_leaky_ones_do(columns: Make) -> None:
    n = 200
    made = columns(n, age=np.arange(n) % 80, gender=np.arange(n) % 2, subject=np.arange(n) // 4)
    disjoint, paper = divisions(made, "nearest")
    assert (disjoint["protocol"], paper["protocol"]) == ("disjoint", "paper")
    for each in (disjoint, paper):
        assert sum(each["rows"].values()) == n
        assert len(each["sha256"]) == 64
    assert disjoint["subjects_in_several"] == disjoint["groups_in_several"] == 0
    assert sum(disjoint["subjects"].values()) == 50
    assert paper["subjects_in_several"] > 25  # of 50: all four rows of one part have odds of about 0.27
    assert sum(paper["subjects"].values()) > 50 + 25


def test_where_nobody_is_identified_subjects_are_not_counted(columns: Make) -> None:
    for each in divisions(columns(60, age=range(60)), "nearest"):
        assert each["subjects"] is None
        assert each["subjects_in_several"] is None


def test_published_folds_are_tested_on(columns: Make) -> None:
    n = 100
    *_, last = divisions(
        columns(n, age=np.arange(n) % 60, subject=np.arange(n) // 2, fold=np.arange(n) // 20), "nearest"
    )
    assert (last["protocol"], last["folds"], last["rows"]["test"]) == ("disjoint", 5, 20)


def test_a_refusal_is_told_and_not_raised(columns: Make) -> None:
    """One speaker a class: nobody can be in three parts."""
    n = 60
    names = np.where(np.arange(n) % 2, "male_20", "female_30")
    found = divisions(columns(n, class_name=names, gender=np.arange(n) % 2, subject=np.arange(n) % 2), "nearest")
    refused = {(each["protocol"], each["stratify"]) for each in found if "refused" in each}
    assert ("disjoint", "class") in refused
    assert ("paper", "class") not in refused
    assert any("male_20 (1)" in each.get("refused", "") for each in found)


def test_too_few_rows_are_told_too(columns: Make) -> None:
    assert all("at least three keys" in each["refused"] for each in divisions(columns(2, age=[1, 2]), "nearest"))
