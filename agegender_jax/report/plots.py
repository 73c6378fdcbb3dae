"""The plots of a report, made from its content; beside each the page holds the same numbers as text."""

from collections.abc import Mapping, Sequence
from typing import Any

from agegender_jax.page import BLUE, COLOURS, INK, ORANGE, Plot, literal, plot
from agegender_jax.report.content import Curve, MetricInfo
from agegender_jax.report.format import bare, spaced

GREY = COLOURS["unknown"]

_WIDTH = 4.2  # inches: two stand beside each other on a wide screen, and one fills a phone's
_CYCLE = (BLUE, ORANGE, COLOURS["undefined"], "#3d9a5f")
_SHORT = 16  # letters of a legend's entry that has another beside it
_SMOOTH = 400  # points of a curve: more cannot be told apart


def glance(rows: Sequence[Mapping[str, Any]]) -> Plot:
    """Returns a plot of metrics that are shares, with their intervals and the baseline.

    Args:
      rows: `name`, `value`, `low`, `high` and `baseline` (or None), shares.
    """

    def draw(figure: Any) -> None:
        axes = figure.add_subplot()
        for place, row in enumerate(rows):
            if row["low"] is not None:
                axes.plot([100 * row["low"], 100 * row["high"]], [place, place], color=BLUE, linewidth=5, alpha=0.4)
            axes.plot(100 * row["value"], place, "o", color=BLUE, markersize=4.5)
            if row["baseline"] is not None:
                axes.plot(100 * row["baseline"], place, "|", color=ORANGE, markersize=11, markeredgewidth=2)
        axes.set_yticks(range(len(rows)), [literal(row["name"]) for row in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlim(0, 100)
        axes.set_xlabel("%, test")
        axes.grid(axis="x", color=GREY, alpha=0.25, linewidth=0.6)

    values = "; ".join(
        f"{row['name']} {bare('share', row['value'])} %"
        + (f", baseline {bare('share', row['baseline'])} %" if row["baseline"] is not None else "")
        for row in rows
    )
    label = f"Metrics on the test part with 95 % intervals, and the baseline: {values}."
    return plot(draw, "glance", label, width=_WIDTH, height=0.75 + 0.24 * len(rows))


def curves(
    name: str,
    lines: Mapping[str, Curve],
    steps_per_epoch: float,
    axis: str,
    *,
    from_zero: bool = False,
) -> Plot:
    """Returns a plot of curves over epochs.

    Args:
      name: of the plot.
      lines: the curves by their name in the legend.
      steps_per_epoch: to write epochs.
      axis: what the values are.
      from_zero: whether their axis begins there.
    """

    def draw(figure: Any) -> None:
        axes = figure.add_subplot()
        for colour, (label, curve) in zip(_CYCLE * len(lines), lines.items(), strict=False):
            every = max(1, len(curve.step) // _SMOOTH)
            epochs = [step / steps_per_epoch for step in curve.step[::every]]
            marker = "o" if len(epochs) <= 30 else None
            values = curve.value[::every]
            axes.plot(epochs, values, color=colour, label=literal(label), marker=marker, markersize=3, linewidth=1.4)
        axes.set_xlabel("epochs")
        axes.set_ylabel(axis)
        if from_zero:
            axes.set_ylim(bottom=0)
        axes.grid(color=GREY, alpha=0.25, linewidth=0.6)
        if len(lines) > 1:
            _legend(axes)

    values = "; ".join(f"{label} from {curve.value[0]:.3g} to {curve.value[-1]:.3g}" for label, curve in lines.items())
    return plot(draw, name, f"{axis} over the training: {values}.", width=_WIDTH, height=2.6)


def reliability(target: str, calibration: Mapping[str, Any]) -> Plot:
    """Returns a plot of the accuracy of predictions by their confidence."""
    bins = calibration["reliability"]

    def draw(figure: Any) -> None:
        axes = figure.add_subplot()
        axes.plot([0, 100], [0, 100], color=GREY, linewidth=1, linestyle="--")
        confidence, right = ([100 * each[name] for each in bins] for name in ("confidence", "accuracy"))
        axes.plot(confidence, right, color=BLUE, marker="o", markersize=4, linewidth=1.2, clip_on=False)
        axes.set_xlim(0, 100)
        axes.set_ylim(0, 100)
        axes.set_aspect("equal")
        axes.set_xlabel("confidence, %")
        axes.set_ylabel("accuracy, %")
        axes.set_title(spaced(target))
        axes.grid(color=GREY, alpha=0.25, linewidth=0.6)

    values = ", ".join(f"{100 * each['confidence']:.0f} % sure: {100 * each['accuracy']:.0f} % right" for each in bins)
    label = f"Reliability of {spaced(target)}, in bins of equally many: {values}."
    return plot(draw, f"reliability-{target}", label, width=3.4, height=3.2)


def coverage(target: str, rows: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]] | None) -> Plot:
    """Returns a plot of how often an interval contains the label, by how often it should.

    Args:
      target: whose intervals they are.
      rows: `level` and `value`, shares, and the interval `low` and `high` of the latter.
      after: the same with the temperature, or None.
    """

    def draw(figure: Any) -> None:
        axes = figure.add_subplot()
        axes.plot([45, 100], [45, 100], color=GREY, linewidth=1, linestyle="--")
        for levels_of, label, colour in ((rows, "as trained", BLUE), (after or (), "with temperature", ORANGE)):
            kept = [row for row in levels_of if row["value"] is not None]
            levels, values = ([100 * row[name] for row in kept] for name in ("level", "value"))
            if kept:
                axes.plot(levels, values, color=colour, marker="o", markersize=4, label=label, linewidth=1.2)
            for row in kept:
                if row["low"] is not None:
                    ends = [100 * row["low"], 100 * row["high"]]
                    axes.plot([100 * row["level"]] * 2, ends, color=colour, linewidth=4, alpha=0.3)
        axes.set_xlabel("nominal coverage, %")
        axes.set_ylabel("contains the label, %")
        axes.grid(color=GREY, alpha=0.25, linewidth=0.6)
        _legend(axes)

    values = ", ".join(f"{100 * row['level']:.0f} % holds {bare('share', row['value'])} %" for row in rows)
    label = f"Coverage of the central intervals of {spaced(target)}: {values}."
    return plot(draw, f"coverage-{target}", label, width=3.4, height=3.2)


def selective(target: str, metric: MetricInfo, rows: Sequence[Mapping[str, Any]]) -> Plot:
    """Returns a plot of a metric where only the most confident predictions are kept.

    Args:
      target: that is predicted.
      metric: which one.
      rows: `coverage`, a share, and `value` with its interval `low` and `high`.
    """
    years = metric.unit == "years"

    def draw(figure: Any) -> None:
        axes = figure.add_subplot()
        factor = 1 if years else 100
        share, value = [100 * row["coverage"] for row in rows], [factor * row["value"] for row in rows]
        axes.plot(share, value, color=BLUE, marker="o", markersize=4, linewidth=1.2)
        for row in rows:
            if row["low"] is not None:
                ends = [factor * row["low"], factor * row["high"]]
                axes.plot([100 * row["coverage"]] * 2, ends, color=BLUE, linewidth=4, alpha=0.3)
        axes.invert_xaxis()
        axes.set_xlabel("predicted, %: the most confident")
        axes.set_ylabel(f"{metric.title}, {'years' if years else '%'}")
        axes.set_title(spaced(target))
        axes.grid(color=GREY, alpha=0.25, linewidth=0.6)

    values = ", ".join(f"{100 * row['coverage']:.0f} % answered: {bare(metric.unit, row['value'])}" for row in rows)
    label = f"{metric.title.capitalize()} of {spaced(target)} where the least sure answers are withheld: {values}."
    return plot(draw, f"selective-{target}", label, width=3.4, height=2.6)


def bias(rows: Sequence[Mapping[str, Any]]) -> Plot:
    """Returns a plot of the mean signed error of ages by age, with its interval.

    Args:
      rows: `age_band`, `n`, `bias` with `value`, `low` and `high`.
    """

    def draw(figure: Any) -> None:
        axes = figure.add_subplot()
        axes.axhline(0, color=INK, linewidth=0.8)
        for place, row in enumerate(rows):
            error = row["bias"]
            if error["low"] is not None:
                axes.plot([place, place], [error["low"], error["high"]], color=BLUE, linewidth=5, alpha=0.4)
            axes.plot(place, error["value"], "o", color=BLUE, markersize=4.5)
        axes.set_xticks(range(len(rows)), [literal(row["age_band"]) for row in rows], rotation=45, ha="right")
        axes.set_ylabel("prediction − label, years")
        axes.set_xlabel("annotated age")
        axes.grid(axis="y", color=GREY, alpha=0.25, linewidth=0.6)

    values = ", ".join(f"{row['age_band']}: {bare('years', row['bias']['value'])}" for row in rows)
    return plot(draw, "bias", f"Mean signed error in years by annotated age: {values}.", width=_WIDTH, height=2.9)


def cumulative_score(rows: Sequence[Mapping[str, Any]]) -> Plot:
    """Returns a plot of the share of ages that are off by at most so many years, with its interval.

    Args:
      rows: `years`, and `value`, a share, with `low` and `high`.
    """

    def draw(figure: Any) -> None:
        axes = figure.add_subplot()
        years = [row["years"] for row in rows]
        axes.plot(years, [100 * row["value"] for row in rows], color=BLUE, marker="o", markersize=4, linewidth=1.2)
        for row in rows:
            if row["low"] is not None:
                axes.plot([row["years"]] * 2, [100 * row["low"], 100 * row["high"]], color=BLUE, linewidth=4, alpha=0.3)
        axes.set_xticks(years)
        axes.set_ylim(0, 100)
        axes.set_xlabel("off by at most, years")
        axes.set_ylabel("of the predictions, %")
        axes.grid(color=GREY, alpha=0.25, linewidth=0.6)

    values = ", ".join(f"{row['years']}: {bare('share', row['value'])} %" for row in rows)
    return plot(
        draw, "cumulative-score", f"Ages that are off by at most so many years: {values}.", width=3.4, height=2.9
    )


def groups(target: str, metric: MetricInfo, rows: Sequence[Mapping[str, Any]], overall: float) -> Plot:
    """Returns a plot of a metric of each group with its interval, and that of all.

    Args:
      target: that is predicted.
      metric: which one.
      rows: `name`, `n`, `value`, `low`, `high`, `few` (whether too few for a ranking).
      overall: of all.
    """
    factor = 1 if metric.unit == "years" else 100

    def draw(figure: Any) -> None:
        axes = figure.add_subplot()
        axes.axvline(factor * overall, color=GREY, linewidth=1, linestyle="--")
        for place, row in enumerate(rows):
            colour = GREY if row["few"] else BLUE
            if row["low"] is not None:
                ends = [factor * row["low"], factor * row["high"]]
                axes.plot(ends, [place, place], color=colour, linewidth=5, alpha=0.4)
            axes.plot(factor * row["value"], place, "o", color=colour, markersize=4.5)
        axes.set_yticks(range(len(rows)), [literal(f"{row['name']}  ({row['n']:,})") for row in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_title(f"{spaced(target)}: {metric.title}, {'years' if factor == 1 else '%'}", loc="left")
        better = "higher is better" if metric.higher_is_better else "lower is better"
        axes.set_xlabel(f"{better}; dashed: all")
        axes.grid(axis="x", color=GREY, alpha=0.25, linewidth=0.6)

    values = ", ".join(f"{row['name']} {bare(metric.unit, row['value'])} ({row['n']})" for row in rows)
    label = f"{metric.title.capitalize()} of {spaced(target)} by group, with 95 % intervals: {values}."
    return plot(draw, f"groups-{target}", label, width=_WIDTH, height=0.9 + 0.2 * len(rows))


def _legend(axes: Any) -> None:
    """Adds a legend above the plot: two entries beside each other where their names are short."""
    names = axes.get_legend_handles_labels()[1]
    columns = 1 if max(map(len, names), default=0) > _SHORT else min(2, len(names))
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=columns or 1, fontsize=8, handlelength=1.4)
