"""Writing the report of a run: one page that needs nothing but itself, and its numbers beside it."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np

from agegender_jax import atomic, page
from agegender_jax.errors import UserError
from agegender_jax.evaluate.evaluate_run import Opened, open_run
from agegender_jax.report import card, examples, results, subgroups
from agegender_jax.report.components import STYLE
from agegender_jax.report.content import GENERATOR, gather, own_predictions
from agegender_jax.run import REPORT, Run

_HEADING = re.compile(r'<h2 id="([^"]+)">(.*?) <a')


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
      out: of the page; None is `report/index.html` in the run's directory.
      with_images: embed pictures: of the mistakes, and of some examples with their saliency.
      manual_dir: where the run's own data lie now; of use with pictures alone, as is the next.
      data_dir: where prepared data and caches lie; None is where the run had them.
      progress: whether to draw progress bars on a terminal.

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
        opened = open_run(run, manual_dir=manual_dir, data_dir=data_dir, progress=progress)
        if opened.split is None:
            raise UserError(f"{manual_dir} does not hold the files of {run.directory}; give where its own data lie.")
    if progress:
        print("Drawing test parts for the intervals, and the page: seconds ...", file=sys.stderr, flush=True)
    content = gather(run, predictions)
    text = render(content, opened)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic.write_text(numbers, json.dumps(content, indent=1, allow_nan=False))
        atomic.write_text(path, text)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); choose another --out.") from error
    return path


def render(content: dict[str, Any], opened: Opened | None = None) -> str:
    """The page as HTML.

    Args:
      content: of `content.gather`.
      opened: the run with its data, to embed pictures; None embeds none.
    """
    thumbnails: dict[str, str] = {}
    panels: dict[str, np.ndarray] = {}
    rows = np.array([], np.int64)
    if opened is not None and opened.split is not None:
        thumbnails = examples.make_thumbnails(opened, examples.keys(content))
        test = opened.split.test
        rows = test[np.linspace(0, len(test) - 1, min(examples.SAMPLE, len(test))).round().astype(int)]
        panels = examples.saliency_panels(opened, rows)
    sections = (
        results.results(content),
        card.limits(content),
        subgroups.groups(content),
        results.confusions(content),
        results.calibration(content),
        results.selective(content),
        results.ages(content),
        results.learning(content),
        examples.mistakes(content, thumbnails),
        examples.saliency(panels, len(rows)),
        card.card(content),
        card.data(content),
        card.origin(content),
    )
    titles = [match.groups() for each in sections if (match := _HEADING.search(each))]
    body = "".join(
        (
            card.top(content, len(thumbnails) + (len(rows) if panels else 0)),
            results.tiles(content),
            examples.contents_of([(anchor, page.Html(title)) for anchor, title in titles]),
            *sections,
        )
    )
    return page.document(f"{content['run']}: report", body, generator=GENERATOR, style=STYLE)


def _paths(run: Run, out: Path | None) -> tuple[Path, Path]:
    """Of the page and of the numbers, where nothing else lies."""
    if out is None:
        path = run.directory / REPORT
        numbers = path.with_name("report.json")
    else:
        path, numbers = out, out.with_suffix(".json")
        if out.suffix not in (".html", ".htm"):
            raise UserError(f"{out} is no name of a page; choose an --out that ends in .html.")
    page.check_path(path, GENERATOR, "--out")
    _check_numbers(numbers, run.name)
    return path, numbers


def _check_numbers(path: Path, run: str) -> None:
    """Raises a UserError where the file is no report's, or that of a run of another name."""
    if not path.exists():
        return
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        ours = isinstance(content, dict) and content.get("generator") == GENERATOR
    except (OSError, ValueError):
        ours = False
    if not ours:
        raise UserError(f"{path} is there and holds no numbers of a report; choose another --out.")
    if content.get("run") != run:
        raise UserError(f"{path} is there and holds the numbers of another run; choose another --out.")
