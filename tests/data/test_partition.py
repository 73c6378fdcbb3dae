"""Splits of whole datasets: people, photographers and recordings stay together, and what cannot be is refused."""

import re
from typing import Any

import numpy as np
import pytest

from agegender_jax import recipe as recipes
from agegender_jax.data.partition import class_names, contradictions, split_dataset
from agegender_jax.errors import Refused, UserError
from agegender_jax.models.heads import build_heads
from agegender_jax.recipe_options import model_options
from agegender_jax.splits import PARTS
from agegender_jax.train.setup import selection_metric


def columns(n: int, **known: Any) -> dict[str, np.ndarray]:
    """A table of n rows in which nothing is known but what is given."""
    nowhere = np.full(n, -1)
    ages = np.full(n, np.nan, np.float32)
    table = {
        "key": np.array([f"{i:05d}" for i in range(n)]),
        "age": ages,
        "gender": nowhere,
        "race": nowhere,
        "subject": nowhere,
        "group": nowhere,
        "fold": nowhere,
        "class_name": np.full(n, ""),
        "sha256": np.array([f"content {i}" for i in range(n)]),
    } | {name: np.asarray(values) for name, values in known.items()}
    return {"age_low": table["age"], "age_high": table["age"]} | table


def divide(table: dict[str, np.ndarray], **options: Any) -> Any:
    """The split of the default recipe with other options."""
    return split_dataset(table, "nearest", **(recipes.base().split.to_dict() | options))


def speakers(per_class: int, clips: int, names: tuple[str, ...] = ("female_30", "male_40")) -> dict[str, np.ndarray]:
    """Classes of speakers with equally many recordings each."""
    subject = np.repeat(np.arange(len(names) * per_class), clips)
    label = np.repeat(names, per_class * clips)
    gender = np.array([int(name.startswith("female")) for name in label])
    return columns(len(subject), subject=subject, class_name=label, gender=gender)


def parts_of(split: Any, values: np.ndarray) -> list[set]:
    return [set(values[getattr(split, part)].tolist()) for part in PARTS]


@pytest.mark.parametrize("stratify", ["gender", "class"])
@pytest.mark.parametrize("folds", [0, 3])
def test_speakers_stay_whole_and_every_part_has_every_class(stratify: str, folds: int) -> None:
    table = speakers(5, 11)
    for fold in range(max(folds, 1)):
        split, _ = divide(table, stratify=stratify, folds=folds, fold=fold)
        train, validation, test = parts_of(split, table["subject"])
        assert not train & validation | train & test | validation & test
        assert all(part == {"female_30", "male_40"} for part in parts_of(split, table["class_name"]))
        assert split.report["groups_in_several_parts"] == 0


def test_the_folds_test_each_speaker_once() -> None:
    table = speakers(10, 7)
    tested = [parts_of(divide(table, stratify="gender", folds=5, fold=f)[0], table["subject"])[2]
              for f in range(5)]  # fmt: skip
    assert sorted(speaker for part in tested for speaker in part) == list(range(20))
    assert all(len(part) == 4 for part in tested)  # 10 of each gender in 5 folds: 2 and 2


def test_a_class_of_two_speakers_is_refused_with_the_ways_out() -> None:
    table = speakers(2, 9)
    with pytest.raises(Refused) as caught:
        divide(table, stratify="class")
    message = str(caught.value)
    for part in ("female_30 (2), male_40 (2)", "at least 3", "--config.split.protocol=paper"):
        assert part in message
    assert "\n" not in message
    leaky, _ = divide(table, stratify="class", protocol="paper")
    assert leaky.report["groups_in_several_parts"] == 4
    with pytest.raises(Refused, match=r"female \(4\).*--config\.split\.folds=4"):
        divide(speakers(4, 9), stratify="gender", folds=5)
    divide(speakers(4, 9), stratify="gender", folds=4)
    assert class_names(columns(30)) == ()
    with pytest.raises(UserError, match=r"config\.split\.stratify"):
        divide(columns(30), stratify="class")


@pytest.mark.parametrize("way", [0, 1])
def test_the_ways_out_are_recipes_that_pass(way: int) -> None:
    with pytest.raises(Refused) as caught:
        divide(speakers(2, 9), stratify="class")
    flags = re.findall(r"\(((?:--config\S+ ?)+)\)", str(caught.value))[way].split()
    made = recipes.base()
    made.split.stratify = "class"
    made.heads.update({"gender": {"weight": 0.0}, "age_group": {"weight": 0.0}, "age": {"weight": 0.0}})
    made.heads.class_name.weight = 1.0
    made.evaluate.select = "class_name/accuracy"
    for flag in flags:
        key, value = flag.removeprefix("--config.").split("=")
        *path, last = key.split(".")
        section = made
        for part in path:
            section = section[part]
        section[last] = type(section[last])(value)
    recipes.check(made)
    heads = build_heads(model_options(made).heads)
    assert len(heads) == 2
    assert "class_name" not in heads
    selection_metric(made.evaluate.select, heads)
    divide(speakers(3, 9), **made.split.to_dict())


def test_pieces_of_a_recording_and_copies_of_a_file_stay_together() -> None:
    n = 60
    table = columns(n, gender=[0, 1] * 30, group=np.arange(n) // 2)
    table["sha256"][[0, 59]] = "the same"  # so rows 0, 1, 58 and 59 are one group
    split, _ = divide(table, stratify="gender")
    part = np.zeros(n, int)
    for index, name in enumerate(PARTS):
        part[getattr(split, name)] = index
    assert (part[::2] == part[1::2]).all()
    assert part[0] == part[59]


def adience(users: int = 40, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    user = np.sort(rng.integers(0, users, 800))
    low = rng.choice([0, 4, 8, 15, 25, 38, 48, 60], 800).astype(np.float32)
    high = np.select([low == x for x in (0, 4, 8, 15, 25, 38, 48, 60)], (2, 6, 12, 20, 32, 43, 53, 100)).astype("f4")
    return columns(800, group=user, subject=user * 10 + rng.integers(0, 3, 800), fold=user % 5,
                   gender=rng.integers(0, 2, 800), age_low=low, age_high=high)  # fmt: skip


def test_published_folds_are_the_test_parts_and_validation_shares_no_user() -> None:
    table = adience()
    for fold in range(5):
        split, _ = divide(table, folds=5, fold=fold, validation_fraction=0.1)
        assert split.test.tolist() == np.flatnonzero(table["fold"] == fold).tolist()
        train, validation, test = parts_of(split, table["group"])
        assert not train & validation | train & test | validation & test
        assert 0.05 < len(split.validation) / (len(split.train) + len(split.validation)) < 0.2
    random, _ = divide(table, folds=5, fold=0, protocol="paper")
    assert set(table["fold"][random.test].tolist()) == {0, 1, 2, 3, 4}
    with pytest.raises(UserError, match="5 folds"):
        divide(table, folds=4)


def test_a_group_in_two_published_folds_stays_whole_and_a_conflict_is_never_tested_on() -> None:
    table = adience()
    first, last = np.flatnonzero(table["fold"] == 0)[:2], np.flatnonzero(table["fold"] == 3)[:2]
    table["sha256"][[first[0], last[0]]] = "same labels"
    table["sha256"][[first[1], last[1]]] = "other labels"
    for name in ("age_low", "age_high", "gender"):
        table[name][last[0]] = table[name][first[0]]
    table["age_low"][[first[1], last[1]]], table["age_high"][[first[1], last[1]]] = (4, 25), (6, 32)
    for fold in range(5):
        split, conflicts = divide(table, folds=5, fold=fold)
        assert split.report["groups_in_several_parts"] == 0
        assert not {first[1], last[1]} & set(split.test.tolist())
        assert not {first[1], last[1]} & set(split.validation.tolist())
        assert conflicts["conflicting_groups"] == 1


@pytest.mark.parametrize(
    ("known", "conflicting"),
    [
        ({"age_low": [25.0, 38.0], "age_high": [32.0, 43.0]}, 1),
        ({"age_low": [25.0, 25.0], "age_high": [32.0, 32.0], "gender": [0, 2]}, 0),  # 2: nobody looked
        ({"gender": [0, 1]}, 1),
        ({"class_name": ["female_30", "female_31"]}, 1),
        ({"class_name": ["female_30", ""]}, 0),
    ],
)
def test_contradictions_of_identical_files(known: dict, conflicting: int) -> None:
    table = columns(2, sha256=["same", "same"], **{name: np.array(values) for name, values in known.items()})
    assert contradictions(table)[1]["conflicting_groups"] == conflicting


@pytest.mark.parametrize("clips", [1, 2, 4, 30])
@pytest.mark.parametrize("seed", range(2))
def test_what_is_not_refused_has_every_class_in_every_part(clips: int, seed: int) -> None:
    names = tuple(f"{gender}_{age}" for gender in ("female", "male") for age in (20, 30, 40, 50, 60))
    for per_class in (3, 5, 10):
        table = speakers(per_class, clips, names)
        try:
            split, _ = divide(table, stratify="class", seed=seed)
        except Refused:
            continue
        assert all(part == set(names) for part in parts_of(split, table["class_name"]))
        assert split.report["groups_in_several_parts"] == 0
        return
    pytest.fail("even ten speakers a class were refused")
