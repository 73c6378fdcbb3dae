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
from agegender_jax.report.images import mistakes
from agegender_jax.splits import PARTS
from agegender_jax.text import Table

_ATTRIBUTES = ("gender", "race", "age_band")
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
    """Returns the sections of a report; those without anything to show are left out.

    Args:
      content: of the report.
      thumbnails: data URIs of images by key, of all mistakes or of none.
      panels: data URIs of saliency sheets by target, empty for none.
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
        Section("data", "Data and split", data(content)),
        Section("run", "What was run", origin(content)),
    )
    return [section for section in every if section.content is not None]


def main_metric(content: Content, target: str) -> MetricInfo | None:
    """Returns the metric that stands for a target; None where the target was not measured."""
    mains = (metric for name, metric in content.metrics.items() if metric.main and name.startswith(f"{target}/"))
    return next((metric for metric in mains if f"{target}/{metric.name}" in content.test["metrics"]), None)


def _title(target: str, metric: MetricInfo) -> str:
    return f"{spaced(target)}, {metric.title}"


def tiles(content: Content) -> list[tuple[str, str, list[str]]]:
    """Returns the main metrics: name, value, and lines below them."""
    entries = []
    for target in content.targets:
        if (metric := main_metric(content, target)) is None:
            continue
        key, unit = f"{target}/{metric.name}", metric.unit
        value = content.test["metrics"][key]
        lines = [f"95 % interval: {interval(unit, value)}", f"baseline: {number(unit, content.baseline.get(key))}"]
        entries.append((_title(target, metric), number(unit, value["value"]), lines))
    return entries


def results(content: Content) -> dict[str, Any]:
    """Returns the table of metrics with intervals and the baseline, and a plot of the shares among them."""
    test, validation, baseline = content.test["metrics"], content.validation["metrics"], content.baseline
    rows: list[Sequence[str]] = []
    shares = []
    for target in content.targets:
        names = [name for name in test if name.startswith(f"{target}/")]
        rows += [(spaced(target),)] if names else []
        for name in names:
            own, other, metric = test[name], validation.get(name), content.metrics[name]
            rows.append(
                (
                    metric.title,
                    number(metric.unit, own["value"]),
                    interval(metric.unit, own),
                    number(metric.unit, baseline[name]) if name in baseline else "",
                    number(metric.unit, other["value"]) if other else "",
                    interval(metric.unit, other),
                )
            )
            if metric.unit == "share" and own["value"] is not None:
                shares.append({"name": f"{spaced(target)}: {metric.title}", "baseline": baseline.get(name), **own})
    header = ("", "test", "95 % interval", "baseline", "validation", "95 % interval")
    return {"table": Table(header, rows), "plot": plots.glance(shares) if shares else None}


def groups(content: Content) -> dict[str, Any] | None:
    """Returns tables and plots by gender, race and age band, alone and together."""
    test = content.test
    mains = {target: metric for target in test["groups"] if (metric := main_metric(content, target))}
    tables = {target: rows for target, rows in test["groups"].items() if rows and target in mains}
    if not tables:
        return None
    drawings, crossed = [], []
    for target, rows in tables.items():
        metric = mains[target]
        overall = test["metrics"][f"{target}/{metric.name}"]["value"]
        measured = [row for row in rows if row[metric.name]["value"] is not None]
        if overall is None:
            continue
        single = [
            {"name": _name(row), "n": row["n"], "few": _few(row, test)} | row[metric.name]
            for row in measured
            if len(_values(row)) == 1
        ]
        if single:
            drawings.append(plots.groups(target, metric, single, overall))
        if several := [row for row in measured if len(_values(row)) > 1]:
            crossed.append(_crossing(target, metric, several, overall, test))
    return {"worst": _worst(content), "plots": drawings, "crossed": crossed, "all": _all_groups(tables, mains)}


def _worst(content: Content) -> Table | None:
    rows = []
    for target, attributes in content.test["worst"].items():
        for by, worst in attributes.items():
            gap, metric = content.test["gap"][target][by], content.metrics[f"{target}/{worst['metric']}"]
            rows.append(
                (
                    _title(target, metric),
                    spaced(by).replace(" x ", " × "),
                    _name(worst),
                    f"{worst['n']:,}",
                    number(metric.unit, worst["value"]),
                    interval(metric.unit, worst),
                    f"{bare(metric.unit, gap['value'])} {'points' if metric.unit == 'share' else metric.unit}",
                    interval(metric.unit, gap),
                    f"{_name(gap['best'])}, of {gap['groups']}",
                )
            )
    header = ("", "by", "worst group", "examples", "test", "95 % interval", "gap", "interval", "to the best group")
    return Table(header, rows) if rows else None


def _crossing(
    target: str, metric: MetricInfo, rows: Sequence[Mapping[str, Any]], overall: float, test: Mapping[str, Any]
) -> Heat:
    """Returns a metric by all attributes together, shaded by its distance from that of all examples."""
    known = [name for name in _ATTRIBUTES if rows[0][name] is not None]
    columns = sorted({row[known[-1]] for row in rows}, key=_order)
    distances = [abs(row[metric.name]["value"] - overall) for row in rows if not _few(row, test)]
    scale = _FULL_SHADE / (max(distances, default=0.0) or 1.0) * (1 if metric.higher_is_better else -1)
    cells: dict[str, dict[str, Cell]] = {}
    for row in rows:
        value, few = row[metric.name]["value"], _few(row, test)
        cell = Cell(bare(metric.unit, value), f"n {row['n']:,}", 0.0 if few else (value - overall) * scale, few)
        cells.setdefault(", ".join(row[name] for name in known[:-1]), {})[row[known[-1]]] = cell
    return Heat(
        spaced(known[-1]),
        columns,
        {name: [row.get(column, Cell("")) for column in columns] for name, row in cells.items()},
        f"{spaced(target)}: {metric.title} (all: {number(metric.unit, overall)})",
    )


def _all_groups(tables: Mapping[str, Sequence[Mapping[str, Any]]], mains: Mapping[str, MetricInfo]) -> Table:
    groups: dict[str, dict[str, Any]] = {}
    for target, rows in tables.items():
        for row in rows:
            entry = groups.setdefault(_name(row), {"n": 0})
            entry["n"] = max(entry["n"], row["n"])
            entry[target] = with_interval(mains[target].unit, row[mains[target].name])
    return Table(
        ("group", "examples", *(_title(target, mains[target]) for target in tables)),
        [(name, f"{row['n']:,}", *(row.get(target, NONE) for target in tables)) for name, row in groups.items()],
    )


def _few(row: Mapping[str, Any], test: Mapping[str, Any]) -> bool:
    """Returns whether a group is too small to be ranked."""
    return bool(row["n"] < test["least"] or row["clusters"] < test["least_clusters"])


def _values(row: Mapping[str, Any]) -> list[str]:
    return [row[name] for name in _ATTRIBUTES if row[name] is not None]


def _name(row: Mapping[str, Any]) -> str:
    return ", ".join(_values(row))


def _order(name: str) -> tuple[int, str]:
    """Sorts age bands by age, others by name."""
    start = name.split("-")[0]
    return (int(start) if start.isdecimal() else -1, name)


def confusions(content: Content) -> list[Heat] | None:
    """Returns the confusion matrices."""
    matrices = []
    for target, matrix in content.test["confusion"].items():
        rows = {}
        for name, counts in zip(matrix["names"], matrix["counts"], strict=True):
            total = sum(counts)
            rows[name] = [
                Cell(f"{count:,}", f"{100 * count / total:.0f} %", 0.85 * count / total)
                if count
                else Cell("0", few=True)
                for count in counts
            ]
        matrices.append(Heat("label", matrix["names"], rows, spaced(target)))
    return matrices or None


def calibration(content: Content) -> dict[str, Any] | None:
    """Returns tables and plots of how well probabilities are calibrated, of classes and of ages."""
    classes: list[Sequence[str]] = []
    years: list[Sequence[str]] = []
    caption = ""
    drawings: list[Plot] = []
    for target, entry in content.test["calibration"].items():
        after = entry["after"] or {}
        temperature = _temperature(entry["temperature"])
        if "reliability" in entry:
            ece = _change("share", entry["ece"], after.get("ece"))
            nll, score = (_change("nats", entry[name], after.get(name)) for name in ("nll", "brier"))
            ends = [interval("nats", entry["intervals"][name]) for name in ("nll", "brier")]
            classes.append((spaced(target), ece, nll, ends[0], score, ends[1], temperature))
            drawings.append(plots.reliability(target, entry))
            continue
        later = after.get("coverage") or [{}] * len(entry["coverage"])
        drawings.append(plots.coverage(target, entry["coverage"], after.get("coverage")))
        for row, then in zip(entry["coverage"], later, strict=True):
            shares = _change("share", row["value"], then.get("value"))
            widths = _change("years", row["mean_width"], then.get("mean_width"))
            years.append((f"{spaced(target)}, {100 * row['level']:.0f} %", shares, interval("share", row), widths))
        caption = f"Intervals of ages, temperature {temperature}"
    tables = []
    if classes:
        before = "95 % interval before"
        scores = ("calibration error (ECE)", "log-likelihood, negative", before, "Brier score", before, "temperature")
        tables.append(Table(("", *scores), classes, "Probabilities of classes"))
    if years:
        header = ("central interval", "contains the label", "95 % interval before", "mean width")
        tables.append(Table(header, years, caption))
    return {"tables": tables, "plots": drawings} if tables else None


def _temperature(value: float | None) -> str:
    if value is None:
        return NONE
    low, high = TEMPERATURES
    return f"{value:.2f}" + (f" (the end of {low:g} to {high:g})" if at_bound(value) else "")


def _change(unit: str, before: float | None, after: float | None) -> str:
    """Returns a number before and after the temperature."""
    if before is None or after is None:
        return number(unit, before)
    return f"{bare(unit, before)} → {number(unit, after)}"


def selective(content: Content) -> dict[str, Any] | None:
    """Returns what abstaining gains."""
    drawings: list[Plot] = []
    columns: dict[str, dict[float, str]] = {}
    for target, entries in content.test["selective"].items():
        given = [each for each in entries if each["value"] is not None]
        if not given:
            continue
        metric = content.metrics[f"{target}/{given[0]['metric']}"]
        drawings.append(plots.selective(target, metric, given))
        columns[_title(target, metric)] = {each["coverage"]: with_interval(metric.unit, each) for each in given}
    if not drawings:
        return None
    shares = sorted({share for column in columns.values() for share in column}, reverse=True)
    rows = [(f"{100 * share:.0f} %", *(column.get(share, "") for column in columns.values())) for share in shares]
    return {"table": Table(("predicted", *columns), rows), "plots": drawings}


def ages(content: Content) -> dict[str, Any] | None:
    """Returns how far ages are off, and by age in which direction."""
    for target, bands in content.test["bias_by_age"].items():
        if rows := [row for row in bands if row["n"] and row["bias"]["value"] is not None]:
            scores = content.test["cumulative_score"][target]
            header = ("annotated age", "examples", "mean signed error", "95 % interval", "mean absolute error")
            errors = [
                (
                    row["age_band"],
                    f"{row['n']:,}",
                    number("years", row["bias"]["value"]),
                    interval("years", row["bias"]),
                    number("years", row["mae"]["value"]),
                    interval("years", row["mae"]),
                )
                for row in rows
            ]
            within = [
                (
                    "1 year" if row["years"] == 1 else f"{row['years']} years",
                    number("share", row["value"]),
                    interval("share", row),
                )
                for row in scores
            ]
            return {
                "table": Table((*header, "95 % interval"), errors),
                "to_the_middle": rows[0]["bias"]["value"] > 0 > rows[-1]["bias"]["value"],
                "plot": plots.bias(rows),
                "scores": Table(("off by at most", "of the predictions", "95 % interval"), within),
                "scores_plot": plots.cumulative_score(scores),
            }
    return None


def learning(content: Content) -> list[Plot]:
    """Returns the learning curves."""
    curves, epoch = {name: curve for name, curve in content.curves.items() if curve.value}, content.steps_per_epoch
    losses = {
        spaced(name.removeprefix("train/").removesuffix("/loss").replace("loss", "total")): curve
        for name, curve in curves.items()
        if name.startswith("train/") and name.endswith("loss")
    }
    shares, years = {}, {}
    for target in content.targets:
        metrics = [main_metric(content, target), content.metrics.get(f"{target}/{BALANCED_ACCURACY.name}")]
        for metric in filter(None, metrics):
            curve = curves.get(f"validation/{target}/{metric.name}")
            if curve and metric.unit == "years":
                years[_title(target, metric)] = curve
            elif curve:
                percent = [100 * value for value in curve.value]
                shares[_title(target, metric)] = dataclasses.replace(curve, value=percent)
    drawings = []
    if losses:
        drawings.append(plots.curves("curve-loss", losses, epoch, "training loss", from_zero=True))
    if shares:
        drawings.append(plots.curves("curve-shares", shares, epoch, "validation, %"))
    if years:
        drawings.append(plots.curves("curve-years", years, epoch, "validation, years"))
    if rate := curves.get("learning_rate"):
        drawings.append(plots.curves("curve-rate", {"learning rate": rate}, epoch, "learning rate", from_zero=True))
    return drawings


def data(content: Content) -> Table:
    """Returns the strata of the split."""
    split = content.split
    header = (f"by {spaced(split.stratified_by)}, which all parts have in equal shares", *PARTS)
    return Table(header, [(name, *(f"{count[part]:,}" for part in PARTS)) for name, count in split.strata.items()])


def origin(content: Content) -> Table | None:
    """Returns what was run: where its recipe differs from the default."""
    rows = [(each.key, _plain(each.default), _plain(each.value)) for each in content.differences]
    return Table(("key of the recipe", "default", "this run"), rows)


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_plain, value))
    if value == "":
        return "''"
    return f"{value:g}" if isinstance(value, float) else str(value)
