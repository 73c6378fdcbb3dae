"""Figures as text for the terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from agegender_jax.labels import DISCLAIMER
from agegender_jax.splits import marked

PUBLISHED = {
    "adience": {
        "Levi & Hassner (2015)": {
            "age_group/accuracy": (0.507, 0.051),
            "age_group/one_off": (0.847, 0.022),
            "gender/accuracy": (0.868, 0.014),
        }
    }
}
"""Figures to stand beside ours where the protocol is the same: mean and standard deviation over the published folds."""

PUBLISHED_FOLDS = 5


def identities(subjects: Mapping[str, int]) -> str:
    """Whether a split keeps people apart, as a sentence; `subjects` is what `run.json` holds under that name."""
    bound = "figures are an upper bound for people who are new to the model"
    if not subjects["known"]:
        return f"nobody is identified: {bound}"
    if subjects["in_several_parts"]:
        return f"{subjects['in_several_parts']} of {subjects['known']} subjects are in several parts, so this leaks"
    text = f"{subjects['known']} subjects, none of them in two parts"
    nameless = subjects["unidentified_examples"]
    return f"{text}; {nameless} examples are of nobody who is identified: {bound}" if nameless else text


def report(summary: Mapping[str, Any]) -> str:
    """A run's summary as the table that ends it."""
    drawn = f" ({DISCLAIMER})" if summary["synthetic"] else ""
    names = ", ".join(summary["constant_names"].values())
    pace = f" at {summary['images_per_second']:.0f} images/s" if summary["images_per_second"] else ""
    return "\n".join(
        [
            f"{summary['run']}: {summary['dataset']}{drawn}, protocol {marked(summary['protocol'])}, age groups "
            f"{summary['age_groups']}, split {summary['split_sha256'][:16]}",
            table({part: summary[part] for part in ("validation", "test", "constant")}, summary.get("intervals", {})),
            "95 %: where the figure may lie in another sample of such people; nothing in it is of the initialisation",
            "flip-averaged: mean over each picture and its mirror image; the validations while training were not"
            if summary["flip_averaged"]
            else "not flip-averaged",
            *([identities(summary["subjects"])] if "subjects" in summary else []),
            f"constant: the best guess without looking, from the training labels ({names})",
            f"{summary['epochs']:.1f} epochs in {duration(summary['seconds'])}{pace}; "
            f"peak memory {summary['peak_memory_bytes'] / 1e9:.2f} GB",
        ]
    )


def costs_report(result: Mapping[str, Any]) -> str:
    """What backbones cost as a table, and under it what it was measured with.

    Args:
      result: `image_size`, `batch_size`, `dtype`, `models` (by name, what `costs.measure` returns), and what
        `experiment.environment` returns.
    """
    models = result["models"]
    columns = {
        "variant": {name: costs["variant"] for name, costs in models.items()},
        "parameters": {name: f"{costs['parameters']:,}" for name, costs in models.items()},
        "of the backbone": {name: f"{costs['backbone_parameters']:,}" for name, costs in models.items()},
        "multiply-adds": {name: f"{costs['multiply_adds'] / 1e9:.3f} G" for name, costs in models.items()},
    }
    timed = {name: costs["step_seconds"] for name, costs in models.items() if costs["step_seconds"] is not None}
    if timed:
        columns["ms a step"] = {name: f"{1000 * seconds:.1f}" for name, seconds in timed.items()}
        columns["pictures/s"] = {name: f"{result['batch_size'] / seconds:.0f}" for name, seconds in timed.items()}
    size, hardware, versions = result["image_size"], result["hardware"], result["versions"]
    lines = [
        text_table(columns),
        f"Multiply-adds are of one picture of {size}x{size} going forward.",
    ]
    if timed:
        lines.append(
            f"A step is one of training on {result['batch_size']} such pictures in {result['dtype']}, the median of "
            f"several, dispatched one by one on {hardware['devices']} {hardware['backend']} device(s) "
            f"({hardware['device']}; {hardware['processor']}, {hardware['cores']} cores)."
        )
    lines.append(", ".join(f"{package} {version}" for package, version in versions.items()))
    return "\n".join(lines)


def duration(seconds: float) -> str:
    """A time for people.

    >>> duration(42), duration(185), duration(7260)
    ('42 s', '3 min 05 s', '2 h 01 min')
    """
    whole = round(seconds)  # first, or 119.7 would be "1 min 60 s"
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


def table(
    columns: Mapping[str, Mapping[str, float]], intervals: Mapping[str, Mapping[str, Sequence[float]]] | None = None
) -> str:
    """Figures side by side as text: one row a figure, one column an entry.

    Args:
      columns: figures by entry.
      intervals: by some of the entries and by figure, where its 95 % interval begins and ends; they stand beside.

    >>> print(table({"test": {"gender/accuracy": 0.9, "n": 10}, "constant": {"gender/accuracy": 0.5}}))
                       test  constant
    gender/accuracy  0.9000    0.5000
    n                    10
    >>> print(table({"test": {"gender/accuracy": 0.9}}, {"test": {"gender/accuracy": (0.85, 0.95)}}))
                       test              95 %
    gender/accuracy  0.9000  0.8500 to 0.9500
    """
    texts: dict[str, dict[str, str]] = {}
    for name, column in columns.items():
        texts[name] = {key: _cell(value) for key, value in column.items()}
        if found := (intervals or {}).get(name):
            title = "95 %" if len(intervals or {}) == 1 else f"{name}, 95 %"
            texts[title] = {
                key: f"{_cell(low)} to {_cell(high)}" for key, (low, high) in found.items() if key in column
            }
    return text_table(texts)


def text_table(columns: Mapping[str, Mapping[str, str]], keys: Sequence[str] | None = None) -> str:
    """Texts side by side: one row a key, one column an entry; `keys` chooses and orders the rows."""
    keys = keys or list(dict.fromkeys(key for column in columns.values() for key in column))
    cells = [["", *columns]] + [[key, *(column.get(key, "") for column in columns.values())] for key in keys]
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    return "\n".join(
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))]
        ).rstrip()
        for row in cells
    )


def _cell(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:d}" if isinstance(value, int) else f"{value:.4f}"
