"""The description of a dataset as a terminal shows it."""

from collections.abc import Callable
from typing import Any

import numpy as np

from agegender_jax.describe import sections
from agegender_jax.describe.render import render_text

Make = Callable[..., dict[str, np.ndarray]]


def test_every_section_of_a_dataset_with_everything(columns: Make, contents: Callable[..., Any]) -> None:
    n = np.arange(100)
    values = columns(100, age=n % 60, gender=n % 2, race=n % 5, subject=n // 2, group=n // 4, fold=n // 20)
    metadata = {"terms": "Mind the gap.", "labels": "guessed", "kept": 1234, "levi_hassner_age": [1, 2, 3, 4, 5]}
    described = contents(values, **metadata)
    text = render_text(sections.title(described), sections.describe(described))
    assert text.startswith("made_up tiny 1.0.0\n")
    words = " ".join(text.split())
    for each in (
        "100 images",
        "Labels: guessed.",
        "Terms: Mind the gap.",
        "kept 1,234",
        "gender files share",
        "White 20 20.0 %",
        "0-2",
        "subjects 50 100 2 2 2",
        "40×30",
        "fold 0 fold 1 fold 2 fold 3 fold 4 sum rows 20 20 20 20 20 100 subjects 10 10 10 10 10 50",
        "age (levi_hassner), as published 4,316 3,101 3,339 2,975 3,693 17,424",
        "In two folds or more: 0 subjects, 0 groups.",
        "No two files are identical.",
        "paper (leaky), by age group",
        "disjoint, by age group, fold 0 of 5",
    ):
        assert each in words
    assert max(map(len, text.splitlines())) <= 120


def test_one_scheme_can_be_chosen(columns: Make, contents: Callable[..., Any]) -> None:
    text = render_text("", sections.describe(contents(columns(40, age=range(40), gender=[0, 1] * 20)), "five_year"))
    assert "nearest" not in text
    assert "15-19 2 3 5" in " ".join(text.split())  # of 15 to 19, the odd ones are female


def test_voices_without_ages(columns: Make, contents: Callable[..., Any]) -> None:
    names = ["male\x1b[2J", "female"] * 6
    values = columns(12, gender=[0, 1] * 6, class_name=names, subject=[0, 1, 0, 3] * 3)
    text = render_text("a\x1b[2J", sections.describe(contents(values, "audio", identities="who speaks")))
    words = " ".join(text.split())
    assert "Subjects: who speaks." in words
    assert "No file has an age group." in words
    assert "12 recordings" in words
    assert "1.00 to 1.00 seconds" in words
    assert "2 of 2 classes" in words
    assert "disjoint, by class: refused." in words
    assert "Terms: not stated" in words
    assert "\x1b" not in text
    assert "male\\x1b[2J" in text


def test_nobody_identified(columns: Make, contents: Callable[..., Any]) -> None:
    text = render_text("", sections.describe(contents(columns(30, age=range(30)))))
    assert "No subject is identified" in text
