"""How figures are named and written for people."""

from collections.abc import Mapping
from typing import Any

_NAMES = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "precision": "macro precision",
    "recall": "macro recall",
    "f1": "macro F1",
    "one_off": "within one group",
    "mae": "mean absolute error",
    "median_error": "median absolute error",
    "bias": "mean signed error",
    "ece": "expected calibration error",
    "nll": "negative log-likelihood",
    "brier": "Brier score",
}
_YEARS = ("mae", "median_error", "bias", "mean_width")
_PLAIN = ("nll", "brier")  # neither shares nor years
NONE = "\N{EN DASH}"
"""Stands where there is no figure."""


def in_years(figure: str) -> bool:
    """Whether a figure, `thing/metric` or `metric`, is in years."""
    return figure.split("/")[-1] in _YEARS


def less_is_better(figure: str) -> bool:
    """Whether a figure is an error, and no share of what is right."""
    metric = figure.split("/")[-1]
    return metric in (*_YEARS, *_PLAIN, "ece")


def named(figure: str) -> str:
    """A metric's name.

    >>> named("age/cs5"), named("gender/balanced_accuracy"), named("mae")
    ('within 5 years', 'balanced accuracy', 'mean absolute error')
    """
    metric = figure.split("/")[-1]
    if metric.startswith("cs") and metric[2:].isdecimal():
        return f"within {metric[2:]} years"
    return _NAMES.get(metric, spaced(metric))


def spaced(name: str) -> str:
    """A name of the code as words."""
    return name.replace("_", " ")


def number(figure: str, value: float | None) -> str:
    """A figure with its unit.

    >>> number("gender/accuracy", 0.8816), number("mae", 5.372), number("nll", 0.25), number("mae", None)
    ('88.2 %', '5.37 years', '0.250', '–')
    """
    if value is None:
        return NONE
    text = bare(figure, value)
    return f"{text} years" if in_years(figure) else text if figure.split("/")[-1] in _PLAIN else f"{text} %"


def bare(figure: str, value: float | None) -> str:
    """A figure without its unit.

    >>> bare("gender/accuracy", 0.8816), bare("bias", -0.5)
    ('88.2', '−0.50')
    """
    if value is None:
        return NONE
    if in_years(figure):
        text = f"{value:.2f}"
    elif figure.split("/")[-1] in _PLAIN:
        text = f"{value:.3f}"
    else:
        text = f"{100 * value:.1f}"
    return text.replace("-", "\N{MINUS SIGN}")


def interval(figure: str, found: Mapping[str, Any] | None) -> str:
    """The 95 % interval of a figure, `{"low", "high"}`.

    >>> interval("accuracy", {"value": 0.88, "low": 0.871, "high": 0.891})
    '87.1 to 89.1'
    """
    if not found or found.get("low") is None or found.get("high") is None:
        return NONE
    return f"{bare(figure, found['low'])} to {bare(figure, found['high'])}"


def share(part: int, whole: int) -> str:
    """Some of all, in words.

    >>> share(1, 4), share(0, 0)
    ('1 of 4 (25.0 %)', '0 of 0')
    """
    return f"{part:,} of {whole:,}" + (f" ({100 * part / whole:.1f} %)" if whole else "")


def with_interval(figure: str, found: Mapping[str, Any]) -> str:
    """A figure with its interval in brackets.

    >>> with_interval("accuracy", {"value": 0.88, "low": 0.871, "high": 0.891})
    '88.0 % (87.1 to 89.1)'
    """
    text = interval(figure, found)
    return number(figure, found["value"]) + (f" ({text})" if text != NONE else "")
