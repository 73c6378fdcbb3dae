"""The images of a report, where these are asked for: of mistakes, and of examples with saliency."""

import dataclasses

import numpy as np

from agegender_jax.evaluate.evaluate_run import EvaluationData
from agegender_jax.evaluate.explain import saliency_sheet
from agegender_jax.page import jpeg
from agegender_jax.report.content import Content

SAMPLE = 8  # examples whose saliency is shown

_THUMBNAIL = 112  # edge of a mistake's image, pixels
_METHOD = "layer_cam"  # which the report's text names
_QUALITY = 78  # of JPEGs


@dataclasses.dataclass(frozen=True)
class Images:
    """Images as data URIs: thumbnails of the mistakes by key, and saliency panels of `sample` examples by target."""

    thumbnails: dict[str, str] = dataclasses.field(default_factory=dict)
    panels: dict[str, str] = dataclasses.field(default_factory=dict)
    sample: int = 0


def load_images(opened: EvaluationData, content: Content) -> Images:
    """Returns the images of a report, of recordings their spectrograms; `opened` is the run with its data and split."""
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
    return {name: jpeg(image, side=_THUMBNAIL, quality=_QUALITY) for name, image in zip(names, images, strict=True)}


def saliency_panels(opened: EvaluationData, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Returns for each target examples (rows of the data, int `[n]`) beside their saliency maps: uint8 `[H, W, 3]`."""
    content, names = opened.data.read(rows), opened.data.columns["key"][rows].tolist()
    return {
        target: saliency_sheet(opened.model, content, names, method=_METHOD, head=target, columns=2)
        for target in opened.heads
    }
