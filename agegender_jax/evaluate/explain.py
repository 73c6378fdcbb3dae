"""Images of where a finished run saw what it predicts: each example beside its maps, and a sheet of them all."""

import csv
import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from agegender_jax import atomic
from agegender_jax.data.decode_image import decode_image
from agegender_jax.data.detect import NoDetector, faces
from agegender_jax.data.files import read_file
from agegender_jax.errors import UserError
from agegender_jax.evaluate.evaluate_run import open_data
from agegender_jax.evaluate.loaded import LoadedModel
from agegender_jax.evaluate.saliency import Explained, Explainer
from agegender_jax.evaluate.tensorboard_images import grid_image
from agegender_jax.models.heads import ClassHead
from agegender_jax.text import csv_cell
from tfds_builders.faces import NO_FACE

MAX_COUNT = 100
"""Most examples of one export: all are on one sheet."""

SIDE = 224
"""Least edge of a panel, pixels."""

_COLUMNS = ("image", "example", "method", "head", "prediction", "probability", "map_of")


@dataclasses.dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
      skipped: what is wrong with each file that is not shown, a sentence each.
      map_size: (height, width) of each map before it was enlarged.
      terms: of the dataset that they are of; "" of the user's own files.
    """

    count: int
    skipped: list[str]
    map_size: list[tuple[int, int]]
    synthetic: bool
    terms: str


def export(
    model: LoadedModel,
    out: Path,
    files: Sequence[Path] = (),
    *,
    method: str = "layer_cam",
    head: str | None = None,
    class_name: str | None = None,
    count: int | None = None,
    split: str | None = None,
    manual_dir: Path | None = None,
    data_dir: Path | None = None,
    progress: bool = True,
) -> Exported:
    """Writes maps of files, or of some examples of a run, evenly spaced over a part of its split.

    `001.png` and so on hold the image (of a recording its spectrogram), and beside it the map over it: from 0 (dark) to
    its own highest value (light), or of attention, whose masks have one a stage, from its lowest. `sheet.png` holds
    them all with the predictions; `examples.csv` has a row for each. The folder appears whole or not at all.

    `files` are images or recordings as the run takes them; the run's data are then not needed. Where these were
    searched for faces, so are images, and the largest face is shown. One that cannot be read, or has no face, is
    left out and named in the result. Else `count` of the run's examples are shown, up to `MAX_COUNT`, None is 16;
    fewer where the part has fewer. `method`, `head` and `class_name` are those of `Explainer`, `split` of
    `EvaluationData.rows`, the others of `evaluate_runs`.

    Raises:
      UserError: the run has no such head, class or map; the data are missing or bad; no file can be read; or the
        folder is not empty or cannot be written.
    """
    if files and any(option is not None for option in (count, split, manual_dir, data_dir)):
        raise UserError("Files are shown as they are; leave out --count, --split, --manual_dir and --data_dir.")
    count = len(files) or (16 if count is None else count)
    if not 1 <= count <= MAX_COUNT:
        raise UserError(
            f"A sheet holds 1 to {MAX_COUNT} examples, not {count}; choose another --count, or fewer files."
        )
    _check_out(out)
    explainer = Explainer(model, method, head, class_name)
    skipped: list[str] = []
    synthetic, terms = False, ""
    if files:
        content, names, skipped = _read(explainer, files)
    else:
        opened = open_data(model, manual_dir=manual_dir, data_dir=data_dir, progress=progress)
        rows = opened.rows(split)
        rows = rows[np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(int)]
        content, names = opened.data.read(rows), opened.data.columns["key"][rows].tolist()
        synthetic, terms = opened.prepared.synthetic, opened.data.terms
    explained = explainer(content, progress=progress)
    out = Path(os.path.abspath(out))
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with atomic.replacing(out) as folder:
            folder.mkdir()
            _write(folder, explainer, model.preprocessor.to_display(content), explained, names)
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror}); choose another --out.") from error
    sizes = [(stage.shape[1], stage.shape[2]) for stage in explained.maps]
    return Exported(len(content), skipped, sizes, synthetic, terms)


def saliency_sheet(
    model: LoadedModel, content: np.ndarray, captions: Sequence[str], *, method: str, head: str, columns: int
) -> np.ndarray:
    """Returns examples in a grid, each beside its maps, with its caption and prediction: uint8 `[H, W, 3]`.

    `content` is at least one example, decoded by the run's preprocessor, `[n, ...]`; a row holds `columns` of them.
    """
    explainer = Explainer(model, method, head)
    explained = explainer(content)
    images = _panels(explainer, model.preprocessor.to_display(content), explained)
    return grid_image(images, _captions(explainer, explained, captions), columns)


def prediction_text(explainer: Explainer, explained: Explained, row: int) -> str:
    """Returns an example's prediction with its probability, and which class the map is of where that is another."""
    predictions = explained.predictions
    if not isinstance(explainer.head, ClassHead):
        return f"{explainer.head_name} {predictions['years'][row]:.1f} years"
    names, probability, predicted = explainer.head.names, predictions["probability"][row], predictions["class"][row]
    text = f"{names[predicted]} {probability[predicted]:.2f}"
    if explained.classes is None or explained.classes[row] == predicted:
        return text
    shown = explained.classes[row]
    return f"map of {names[shown]} {probability[shown]:.2f}, prediction {text}"


def _read(explainer: Explainer, files: Sequence[Path]) -> tuple[np.ndarray, list[str], list[str]]:
    """Reads files: decoded content, names, and what is wrong with each of the others."""
    content, names, skipped = [], [], []
    preprocessor, detection = explainer.model.preprocessor, explainer.model.detection
    for name in map(str, files):
        try:
            stored = read_file(name)
            if detection is None:
                content.append(preprocessor.decode(stored, name=name))
            else:
                crops, _ = faces(decode_image(stored, 0, name), name, detection, preprocessor.shape[0], most=1)
                if not crops:
                    raise UserError(f"{name}: {NO_FACE}, and the run learned from detected faces.")
                content.append(crops[0][1])
            names.append(name)
        except NoDetector:
            raise
        except UserError as error:
            skipped.append(str(error))
    if not content:
        raise UserError(f"None of the files ({len(files)}) can be shown: {skipped[0]}")
    return np.stack(content), names, skipped


def _check_out(out: Path) -> None:
    try:
        if out.exists() and any(out.iterdir()):
            raise UserError(f"{out} is not empty; choose another --out.")
    except OSError as error:
        raise UserError(f"{out} is no folder to write to ({error.strerror}); choose another --out.") from error


def _write(folder: Path, explainer: Explainer, images: np.ndarray, explained: Explained, names: list[str]) -> None:
    from PIL import Image

    numbers = [f"{number:03d}" for number in range(1, len(names) + 1)]
    panels = _panels(explainer, images, explained)
    for number, image in zip(numbers, panels, strict=True):
        Image.fromarray(image).save(folder / f"{number}.png")
    captions = [f"{number} {Path(name).name}" for number, name in zip(numbers, names, strict=True)]
    columns = max(1, min(4, 8 // (1 + len(explained.maps))))
    sheet = grid_image(panels, _captions(explainer, explained, captions), columns)
    Image.fromarray(sheet).save(folder / "sheet.png")
    head, predictions = explainer.head, explained.predictions
    with open(folder / "examples.csv", "w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(_COLUMNS)
        for row, (number, name) in enumerate(zip(numbers, names, strict=True)):
            if isinstance(head, ClassHead):
                predicted = predictions["class"][row]
                cells = [head.names[predicted], f"{predictions['probability'][row][predicted]:.4f}"]
            else:
                cells = [f"{predictions['years'][row]:.2f}", ""]
            shown = "" if explained.classes is None else head.names[explained.classes[row]]
            cells = [f"{number}.png", name, explainer.method, explainer.head_name, *cells, shown]
            table.writerow(map(csv_cell, cells))


def _ranges(explainer: Explainer, explained: Explained, row: int) -> list[tuple[float, float]]:
    """Returns the ends of the scale of each map: a class activation map begins at 0, a mask at its lowest value."""
    least = [float(stage[row].min()) if explainer.method == "attention" else 0.0 for stage in explained.maps]
    return [(low, float(stage[row].max())) for low, stage in zip(least, explained.maps, strict=True)]


def _panels(explainer: Explainer, images: np.ndarray, explained: Explained) -> np.ndarray:
    """Returns each image beside its maps, uint8 `[n, side, (1 + maps) * side, 3]`."""
    import matplotlib
    from PIL import Image

    side = max(SIDE, images.shape[1])
    colours = matplotlib.colormaps["inferno"]
    result = []
    for row, image in enumerate(images):
        panels = [np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BILINEAR))]
        for stage, (low, high) in zip(explained.maps, _ranges(explainer, explained, row), strict=True):
            scaled = ((stage[row] - low) / (high - low if high > low else 1.0)).astype(np.float32)
            large = Image.fromarray(scaled).resize((side, side), Image.Resampling.BILINEAR)
            heat = 255 * colours(np.asarray(large))[..., :3]
            panels.append(((panels[0] + heat) / 2).round().astype(np.uint8))
        result.append(np.concatenate(panels, axis=1))
    return np.stack(result)


def _captions(explainer: Explainer, explained: Explained, captions: Sequence[str]) -> list[str]:
    """Returns the captions with a line for the prediction, and one for the ends of masks."""
    texts = []
    for row, caption in enumerate(captions):
        text, ranges = f"{caption}\n{prediction_text(explainer, explained, row)}", _ranges(explainer, explained, row)
        if explainer.method == "attention":
            text += "\nmasks " + ", ".join(f"{low:.2f} to {high:.2f}" for low, high in ranges)
        elif not ranges[0][1]:
            text += " (empty map)"
        texts.append(text)
    return texts
