"""The sections of a report: which there are, and the tables and plots that their templates show."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from agegender_jax.evaluate.calibration import TEMPERATURES, at_bound
from agegender_jax.metrics import BALANCED_ACCURACY
from agegender_jax.page import Plot, Section
from agegender_jax.report import plots
from agegender_jax.report.content import Content, MetricInfo
from agegender_jax.report.format import NONE, bare, interval, number, spaced, with_interval
from agegender_jax.report.mistakes import LEVEL, WRONG_YEARS
from agegender_jax.splits import PARTS
from agegender_jax.text import Table

_FULL_SHADE = 0.75  # of the cell that is furthest from all examples


@dataclasses.dataclass(frozen=True)
class Cell:
    """A shaded cell: `text`, what stands `below` it, and from -1 (worse) over 0 to 1 (better) the `shade`."""

    text: str
    below: str = ""
    shade: float = 0.0
    few: bool = False


@dataclasses.dataclass(frozen=True)
class Heat:
    """A table of shaded cells, by name of the row; `corner` is what the rows are."""

    corner: str
    columns: Sequence[str]
    rows: Mapping[str, Sequence[Cell]]
    caption: str


def sections(content: Content, thumbnails: Mapping[str, str], panels: Mapping[str, str]) -> list[Section]:
    """Returns the sections of a report that have something to show.

    Images are data URIs: `thumbnails` of all mistakes (or of none) by key, `panels` of saliency by target.
    """
    every = (
        Section("results", "Results", results(content)),
        Section("limits", "What these metrics do not show", {}),
        Section("groups", "By group", groups(content)),
        Section("confusion", "Confusion", confusions(content)),
        Section("calibration", "Calibration", calibration(content)),
        Section("abstaining", "Coverage against accuracy", selective(content)),
        Section("age-bias", "Errors of age", ages(content)),
        Section("learning", "Learning curves", learning(content)),
        Section("mistakes", "Mistakes", mistakes(content, thumbnails)),
        Section("saliency", "Saliency", {"panels": panels} if panels else None),
        Section("card", "Model card", {}),
        Section("data", "Data and split", strata(content)),
        Section("run", "What was run", differences(content)),
    )
    return [section for section in every if section.content is not None]


def tiles(content: Content) -> list[tuple[str, str, list[str]]]:
    """Returns the main metrics: name, value, and lines below them."""
    entries = []
    for target in content.targets:
        if metric := content.main_metric(target):
            key = f"{target}/{metric.name}"
            value, ends = _cells(metric.unit, content.test["metrics"][key])
            baseline = number(metric.unit, content.baseline.get(key))
            entries.append((_title(target, metric), value, [f"95 % interval: {ends}", f"baseline: {baseline}"]))
    return entries


def results(content: Content) -> dict[str, Any]:
    """Returns the table of metrics with intervals and the baseline, and a plot of the shares among them."""
    test, validation = content.test["metrics"], content.validation["metrics"]
    rows: list[Sequence[str]] = []
    shares = []
    for target in content.targets:
        names = [name for name in test if content.metrics[name].target == target]
        rows += [(spaced(target),)] if names else []
        for name in names:
            metric, baseline = content.metrics[name], content.baseline.get(name)
            own, other = _cells(metric.unit, test[name]), _cells(metric.unit, validation[name])
            rows.append((metric.title, *own, number(metric.unit, baseline), *other))
            if metric.unit == "share" and test[name]["value"] is not None:
                shares.append({"name": f"{spaced(target)}: {metric.title}", "baseline": baseline, **test[name]})
    header = ("", "test", "95 % interval", "baseline", "validation", "95 % interval")
    return {"table": Table(header, rows), "plot": plots.glance(shares) if shares else None}


def groups(content: Content) -> dict[str, Any] | None:
    """Returns tables and plots by gender, race and age band, alone and together."""
    test = content.test
    mains = {
        target: metric for target, rows in test["groups"].items() if rows and (metric := content.main_metric(target))
    }
    plotted, crossed = [], []
    everything: dict[str, dict[str, str]] = {}
    examples: dict[str, int] = {}
    for target, metric in mains.items():
        overall = test["metrics"][f"{target}/{metric.name}"]["value"]
        single: list[dict[str, Any]] = []
        several: list[dict[str, Any]] = []
        for row in test["groups"][target]:
            name, value = _name(row), row[metric.name]
            everything.setdefault(name, {})[target] = with_interval(metric.unit, value)
            examples[name] = max(examples.get(name, 0), row["n"])
            if value["value"] is None or overall is None:
                continue
            few = row["n"] < test["least"] or row["clusters"] < test["least_clusters"]
            entry = {"name": name, "attributes": _attributes(row), "n": row["n"], "few": few, **value}
            (several if len(entry["attributes"]) > 1 else single).append(entry)
        if single:
            plotted.append(plots.groups(target, metric, single, overall))
        if several:
            crossed.append(_crossing(_title(target, metric), metric, several, overall))
    header = ("group", "examples", *(_title(target, metric) for target, metric in mains.items()))
    rows = [(name, f"{n:,}", *(everything[name].get(target, NONE) for target in mains)) for name, n in examples.items()]
    return (
        {"worst": _worst(content), "plots": plotted, "crossed": crossed, "all": Table(header, rows)} if mains else None
    )


def _worst(content: Content) -> Table | None:
    rows = []
    for target, attributes in content.test["worst"].items():
        for by, worst in attributes.items():
            gap, metric = content.test["gap"][target][by], content.metrics[f"{target}/{worst['metric']}"]
            unit = "points" if metric.unit == "share" else metric.unit
            rows.append(
                (
                    _title(target, metric),
                    spaced(by).replace(" x ", " × "),
                    _name(worst),
                    f"{worst['n']:,}",
                    *_cells(metric.unit, worst),
                    f"{bare(metric.unit, gap['value'])} {unit}",
                    interval(metric.unit, gap),
                    f"{_name(gap['best'])}, of {gap['groups']}",
                )
            )
    header = ("", "by", "worst group", "examples", "test", "95 % interval", "gap", "interval", "to the best group")
    return Table(header, rows) if rows else None


def _crossing(title: str, metric: MetricInfo, rows: Sequence[Mapping[str, Any]], overall: float) -> Heat:
    """Returns a metric by all attributes together, shaded by its distance from that of all examples."""
    *_, corner = rows[0]["attributes"]
    columns = sorted({row["attributes"][corner] for row in rows}, key=_order)
    distances = [abs(row["value"] - overall) for row in rows if not row["few"]]
    scale = _FULL_SHADE / (max(distances, default=0.0) or 1.0) * (1 if metric.higher_is_better else -1)
    cells: dict[str, dict[str, Cell]] = {}
    for row in rows:
        *first, last = row["attributes"].values()
        shade = 0.0 if row["few"] else (row["value"] - overall) * scale
        cell = Cell(bare(metric.unit, row["value"]), f"n {row['n']:,}", shade, row["few"])
        cells.setdefault(", ".join(first), {})[last] = cell
    filled = {name: [row.get(column, Cell("")) for column in columns] for name, row in cells.items()}
    return Heat(spaced(corner), columns, filled, f"{title} (all: {number(metric.unit, overall)})")


def _order(name: str) -> tuple[int, str]:
    """Sorts age bands by age, others by name."""
    start = name.split("-")[0]
    return (int(start) if start.isdecimal() else -1, name)


def confusions(content: Content) -> list[Heat] | None:
    """Returns the confusion matrices."""

    def cell(count: int, total: int) -> Cell:
        share = count / max(1, total)
        return Cell(f"{count:,}", f"{100 * share:.0f} %", 0.85 * share) if count else Cell("0", few=True)

    matrices = []
    for target, matrix in content.test["confusion"].items():
        names = matrix["names"]
        rows = [[cell(count, sum(counts)) for count in counts] for counts in matrix["counts"]]
        matrices.append(Heat("label", names, dict(zip(names, rows, strict=True)), spaced(target)))
    return matrices or None


def calibration(content: Content) -> dict[str, Any] | None:
    """Returns tables and plots of how well probabilities are calibrated, of classes and of ages."""
    classes: list[Sequence[str]] = []
    years: list[Sequence[str]] = []
    plotted: list[Plot] = []
    low, high = TEMPERATURES
    for target, entry in content.test["calibration"].items():
        after, temperature = entry["after"] or {}, NONE
        if entry["temperature"] is not None:
            end = f" (the end of {low:g} to {high:g})" if at_bound(entry["temperature"]) else ""
            temperature = f"{entry['temperature']:.2f}{end}"
        if "reliability" in entry:
            ece = _change("share", entry["ece"], after.get("ece"))
            nll, score = (_change("nats", entry[name], after.get(name)) for name in ("nll", "brier"))
            ends = [interval("nats", entry["intervals"][name]) for name in ("nll", "brier")]
            classes.append((spaced(target), ece, nll, ends[0], score, ends[1], temperature))
            plotted.append(plots.reliability(target, entry))
            continue
        plotted.append(plots.coverage(target, entry["coverage"], after.get("coverage")))
        for row, then in zip(entry["coverage"], after.get("coverage") or [{}] * len(entry["coverage"]), strict=True):
            shares = _change("share", row["value"], then.get("value"))
            widths = _change("years", row["mean_width"], then.get("mean_width"))
            name = f"{spaced(target)}, {100 * row['level']:.0f} %"
            years.append((name, shares, interval("share", row), widths, temperature))
    before, tables = "95 % interval before", []
    if classes:
        scores = ("calibration error (ECE)", "log-likelihood, negative", before, "Brier score", before, "temperature")
        tables.append(Table(("", *scores), classes, "Probabilities of classes"))
    if years:
        header = ("central interval", "contains the label", before, "mean width", "temperature")
        tables.append(Table(header, years, "Intervals of ages"))
    return {"tables": tables, "plots": plotted} if tables else None


def _change(unit: str, before: float | None, after: float | None) -> str:
    """Returns a number before and after the temperature."""
    if before is None or after is None:
        return number(unit, before)
    return f"{bare(unit, before)} → {number(unit, after)}"


def selective(content: Content) -> dict[str, Any] | None:
    """Returns what abstaining gains."""
    plotted: list[Plot] = []
    columns: dict[str, dict[float, str]] = {}
    for target, entries in content.test["selective"].items():
        if measured := [each for each in entries if each["value"] is not None]:
            metric = content.metrics[f"{target}/{measured[0]['metric']}"]
            plotted.append(plots.selective(target, metric, measured))
            columns[_title(target, metric)] = {each["coverage"]: with_interval(metric.unit, each) for each in measured}
    shares = sorted({share for column in columns.values() for share in column}, reverse=True)
    rows = [(f"{100 * share:.0f} %", *(column.get(share, "") for column in columns.values())) for share in shares]
    return {"table": Table(("predicted", *columns), rows), "plots": plotted} if plotted else None


def ages(content: Content) -> dict[str, Any] | None:
    """Returns how far ages are off, and by age in which direction."""
    for target, bands in content.test["bias_by_age"].items():
        if rows := [row for row in bands if row["n"] and row["bias"]["value"] is not None]:
            scores, ends = content.test["cumulative_score"][target], "95 % interval"
            header = ("annotated age", "examples", "mean signed error", ends, "mean absolute error", ends)
            errors = [
                (row["age_band"], f"{row['n']:,}", *_cells("years", row["bias"]), *_cells("years", row["mae"]))
                for row in rows
            ]
            within = [
                (f"{row['years']} year{'s' if row['years'] > 1 else ''}", *_cells("share", row)) for row in scores
            ]
            return {
                "table": Table(header, errors),
                "to_the_middle": rows[0]["bias"]["value"] > 0 > rows[-1]["bias"]["value"],
                "plot": plots.bias(rows),
                "scores": Table(("off by at most", "of the predictions", ends), within),
                "scores_plot": plots.cumulative_score(scores),
            }
    return None


def learning(content: Content) -> list[Plot]:
    """Returns the learning curves."""
    trained = {"total": "train/loss"} | {spaced(target): f"train/{target}/loss" for target in content.targets}
    losses = {title: content.curves[name] for title, name in trained.items() if name in content.curves}
    shares, years = {}, {}
    for target in content.targets:
        metrics = (content.main_metric(target), content.metrics.get(f"{target}/{BALANCED_ACCURACY.name}"))
        for metric in filter(None, metrics):
            measured = content.curves.get(f"validation/{target}/{metric.name}")
            if measured and metric.unit == "years":
                years[_title(target, metric)] = measured
            elif measured:
                percent = [100 * value for value in measured.value]
                shares[_title(target, metric)] = dataclasses.replace(measured, value=percent)
    rate = content.curves.get("learning_rate")
    return [
        plots.curves(name, lines, content.steps_per_epoch, axis, from_zero=name in ("curve-loss", "curve-rate"))
        for name, axis, lines in (
            ("curve-loss", "training loss", losses),
            ("curve-shares", "validation, %", shares),
            ("curve-years", "validation, years", years),
            ("curve-rate", "learning rate", {"learning rate": rate} if rate else {}),
        )
        if lines
    ]


def mistakes(content: Content, thumbnails: Mapping[str, str]) -> dict[str, Any] | None:
    """Returns the mistakes, largest and most confident, by target: tables, or images with captions."""
    tables, sheets = [], []
    for target, kinds in content.mistakes.items():
        years, name = not content.targets[target], spaced(target)
        width = f"{100 * LEVEL:.0f} % interval"
        titles = {"worst": f"{name}: largest errors", "confident": f"{name}: wrong with the highest confidence"}
        if years:
            titles["confident"] = f"{name}: errors of {WRONG_YEARS:g} years or more with the narrowest {width}"
        for kind, title in titles.items():
            if rows := kinds[kind]:
                tables.append((_ages if years else _classes)(rows, title))
                sheets.append((title, [(thumbnails.get(row["key"], ""), _caption(row), row["key"]) for row in rows]))
    if not tables:
        return None
    return {"tables": [], "sheets": sheets} if thumbnails else {"tables": tables, "sheets": []}


def _classes(rows: Sequence[Mapping[str, Any]], title: str) -> Table:
    cells = [(row["key"], row["label"], row["prediction"], f"{100 * row['probability']:.1f} %") for row in rows]
    return Table(("file", "annotated", "predicted", "probability"), cells, title)


def _ages(rows: Sequence[Mapping[str, Any]], title: str) -> Table:
    header = ["file", "annotated, years", "predicted", "error", f"width of its {100 * LEVEL:.0f} % interval"]
    cells = [
        [
            row["key"],
            f"{row['label']:g}",
            f"{row['prediction']:.1f}",
            f"{row['error']:+.1f}",
            f"{row['width'] or 0:.1f}",
        ]
        for row in rows
    ]
    columns = 4 if rows[0]["width"] is None else 5
    return Table(header[:columns], [row[:columns] for row in cells], title)


def _caption(row: Mapping[str, Any]) -> str:
    if "error" in row:
        return f"{row['prediction']:.1f} years, annotated {row['label']:g}"
    return f"{row['prediction']} ({100 * row['probability']:.0f} %), annotated {row['label']}"


def strata(content: Content) -> Table:
    """Returns the strata of the split."""
    split = content.split
    header = (f"by {spaced(split.stratified_by)}, which all parts have in equal shares", *PARTS)
    return Table(header, [(name, *(f"{count[part]:,}" for part in PARTS)) for name, count in split.strata.items()])


def differences(content: Content) -> Table:
    """Returns the keys of the recipe that differ from the default."""
    rows = [(key, *map(_plain, values)) for key, values in content.differences.items()]
    return Table(("key of the recipe", "default", "this run"), rows)


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_plain, value))
    if value == "":
        return "''"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _title(target: str, metric: MetricInfo) -> str:
    return f"{spaced(target)}, {metric.title}"


def _name(row: Mapping[str, Any]) -> str:
    return ", ".join(_attributes(row).values())


def _attributes(row: Mapping[str, Any]) -> dict[str, str]:
    return {name: row[name] for name in ("gender", "race", "age_band") if row[name] is not None}


def _cells(unit: str, value: Mapping[str, Any]) -> tuple[str, str]:
    """Returns a number and its interval."""
    return number(unit, value["value"]), interval(unit, value)
