"""The page of a dataset: escaped, self-contained, with plots, examples and captions."""

import base64
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agegender_jax.describe import contact_sheet, sections
from agegender_jax.describe.plots import plot
from agegender_jax.describe.render import render_page, write_page
from agegender_jax.errors import UserError
from tests.html_page import Page

Make = Callable[..., dict[str, np.ndarray]]
_HOSTILE = '<script>alert(1)</script>"&$x$'


def test_a_page_of_voices(columns: Make, contents: Callable[..., Any]) -> None:
    n = 24
    values = columns(
        n,
        key=[f'{i}"><b>' for i in range(n)],
        age=np.arange(n) + 20,
        gender=np.arange(n) % 2,
        class_name=[_HOSTILE if i % 2 else "male_31" for i in range(n)],
        subject=np.arange(n) // 2,
    )
    voices = contents(values, "audio", terms='<img src="http://evil.example/x">', labels="heard & guessed")
    html, again = (render_page(voices, sections.describe(voices), "nearest", 6) for _ in range(2))
    assert html == again
    page = Page(html)
    assert page.count("b") == 0
    assert _HOSTILE in page.text
    assert "heard & guessed" in page.text.lower()
    top = html[: html.index("<h2")]
    assert "people&#39;s voices" in top
    assert "Terms: &lt;img" in top
    assert page.count("figure") == page.count("audio") == page.count("img") == 6
    assert 'preload="none"' in html
    assert "class male_31" in page.text
    assert page.count("svg") == 5  # ages, age groups, classes, subjects, sounds


def test_a_page_of_synthetic_images_shows_nobody(columns: Make, contents: Callable[..., Any]) -> None:
    faces = contents(columns(4, age=[20, 30, 40, 50], gender=[0, 1, 0, 1]))
    assert "images of people" in render_page(faces, sections.describe(faces), "nearest", 2)
    synthetic = dataclasses.replace(faces, prepared=dataclasses.replace(faces.prepared, synthetic=True))
    page = render_page(synthetic, sections.describe(synthetic), "nearest", 2)
    assert "images of people" not in page
    assert "synthetic images" in page


@pytest.mark.parametrize("subjects", [np.arange(300) // 4, np.sqrt(np.arange(300) * 40).astype(int)])
def test_plots_of_faces_with_folds(columns: Make, contents: Callable[..., Any], subjects: np.ndarray) -> None:
    n = 300
    values = columns(n, age=np.arange(n) % 90, gender=np.arange(n) % 3, subject=subjects, fold=np.arange(n) % 5)
    for name in ("folds", "age_groups", "subjects", "ages"):
        svg = plot(name, contents(values), "five_year").svg
        assert Page(svg).count("svg") == 1
        assert "currentColor" in svg
        assert "#123456" not in svg


def test_examples_are_spread_over_the_labels_whatever_the_order(columns: Make) -> None:
    ages, genders = [1] * 95 + [30, 31, 70, 71, 50], [0, 1] * 50
    values = columns(100, age=ages, gender=genders)
    rows = contact_sheet.choose(values, "nearest", 8)
    assert len(rows) == len(set(rows)) == 8
    assert {ages[row] for row in rows} >= {1, 30, 31, 70, 71, 50}
    reverse = {name: column[::-1] for name, column in values.items()}
    chosen = contact_sheet.choose(reverse, "nearest", 8)
    assert reverse["key"][chosen].tolist() == values["key"][rows].tolist()
    assert len(contact_sheet.choose(columns(3), "nearest", 8)) == 3


@pytest.mark.parametrize(
    ("content", "kind"),
    [(b"RIFFnothing", "wav"), (b"fLaC", "flac"), (b"OggS", "ogg"), (b"ID3", "mpeg"), (b"RIFF" + bytes(2_000_000), "")],
)
def test_a_damaged_recording_has_no_image_and_a_large_one_no_player(
    content: bytes, kind: str, columns: Make, contents: Callable[..., Any]
) -> None:
    recordings = contents(columns(1), "audio")
    recordings.source[0]["content"] = content
    (example,) = contact_sheet.make_sheet(recordings, "nearest")
    assert example.image == ""
    start, _, player = example.sound.partition(",")
    assert start == (f"data:audio/{kind};base64" if kind else "")
    assert base64.b64decode(player) == (content if kind else b"")


def test_captions(columns: Make) -> None:
    age, low, high = [26, np.nan, np.nan], [26, 25, np.nan], [26, 32, np.nan]
    values = columns(3, age=age, age_low=low, age_high=high, gender=[0, 2, -1])
    captions = [contact_sheet.caption(values, row) for row in range(3)]
    assert captions == ["male, 26 years", "undefined gender, 25-32 years", "unknown gender, age unknown"]


def test_only_a_page_of_its_own_is_overwritten(columns: Make, contents: Callable[..., Any], tmp_path: Path) -> None:
    faces = contents(columns(4, age=[1, 2, 3, 4]))
    described, path = sections.describe(faces), tmp_path / "new" / "page.html"
    write_page(path, faces, described, None)
    first = path.read_bytes()
    write_page(path, faces, described, None)
    assert path.read_bytes() == first
    assert "images of people" in first.decode()
    assert [each.name for each in path.parent.iterdir()] == ["page.html"]
    path.write_text("my thesis")
    with pytest.raises(UserError, match=r"page\.html.*--html"):
        write_page(path, faces, described, None)
    assert path.read_text() == "my thesis"
