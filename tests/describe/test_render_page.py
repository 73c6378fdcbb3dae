"""The page: well-formed, self-contained, harmless."""

import base64
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agegender_jax.describe import contact_sheet, sections
from agegender_jax.describe.plots import plot
from agegender_jax.describe.render import render_page, write_page
from agegender_jax.errors import UserError

Make = Callable[..., dict[str, np.ndarray]]
_VOID = {"meta", "img", "br", "link", "hr"}


class _Page(HTMLParser):
    """Tags in balance, and what they refer to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in _VOID:
            self.open.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "action", "data")]
        self.ids += [value or "" for name, value in attrs if name == "id"]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in _VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


_HOSTILE = '<script>alert(1)</script>"&$x$'


@pytest.fixture(scope="module")
def voices(columns: Make, contents: Callable[..., Any]) -> Any:
    n = 24
    made = columns(
        n,
        key=[f'{i}"><b>' for i in range(n)],
        age=np.arange(n) + 20,
        gender=np.arange(n) % 2,
        class_name=[_HOSTILE if i % 2 else "male_31" for i in range(n)],
        subject=np.arange(n) // 2,
    )
    return contents(made, "audio", terms='<img src="http://evil.example/x">', labels="heard & guessed")


@pytest.fixture(scope="module")
def text(voices: Any) -> str:
    return render_page(voices, sections.describe(voices), contact_sheet.make_sheet(voices, "nearest", 6))


def test_the_page_is_well_formed_and_needs_nothing_but_itself(text: str) -> None:
    parsed = _Page(text)
    assert parsed.open == []
    assert all(link.startswith(("data:image/jpeg;base64,", "data:audio/wav;base64,", "#")) for link in parsed.links)
    assert not {"script", "link", "iframe", "object", "b"} & set(parsed.tags)
    assert not re.search(r"url\((?!#)|@import", text)
    assert len(set(parsed.ids)) == len(parsed.ids)
    assert {link[1:] for link in parsed.links if link.startswith("#")} <= set(parsed.ids)


def test_all_text_is_escaped(text: str) -> None:
    assert "<script" not in text
    assert "evil.example" not in " ".join(_Page(text).links)
    words = " ".join(_Page(text).words)
    assert _HOSTILE in words
    assert "heard & guessed" in words.lower()


def test_it_says_what_it_is_before_anything_else(text: str) -> None:
    top = text[: text.index("<h2")]
    assert "recordings of people&#39;s voices. Do\nnot publish" in top
    assert "perceived age and gender as annotated" in top
    assert "Terms: &lt;img" in top


def test_examples_have_pictures_players_and_captions(text: str) -> None:
    parsed = _Page(text)
    assert parsed.tags.count("figure") == parsed.tags.count("audio") == parsed.tags.count("img") == 6
    assert 'preload="none"' in text
    assert "class male_31" in text
    assert parsed.tags.count("svg") == 5  # ages, age groups, classes, subjects, sounds


def test_the_same_data_give_the_same_bytes(voices: Any, text: str) -> None:
    assert render_page(voices, sections.describe(voices), contact_sheet.make_sheet(voices, "nearest", 6)) == text


@pytest.mark.parametrize("subjects", [np.arange(300) // 4, np.sqrt(np.arange(300) * 40).astype(int)])
def test_plots_of_faces_with_folds(columns: Make, contents: Callable[..., Any], subjects: np.ndarray) -> None:
    n = 300
    made = columns(n, age=np.arange(n) % 90, gender=np.arange(n) % 3, subject=subjects, fold=np.arange(n) % 5)
    for name in ("folds", "age_groups", "subjects", "ages"):
        svg = plot(name, contents(made), "five_year").svg
        assert _Page(svg).open == []
        assert "currentColor" in svg
        assert "#123456" not in svg


def test_examples_are_spread_over_the_labels_whatever_the_order(columns: Make) -> None:
    ages, genders = [1] * 95 + [30, 31, 70, 71, 50], [0, 1] * 50
    made = columns(100, age=ages, gender=genders)
    rows = contact_sheet.choose(made, "nearest", 8)
    assert len(rows) == len(set(rows)) == 8
    assert {ages[row] for row in rows} >= {1, 30, 31, 70, 71, 50}
    turned = {name: column[::-1] for name, column in made.items()}
    chosen = contact_sheet.choose(turned, "nearest", 8)
    assert turned["key"][chosen].tolist() == made["key"][rows].tolist()
    assert len(contact_sheet.choose(columns(3), "nearest", 8)) == 3


def test_a_damaged_or_large_recording_has_no_player_or_picture(columns: Make, contents: Callable[..., Any]) -> None:
    made = contents(columns(2), "audio")
    made.source[0]["content"] = b"RIFF" + bytes(2_000_000)
    made.source[1]["content"] = b"RIFFnothing"
    large, damaged = contact_sheet.make_sheet(made, "nearest")
    assert (large.image, large.sound, damaged.image) == ("", "", "")
    assert base64.b64decode(damaged.sound.partition(",")[2]) == b"RIFFnothing"


@pytest.mark.parametrize(
    ("start", "kind"), [(b"RIFF", "wav"), (b"fLaC", "flac"), (b"OggS", "ogg"), (b"ID3", "mpeg"), (b"\xff\xfb", "mpeg")]
)
def test_players_are_told_what_they_play(start: bytes, kind: str, columns: Make, contents: Callable[..., Any]) -> None:
    made = contents(columns(1), "audio")
    made.source[0]["content"] = start
    assert contact_sheet.make_sheet(made, "nearest")[0].sound.startswith(f"data:audio/{kind};base64,")


def test_captions(columns: Make) -> None:
    made = columns(3, age=[26, np.nan, np.nan], age_low=[26, 25, np.nan], age_high=[26, 32, np.nan], gender=[0, 2, -1])
    assert [contact_sheet.caption(made, row) for row in range(3)] == [
        *("male, 26 years", "undefined gender, 25-32 years", "unknown gender, age unknown"),
    ]


def test_only_a_page_of_its_own_is_overwritten(columns: Make, contents: Callable[..., Any], tmp_path: Path) -> None:
    faces = contents(columns(4, age=[1, 2, 3, 4]))
    described, target = sections.describe(faces), tmp_path / "new" / "page.html"
    write_page(target, faces, described, None)
    first = target.read_bytes()
    write_page(target, faces, described, None)
    assert target.read_bytes() == first
    assert "images of people. Do\nnot publish" in first.decode()
    assert [path.name for path in target.parent.iterdir()] == ["page.html"]
    target.write_text("my thesis")
    with pytest.raises(UserError, match=r"page\.html.*--html"):
        write_page(target, faces, described, None)
    assert target.read_text() == "my thesis"
