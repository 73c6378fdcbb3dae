"""The plots of a report, made from its content; beside each the page holds the same numbers as text.

A row holds a `value` and the ends of its interval, `low` and `high`, None where there is none.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from agegender_jax.page import BLUE, COLOURS, INK, ORANGE, Plot, literal, plot
from agegender_jax.report.content import Curve, MetricInfo
from agegender_jax.report.format import bare, spaced

GREY = COLOURS["unknown"]

Rows = Sequence[Mapping[str, Any]]

_WIDTH = 4.2  # inches: two stand beside each other on a wide screen, and one fills a phone's
_NARROW = 3.4
_CYCLE = (BLUE, ORANGE, COLOURS["undefined"], "#3d9a5f")
_SHORT = 16  # letters of a legend's entry that has another beside it
_SMOOTH = 400  # points of a curve: more cannot be distinguished


def glance(rows: Rows) -> Plot:
    """Returns a plot of metrics that are shares; a row has a `name` and a `baseline`, a share or None."""

    def draw(figure: Any) -> None:
        axes = _axes(figure, "%, test", grid="x")
        _points(axes, rows, 100, [row["name"] for row in rows], [BLUE] * len(rows))
        axes.plot(_column(rows, "baseline"), range(len(rows)), "|", color=ORANGE, markersize=11, markeredgewidth=2)
        axes.set_xlim(0, 100)

    values = "; ".join(
        f"{row['name']} {bare('share', row['value'])} %"
        + (f", baseline {bare('share', row['baseline'])} %" if row["baseline"] is not None else "")
        for row in rows
    )
    label = f"Metrics on the test part with 95 % intervals, and the baseline: {values}."
    return plot(draw, "glance", label, width=_WIDTH, height=0.75 + 0.24 * len(rows))


def curves(
    name: str, lines: Mapping[str, Curve], steps_per_epoch: float, axis: str, *, from_zero: bool = False
) -> Plot:
    """Returns a plot of curves over epochs, by name in the legend; `axis` is what the values are."""

    def draw(figure: Any) -> None:
        axes = _axes(figure, "epochs", axis)
        for colour, (label, curve) in zip(_CYCLE * len(lines), lines.items(), strict=False):
            every = max(1, len(curve.step) // _SMOOTH)
            epochs, values = np.array(curve.step[::every]) / steps_per_epoch, curve.value[::every]
            marker = "o" if len(epochs) <= 30 else None
            axes.plot(epochs, values, color=colour, label=literal(label), marker=marker, markersize=3, linewidth=1.4)
        if from_zero:
            axes.set_ylim(bottom=0)
        if len(lines) > 1:
            _legend(axes)

    values = "; ".join(f"{label} from {curve.value[0]:.3g} to {curve.value[-1]:.3g}" for label, curve in lines.items())
    return plot(draw, name, f"{axis} over the training: {values}.", width=_WIDTH, height=2.6)


def reliability(target: str, calibration: Mapping[str, Any]) -> Plot:
    """Returns a plot of the accuracy of predictions by their confidence."""
    bins = calibration["reliability"]

    def draw(figure: Any) -> None:
        axes = _axes(figure, "confidence, %", "accuracy, %", spaced(target))
        axes.plot([0, 100], [0, 100], color=GREY, linewidth=1, linestyle="--")
        confidence, accuracy = _column(bins, "confidence"), _column(bins, "accuracy")
        axes.plot(confidence, accuracy, color=BLUE, marker="o", markersize=4, linewidth=1.2, clip_on=False)
        axes.set(xlim=(0, 100), ylim=(0, 100), aspect="equal")

    values = ", ".join(f"{100 * each['confidence']:.0f} % sure: {100 * each['accuracy']:.0f} % right" for each in bins)
    label = f"Reliability of {spaced(target)}, in bins of equally many: {values}."
    return plot(draw, f"reliability-{target}", label, width=_NARROW, height=3.2)


def coverage(target: str, rows: Rows, after: Rows | None) -> Plot:
    """Returns a plot of how often intervals of a nominal `level` contain the label, as trained and with temperature."""

    def draw(figure: Any) -> None:
        axes = _axes(figure, "nominal coverage, %", "contains the label, %")
        axes.plot([45, 100], [45, 100], color=GREY, linewidth=1, linestyle="--")
        for levels, name, colour in ((rows, "as trained", BLUE), (after or (), "with temperature", ORANGE)):
            if shown := [row for row in levels if row["value"] is not None]:
                _line(axes, _column(shown, "level"), shown, 100, colour, name)
        _legend(axes)

    values = ", ".join(f"{100 * row['level']:.0f} % holds {bare('share', row['value'])} %" for row in rows)
    label = f"Coverage of the central intervals of {spaced(target)}: {values}."
    return plot(draw, f"coverage-{target}", label, width=_NARROW, height=3.2)


def selective(target: str, metric: MetricInfo, rows: Rows) -> Plot:
    """Returns a plot of a metric where only the most confident predictions are kept, a share of `coverage`."""
    factor, unit = _scale(metric)

    def draw(figure: Any) -> None:
        axes = _axes(figure, "predicted, %: the most confident", f"{metric.title}, {unit}", spaced(target))
        _line(axes, _column(rows, "coverage"), rows, factor)
        axes.invert_xaxis()

    values = ", ".join(f"{100 * row['coverage']:.0f} % predicted: {bare(metric.unit, row['value'])}" for row in rows)
    label = f"{metric.title.capitalize()} of {spaced(target)} where the least sure are withheld: {values}."
    return plot(draw, f"selective-{target}", label, width=_NARROW, height=2.6)


def bias(rows: Rows) -> Plot:
    """Returns a plot of the mean signed error of ages, the row `bias`, by `age_band`."""

    def draw(figure: Any) -> None:
        axes = _axes(figure, "annotated age", "prediction − label, years", grid="y")
        axes.axhline(0, color=INK, linewidth=0.8)
        _line(axes, range(len(rows)), [row["bias"] for row in rows], 1, linestyle="none")
        axes.set_xticks(range(len(rows)), [literal(row["age_band"]) for row in rows], rotation=45, ha="right")

    values = ", ".join(f"{row['age_band']}: {bare('years', row['bias']['value'])}" for row in rows)
    return plot(draw, "bias", f"Mean signed error in years by annotated age: {values}.", width=_WIDTH, height=2.9)


def cumulative_score(rows: Rows) -> Plot:
    """Returns a plot of the share of ages that are off by at most so many `years`."""

    def draw(figure: Any) -> None:
        axes = _axes(figure, "off by at most, years", "of the predictions, %")
        years = [row["years"] for row in rows]
        _line(axes, years, rows, 100)
        axes.set_xticks(years)
        axes.set_ylim(0, 100)

    values = ", ".join(f"{row['years']}: {bare('share', row['value'])} %" for row in rows)
    label = f"Ages that are off by at most so many years: {values}."
    return plot(draw, "cumulative-score", label, width=_NARROW, height=2.9)


def groups(target: str, metric: MetricInfo, rows: Rows, overall: float) -> Plot:
    """Returns a plot of a metric of each group, and `overall`.

    A row has a `name`, `n` examples, and `few`, whether these are too few for a ranking.
    """
    factor, unit = _scale(metric)

    def draw(figure: Any) -> None:
        better = "higher is better" if metric.higher_is_better else "lower is better"
        axes = _axes(figure, f"{better}; dashed: all", grid="x")
        axes.axvline(factor * overall, color=GREY, linewidth=1, linestyle="--")
        names = [f"{row['name']}  ({row['n']:,})" for row in rows]
        _points(axes, rows, factor, names, [GREY if row["few"] else BLUE for row in rows])
        axes.set_title(f"{spaced(target)}: {metric.title}, {unit}", loc="left")

    values = ", ".join(f"{row['name']} {bare(metric.unit, row['value'])} ({row['n']})" for row in rows)
    label = f"{metric.title.capitalize()} of {spaced(target)} by group, with 95 % intervals: {values}."
    return plot(draw, f"groups-{target}", label, width=_WIDTH, height=0.9 + 0.2 * len(rows))


def _axes(figure: Any, x: str, y: str = "", title: str = "", grid: str = "both") -> Any:
    axes = figure.add_subplot()
    axes.set(xlabel=x, ylabel=y, title=title)
    axes.grid(axis=grid, color=GREY, alpha=0.25, linewidth=0.6)
    return axes


def _scale(metric: MetricInfo) -> tuple[int, str]:
    return (1, "years") if metric.unit == "years" else (100, "%")


def _column(rows: Rows, name: str, factor: float = 100) -> np.ndarray:
    """Returns values of all rows, float64 `[n]`, NaN for None: matplotlib leaves such out."""
    return factor * np.array([row[name] for row in rows], np.float64)


def _line(
    axes: Any, x: Any, rows: Rows, factor: float, color: str = BLUE, label: str | None = None, linestyle: str = "-"
) -> None:
    """Plots values with their intervals over `x`."""
    value, low, high = (_column(rows, name, factor) for name in ("value", "low", "high"))
    axes.plot(x, value, color=color, marker="o", markersize=4, label=label, linewidth=1.2, linestyle=linestyle)
    axes.vlines(x, low, high, color=color, linewidth=4, alpha=0.3)


def _points(axes: Any, rows: Rows, factor: float, names: Sequence[str], colours: Sequence[str]) -> None:
    """Plots values with their intervals below each other, the first on top."""
    value, low, high = (_column(rows, name, factor) for name in ("value", "low", "high"))
    places = range(len(rows))
    axes.hlines(places, low, high, colors=colours, linewidth=5, alpha=0.4)
    axes.scatter(value, places, s=20, c=colours, zorder=3)
    axes.set_yticks(places, [literal(name) for name in names])
    axes.set_ylim(len(rows) - 0.5, -0.5)


def _legend(axes: Any) -> None:
    """Adds a legend above the plot: two entries beside each other where their names are short."""
    names = axes.get_legend_handles_labels()[1]
    columns = 1 if max(map(len, names), default=0) > _SHORT else min(2, len(names))
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=columns or 1, fontsize=8, handlelength=1.4)
