"""HTML pages that need nothing but themselves: their shell, tables, figures, and plots in the page's own colours.

All text is the data's own and may be hostile: whatever is no `Html` is escaped. A page loads nothing from anywhere,
and tells the browser so.
"""

import html
import io
import re
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from agegender_jax.errors import UserError

INK = "#123456"
"""Stands for the page's text colour in plots: drawn nowhere else, and replaced in the finished text."""

COLOURS = {"male": "#3b7fc4", "female": "#e0892e", "undefined": "#8a63a8", "unknown": "#8c8c8c"}
"""Of plots: each is seen on white and on black."""

BLUE = COLOURS["male"]
ORANGE = COLOURS["female"]

_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; media-src data:; base-uri 'none'; form-action 'none'"
)
_LONG = 40  # characters of a cell that is allowed to wrap
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
_PLOT_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "agegender",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "legend.frameon": False,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
}


class Html(str):
    """Text that is HTML already."""


def escape(text: str) -> Html:
    """The text as HTML, which also stands between double quotes; HTML as it is.

    >>> escape('<b title="x">'), escape(Html("<b>"))
    ('&lt;b title=&quot;x&quot;&gt;', '<b>')
    """
    if isinstance(text, Html):
        return text
    # What is neither seen nor a space may turn the order of the letters around it, and is no HTML.
    seen = (c if c.isprintable() or c in " \n" else "\N{REPLACEMENT CHARACTER}" for c in text)
    return Html(html.escape("".join(seen), quote=True))


def document(title: str, body: str, *, generator: str, style: str = "") -> str:
    """A whole page.

    Args:
      title: of the page.
      body: HTML.
      generator: the command that writes such pages, see `check_path`.
      style: CSS besides what all pages have.
    """
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
{_mark(generator)}
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="robots" content="noindex">
<title>{escape(title)}</title>
<style>{_STYLE}{style}</style>
</head>
<body>
{body}</body>
</html>
"""


def check_path(path: Path, generator: str, option: str) -> None:
    """Raises a UserError where writing a page to this path would destroy something else.

    Args:
      path: of the page.
      generator: of the only pages that may be replaced.
      option: of the command line that names the path, for the message.
    """
    try:
        if not path.exists():
            return
        with path.open("rb") as file:
            ours = _mark(generator).encode() in file.read(1000)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); choose another {option}.") from error
    if not ours:
        raise UserError(f"{path} is there and is no page of this command; choose another {option}.")


def _mark(generator: str) -> str:
    return f'<meta name="generator" content="{escape(generator)}">'


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, caption: str = "", numbers: Collection[int]) -> Html:
    """A table that scrolls within itself where it is too wide.

    Args:
      header: names of the columns.
      rows: cells, as many as the header has.
      caption: "" for none.
      numbers: columns that stand flush right.
    """

    def row(cells: Sequence[str], tag: str) -> str:
        found = []
        for place, cell in enumerate(cells):
            mark = "number" if place in numbers else "long" if len(cell) > _LONG and not isinstance(cell, Html) else ""
            found.append(f'<{tag} class="{mark}">{escape(cell)}</{tag}>' if mark else f"<{tag}>{escape(cell)}</{tag}>")
        return f"<tr>{''.join(found)}</tr>\n"

    title = f"<caption>{escape(caption)}</caption>\n" if caption else ""
    body = "".join(row(cells, "td") for cells in rows)
    return Html(f'<div class="wide"><table>\n{title}<thead>{row(header, "th")}</thead>\n{body}</table></div>\n')


def paragraph(text: str) -> Html:
    """A paragraph."""
    return Html(f"<p>{escape(text)}</p>\n")


def figure(picture: str, caption: str, *, title: str, sound: str = "") -> Html:
    """A picture with its caption.

    Args:
      picture: data URI, "" where it cannot be decoded.
      caption: under it, and what those read who do not see it.
      title: shown where the pointer rests on it.
      sound: data URI of a recording, "" for none.
    """
    shown = f'<img src="{escape(picture)}" alt="{escape(caption)}" loading="lazy">'
    if not picture:
        shown = '<div class="none">cannot be decoded</div>'
    player = f'<audio controls preload="none" src="{escape(sound)}"></audio>' if sound else ""
    caption = f"<figcaption>{escape(caption)}</figcaption>"
    return Html(f'<figure title="{escape(title)}">{shown}{player}{caption}</figure>\n')


def plot(draw: Callable[[Any], None], name: str, label: str, *, width: float, height: float) -> Html:
    """A plot as an `<svg>` element: the same bytes for the same data, scaled to fit.

    Args:
      draw: fills a `matplotlib.figure.Figure`.
      name: of the plot, unlike all others of the page.
      label: what it shows, for those who do not see it.
      width: inches. Text is drawn at 9 points: on narrow screens it keeps its size where this is small.
      height: inches, which `draw` may change.
    """
    import matplotlib
    from matplotlib.figure import Figure  # not pyplot: no global state, no display

    with matplotlib.rc_context(_PLOT_STYLE):
        drawn = Figure(figsize=(width, height), layout="constrained")
        draw(drawn)
        file = io.StringIO()
        drawn.savefig(file, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return _embedded(file.getvalue(), name, label)


def _embedded(document: str, name: str, label: str) -> Html:
    """An SVG document as an element: ids that no other plot has, the page's colour, scaled to fit."""
    text = document[document.index("<svg") :]
    used = set(re.findall(r'(?:url\(#|href="#)([^")]+)', text))
    text = re.sub(r' id="([^"]+)"', lambda m: f' id="{name}-{m[1]}"' if m[1] in used else "", text)
    text = re.sub(r'(url\(#|href="#)', rf"\g<1>{name}-", text)
    head, rest = text.split(">", 1)
    box = re.search(r'viewBox="[^"]+"', head)
    assert box is not None
    rest = re.sub(r"<metadata>.*?</metadata>", "", rest, flags=re.DOTALL).replace(INK, "currentColor")
    links = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return Html(f'<svg {links} role="img" aria-label="{escape(label)}" {box[0]}>{rest.strip()}')


def literal(text: str) -> str:
    """A text of others for a plot, which must not be taken for a formula, nor break XML."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text).replace("$", r"\$")
