"""HTML pages that need nothing but themselves: Jinja2 templates, and plots in the page's own colours.

All text is the data's own and may be hostile: the templates escape whatever they print. A page loads nothing from
anywhere, and its content security policy forbids it to.
"""

import base64
import dataclasses
import functools
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from agegender_jax import atomic
from agegender_jax.errors import UserError
from agegender_jax.text import printable

INK = "#123456"
"""Stands for the page's text colour in plots: used for nothing else, and replaced in the finished SVG."""

COLOURS = {"male": "#3b7fc4", "female": "#e0892e", "undefined": "#8a63a8", "unknown": "#8c8c8c"}
"""Colours of plots: each can be seen on white and on black."""

BLUE = COLOURS["male"]
ORANGE = COLOURS["female"]

_PLOT_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
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


@dataclasses.dataclass(frozen=True)
class Section:
    """A section of a page: the anchor by which it is linked to, its heading, and what its template shows."""

    anchor: str
    title: str
    content: Any


@dataclasses.dataclass(frozen=True)
class Plot:
    """A plot: an `<svg>` element, and what it shows in words, for those who do not see it."""

    svg: Markup
    label: str


def plot(draw: Callable[[Any], None], name: str, label: str, *, width: float, height: float) -> Plot:
    """Returns a plot, the same bytes for the same data: `draw` fills a `matplotlib.figure.Figure` of so many inches.

    Text has 9 points: on narrow screens it keeps its size where the width is small. `name` differs from all others of
    the page, and `label` is the content in words.
    """
    import matplotlib
    from matplotlib.figure import Figure  # not pyplot: no global state, no display

    with matplotlib.rc_context(_PLOT_STYLE | {"svg.hashsalt": name}):  # the ids of no two plots are the same
        figure = Figure(figsize=(width, height), layout="constrained")
        draw(figure)
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    # The names of groups, such as axes_1, are those of every plot; nothing refers to them.
    return Plot(Markup(re.sub(r' id="(?![^"]*[0-9a-f]{10})[^"]*"', "", svg)), label)


def literal(text: str) -> str:
    """Returns a text that matplotlib takes for no formula, and that XML can hold."""
    return printable(text).replace("$", r"\$")


def data_uri(kind: str, content: bytes) -> str:
    """Returns a file as a data URI; `kind` is its MIME type."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def jpeg(image: np.ndarray, *, side: int | None = None, quality: int = 80) -> str:
    """Returns an image, uint8 `[h, w, 3]`, as the data URI of a JPEG of at most `side` pixels; None keeps its size."""
    from PIL import Image

    thumbnail = Image.fromarray(image)
    if side is not None and max(thumbnail.size) > side:
        thumbnail = thumbnail.resize((side, side), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    thumbnail.save(file, "JPEG", quality=quality)
    return data_uri("image/jpeg", file.getvalue())


def render(template: str, *, generator: str, **values: Any) -> str:
    """Returns a page of a command, its `generator`, as HTML: a file in `templates/` filled with the values."""
    return _environment().get_template(template).render(mark=Markup(_mark(generator)), **values)


@functools.cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("agegender_jax"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        # Characters that turn the order of the letters around them are no HTML.
        finalize=lambda value: (
            printable(value, keep="\n") if isinstance(value, str) and not isinstance(value, Markup) else value
        ),
    )


def write(path: Path, text: str, option: str) -> None:
    """Writes a page or its numbers, whole or not at all, and the folder where that is missing.

    Raises:
      UserError: it cannot be written; the message names the `option` of the command line.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic.write_text(path, text)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); choose another {option}.") from error


def check_path(path: Path, generator: str, option: str) -> None:
    """Refuses a path where writing a page would destroy something else than a page of the same generator.

    Raises:
      UserError: the message names the `option` of the command line.
    """
    try:
        if not path.exists():
            return
        with path.open("rb") as file:
            replaceable = _mark(generator).encode() in file.read(1000)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); choose another {option}.") from error
    if not replaceable:
        raise UserError(f"{path} exists and was not written by this command; choose another {option}.")


def _mark(generator: str) -> str:
    return f'<meta name="generator" content="{generator}">'
