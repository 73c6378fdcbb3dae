"""Pictures of where a finished run saw what it says: each example beside the map over it, and a sheet of them all."""

import csv
import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from agegender_jax import atomic
from agegender_jax.data.decode_image import decode_whole
from agegender_jax.data.detect import NoDetector, faces
from agegender_jax.data.files import read_file
from agegender_jax.errors import UserError
from agegender_jax.evaluate.evaluate_run import SPLITS, EvaluationData, open_data
from agegender_jax.evaluate.loaded import LoadedModel
from agegender_jax.evaluate.saliency import Explained, Explainer
from agegender_jax.models.heads import ClassHead
from agegender_jax.text import csv_cell, printable
from tfds_builders.faces import NO_FACE

MAX_COUNT = 100
"""Most examples of one export: they all stand on one sheet."""

SIDE = 224
"""Edge in pixels of a panel of an example's own picture, and at least that of what the network sees."""

SHEET_SIDE = 128
"""Edge in pixels of a panel of the sheet."""

_STRENGTH = 0.5  # of the heat map over the picture
_GAP, _LINE, _FONT = 8, 15, 11  # pixels


@dataclasses.dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
      count: of examples.
      skipped: what is wrong with each file that is not shown, a sentence each.
      map_size: (height, width) of each map before it was enlarged.
      kind: of the content, `image` or `audio`.
      drawn: whether the examples are drawn ones.
      terms: of the dataset that they are of; "" of the user's own files.
    """

    count: int
    skipped: list[str]
    map_size: list[tuple[int, int]]
    kind: str
    drawn: bool
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

    `001.png` and so on hold the picture (of a recording its spectrogram), and beside it the map over it: from nothing
    (dark) to its own highest value (light), or of attention, whose masks have one a stage, from its lowest. Below
    stands what the run says. `sheet.png` holds them all; `examples.csv` says which file or example each is, and what
    the map is of. The folder appears whole or not at all.

    Args:
      model: a finished run.
      out: folder, new or empty.
      files: pictures or recordings as the run takes them; the run's data are then not needed. Where these were
        searched for faces, so are pictures, and the largest face is shown. One that cannot be read, or has no face, is
        left out and named in the result.
      method: of `saliency.METHODS`.
      head: see `Explainer`.
      class_name: see `Explainer`.
      count: of the run's examples, up to `MAX_COUNT`, None is 16; fewer where the part has fewer.
      split: of `SPLITS`, None is `test`; another archive has no parts but `all`, which None then is.
      manual_dir: where the run's own data lie now, or another archive.
      data_dir: where prepared data and caches lie; None is where the run had them.
      progress: whether to draw progress bars on a terminal.

    Raises:
      UserError: the run has no such thing to show, the data are missing or bad, no file can be
        read, or the folder is not empty or cannot be written.
    """
    if files and not count is split is manual_dir is data_dir is None:
        raise UserError("Files are shown as they are; leave out --count, --split, --manual_dir and --data_dir.")
    count = len(files) or (16 if count is None else count)
    if not 1 <= count <= MAX_COUNT:
        what = f"files do not fit on a sheet; give {MAX_COUNT} at most" if files else "examples do not fit on a sheet"
        raise UserError(f"{count} {what}." if files else f"{count} {what}; choose a --count from 1 to {MAX_COUNT}.")
    _check_out(out)
    explainer = Explainer(model, method, head, class_name)
    skipped: list[str] = []
    if files:
        content, names, skipped = _read(explainer, files)
        drawn, terms = False, ""
    else:
        opened = open_data(model, manual_dir=manual_dir, data_dir=data_dir, progress=progress)
        rows = _part(opened, split)
        rows = rows[np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(int)]
        content = opened.data.read(rows)
        names = opened.data.columns["key"][rows].tolist()
        drawn, terms = opened.prepared.synthetic, opened.data.terms
    found = explainer(content, progress=progress)
    out = Path(os.path.abspath(out))
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with atomic.replacing(out) as folder:
            folder.mkdir()
            _write(folder, explainer, explainer.model.preprocessor.to_display(content), found, names)
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror}); choose another --out.") from error
    sizes = [(stage.shape[1], stage.shape[2]) for stage in found.maps]
    return Exported(len(content), skipped, sizes, model.kind, drawn, terms)


def saliency_sheet(
    model: LoadedModel,
    content: np.ndarray,
    captions: Sequence[str],
    *,
    method: str = "layer_cam",
    head: str | None = None,
    class_name: str | None = None,
    columns: int = 4,
    side: int = SHEET_SIDE,
) -> np.ndarray:
    """Examples in a grid, each beside its map; below, its caption and what the run says.

    Args:
      model: a finished run.
      content: examples, decoded by the run's preprocessor, `[n, ...]`, at least one.
      captions: a short line an example.
      method: of `saliency.METHODS`.
      head: see `Explainer`.
      class_name: see `Explainer`.
      columns: examples in a row.
      side: edge of a panel, pixels.

    Returns:
      uint8 `[H, W, 3]`.

    Raises:
      UserError: the run has no such thing to show.
    """
    explainer = Explainer(model, method, head, class_name)
    found = explainer(content)
    return _sheet(_cards(explainer, explainer.model.preprocessor.to_display(content), found, captions, side), columns)


def answer_text(explainer: Explainer, found: Explained, row: int) -> str:
    """What the run says of an example, with its probability, and of which class the map is where that is another."""
    answers = found.answers
    if not isinstance(explainer.head, ClassHead):
        return f"{explainer.head_name} {answers['years'][row]:.1f} years"
    names, probability = explainer.head.names, answers["probability"][row]
    answered = answers["class"][row]
    text = f"{names[answered]} {probability[answered]:.2f}"
    if found.classes is not None and found.classes[row] != answered:
        of = found.classes[row]
        text = f"map of {names[of]} {probability[of]:.2f}, answer {text}"
    return text


def _read(explainer: Explainer, files: Sequence[Path]) -> tuple[np.ndarray, list[str], list[str]]:
    """Decoded files, their names, and what is wrong with each of the others."""
    content, names, skipped = [], [], []
    decode, detection = explainer.model.preprocessor.decode, explainer.model.detection
    for name in map(str, files):
        try:
            stored = read_file(name)
            if detection is None:
                content.append(decode(stored, name=name))
            else:
                image = decode_whole(stored, name)
                found, _ = faces(image, name, detection, explainer.model.preprocessor.shape[0], most=1)
                if not found:
                    raise UserError(f"{name}: {NO_FACE}, and the run learned from detected faces.")
                content.append(found[0][1])
            names.append(name)
        except NoDetector:
            raise
        except UserError as error:
            skipped.append(str(error))
    if not content:
        what = "The file" if len(files) == 1 else f"None of the {len(files)} files"
        can = "cannot" if len(files) == 1 else "can"
        raise UserError(f"{what} {can} be shown: {skipped[0]}")
    return np.stack(content), names, skipped


def _part(opened: EvaluationData, split: str | None) -> np.ndarray:
    """Rows of the part, of which there is at least one."""
    if opened.split is None:
        if split not in (None, "all"):
            raise UserError(f"Another archive has no part {split!r}: it is shown whole; leave --split out.")
        split = "all"
    if split not in (None, *SPLITS):
        raise UserError(f"There is no part {split!r}; choose one of: {', '.join(SPLITS)}.")
    return np.arange(len(opened.data)) if split == "all" else getattr(opened.split, split or "test")


def _check_out(out: Path) -> None:
    """Raises a UserError where the folder holds anything, so that nothing is overwritten."""
    try:
        if out.exists() and any(out.iterdir()):
            raise UserError(f"{out} is not empty; choose another --out.")
    except OSError as error:
        raise UserError(f"{out}: is no folder to write to ({error.strerror}); choose another --out.") from error


def _write(folder: Path, explainer: Explainer, pictures: np.ndarray, found: Explained, names: list[str]) -> None:
    """Writes a picture an example, which example each is, and the sheet."""
    from PIL import Image

    places = [f"{number:03d}" for number in range(1, len(names) + 1)]
    captions = [f"{place} {Path(name).name}" for place, name in zip(places, names, strict=True)]
    large = _cards(explainer, pictures, found, captions, max(SIDE, pictures.shape[1]))
    for place, card in zip(places, large, strict=True):
        Image.fromarray(card).save(folder / f"{place}.png")
    cards = _cards(explainer, pictures, found, captions, SHEET_SIDE)
    columns = max(1, min(4, 8 // (1 + len(found.maps))))
    Image.fromarray(_sheet(cards, columns)).save(folder / "sheet.png")
    head, answers = explainer.head, found.answers
    with open(folder / "examples.csv", "w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["picture", "example", "method", "head", "answer", "probability", "map_of"])
        for row, (place, name) in enumerate(zip(places, names, strict=True)):
            if isinstance(head, ClassHead):
                answered = answers["class"][row]
                said = [csv_cell(head.names[answered]), f"{answers['probability'][row][answered]:.4f}"]
            else:
                said = [f"{answers['years'][row]:.2f}", ""]
            of = "" if found.classes is None else head.names[found.classes[row]]
            texts = [name, explainer.method, explainer.head_name]
            table.writerow([f"{place}.png", *map(csv_cell, texts), *said, csv_cell(of)])


def _cards(
    explainer: Explainer, pictures: np.ndarray, found: Explained, captions: Sequence[str], side: int
) -> list[np.ndarray]:
    """Each example beside its maps, with its caption and what the run says below: uint8 `[h, w, 3]`, all of a size."""
    from PIL import Image

    cards = []
    for row, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        base = Image.fromarray(picture).resize((side, side), Image.Resampling.BILINEAR)
        # A class activation map begins at nothing, a mask wherever its lowest value is.
        ranges = [
            (float(stage[row].min()) if explainer.method == "attention" else 0.0, float(stage[row].max()))
            for stage in found.maps
        ]
        panels = [np.asarray(base)]
        panels += [_heated(base, stage[row], *ends) for stage, ends in zip(found.maps, ranges, strict=True)]
        lines = [caption, answer_text(explainer, found, row)]
        if explainer.method == "attention":
            lines.append("masks " + ", ".join(f"{low:.2f} to {high:.2f}" for low, high in ranges))
        elif not ranges[0][1]:
            lines[-1] += " (empty map)"
        cards.append(np.concatenate([np.concatenate(panels, axis=1), _written(lines, side * len(panels))]))
    return cards


def _heated(picture: Any, values: np.ndarray, low: float, high: float) -> np.ndarray:
    """A map over a picture: uint8 `[side, side, 3]`."""
    import matplotlib
    from PIL import Image

    scaled = (values - low) / (high - low if high > low else 1.0)
    large = Image.fromarray(scaled.astype(np.float32)).resize(picture.size, Image.Resampling.BILINEAR)
    heat = 255 * matplotlib.colormaps["inferno"](np.asarray(large))[..., :3]
    return ((1 - _STRENGTH) * np.asarray(picture) + _STRENGTH * heat).round().astype(np.uint8)


def _written(lines: Sequence[str], width: int) -> np.ndarray:
    """Lines of text on white, each cut off where it is too long: uint8 `[h, width, 3]`."""
    import matplotlib
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), _FONT)
    image = Image.new("RGB", (width, _LINE * len(lines)), "white")
    draw = ImageDraw.Draw(image)
    for number, line in enumerate(lines):
        text = printable(line)
        text = short = text[:width]  # no letter is narrower than a pixel
        while text and font.getlength(short) > width - 4:
            text = text[:-1]
            short = f"{text}…"
        draw.text((2, _LINE * number + 1), short, fill="black", font=font)
    return np.asarray(image)


def _sheet(cards: Sequence[np.ndarray], columns: int) -> np.ndarray:
    """Cards in a grid on white: uint8 `[H, W, 3]`."""
    height, width, _ = cards[0].shape
    columns = min(columns, len(cards))
    rows = -(-len(cards) // columns)
    shape = (rows * (height + _GAP) + _GAP, columns * (width + _GAP) + _GAP, 3)
    sheet = np.full(shape, 255, np.uint8)
    for place, card in enumerate(cards):
        row, column = divmod(place, columns)
        top, left = _GAP + row * (height + _GAP), _GAP + column * (width + _GAP)
        sheet[top : top + height, left : left + width] = card
    return sheet
