"""What the sections of a report are made of."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from agegender_jax.page import Html, escape

STYLE = """
body { max-width: 68rem; }
nav { font-size: .875rem; margin: .8rem 0; display: flex; flex-wrap: wrap; gap: .1rem 1rem; }
h2 { scroll-margin-top: .5rem; }
h3 { font-size: 1rem; margin: 1.4rem 0 .3rem; }
.anchor { color: inherit; opacity: .35; text-decoration: none; font-weight: normal; }
.lead { font-size: 1.05rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: .7rem; margin: 1rem 0; }
.tile { border: 1px solid var(--line); border-radius: .4rem; padding: .5rem .8rem; font-size: .8rem; }
.tile b { display: block; font-size: 1.5rem; line-height: 1.3; white-space: nowrap; }
.tile span, .tile small { display: block; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr)); gap: 0 1.5rem; }
.plots { align-items: start; }
.plots > svg { max-width: 28rem; }
.beside { display: flex; flex-wrap: wrap; gap: 0 2rem; align-items: flex-start; }
.beside > .wide { max-width: 100%; }
.beside > svg { flex: 1 1 16rem; min-width: min(100%, 16rem); max-width: 28rem; }
.wide td:first-child, .wide th:first-child { position: sticky; left: 0; background: Canvas; }
.long-table .wide { max-height: 32rem; overflow: auto; }
.long-table thead th { position: sticky; top: 0; background: Canvas; z-index: 1; }
.heat th, .heat td { text-align: center; padding: .2rem .35rem; }
.heat td { background: rgb(59 127 196 / var(--more, 0)); min-width: 2.6rem; line-height: 1.15; }
.heat td.less { background: rgb(224 137 46 / var(--more, 0)); }
.heat tbody th { text-align: right; font-weight: normal; border-top: 1px solid var(--line); white-space: nowrap; }
.heat td:first-child { position: static; min-width: 2.6rem; }
.heat small { display: block; font-size: .7rem; opacity: .8; }
.heat thead th { white-space: nowrap; }
.heat .few { opacity: .55; }
.many thead th:not(:first-child) { writing-mode: vertical-rl; text-align: left; vertical-align: top; }
.many th, .many td { padding: .1rem; }
.many td, .many td:first-child { min-width: 1.8rem; }
.many small { white-space: nowrap; }
pre { background: var(--soft); padding: .6rem; border-radius: .3rem; white-space: pre-wrap; overflow-wrap: anywhere; }
li { max-width: 45rem; margin: .25rem 0; }
.metadata { display: grid; grid-template-columns: minmax(7rem, max-content) 1fr; gap: .15rem 1rem; margin: .8rem 0; }
.metadata { font-size: .875rem; }
.metadata dt { opacity: .75; }
.metadata dd { margin: 0; overflow-wrap: anywhere; }
.panels { grid-template-columns: repeat(auto-fill, minmax(min(100%, 24rem), 1fr)); }
.panels figure img { aspect-ratio: auto; }
@media print {
  nav, .anchor { display: none; }
  .wide, .long-table .wide { overflow: visible; max-height: none; }
  .wide td:first-child, .wide th:first-child, .long-table thead th { position: static; }
  .heat td, .tile { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  h2, h3 { break-after: avoid; }
  .heat { break-inside: avoid; }
  table { font-size: 8pt; }
}
"""
"""Besides what all pages have."""

_MANY = 12  # columns whose names stand upright


class Cell(NamedTuple):
    """A shaded cell: `text`, what stands `below` it, and from -1 (orange) over 0 to 1 (blue) the `shade`."""

    text: str
    below: str = ""
    shade: float = 0.0
    few: bool = False


def section(anchor: str, title: str, *parts: str) -> Html:
    """A section with a heading that can be linked to; what is no `Html` is a paragraph."""
    link = f'<a class="anchor" href="#{anchor}" aria-label="link to this section">#</a>'
    return Html(f'<section>\n<h2 id="{anchor}">{escape(title)} {link}</h2>\n{joined(parts)}</section>\n')


def joined(parts: Sequence[str]) -> Html:
    """HTML one after another; what is no `Html` is a paragraph."""
    return Html("".join(part if isinstance(part, Html) else f"<p>{escape(part)}</p>\n" for part in parts if part))


def subtitle(text: str) -> Html:
    """A heading within a section."""
    return Html(f"<h3>{escape(text)}</h3>\n")


def boxed(kind: str, *parts: str) -> Html:
    """Parts in a box of one of the style's classes."""
    return Html(f'<div class="{kind}">\n{joined(parts)}</div>\n') if any(parts) else Html("")


def listed(*items: str) -> Html:
    """A list of sentences."""
    return Html("<ul>\n" + "".join(f"<li>{escape(item)}</li>\n" for item in items if item) + "</ul>\n")


def metadata(pairs: Mapping[str, str]) -> Html:
    """Names and values below each other; those without a value are left out."""
    rows = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>\n" for name, text in pairs.items() if text)
    return Html(f'<dl class="metadata">\n{rows}</dl>\n')


def tile(value: str, name: str, *below: str) -> Html:
    """One large figure, and lines below it."""
    small = "".join(f"<small>{escape(line)}</small>" for line in below)
    return Html(f'<div class="tile"><span>{escape(name)}</span><b>{escape(value)}</b>{small}</div>\n')


def heat(corner: str, columns: Sequence[str], rows: Mapping[str, Sequence[Cell]], caption: str) -> Html:
    """A table whose cells are shaded.

    Args:
      corner: what the names of rows are.
      columns: their names.
      rows: by name, a cell a column.
      caption: above.
    """
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in columns)
    body = "".join(
        f'<tr><th scope="row">{escape(name)}</th>{"".join(map(_cell, cells))}</tr>\n' for name, cells in rows.items()
    )
    kind = "wide heat many" if len(columns) > _MANY else "wide heat"
    return Html(
        f'<div class="{kind}"><table>\n<caption>{escape(caption)}</caption>\n'
        f"<thead><tr><th>{escape(corner)}</th>{head}</tr></thead>\n<tbody>\n{body}</tbody></table></div>\n"
    )


def _cell(cell: Cell) -> str:
    kind = " ".join(filter(None, ("less" if cell.shade < 0 else "", "few" if cell.few else "")))
    mark = f' class="{kind}"' if kind else ""
    below = f"<small>{escape(cell.below)}</small>" if cell.below else ""
    return f'<td{mark} style="--more:{min(1.0, abs(cell.shade)):.2f}">{escape(cell.text)}{below}</td>'
