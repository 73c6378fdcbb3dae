"""The description of a dataset as one HTML file that needs nothing but itself."""

from pathlib import Path

from agegender_jax import atomic
from agegender_jax import page as pages
from agegender_jax.describe.contact_sheet import Example, make_sheet
from agegender_jax.describe.plots import plot
from agegender_jax.describe.reading import Contents
from agegender_jax.describe.sections import DEFAULT_SCHEME, LABELS_AND_TERMS, Section, Table, origin, terms, title
from agegender_jax.describe.text import is_number
from agegender_jax.errors import UserError
from agegender_jax.page import Html, escape

_GENERATOR = "agegender data describe"


def write_page(path: Path, contents: Contents, sections: list[Section], scheme: str | None) -> None:
    """Writes the page, whole or not at all.

    Args:
      path: of the file.
      contents: the dataset.
      sections: what `sections.describe` says of it.
      scheme: of age groups, None as in `sections.describe`.

    Raises:
      UserError: the path is of something else than such a page, or cannot be written.
    """
    check_path(path)
    text = page(contents, sections, make_sheet(contents, scheme or DEFAULT_SCHEME), scheme)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic.write_text(path, text)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); choose another --html.") from error


def check_path(path: Path) -> None:
    """Raises a UserError where writing a page to this path would destroy something else."""
    pages.check_path(path, _GENERATOR, "--html")


def page(contents: Contents, sections: list[Section], sheet: list[Example], scheme: str | None = None) -> str:
    """The page as HTML text.

    Args:
      contents: the dataset.
      sections: what is said of it.
      sheet: examples to show.
      scheme: of age groups in the plots.
    """
    name = title(contents)
    sounds = contents.prepared.kind == "audio"
    shown = ("recordings" if sounds else "pictures") + (" of people's voices" if contents.voices else " of people")
    found = [
        _section(section, contents, scheme or DEFAULT_SCHEME)
        for section in sections
        if section.title != LABELS_AND_TERMS
    ]
    body = f"""<h1>{escape(name)}</h1>
<div class="note">
<p>This file contains {shown}. Do not publish or pass it on where the dataset's terms forbid that.</p>
<p>Labels are perceived age and gender as annotated, not metadata about anybody. {_sentence(origin(contents))}</p>
<p>Terms: {escape(terms(contents))}</p>
</div>
{"".join(found)}
<section>
<h2>Examples</h2>
<p>{len(sheet)} of {len(contents.source):,}, spread over the labels and chosen by a fixed seed: not in the dataset's
own shares. Captions are the labels as annotated.</p>
<div class="sheet{" sounds" if sounds else ""}">
{"".join(map(_figure, sheet))}</div>
</section>
"""
    return pages.document(name, body, generator=_GENERATOR)


def _section(section: Section, contents: Contents, scheme: str) -> str:
    pieces: list[str] = []
    tables: list[str] = []

    def close() -> None:
        if tables:
            pieces.append(f'<div class="tables">\n{"".join(tables)}</div>\n')
            tables.clear()

    for part in section.parts:
        if isinstance(part, Table):
            tables.append(_table(part))
        else:
            close()
            pieces.append(pages.paragraph(part))
    close()
    pieces += [f"{plot(name, contents, scheme)}\n" for name in section.plots]
    return f"<section>\n<h2>{escape(section.title)}</h2>\n{''.join(pieces)}</section>\n"


def _table(table: Table) -> Html:
    numbers = [i for i in range(1, len(table.header)) if all(is_number(row[i]) for row in table.rows)]
    return pages.table(table.header, table.rows, caption=table.caption, numbers=numbers)


def _figure(example: Example) -> Html:
    return pages.figure(example.picture, example.caption, title=example.key, sound=example.sound)


def _sentence(text: str) -> Html:
    return escape(text[:1].upper() + text[1:] + ("" if text.endswith(".") else "."))
