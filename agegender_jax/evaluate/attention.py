"""Attention maps of a finished run, laid over the pictures that they are of."""

import csv
import os
import shutil
import uuid
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from agegender_jax.errors import UserError
from agegender_jax.evaluate.measure import SPLITS, Opened, evaluated_model, open_run
from agegender_jax.evaluate.pictures import grid_picture
from agegender_jax.models.attention import attention_trunk
from agegender_jax.models.model import build_model
from agegender_jax.run import Run

MAX_COUNT = 100
"""Most examples of one export: they all stand on one sheet."""

SIDE = 224
"""Edge of a panel in pixels, where the network's pictures are not larger."""

_CAPTION = 18  # characters that fit under a panel of the sheet
_STRENGTH = 0.5  # of the heat map over the picture


def export(
    run: Run,
    out: Path,
    *,
    count: int = 16,
    split: str | None = None,
    manual_dir: Path | None = None,
    data_dir: Path | None = None,
    progress: bool = True,
) -> Opened:
    """Writes the attention maps of some examples of a run, evenly spaced over a part of its split.

    `001.png` and so on hold the picture (of a recording its spectrogram) and, stage by stage, the mean of the mask over
    its channels as a heat map over it, from its lowest value (dark) to its highest (light). `sheet.png` holds them
    all, with the two values of each map; `examples.csv` says which example each is. The folder appears whole or not at
    all.

    Args:
      run: a complete run whose backbone has an attention trunk.
      out: folder, new or empty.
      count: of examples, up to `MAX_COUNT`; fewer where the part has fewer.
      split: of `SPLITS`, None is `test`; another archive has no parts but `all`, which None then is.
      manual_dir: where the run's own data lie now, or another archive.
      data_dir: where prepared data and caches lie; None is where the run had them.
      progress: whether to draw progress bars.

    Returns:
      The run with its data.

    Raises:
      UserError: the run is not complete or has no attention trunk, the data are missing or bad, or the folder is not
        empty or cannot be written.
    """
    if not 1 <= count <= MAX_COUNT:
        raise UserError(f"{count} examples do not fit on a sheet; choose a --count from 1 to {MAX_COUNT}.")
    _check_out(out)
    if attention_trunk(nnx.eval_shape(lambda: build_model(run.recipe, run.heads())).backbone) is None:
        raise UserError(
            f"{run.directory} has no attention to show: its backbone is {run.recipe.model.backbone}; give a run of "
            "residual_attention or attention_ensemble."
        )
    opened = open_run(run, manual_dir=manual_dir, data_dir=data_dir, progress=progress)
    rows = _part(opened, split)
    rows = rows[np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(int)]
    content = np.asarray(opened.data.content[rows])
    maps = attention_maps(opened, content)
    keys = opened.data.columns["key"][rows].tolist()
    out = Path(os.path.abspath(out))
    temporary = out.with_name(f".{out.name}.{uuid.uuid4().hex[:12]}.part")
    try:
        temporary.mkdir(parents=True)
        _write(temporary, opened.inputs.pictures(content), maps, keys)
        os.replace(temporary, out)
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror}); choose another --out.") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return opened


def attention_maps(opened: Opened, content: np.ndarray) -> list[np.ndarray]:
    """The mask of each attention module for some examples, averaged over its channels.

    Args:
      opened: a run with its data, whose backbone has an attention trunk.
      content: decoded examples, see `inputs.Inputs`.

    Returns:
      Stage by stage float32 `[n, h, w]`, in (0, 1).
    """
    model_state, graphdef = evaluated_model(opened.run, opened.summary["evaluated_step"])

    @jax.jit
    def means(model_state: Any, content: jax.Array) -> list[jax.Array]:
        trunk = attention_trunk(nnx.merge(graphdef, *model_state).backbone)
        assert trunk is not None
        masks: list[jax.Array] = []
        trunk(opened.inputs.plain(content, jnp.array(False)), masks=masks)
        return [mask.mean(-1) for mask in masks]

    size = opened.run.recipe.evaluate.batch_size
    batches = [content[start : start + size] for start in range(0, len(content), size)]
    found = [jax.device_get(means(model_state, batch)) for batch in batches]
    return [np.concatenate(stage) for stage in zip(*found, strict=True)]


def _part(opened: Opened, split: str | None) -> np.ndarray:
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


def _write(folder: Path, pictures: np.ndarray, maps: list[np.ndarray], keys: list[str]) -> None:
    """Writes a picture an example, which example each is, and the sheet."""
    from PIL import Image

    panels, captions, names = [], [], []
    for number, (picture, key) in enumerate(zip(pictures, keys, strict=True)):
        base = Image.fromarray(picture)
        if base.width < SIDE:
            base = base.resize((SIDE, SIDE), Image.Resampling.BILINEAR)
        row = [np.asarray(base)] + [_heated(base, stage[number]) for stage in maps]
        Image.fromarray(np.concatenate(row, axis=1)).save(folder / f"{number + 1:03d}.png")
        panels += row
        captions.append(f"{number + 1:03d} {_literal(key[-_CAPTION + 4 :])}")
        captions += [
            f"{place}: {stage[number].min():.3f} to {stage[number].max():.3f}"
            for place, stage in enumerate(maps, start=1)
        ]
        names.append((f"{number + 1:03d}.png", key))
    with open(folder / "examples.csv", "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("picture", "key"), *names])
    sheet = grid_picture(np.stack(panels), captions, columns=1 + len(maps))
    Image.fromarray(sheet).save(folder / "sheet.png")


def _heated(picture: Any, values: np.ndarray) -> np.ndarray:
    """A map over a picture: uint8 `[size, size, 3]`."""
    import matplotlib
    from PIL import Image

    span = float(np.ptp(values))
    scaled = (values - values.min()) / (span or 1.0)
    large = Image.fromarray(scaled.astype(np.float32)).resize(picture.size, Image.Resampling.BILINEAR)
    heat = 255 * matplotlib.colormaps["inferno"](np.asarray(large))[..., :3]
    return ((1 - _STRENGTH) * np.asarray(picture) + _STRENGTH * heat).round().astype(np.uint8)


def _literal(text: str) -> str:
    """A text of others, which must not be taken for a formula."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text).replace("$", r"\$")
