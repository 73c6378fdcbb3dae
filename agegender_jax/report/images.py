"""The mistakes of a report, and its images, where these are asked for: of mistakes, and of examples with saliency."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from agegender_jax.evaluate.evaluate_run import EvaluationData
from agegender_jax.evaluate.explain import saliency_sheet
from agegender_jax.page import jpeg
from agegender_jax.report.content import Content
from agegender_jax.report.format import spaced
from agegender_jax.report.mistakes import LEVEL, WRONG_YEARS
from agegender_jax.text import Table

THUMBNAIL = 112
"""Edge of a mistake's image, pixels."""

SAMPLE = 8
"""Examples whose saliency is shown."""

_METHOD = "layer_cam"  # which the report's text names
_QUALITY = 78  # of JPEGs


@dataclasses.dataclass(frozen=True)
class Images:
    """Images as data URIs.

    Attributes:
      thumbnails: of the mistakes, by key.
      panels: saliency sheets by target, each of `sample` examples.
      sample: how many examples the panels show.
    """

    thumbnails: dict[str, str] = dataclasses.field(default_factory=dict)
    panels: dict[str, str] = dataclasses.field(default_factory=dict)
    sample: int = 0


def load_images(opened: EvaluationData, content: Content) -> Images:
    """Returns the images of a report; of recordings their spectrograms.

    Args:
      opened: the run with its data and its split.
      content: of the report.
    """
    assert opened.split is not None
    test = opened.split.test
    rows = test[np.linspace(0, len(test) - 1, min(SAMPLE, len(test))).round().astype(int)]
    panels = saliency_panels(opened, rows)
    sheets = {target: jpeg(panel, quality=_QUALITY) for target, panel in panels.items()}
    return Images(_thumbnails(opened, keys(content)), sheets, len(rows) if panels else 0)


def keys(content: Content) -> list[str]:
    """Returns the keys of all mistakes, each once."""
    every = (row["key"] for kinds in content.mistakes.values() for rows in kinds.values() for row in rows)
    return list(dict.fromkeys(every))


def _thumbnails(opened: EvaluationData, names: list[str]) -> dict[str, str]:
    if not names:
        return {}
    place = {key: row for row, key in enumerate(opened.data.columns["key"].tolist())}
    rows = np.array([place[name] for name in names], np.int64)
    images = opened.model.preprocessor.to_display(opened.data.read(rows))
    return {name: jpeg(image, side=THUMBNAIL, quality=_QUALITY) for name, image in zip(names, images, strict=True)}


def saliency_panels(opened: EvaluationData, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Returns for each target some examples beside their saliency maps: uint8 `[H, W, 3]` by target.

    Args:
      opened: the run with its data.
      rows: int `[n]`, of the data.
    """
    content, names = opened.data.read(rows), opened.data.columns["key"][rows].tolist()
    return {
        target: saliency_sheet(opened.model, content, names, method=_METHOD, head=target, columns=2)
        for target in opened.heads
    }


def mistakes(content: Content, thumbnails: Mapping[str, str]) -> dict[str, Any] | None:
    """Returns the mistakes, worst and most confident, by target: tables, or images with captions."""
    lists = []
    for target, kinds in content.mistakes.items():
        years = content.targets[target].kind == "years"
        sure = f"{100 * LEVEL:.0f} % interval"
        titles = {
            "worst": f"{spaced(target)}: largest errors",
            "confident": f"{spaced(target)}: errors of {WRONG_YEARS:g} years or more with the narrowest {sure}"
            if years
            else f"{spaced(target)}: wrong with the highest confidence",
        }
        lists += [(title, kinds[kind], years) for kind, title in titles.items() if kinds[kind]]
    if not lists:
        return None
    if not thumbnails:
        return {"tables": [_mistake_table(rows, years, title) for title, rows, years in lists], "sheets": []}
    sheets = [
        (title, [(thumbnails.get(row["key"], ""), _caption(row), row["key"]) for row in rows])
        for title, rows, _ in lists
    ]
    return {"tables": [], "sheets": sheets}


def _mistake_table(rows: Sequence[Mapping[str, Any]], years: bool, title: str) -> Table:
    if not years:
        cells = [(row["key"], row["label"], row["answer"], f"{100 * row['probability']:.1f} %") for row in rows]
        return Table(("file", "annotated", "predicted", "probability"), cells, title)
    header = ["file", "annotated, years", "predicted", "error"]
    if width := all("width" in row for row in rows):
        header.append(f"width of its {100 * LEVEL:.0f} % interval")
    ages = [
        (row["key"], f"{row['label']:g}", f"{row['answer']:.1f}", f"{row['error']:+.1f}")
        + ((f"{row['width']:.1f}",) if width else ())
        for row in rows
    ]
    return Table(header, ages, title)


def _caption(row: Mapping[str, Any]) -> str:
    if "error" in row:
        return f"{row['answer']:.1f} years, annotated {row['label']:g}"
    return f"{row['answer']} ({100 * row['probability']:.0f} %), annotated {row['label']}"
