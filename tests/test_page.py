"""The shell of pages: escaped, self-contained, forbidden to load anything; and whose files may be replaced."""

import re
import xml.etree.ElementTree
from pathlib import Path
from typing import Any

import pytest

from agegender_jax import page
from agegender_jax.errors import UserError
from agegender_jax.page import Html


def test_text_is_escaped_and_html_is_not() -> None:
    assert page.escape('<b>"&') == "&lt;b&gt;&quot;&amp;"
    assert page.escape(Html("<b>")) == "<b>"
    assert page.paragraph("a < b") == "<p>a &lt; b</p>\n"


def test_what_turns_the_order_of_letters_or_is_no_character_of_html_is_replaced() -> None:
    assert page.escape("photo\u202egpj.exe\x00\x1b[2J") == "photo\ufffdgpj.exe\ufffd\ufffd[2J"


def test_a_table_escapes_marks_numbers_and_lets_long_cells_wrap() -> None:
    rows = [("<i>", "1", "x" * 41), (Html("<b>a</b>"), "2", "y")]
    found = page.table(("name", "files", ""), rows, caption="a & b", numbers=[1])
    assert "<td>&lt;i&gt;</td>" in found
    assert "<td><b>a</b></td>" in found
    assert found.count('class="number"') == 3  # the header and two rows
    assert found.count('class="long"') == 1
    assert "<caption>a &amp; b</caption>" in found
    xml.etree.ElementTree.fromstring(found)


def test_a_page_forbids_to_load_anything() -> None:
    text = page.document("<title>", "<p>body</p>", generator="a test", style=".own { color: red }")
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', text)
    assert policy is not None
    rules = dict(rule.strip().split(" ", 1) for rule in policy[1].split(";"))
    assert rules["default-src"] == "'none'"
    assert {name: rules[name] for name in ("img-src", "media-src")} == dict.fromkeys(("img-src", "media-src"), "data:")
    assert "script-src" not in rules
    assert text.index("Content-Security-Policy") < text.index("<style>")
    assert "<title>&lt;title&gt;</title>" in text
    assert ".own { color: red }</style>" in text


def test_a_figure_says_what_it_shows() -> None:
    found = page.figure("data:image/jpeg;base64,AA", 'a "face"', title="<key>")
    assert 'alt="a &quot;face&quot;"' in found
    assert 'title="&lt;key&gt;"' in found
    assert "cannot be decoded" in page.figure("", "x", title="y")


def test_plots_share_no_ids_and_take_the_page_s_colour() -> None:
    def draw(figure: Any) -> None:
        axes = figure.add_subplot()
        axes.plot([0, 1], [0, 1])
        axes.set_title(page.literal("$x$ <\x00>"))

    plots = [page.plot(draw, name, 'up & "away"', width=3, height=2) for name in ("one", "two")]
    ids = [re.findall(r' id="([^"]+)"', found) for found in plots]
    assert ids[0]
    assert not set(ids[0]) & set(ids[1])
    assert plots[0] == page.plot(draw, "one", 'up & "away"', width=3, height=2)
    for found in plots:
        xml.etree.ElementTree.fromstring(found)
        assert 'aria-label="up &amp; &quot;away&quot;"' in found
        assert "currentColor" in found
        assert page.INK not in found
        assert "$x$ &lt;\ufffd&gt;" in found  # as it stands, and no formula


def test_only_pages_of_the_same_command_may_be_replaced(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    page.check_path(path, "a test", "--out")
    path.write_text(page.document("x", "", generator="a test"))
    page.check_path(path, "a test", "--out")
    with pytest.raises(UserError, match="is no page of this command; choose another --out"):
        page.check_path(path, "another", "--out")
    with pytest.raises(UserError, match="cannot be read"):
        page.check_path(tmp_path, "a test", "--out")
