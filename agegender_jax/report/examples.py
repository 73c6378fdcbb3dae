"""The sections of a report that name single examples, and their pictures where these are asked for."""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from agegender_jax import page
from agegender_jax.evaluate.evaluate_run import Opened
from agegender_jax.evaluate.explain import saliency_sheet
from agegender_jax.evaluate.saliency import things
from agegender_jax.page import Html, escape
from agegender_jax.report.components import boxed, section, subtitle
from agegender_jax.report.format import spaced
from agegender_jax.report.mistakes import LEVEL, WRONG_YEARS
from agegender_jax.report.results import Content

THUMBNAIL = 112
"""Edge of a mistake's picture, pixels."""

SAMPLE = 8
"""Examples whose saliency is shown."""

_METHOD = "layer_cam"  # which the report's text names
_QUALITY = 78  # of JPEGs


def mistakes(content: Content, thumbnails: Mapping[str, str]) -> Html:
    """The mistakes, worst and most confident, by thing.

    Args:
      content: of the report.
      thumbnails: data URIs by key, of all mistakes or of none.
    """
    parts: list[str] = []
    for thing, found in content["mistakes"].items():
        years = content["things"][thing]["kind"] == "years"
        sure = f"{100 * LEVEL:.0f} % interval"
        titles = {
            "worst": f"{spaced(thing)}: furthest off",
            "confident": f"{spaced(thing)}: {WRONG_YEARS:g} years off or more, and the narrowest {sure}"
            if years
            else f"{spaced(thing)}: wrong with the most confidence",
        }
        for kind, title in titles.items():
            if rows := found[kind]:
                parts += [subtitle(title), _pictures(rows, thumbnails)] if thumbnails else [_table(rows, years, title)]
    if not parts:
        return Html("")
    said = (
        "Of the test part, by the names of the files. Look at the labels first: many of the surest mistakes of a good "
        "network are errors of annotation."
    )
    return section("mistakes", "Mistakes", said, *(parts if thumbnails else [boxed("tables", *parts)]))


def keys(content: Content) -> list[str]:
    """The keys of all mistakes, each once."""
    found = (row["key"] for kinds in content["mistakes"].values() for rows in kinds.values() for row in rows)
    return list(dict.fromkeys(found))


def _table(rows: Sequence[Mapping[str, Any]], years: bool, title: str) -> Html:
    """Mistakes without their pictures."""
    if not years:
        cells = [(row["key"], row["label"], row["answer"], f"{100 * row['probability']:.1f} %") for row in rows]
        return page.table(("file", "annotated", "answered", "with"), cells, caption=title, numbers=(3,))
    header = ["file", "annotated, years", "answered", "error"]
    if width := all("width" in row for row in rows):
        header.append(f"width of its {100 * LEVEL:.0f} % interval")
    figures = [
        (row["key"], f"{row['label']:g}", f"{row['answer']:.1f}", f"{row['error']:+.1f}")
        + ((f"{row['width']:.1f}",) if width else ())
        for row in rows
    ]
    return page.table(header, figures, caption=title, numbers=range(1, len(header)))


def _pictures(rows: Sequence[Mapping[str, Any]], thumbnails: Mapping[str, str]) -> Html:
    """Mistakes with their pictures."""
    figures = []
    for row in rows:
        if "error" in row:
            caption = f"{row['answer']:.1f} years, annotated {row['label']:g}"
        else:
            caption = f"{row['answer']} ({100 * row['probability']:.0f} %), annotated {row['label']}"
        figures.append(page.figure(thumbnails.get(row["key"], ""), caption, title=row["key"]))
    return boxed("sheet", *figures)


def make_thumbnails(opened: Opened, names: Sequence[str]) -> dict[str, str]:
    """Small pictures of some examples as data URIs, by key; of recordings their spectrograms.

    Args:
      opened: the run with its data.
      names: keys of its data.
    """
    if not names:
        return {}
    pictures = opened.inputs.pictures(np.asarray(opened.data.content[rows_of(opened, names)]))
    return {name: jpeg(picture, THUMBNAIL) for name, picture in zip(names, pictures, strict=True)}


def rows_of(opened: Opened, names: Sequence[str]) -> np.ndarray:
    """The rows of some keys, int64 `[n]`."""
    place = {key: row for row, key in enumerate(opened.data.columns["key"].tolist())}
    return np.array([place[name] for name in names], np.int64)


def saliency_panels(opened: Opened, rows: np.ndarray) -> dict[str, np.ndarray]:
    """For each thing that the run says, some examples beside where it sees it: uint8 `[H, W, 3]` by thing.

    Args:
      opened: the run with its data.
      rows: int `[n]`, of the data.
    """
    content, names = np.asarray(opened.data.content[rows]), opened.data.columns["key"][rows].tolist()
    return {
        thing: saliency_sheet(opened.run, content, names, method=_METHOD, head=thing, columns=2)
        for thing in things(opened.heads)
    }


def saliency(panels: Mapping[str, np.ndarray], sample: int) -> Html:
    """Where the network sees what it says.

    Args:
      panels: by thing, see `saliency_panels`; empty leaves the section out.
      sample: how many examples they are of.
    """
    if not panels:
        return Html("")
    figures = [
        page.figure(jpeg(panel, None), f"Where it sees the {spaced(thing)}", title=spaced(thing))
        for thing, panel in panels.items()
    ]
    said = (
        f"LayerCAM of {sample} examples, evenly spaced over the test part: light where the answer is raised most, "
        "each map on its own scale. A map says where the network looks, not whether it is right to."
    )
    return section("saliency", "Where it looks", said, boxed("sheet panels", *figures))


def jpeg(picture: np.ndarray, side: int | None) -> str:
    """A picture, uint8 `[h, w, 3]`, as data URI of a JPEG of at most `side` pixels; None keeps its size."""
    from PIL import Image

    image = Image.fromarray(picture)
    if side is not None and max(image.size) > side:
        image = image.resize((side, side), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def contents_of(sections: Sequence[tuple[str, str]]) -> Html:
    """The table of contents: links to anchors by title."""
    links = "\n".join(f'<a href="#{anchor}">{escape(title)}</a>' for anchor, title in sections)
    return Html(f'<nav aria-label="contents">\n{links}\n</nav>\n')
