"""The description of a dataset as text for a terminal, and as one HTML file that needs nothing but itself."""

import itertools
import textwrap
from collections.abc import Sequence
from pathlib import Path

from agegender_jax import page
from agegender_jax.describe.contact_sheet import Example, make_sheet
from agegender_jax.describe.plots import plot
from agegender_jax.describe.reading import Contents
from agegender_jax.describe.sections import DEFAULT_SCHEME, LABELS_AND_TERMS, Section, origin, terms, title
from agegender_jax.text import Table, plain, printable

_GENERATOR = "agegender data describe"
_WIDTH = 100  # characters of a line of text


def render_text(heading: str, sections: Sequence[Section]) -> str:
    """Returns the sections below each other as text.

    Args:
      heading: stands above them.
      sections: of the description.
    """
    blocks = [printable(heading)]
    for section in sections:
        lines, before = [printable(section.title)], True
        for part in section.parts:
            tabular = isinstance(part, Table)
            if tabular and not before:
                lines.append("")
            lines.append(textwrap.indent(plain(part) if isinstance(part, Table) else _wrapped(part), "  "))
            if tabular:
                lines.append("")
            before = tabular
        blocks.append("\n".join(lines).rstrip())
    return "\n\n".join(blocks)


def _wrapped(sentence: str) -> str:
    return "\n".join(textwrap.wrap(printable(sentence), _WIDTH, break_long_words=False, break_on_hyphens=False))


def write_page(path: Path, contents: Contents, sections: Sequence[Section], scheme: str | None) -> None:
    """Writes the page, whole or not at all.

    Args:
      path: of the file.
      contents: the dataset.
      sections: of `sections.describe`.
      scheme: of age groups, None as in `sections.describe`.

    Raises:
      UserError: the path is of something else than such a page, or cannot be written.
    """
    check_path(path)
    sheet = make_sheet(contents, scheme or DEFAULT_SCHEME)
    page.write(path, render_page(contents, sections, sheet, scheme), "--html")


def check_path(path: Path) -> None:
    """Raises a UserError where writing a page to this path would destroy something else."""
    page.check_path(path, _GENERATOR, "--html")


def render_page(
    contents: Contents, sections: Sequence[Section], sheet: Sequence[Example], scheme: str | None = None
) -> str:
    """Returns the page as HTML.

    Args:
      contents: the dataset.
      sections: of the description.
      sheet: examples to show.
      scheme: of age groups in the plots.
    """
    shown = [
        page.Section(section.title.lower().replace(" ", "-"), section.title, _content(section, contents, scheme))
        for section in sections
        if section.title != LABELS_AND_TERMS
    ]
    return page.render(
        "dataset.html",
        generator=_GENERATOR,
        title=title(contents),
        sections=[*shown, page.Section("examples", "Examples", sheet)],
        audio=contents.prepared.kind == "audio",
        voices=contents.voices,
        count=len(contents.source),
        origin=origin(contents),
        terms=terms(contents),
    )


def _content(section: Section, contents: Contents, scheme: str | None) -> dict[str, object]:
    """Returns sentences and tables in runs of one kind, and plots."""
    runs = [
        (is_table, list(parts))
        for is_table, parts in itertools.groupby(section.parts, key=lambda part: isinstance(part, Table))
    ]
    return {"runs": runs, "plots": [plot(name, contents, scheme or DEFAULT_SCHEME) for name in section.plots]}
