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
from agegender_jax.evaluate.report import identities
from agegender_jax.labels import AGE_GROUPS, DISCLAIMER
from agegender_jax.report import format as fmt
from agegender_jax.report.content import GENERATOR, Content, Costs, gather, own_predictions
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
    """Writes the report of a complete run, and `report.json`, or a JSON file named like `out`, with its numbers.

    Both replace only files of their kind, and each is written whole or not at all.

    Args:
      run: complete, with its `predictions.npz`.
      out: the page; None is `report/index.html` in the run's directory.
      with_images: embed images: of the mistakes, and of some examples with their saliency.
      manual_dir: where the run's own data lie now; used for images alone, as is the next.
      data_dir: where prepared data and caches lie; None is where the run had them.
      progress: whether to print what takes time.

    Returns:
      The path of the page.

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
    """Returns the page as HTML.

    Args:
      content: of `content.gather`.
      images: to embed; None embeds none.
    """
    images = images or Images()
    hardware = content.hardware
    kind = f" ({hardware['device']})" if hardware["device"] != hardware["backend"] else ""
    return page.render(
        "report.html",
        generator=GENERATOR,
        title=f"{content.run}: report",
        sections=sections(content, images.thumbnails, images.panels),
        tiles=tiles(content),
        content=content,
        shown=len(images.thumbnails) + images.sample,
        sample=images.sample,
        device=f"{hardware['devices']} {hardware['backend']}{kind}",
        since_start=_since_start(content.costs),
        terms=_terms(content),
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
    """Returns names and values in one line, each as `form` says."""
    return ", ".join(form.format(fmt.spaced(name), value) for name, value in values.items())


def _since_start(costs: Costs) -> str:
    texts = []
    if costs.images_per_second:
        texts.append(f"{costs.images_per_second:,.0f} images/s while training")
    if costs.first_step_seconds:
        texts.append(f"first step after {costs.first_step_seconds:.0f} s")
    if costs.seconds_of:
        spent = ", ".join(f"{name} {duration(seconds)}" for name, seconds in costs.seconds_of.items())
        texts.append(f"training spent on {spent}")
    if costs.peak_memory_bytes:
        texts.append(f"peak memory {costs.peak_memory_bytes / 1e9:.2f} GB")
    return "; ".join(texts)


def _terms(content: Content) -> str:
    if content.synthetic:
        return "none: the data are synthetic, and the terms of the original do not apply."
    return content.data.terms or "not stated by the dataset's builder: find out before you use or share anything."


def _paths(run: Run, out: Path | None) -> tuple[Path, Path]:
    """Returns the paths of the page and of the numbers, where nothing else lies."""
    if out is None:
        path = run.directory / REPORT
        numbers = path.with_name("report.json")
    else:
        path, numbers = out, out.with_suffix(".json")
        if out.suffix not in (".html", ".htm"):
            raise UserError(f"{out} does not end in .html; choose another --out.")
    page.check_path(path, GENERATOR, "--out")
    _check_numbers(numbers, run.name)
    return path, numbers


def _check_numbers(path: Path, run: str) -> None:
    """Raises a UserError where the file is no report's, or that of a run of another name."""
    if not path.exists():
        return
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        written_by_us = isinstance(content, dict) and content.get("generator") == GENERATOR
    except (OSError, ValueError):
        written_by_us = False
    if not written_by_us:
        raise UserError(f"{path} exists and does not hold the numbers of a report; choose another --out.")
    if content.get("run") != run:
        raise UserError(f"{path} exists and holds the numbers of another run; choose another --out.")
