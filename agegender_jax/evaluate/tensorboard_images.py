"""Images for TensorBoard, as uint8 arrays `[height, width, 3]`."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from agegender_jax.text import printable

_SIDE = 1.25  # height of an image in a grid, inches
_LETTERS = 18  # of a caption, in an inch


def confusion_image(confusion: np.ndarray, names: Sequence[str], title: str) -> np.ndarray:
    """Returns a confusion matrix, int, row = label, as an image, shaded by the share of each row; cells hold counts."""
    size = max(3.2, 0.62 * len(names) + 1.4)
    figure = _figure(size + 0.6, size)
    axes = figure.add_subplot()
    share = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for i, row in enumerate(confusion):
        for j, count in enumerate(row):
            colour = "white" if share[i, j] > 0.5 else "black"
            axes.text(j, i, str(count), ha="center", va="center", fontsize=8, color=colour)
    texts = [printable(name) for name in names]
    axes.set_xticks(range(len(names)), texts, rotation=45, ha="right", fontsize=8, parse_math=False)
    axes.set_yticks(range(len(names)), texts, fontsize=8, parse_math=False)
    axes.set_xlabel("prediction")
    axes.set_ylabel("label (as annotated)")
    axes.set_title(title, fontsize=9)
    return _pixels(figure)


def grid_image(images: np.ndarray, captions: Sequence[str], columns: int = 8) -> np.ndarray:
    """Returns images, uint8 `[n, height, width, 3]`, in a grid, captions under them, lines cut to their width."""
    lines = [[printable(line) for line in caption.split("\n")] for caption in captions]
    rows, below = max(1, -(-len(images) // columns)), 0.12 * max(map(len, lines), default=1) + 0.1  # inches
    width = _SIDE * images.shape[2] / images.shape[1]
    figure = _figure(width * columns, (_SIDE + below) * rows)
    most = int(width * _LETTERS)
    for place, (image, texts) in enumerate(zip(images, lines, strict=True), start=1):
        axes = figure.add_subplot(rows, columns, place)
        axes.imshow(image)
        axes.axis("off")
        text = "\n".join(line if len(line) <= most else f"{line[: most - 1]}…" for line in texts)
        axes.set_title(text, fontsize=7, y=-0.02, va="top", parse_math=False)
    bottom = below / ((_SIDE + below) * rows)
    figure.subplots_adjust(left=0.01, right=0.99, top=0.99, bottom=bottom, hspace=below / _SIDE, wspace=0.06)
    return _pixels(figure, tight=False)


def _figure(width: float, height: float) -> Any:
    from matplotlib.figure import Figure  # not pyplot: no global state, no display

    return Figure(figsize=(width, height), dpi=110)


def _pixels(figure: Any, tight: bool = True) -> np.ndarray:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    if tight:
        figure.tight_layout()
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
