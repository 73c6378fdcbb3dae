"""Writing the report of a run: one page that needs nothing but itself, and its numbers beside it."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agegender_jax import page
from agegender_jax.errors import UserError
from agegender_jax.evaluate.evaluate_run import open_data
from agegender_jax.evaluate.loaded import LoadedModel
from agegender_jax.evaluate.summary_text import identities
from agegender_jax.labels import AGE_GROUPS, DISCLAIMER
from agegender_jax.report import format as fmt
from agegender_jax.report.content import GENERATOR, Content, gather, own_predictions
from agegender_jax.report.images import Images, load_images
from agegender_jax.report.sections import sections, tiles
from agegender_jax.run import REPORT, Run
from agegender_jax.splits import marked
from agegender_jax.text import duration


def write_report(
    run: Run,
    *,
    out: Path | None = None,
    with_images: bool = False,
    manual_dir: Path | None = None,
    data_dir: Path | None = None,
    progress: bool = True,
) -> Path:
    """Writes the report of a complete run, and a JSON file of the same name with its numbers; returns the page's path.

    Both replace only files of their kind, and each is written whole or not at all.

    `out` is the page, None is `report/index.html` in the run's directory; its numbers lie beside it. `with_images`
    embeds images of the mistakes, and of some examples with their saliency; `manual_dir` and `data_dir` are for
    these, see `evaluate_runs`.

    Raises:
      UserError: the run is not complete or damaged, its data are missing where they are needed, or something else
        would be overwritten, or nothing can be written.
    """
    path, numbers = _paths(run, out)
    predictions = own_predictions(run)
    opened = None
    if with_images:
        opened = open_data(LoadedModel.load(run.directory), manual_dir=manual_dir, data_dir=data_dir, progress=progress)
        if opened.split is None:
            raise UserError(f"{manual_dir} does not hold the files of {run.directory}; give where its own data lie.")
    if progress:
        print("Computing the intervals and writing the report ...", file=sys.stderr, flush=True)
    content = gather(run, predictions)
    text = render(content, load_images(opened, content) if opened else None)
    page.write(path, text, "--out")
    page.write(numbers, content.to_json(), "--out")
    return path


def render(content: Content, images: Images | None = None) -> str:
    """Returns the page as HTML, with images where there are some."""
    images = images or Images()
    return page.render(
        "report.html",
        generator=GENERATOR,
        title=f"{content.run}: report",
        sections=sections(content, images.thumbnails, images.panels),
        tiles=tiles(content),
        content=content,
        shown=len(images.thumbnails) + images.sample,
        sample=images.sample,
        age_groups=AGE_GROUPS[content.age_groups].description,
        disclaimer=DISCLAIMER,
        fmt=fmt,
        spaced=fmt.spaced,
        joined=_joined,
        marked=marked,
        duration=duration,
        identities=identities,
    )


def _joined(values: Mapping[str, Any], form: str) -> str:
    """Returns names and values in one line, each formatted by `form`."""
    return ", ".join(form.format(fmt.spaced(name), value) for name, value in values.items())


def _paths(run: Run, out: Path | None) -> tuple[Path, Path]:
    """Returns the paths of the page and of the numbers, where nothing else lies."""
    if out is not None and out.suffix not in (".html", ".htm"):
        raise UserError(f"{out} does not end in .html; choose another --out.")
    path = out or run.directory / REPORT
    numbers = out.with_suffix(".json") if out else path.with_name("report.json")
    page.check_path(path, GENERATOR, "--out")
    if numbers.exists():
        try:
            content = json.loads(numbers.read_text(encoding="utf-8"))
            replaceable = (content["generator"], content["run"]) == (GENERATOR, run.name)
        except (OSError, ValueError, TypeError, KeyError):
            replaceable = False
        if not replaceable:
            raise UserError(f"{numbers} exists and is not from a report of {run.name}; choose another --out.")
    return path, numbers
