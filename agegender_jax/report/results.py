"""The sections of a report that hold its figures."""

from collections.abc import Mapping, Sequence
from typing import Any

from agegender_jax import page
from agegender_jax.evaluate.calibration import TEMPERATURES, at_bound
from agegender_jax.page import Html
from agegender_jax.report import plots
from agegender_jax.report.components import Cell, boxed, heat, section, subtitle, tile
from agegender_jax.report.format import NONE, bare, in_years, interval, named, number, spaced, with_interval

Content = Mapping[str, Any]

_MAIN = ("accuracy", "mae")  # of a thing: which figure stands for it


def main_figure(thing: str, analysis: Content) -> str | None:
    """The figure that stands for a thing, such as `gender/accuracy`; None where it has none."""
    return next((f"{thing}/{name}" for name in _MAIN if f"{thing}/{name}" in analysis["figures"]), None)


def tiles(content: Content) -> Html:
    """The main figures, large."""
    found = []
    for thing in content["things"]:
        if (figure := main_figure(thing, content["test"])) is None:
            continue
        entry = content["test"]["figures"][figure]
        lines = (
            f"95 % interval: {interval(figure, entry)}",
            f"without looking: {number(figure, content['constant'].get(figure))}",
        )
        found.append(tile(number(figure, entry["value"]), f"{spaced(thing)}, {named(figure)}", *lines))
    return boxed("tiles", *found)


def results(content: Content) -> Html:
    """The table of figures with intervals and the constant, and the same to look at."""
    test, validation, constant = content["test"]["figures"], content["validation"]["figures"], content["constant"]
    rows: list[Sequence[str]] = []
    seen = []
    for thing in content["things"]:
        figures = [name for name in test if name.startswith(f"{thing}/")]
        if not figures:
            continue
        rows.append((Html(f"<b>{page.escape(spaced(thing))}</b>"), "", "", "", "", ""))
        for figure in figures:
            own, other = test[figure], validation.get(figure)
            rows.append(
                (
                    named(figure),
                    number(figure, own["value"]),
                    interval(figure, own),
                    number(figure, constant[figure]) if figure in constant else "",
                    number(figure, other["value"]) if other else "",
                    interval(figure, other),
                )
            )
            if not in_years(figure) and own["value"] is not None:
                seen.append({"figure": figure, "name": f"{spaced(thing)}: {named(figure)}", **own})
                seen[-1]["constant"] = constant.get(figure)
    header = ("", "test", "95 % interval", "without looking", "validation", "95 % interval")
    counts = f"{content['test']['n']:,} examples"
    if content["test"]["clusters"] < content["test"]["n"]:
        counts += f" in {content['test']['clusters']:,} clusters"
    constants = ", ".join(f"{spaced(head)}: {name}" for head, name in content["constant_names"].items())
    averaged = " Each answer is the mean over a picture and its mirror image." if content["flip_averaged"] else ""
    return section(
        "results",
        "Results",
        boxed("beside", page.table(header, rows, numbers=range(1, 6)), plots.glance(seen) if seen else ""),
        f"Test part: {counts}. Intervals are of {content['test']['draws']:,} draws of clusters: examples of one "
        "person, one group or one file are drawn together. Without looking: the best constant guess from the training "
        f"labels ({constants})." + averaged,
    )


def learning(content: Content) -> Html:
    """Learning curves."""
    curves, epoch = content["curves"], content["steps_per_epoch"]
    whole = {name: curve for name, curve in curves.items() if curve["value"]}
    losses = {
        spaced(name.removeprefix("train/").removesuffix("/loss").replace("loss", "total")): curve
        for name, curve in whole.items()
        if name.startswith("train/") and name.endswith("loss")
    }
    figures: dict[str, dict[str, Any]] = {"shares": {}, "years": {}}
    for thing in content["things"]:
        for figure in dict.fromkeys((main_figure(thing, content["test"]), f"{thing}/balanced_accuracy")):
            curve = whole.get(f"validation/{figure}")
            if figure and curve:
                factor = 1 if in_years(figure) else 100
                shown = {"step": curve["step"], "value": [factor * value for value in curve["value"]]}
                figures["years" if in_years(figure) else "shares"][f"{spaced(thing)}, {named(figure)}"] = shown
    drawn = [
        plots.curves("curve-loss", losses, epoch, "training loss", from_zero=True) if losses else "",
        plots.curves("curve-shares", figures["shares"], epoch, "validation, %") if figures["shares"] else "",
        plots.curves("curve-years", figures["years"], epoch, "validation, years") if figures["years"] else "",
    ]
    if rate := whole.get("learning_rate"):
        drawn.append(plots.curves("curve-rate", {"learning rate": rate}, epoch, "learning rate", from_zero=True))
    chosen = content["chosen_by"]
    used, last = content["costs"]["evaluated_step"], content["costs"]["steps"]
    said = (
        f"The figures are of step {used:,} of {last:,}, which has the best validation {chosen}: validation figures are "
        "therefore somewhat too good."
        if chosen
        else f"The figures are of the last step, {last:,}."
    )
    return section(
        "learning", "Learning curves", boxed("plots", *drawn) or "No curves were kept (metrics.jsonl).", said
    )


def confusions(content: Content) -> Html:
    """Who is taken for what."""
    found = [
        _confusion(thing, matrix["names"], matrix["counts"]) for thing, matrix in content["test"]["confusion"].items()
    ]
    if not found:
        return Html("")
    said = "A row is a label, a column an answer; below each count its share of the row. Test part."
    return section("confusion", "Confusion", said, boxed("tables", *found))


def _confusion(thing: str, names: Sequence[str], matrix: Sequence[Sequence[int]]) -> Html:
    rows = {}
    for name, counts in zip(names, matrix, strict=True):
        total = sum(counts)
        rows[name] = [
            Cell(f"{count:,}", f"{100 * count / total:.0f} %", 0.85 * count / total) if count else Cell("0", few=True)
            for count in counts
        ]
    return heat("label", names, rows, spaced(thing))


def calibration(content: Content) -> Html:
    """Whether probabilities mean what they say, of classes and of ages, and what abstaining is worth."""
    classes: list[Sequence[str]] = []
    years: list[Sequence[str]] = []
    caption = ""
    drawn: list[str] = []
    for thing, entry in content["test"]["calibration"].items():
        after = entry["after"] or {}
        temperature = _temperature(entry["temperature"])
        if "reliability" in entry:
            ece, nll, score = (_change(name, entry[name], after.get(name)) for name in ("ece", "nll", "brier"))
            ends = [interval(name, entry["intervals"][name]) for name in ("nll", "brier")]
            classes.append((spaced(thing), ece, nll, ends[0], score, ends[1], temperature))
            drawn.append(plots.reliability(thing, entry))
            continue
        later = after.get("coverage") or [{}] * len(entry["coverage"])
        drawn.append(plots.coverage(thing, entry["coverage"], after.get("coverage")))
        for row, then in zip(entry["coverage"], later, strict=True):
            shares = _change("share", row["value"], then.get("value"))
            widths = _change("mean_width", row["mean_width"], then.get("mean_width"))
            name = f"{spaced(thing)}, {100 * row['level']:.0f} %"
            years.append((name, shares, interval("share", row), widths))
        caption = f"Intervals of ages, temperature {temperature}"
    parts: list[str] = []
    if classes:
        before = "95 % interval before"
        scored = ("", "calibration error (ECE)", "log-likelihood, negative", before, "Brier score", before)
        header = (*scored, "temperature")
        parts.append(page.table(header, classes, caption="Probabilities of classes", numbers=range(1, 7)))
    if years:
        covered = ("central interval", "holds the label", "95 % interval before", "mean width")
        parts.append(page.table(covered, years, caption=caption, numbers=range(1, 4)))
    if not parts:
        return Html("")
    said = (
        "Bins hold equally many examples. After the arrow: with the temperature, one number that was fitted on the "
        "validation part; above 1 the answers were too sure of themselves. No other figure of this page has it."
    )
    return section("calibration", "Calibration", boxed("tables", *parts), said, boxed("plots", *drawn))


def _temperature(found: float | None) -> str:
    if found is None:
        return NONE
    least, most = TEMPERATURES
    return f"{found:.2f}" + (f" (the end of {least:g} to {most:g})" if at_bound(found) else "")


def _change(figure: str, before: float | None, after: float | None) -> str:
    """A figure before and after the temperature."""
    unit = "" if figure in ("nll", "brier") else " years" if in_years(figure) else " %"
    if after is None:
        return NONE if before is None else f"{bare(figure, before)}{unit}"
    return f"{bare(figure, before)} → {bare(figure, after)}{unit}"


def selective(content: Content) -> Html:
    """What abstaining is worth."""
    drawn: list[str] = []
    columns: dict[str, dict[float, str]] = {}
    for thing, entries in content["test"]["selective"].items():
        given = [each for each in entries if each["value"] is not None]
        if not given:
            continue
        figure = given[0]["figure"]
        drawn.append(plots.selective(thing, figure, given))
        columns[f"{spaced(thing)}, {named(figure)}"] = {each["coverage"]: with_interval(figure, each) for each in given}
    if not drawn:
        return Html("")
    table = page.table(
        ("answered", *columns),
        [
            (f"{100 * share:.0f} %", *(column.get(share, "") for column in columns.values()))
            for share in sorted({share for column in columns.values() for share in column}, reverse=True)
        ],
        numbers=range(1, len(columns) + 1),
    )
    said = (
        "Where only the surest answers are given: classes by their probability, ages by the width of their interval. "
        "The threshold is chosen on the test part itself."
    )
    return section("abstaining", "Coverage against accuracy", said, table, boxed("plots", *drawn))


def ages(content: Content) -> Html:
    """How far ages are off, and by age in which direction."""
    for thing, found in content["test"]["bias_by_age"].items():
        if rows := [row for row in found if row["n"] and row["bias"]["value"] is not None]:
            return _ages(rows, content["test"]["cumulative_score"][thing])
    return Html("")


def _years(count: int) -> str:
    return "1 year" if count == 1 else f"{count} years"


def _ages(rows: Sequence[Mapping[str, Any]], scores: Sequence[Mapping[str, Any]]) -> Html:
    table = page.table(
        ("annotated age", "examples", "mean signed error", "95 % interval", "mean absolute error", "95 % interval"),
        [
            (
                row["age_band"],
                f"{row['n']:,}",
                number("bias", row["bias"]["value"]),
                interval("bias", row["bias"]),
                number("mae", row["mae"]["value"]),
                interval("mae", row["mae"]),
            )
            for row in rows
        ],
        numbers=range(1, 6),
    )
    said = "Above zero: answered older than annotated."
    if rows[0]["bias"]["value"] > 0 > rows[-1]["bias"]["value"]:
        said += (
            " The youngest are made older and the oldest younger, as is usual where a network is unsure: its answers "
            "draw to the middle of the training ages."
        )
    within = page.table(
        ("off by at most", "of the answers", "95 % interval"),
        [(_years(row["years"]), number("share", row["value"]), interval("share", row)) for row in scores],
        numbers=range(1, 3),
    )
    return section(
        "age-bias",
        "Errors of age",
        said,
        table,
        boxed("plots", plots.bias(rows)),
        subtitle("Cumulative score, CS@k"),
        boxed("beside", within, plots.cumulative_score(scores)),
    )
