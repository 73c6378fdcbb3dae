"""The description of a dataset as one HTML file that needs nothing but itself."""

import html
from pathlib import Path

from agegender_jax.describe.plots import plot
from agegender_jax.describe.reading import Contents
from agegender_jax.describe.sections import DEFAULT_SCHEME, LABELS_AND_TERMS, Section, Table, origin, terms, title
from agegender_jax.describe.sheet import Example, make_sheet
from agegender_jax.describe.text import is_number
from agegender_jax.errors import UserError
from agegender_jax.run import write_whole

_MARK = '<meta name="generator" content="agegender data describe">'
_STYLE = """
:root { color-scheme: light dark; --line: #8886; --soft: #8881; }
body { font: 16px/1.45 system-ui, sans-serif; max-width: 62rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.5rem; margin: .5rem 0; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; border-bottom: 1px solid var(--line); }
p { max-width: 46rem; margin: .5rem 0; overflow-wrap: anywhere; }
.note { border: 2px solid #c77700; border-radius: .4rem; padding: .3rem .8rem; }
.wide { overflow-x: auto; margin: .8rem 0; }
.tables { display: flex; flex-wrap: wrap; gap: 0 2rem; align-items: flex-start; }
.tables > .wide { max-width: 100%; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding-bottom: .2rem; }
th, td { text-align: left; vertical-align: top; padding: .15rem .7rem .15rem 0; }
td { border-top: 1px solid var(--line); }
td:first-child { min-width: 6.5rem; }
td.long { min-width: 14rem; overflow-wrap: anywhere; }
.number { text-align: right; }
td.number { white-space: nowrap; }
thead th { vertical-align: bottom; }
svg { display: block; width: 100%; max-width: 35rem; height: auto; margin: .8rem 0; }
.sheet { display: grid; grid-template-columns: repeat(auto-fill, minmax(8rem, 1fr)); gap: .9rem; padding: 0; }
figure { margin: 0; font-size: .8rem; line-height: 1.3; overflow-wrap: anywhere; }
figure img { width: 100%; aspect-ratio: 1; display: block; border-radius: .25rem; }
figure audio { width: 100%; height: 2rem; margin-top: .2rem; }
.none { aspect-ratio: 1; display: grid; place-items: center; background: var(--soft); }
.sounds { grid-template-columns: repeat(auto-fill, minmax(11rem, 1fr)); }
@media print {
  body { max-width: none; font-size: 10pt; }
  audio { display: none; }
  figure, svg, tr { break-inside: avoid; }
}
"""


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
        write_whole(path, text)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); choose another --html.") from error


def check_path(path: Path) -> None:
    """Raises a UserError where writing a page to this path would destroy something else."""
    try:
        if not path.exists():
            return
        with path.open("rb") as file:
            ours = _MARK.encode() in file.read(1000)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); choose another --html.") from error
    if not ours:
        raise UserError(f"{path} is there and is no page of this command; choose another --html.")


def page(contents: Contents, sections: list[Section], sheet: list[Example], scheme: str | None = None) -> str:
    """The page as HTML text.

    Args:
      contents: the dataset.
      sections: what is said of it.
      sheet: examples to show.
      scheme: of age groups in the plots.
    """
    name = html.escape(title(contents))
    sounds = contents.prepared.kind == "audio"
    shown = ("recordings" if sounds else "pictures") + (" of people's voices" if contents.voices else " of people")
    body = [
        _section(section, contents, scheme or DEFAULT_SCHEME)
        for section in sections
        if section.title != LABELS_AND_TERMS
    ]
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
{_MARK}
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="robots" content="noindex">
<title>{name}</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>{name}</h1>
<div class="note">
<p>This file contains {shown}. Do not publish or pass it on where the dataset's terms forbid that.</p>
<p>Labels are perceived age and gender as annotated, not facts about anybody. {_sentence(origin(contents))}</p>
<p>Terms: {html.escape(terms(contents))}</p>
</div>
{"".join(body)}
<section>
<h2>Examples</h2>
<p>{len(sheet)} of {len(contents.source):,}, spread over the labels and chosen by a fixed seed: not in the dataset's
own shares. Captions are the labels as annotated.</p>
<div class="sheet{" sounds" if sounds else ""}">
{"".join(map(_figure, sheet))}</div>
</section>
</body>
</html>
"""


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
            pieces.append(f"<p>{html.escape(part)}</p>\n")
    close()
    pieces += [f"{plot(name, contents, scheme)}\n" for name in section.plots]
    return f"<section>\n<h2>{html.escape(section.title)}</h2>\n{''.join(pieces)}</section>\n"


def _table(table: Table) -> str:
    number = [i > 0 and all(is_number(row[i]) for row in table.rows) for i in range(len(table.header))]

    def row(cells: tuple[str, ...], tag: str) -> str:
        marks = [
            "number" if flush else "long" if len(cell) > 40 else "" for cell, flush in zip(cells, number, strict=True)
        ]
        return "<tr>{}</tr>\n".format(
            "".join(
                f'<{tag} class="{mark}">{html.escape(cell)}</{tag}>' if mark else f"<{tag}>{html.escape(cell)}</{tag}>"
                for cell, mark in zip(cells, marks, strict=True)
            )
        )

    caption = f"<caption>{html.escape(table.caption)}</caption>\n" if table.caption else ""
    rows = "".join(row(tuple(cells), "td") for cells in table.rows)
    return (
        f'<div class="wide"><table>\n{caption}<thead>{row(tuple(table.header), "th")}</thead>\n{rows}</table></div>\n'
    )


def _figure(example: Example) -> str:
    caption, key = html.escape(example.caption), html.escape(example.key, quote=True)
    picture = f'<img src="{example.picture}" alt="{html.escape(example.caption, quote=True)}" loading="lazy">'
    if not example.picture:
        picture = '<div class="none">cannot be decoded</div>'
    player = f'<audio controls preload="none" src="{example.sound}"></audio>' if example.sound else ""
    return f'<figure title="{key}">{picture}{player}<figcaption>{caption}</figcaption></figure>\n'


def _sentence(text: str) -> str:
    return html.escape(text[:1].upper() + text[1:] + ("" if text.endswith(".") else "."))
