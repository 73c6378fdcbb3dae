"""What the terminal shows."""

from collections.abc import Callable
from typing import Any

import numpy as np

from agegender_jax.describe import sections
from agegender_jax.describe.render import render_text

Make = Callable[..., dict[str, np.ndarray]]


def _words(text: str) -> str:
    return " ".join(text.split())


def test_every_section_of_a_dataset_with_everything(columns: Make, contents: Callable[..., Any]) -> None:
    n = 100
    made = columns(
        n,
        age=np.arange(n) % 60,
        gender=np.arange(n) % 2,
        race=np.arange(n) % 5,
        subject=np.arange(n) // 2,
        group=np.arange(n) // 4,
        fold=np.arange(n) // 20,
    )
    described = contents(
        made, terms="Mind the gap.", labels="guessed", kept=1234, levi_hassner_age=[1, 2, 3, 4, 5], seconds=12.0
    )
    shown = render_text(sections.title(described), sections.describe(described))
    assert shown.startswith("made_up tiny 1.0.0\n")
    for part in (
        "100 images",
        "Labels: guessed.",
        "Terms: Mind the gap.",
        "kept 1,234",
        "gender files share",
        "White 20 20.0 %",
        "0-2",
        "subjects 50 100 2 2 2",
        "40×30",
        "age (levi_hassner), as published 4,316 3,101 3,339 2,975 3,693 17,424",
        "No two files are identical.",
        "paper (leaky), by age group",
        "disjoint, by age group, fold 0 of 5",
    ):
        assert part in _words(shown)
    assert max(map(len, shown.splitlines())) <= 120


def test_one_scheme_can_be_chosen(columns: Make, contents: Callable[..., Any]) -> None:
    described = contents(columns(40, age=range(40), gender=[0, 1] * 20))
    shown = render_text("", sections.describe(described, "five_year"))
    assert "24 groups of five years" in shown
    assert "nearest" not in shown
    assert "15-19 2 3 5" in _words(shown)  # of 15 to 19, the odd ones are female


def test_voices_without_ages(columns: Make, contents: Callable[..., Any]) -> None:
    made = columns(12, gender=[0, 1] * 6, class_name=["male", "female"] * 6, subject=[0, 1, 0, 3] * 3)
    shown = render_text("", sections.describe(contents(made, "audio", identities="who speaks")))
    assert "Subjects: who speaks." in shown
    assert "No file has an age group." in shown
    assert "12 recordings" in shown
    assert "a recording lasts 1.00 to 1.00 seconds" in shown
    assert "2 of 2 classes have fewer than 3 subjects" in shown
    assert "refused. A disjoint split needs at least 3 subjects of every class" in _words(shown)


def test_nobody_identified(columns: Make, contents: Callable[..., Any]) -> None:
    shown = render_text("", sections.describe(contents(columns(30, age=range(30), subject=[-1] * 30))))
    assert "No subject is identified: metrics are an upper bound for new people." in shown
    assert "Terms: not stated by the builder" in shown


def test_control_characters_are_not_printed(columns: Make, contents: Callable[..., Any]) -> None:
    made = columns(4, gender=[0, 1] * 2, class_name=["male\x1b[2J", "female"] * 2)
    shown = render_text("a\x1b[2J", sections.describe(contents(made, "audio", terms="\x1b[2J")))
    assert "\x1b" not in shown
    assert "male\\x1b[2J" in shown
