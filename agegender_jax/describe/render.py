"""The description of a dataset as text for a terminal, and as one HTML file that needs nothing but itself."""

import itertools
import textwrap
from collections.abc import Sequence
from pathlib import Path

from agegender_jax import page
from agegender_jax.describe.contact_sheet import COUNT, make_sheet
from agegender_jax.describe.plots import plot
from agegender_jax.describe.reading import Contents
from agegender_jax.describe.sections import DEFAULT_SCHEME, LABELS_AND_TERMS, Section, origin, terms, title
from agegender_jax.text import Table, plain, printable

_GENERATOR = "agegender data describe"
_WIDTH = 100  # characters of a line of text


def render_text(heading: str, sections: Sequence[Section]) -> str:
    """Returns a heading and the sections below each other as text."""
    blocks = [printable(heading)]
    for section in sections:
        text, after_table = printable(section.title), True
        for each in section.content:
            is_table = isinstance(each, Table)
            # An empty line around a table, none between a title or a sentence and what follows it.
            gap = "\n\n" if text.count("\n") and (is_table or after_table) else "\n"
            text += gap + textwrap.indent(plain(each) if isinstance(each, Table) else _wrapped(each), "  ")
            after_table = is_table
        blocks.append(text)
    return "\n\n".join(blocks)


def _wrapped(sentence: str) -> str:
    return "\n".join(textwrap.wrap(printable(sentence), _WIDTH, break_long_words=False, break_on_hyphens=False))


def write_page(path: Path, contents: Contents, sections: Sequence[Section], scheme: str | None) -> None:
    """Writes the page of `sections.describe` with the same scheme (None: the default), whole or not at all.

    Raises:
      UserError: the path is of something else than such a page, or cannot be written.
    """
    check_path(path)
    page.write(path, render_page(contents, sections, scheme or DEFAULT_SCHEME), "--html")


def check_path(path: Path) -> None:
    """Raises a UserError where writing a page to this path would destroy something else."""
    page.check_path(path, _GENERATOR, "--html")


def render_page(contents: Contents, sections: Sequence[Section], scheme: str, count: int = COUNT) -> str:
    """Returns the page as HTML, with `count` examples; the arguments are those of `write_page`."""
    shown = [
        page.Section(section.title.lower().replace(" ", "-"), section.title, _content(section, contents, scheme))
        for section in sections
        if section.title != LABELS_AND_TERMS
    ]
    return page.render(
        "dataset.html",
        generator=_GENERATOR,
        title=title(contents),
        sections=[*shown, page.Section("examples", "Examples", make_sheet(contents, scheme, count))],
        audio=contents.prepared.kind == "audio",
        voices=contents.voices,
        synthetic=contents.prepared.synthetic,
        count=len(contents.source),
        origin=origin(contents),
        terms=terms(contents),
    )


def _content(section: Section, contents: Contents, scheme: str) -> dict[str, object]:
    """Returns sentences and tables in runs of one kind, and plots."""
    runs = itertools.groupby(section.content, key=lambda each: isinstance(each, Table))
    return {
        "runs": [(is_table, list(run)) for is_table, run in runs],
        "plots": [plot(name, contents, scheme) for name in section.plots],
    }
