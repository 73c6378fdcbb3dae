"""The shell of pages: escaped, self-contained, and only files of the same command are replaced."""

import re
import xml.etree.ElementTree
from pathlib import Path
from typing import Any

import pytest

from agegender_jax import page
from agegender_jax.errors import UserError
from agegender_jax.text import Table


def _macro(name: str, *arguments: Any) -> str:
    return str(getattr(page._environment().get_template("macros.html").module, name)(*arguments))


def _page(title: str = "x", generator: str = "a test") -> str:
    values = {"audio": False, "synthetic": False, "voices": False, "count": 0, "origin": "made", "terms": "none"}
    return page.render("dataset.html", generator=generator, title=title, sections=[], **values)


def test_a_table_escapes_marks_numbers_and_lets_long_cells_wrap() -> None:
    rows = [("<i>", "1", "x" * 41), ("part <b>",), ("b", "2", "y")]
    html = _macro("table", Table(("name", "files", ""), rows, caption="a & b"))
    assert "<td>&lt;i&gt;</td>" in html
    assert '<th colspan="3" scope="rowgroup">part &lt;b&gt;</th>' in html
    assert html.count('class="number"') == 3  # the header and two rows
    assert html.count('class="long"') == 1
    assert "<caption>a &amp; b</caption>" in html
    xml.etree.ElementTree.fromstring(html)


def test_a_page_forbids_to_load_anything() -> None:
    text = _page("<title>photo\u202egpj.exe\x00\x1b[2J")
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', text)
    rules = dict(rule.strip().split(" ", 1) for rule in policy[1].split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == rules["media-src"] == "data:"
    assert "script-src" not in rules
    assert text.index("Content-Security-Policy") < text.index("<style>")
    assert r"<title>&lt;title&gt;photo\u202egpj.exe\x00\x1b[2J</title>" in text
    assert "max-width: 68rem" in text  # page.css


def test_an_image_has_a_description() -> None:
    html = _macro("figure", "data:image/jpeg;base64,AA", 'a "face"', "<key>")
    assert 'alt="a &#34;face&#34;"' in html
    assert 'title="&lt;key&gt;"' in html
    assert "<img" not in _macro("figure", "", "x", "y")


def test_plots_share_no_ids_and_take_the_page_s_colour() -> None:
    def draw(figure: Any) -> None:
        axes = figure.add_subplot()
        axes.plot([0, 1], [0, 1], marker="o")
        axes.set_title(page.literal("$x$ <\x00>"))

    plots = [page.plot(draw, name, 'up & "away"', width=3, height=2) for name in ("one", "two")]
    ids = [re.findall(r' id="([^"]+)"', plot.svg) for plot in plots]
    assert ids[0]
    assert len(set(ids[0])) == len(ids[0])
    assert not set(ids[0]) & set(ids[1])
    assert set(re.findall(r'(?:url\(#|href="#)([^")]+)', plots[0].svg)) <= set(ids[0])
    assert plots[0] == page.plot(draw, "one", 'up & "away"', width=3, height=2)
    for plot in plots:
        html = _macro("plot", plot)
        xml.etree.ElementTree.fromstring(html)
        assert 'aria-label="up &amp; &#34;away&#34;"' in html
        assert "currentColor" in html
        assert page.INK not in html
        assert r"$x$ &lt;\x00&gt;" in html  # as it stands, and no formula


def test_only_pages_of_the_same_command_may_be_replaced(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    page.check_path(path, "a test", "--out")
    page.write(path, _page(), "--out")
    page.check_path(path, "a test", "--out")
    with pytest.raises(UserError, match=r"page\.html.*--out"):
        page.check_path(path, "another", "--out")
    with pytest.raises(UserError, match=str(tmp_path)):
        page.check_path(tmp_path, "a test", "--out")
    with pytest.raises(UserError, match=r"page\.html.*--html"):
        page.write(path / "page.html", "", "--html")
