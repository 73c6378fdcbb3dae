"""How numbers are written for people, by their unit (`metrics.Unit`)."""

from collections.abc import Mapping
from typing import Any

NONE = "\N{EN DASH}"
"""Stands where there is no number."""

_SUFFIX = {"share": " %", "years": " years"}


def spaced(name: str) -> str:
    """Returns a name of the code as words."""
    return name.replace("_", " ")


def bare(unit: str, value: float | None) -> str:
    """Returns a number without its unit; a share is in percent.

    >>> bare("share", 0.8816), bare("years", -0.5), bare("nats", 0.25), bare("share", None)
    ('88.2', '−0.50', '0.250', '–')
    """
    if value is None:
        return NONE
    if unit == "share":
        text = f"{100 * value:.1f}"
    elif unit == "years":
        text = f"{value:.2f}"
    else:
        text = f"{value:.3f}"
    return text.replace("-", "\N{MINUS SIGN}")


def number(unit: str, value: float | None) -> str:
    """Returns a number with its unit.

    >>> number("share", 0.8816), number("years", 5.372), number("score", 0.25), number("years", None)
    ('88.2 %', '5.37 years', '0.250', '–')
    """
    return NONE if value is None else bare(unit, value) + _SUFFIX.get(unit, "")


def interval(unit: str, ends: Mapping[str, Any] | None) -> str:
    """Returns an interval, `{"low", "high"}`, without its unit.

    >>> interval("share", {"value": 0.88, "low": 0.871, "high": 0.891})
    '87.1 to 89.1'
    """
    if not ends or ends.get("low") is None or ends.get("high") is None:
        return NONE
    return f"{bare(unit, ends['low'])} to {bare(unit, ends['high'])}"


def with_interval(unit: str, value: Mapping[str, Any]) -> str:
    """Returns a number, `{"value", "low", "high"}`, with its interval in brackets.

    >>> with_interval("share", {"value": 0.88, "low": 0.871, "high": 0.891})
    '88.0 % (87.1 to 89.1)'
    """
    text = interval(unit, value)
    return number(unit, value["value"]) + (f" ({text})" if text != NONE else "")
