"""The metrics of a run as text for the terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from agegender_jax.labels import DISCLAIMER
from agegender_jax.splits import marked
from agegender_jax.text import by_row, duration, plain

PUBLISHED = {
    "adience": {
        "Levi & Hassner (2015)": {
            "age_group/accuracy": (0.507, 0.051),
            "age_group/one_off": (0.847, 0.022),
            "gender/accuracy": (0.868, 0.014),
        }
    }
}
"""Published metrics under the same protocol: mean and standard deviation over the published folds."""

PUBLISHED_FOLDS = 5

ABOUT_INTERVALS = "95 %: confidence interval over test examples; it does not cover the variation between training seeds"


def identities(subjects: Mapping[str, int]) -> str:
    """Returns a sentence on whether a split keeps subjects apart, from `subjects` of `run.json`."""
    bound = "metrics are an upper bound for people who are new to the model"
    if not subjects["known"]:
        return f"no subject is identified: {bound}"
    if subjects["in_several_parts"]:
        return f"{subjects['in_several_parts']} of {subjects['known']} subjects are in several parts, so this leaks"
    text = f"{subjects['known']} subjects, none of them in two parts"
    unidentified = subjects["unidentified_examples"]
    return f"{text}; {unidentified} examples have no identified subject: {bound}" if unidentified else text


def summary_text(summary: Mapping[str, Any]) -> str:
    """Returns the summary of a run as lines of text, a table of metrics among them."""
    synthetic = f" ({DISCLAIMER})" if summary["synthetic"] else ""
    names = ", ".join(summary["baseline_names"].values())
    speed = f" at {summary['images_per_second']:.0f} images/s" if summary["images_per_second"] else ""
    columns = {"validation": summary["validation"], "test": summary["test"], "baseline": summary["baseline"]}
    lines = [
        f"{summary['run']}: {summary['dataset']}{synthetic}, protocol {marked(summary['protocol'], summary['leaky'])}, "
        f"age groups {summary['age_groups']}, split {summary['split_sha256'][:16]}",
        metrics_table(columns, summary.get("intervals", {})),
        ABOUT_INTERVALS,
        "flip-averaged: mean over each image and its mirror image; the validations during training were not"
        if summary["flip_average"]
        else "not flip-averaged",
    ]
    if "subjects" in summary:
        lines.append(identities(summary["subjects"]))
    lines += [
        f"baseline: the same prediction for every example, chosen on the training labels ({names})",
        f"{summary['epochs']:.1f} epochs in {duration(summary['seconds'])}{speed}; "
        f"peak memory {summary['peak_memory_bytes'] / 1e9:.2f} GB",
    ]
    return "\n".join(lines)


def metrics_table(
    columns: Mapping[str, Mapping[str, float]], intervals: Mapping[str, Mapping[str, Sequence[float]]] | None = None
) -> str:
    """Returns metrics side by side as text, one row a metric.

    Args:
      columns: metrics by title of the column and by name.
      intervals: by some of the titles and by name, the ends of the 95 % interval, which stands beside the metric.

    >>> print(metrics_table({"test": {"gender/accuracy": 0.9, "n": 10}, "baseline": {"gender/accuracy": 0.5}}))
                       test  baseline
    gender/accuracy  0.9000    0.5000
    n                    10
    >>> print(metrics_table({"test": {"gender/accuracy": 0.9}}, {"test": {"gender/accuracy": (0.85, 0.95)}}))
                       test              95 %
    gender/accuracy  0.9000  0.8500 to 0.9500
    """
    texts: dict[str, dict[str, str]] = {}
    for name, column in columns.items():
        texts[name] = {key: _cell(value) for key, value in column.items()}
        if ends := (intervals or {}).get(name):
            title = "95 %" if len(intervals or {}) == 1 else f"{name}, 95 %"
            texts[title] = {key: f"{_cell(low)} to {_cell(high)}" for key, (low, high) in ends.items() if key in column}
    return plain(by_row(texts))


def _cell(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:d}" if isinstance(value, int) else f"{value:.4f}"
