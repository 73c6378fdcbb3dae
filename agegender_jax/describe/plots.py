"""Plots of a dataset, the same bytes for the same data."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from agegender_jax import page
from agegender_jax.describe import statistics
from agegender_jax.describe.reading import Contents
from agegender_jax.page import BLUE, COLOURS, INK, Plot, literal

_WIDTH = 5.0  # inches: text keeps its size on a phone
_CLASSES = 60  # bars in a plot
_SUBJECTS = 60  # up to so many have a bar each


def plot(name: str, contents: Contents, scheme: str) -> Plot:
    """Returns a plot that a `sections.Section` names, with the age groups of a scheme."""
    draw, height, label = _PLOTS[name]
    return page.plot(lambda figure: draw(figure, contents, scheme), name, label, width=_WIDTH, height=height)


def _ages(figure: Any, contents: Contents, scheme: str) -> None:
    """Men to the left, women to the right, as in a population pyramid."""
    axes = figure.add_subplot()
    age, gender = contents.columns["age"], contents.columns["gender"]
    exact = np.isfinite(age)
    years = np.arange(np.floor(age[exact].min()), np.floor(age[exact].max()) + 1)
    for value, sign in ((0, -1), (1, 1)):
        counts = np.histogram(age[exact & (gender == value)], np.append(years, years[-1] + 1))[0]
        name = statistics.GENDER_NAMES[value]
        axes.barh(years, sign * counts, height=0.9, color=COLOURS[name])
        side = "left" if sign < 0 else "right"
        axes.set_title(f"{name}: {int(counts.sum()):,}", loc=side, color=INK)
    limit = max(1, np.abs(axes.get_xlim()).max())
    axes.set_xlim(-limit, limit)
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.xaxis.set_major_formatter(lambda x, _: f"{abs(x):,.0f}")
    axes.set_xlabel("files")
    axes.set_ylabel("exact age, years")


def _age_groups(figure: Any, contents: Contents, scheme: str) -> None:
    axes = figure.add_subplot()
    counts = statistics.by_gender(contents.columns, scheme)
    names = list(next(iter(counts.values())))
    _stack(axes, names, {gender: list(groups.values()) for gender, groups in counts.items()}, COLOURS)
    axes.set_xlabel(f"age group ({scheme})")
    axes.tick_params(axis="x", rotation=90 if len(names) > 10 else 0, labelsize=7 if len(names) > 10 else 8)


def _classes(figure: Any, contents: Contents, scheme: str) -> None:
    classes = statistics.classes(contents.columns)[:_CLASSES]
    figure.set_size_inches(_WIDTH, 1.0 + 0.19 * len(classes))
    axes = figure.add_subplot()
    bars = axes.barh(range(len(classes)), [each.files for each in classes], color=BLUE)
    for bar, each in zip(bars, classes, strict=True):
        if not each.splittable:
            bar.set(alpha=0.45, hatch="////", edgecolor=INK)
    axes.bar_label(bars, [" ?" if each.unidentified else f" {each.subjects}" for each in classes], fontsize=8)
    axes.set_yticks(range(len(classes)), [literal(each.name[:28]) for each in classes], fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.1, y=0.01)
    axes.set_xlabel("files; beside the bar: subjects. Hatched: cannot be split three ways", fontsize=8)


def _subjects(figure: Any, contents: Contents, scheme: str) -> None:
    axes = figure.add_subplot()
    counts = statistics.sizes(contents.columns["subject"])
    if len(counts) <= _SUBJECTS:
        axes.bar(range(1, len(counts) + 1), counts, color=BLUE)
        axes.set_xlabel("subjects, those with the most files first")
        axes.set_ylabel("files")
        axes.xaxis.get_major_locator().set_params(integer=True)
        return
    few, most = counts.min(), counts.max()
    wide = most > 40
    edges = np.unique(np.geomspace(few, most + 1, 25).round()) if wide else np.arange(few, most + 2)
    edges = edges - 0.5
    axes.bar(edges[:-1], np.histogram(counts, edges)[0], width=np.diff(edges) * 0.94, align="edge", color=BLUE)
    if wide:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}")
    axes.set_xlabel("files of a subject")
    axes.set_ylabel("subjects")
    axes.yaxis.get_major_locator().set_params(integer=True)


def _folds(figure: Any, contents: Contents, scheme: str) -> None:
    import matplotlib

    folds = statistics.folds(contents.columns)
    counts = [statistics.by_age_group(columns, scheme) for columns in folds.values()]
    *groups, none = counts[0]
    shades = matplotlib.colormaps["viridis"](np.linspace(0.1, 0.95, len(groups)))
    colours = {**dict(zip(groups, shades, strict=True)), none: COLOURS["unknown"]}
    heights = {name: [each[name] for each in counts] for name in colours}
    _stack(figure.add_subplot(), [f"fold {number}" for number in folds], heights, colours)


def _sounds(figure: Any, contents: Contents, scheme: str) -> None:
    upper, lower = figure.subplots(2, 1, height_ratios=(2, 1))
    seconds = contents.headers["seconds"][contents.headers["rate"] > 0]
    shortest = seconds.min()
    bins: Any = 40 if seconds.max() - shortest > 0.01 else [shortest - 0.5, shortest + 0.5]
    upper.hist(seconds, bins=bins, color=BLUE)
    upper.set_xlabel("duration, seconds")
    upper.set_ylabel("files")
    rates = dict(list(contents.rates().items())[:6])
    bars = lower.barh(list(rates), list(rates.values()), color=BLUE)
    lower.bar_label(bars, [f" {count:,}" for count in rates.values()], fontsize=8)
    lower.margins(x=0.15)
    lower.set_xlabel("files")


def _stack(axes: Any, names: Sequence[str], heights: Mapping[str, Sequence[int]], colours: Mapping[str, Any]) -> None:
    """Stacks bars, one colour a layer, with a legend above."""
    base = np.zeros(len(names))
    for layer, values in heights.items():
        axes.bar(range(len(names)), values, bottom=base, color=colours[layer], label=layer)
        base += values
    axes.set_xticks(range(len(names)), names)
    axes.set_ylabel("files")
    axes.yaxis.set_major_formatter(lambda y, _: f"{y:,.0f}")
    columns = min(5, len(heights))
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, fontsize=8, columnspacing=1, handlelength=1)


_PLOTS: Mapping[str, tuple[Callable[[Any, Contents, str], None], float, str]] = {
    "ages": (_ages, 4.2, "Exact ages of males, to the left, and of females, to the right"),
    "age_groups": (_age_groups, 3.0, "Age groups by gender"),
    "classes": (_classes, 3.0, "Files and subjects of each class"),
    "subjects": (_subjects, 3.0, "How many files the subjects have"),
    "folds": (_folds, 3.6, "Age groups in each published fold"),
    "sounds": (_sounds, 3.8, "Durations and sample rates of the recordings"),
}
"""How each is plotted, its height in inches, and what it shows."""
