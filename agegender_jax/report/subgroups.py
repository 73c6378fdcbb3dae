"""The section of a report that says for whom the model works less well."""

from collections.abc import Mapping, Sequence
from typing import Any

from agegender_jax import page
from agegender_jax.page import Html
from agegender_jax.report import plots
from agegender_jax.report.components import Cell, boxed, heat, section, subtitle
from agegender_jax.report.format import (
    NONE,
    bare,
    in_years,
    interval,
    less_is_better,
    named,
    number,
    spaced,
    with_interval,
)
from agegender_jax.report.results import Content, main_figure

_ATTRIBUTES = ("gender", "race", "age_band")
_FULL_SHADE = 0.75  # of the cell that is furthest from all examples


def groups(content: Content) -> Html:
    """Tables and plots by gender, race and age band, alone and together."""
    test = content["test"]
    tables = {thing: rows for thing, rows in test["groups"].items() if rows and main_figure(thing, test)}
    if not tables:
        return Html("")
    drawn, crossed = [], []
    for thing, rows in tables.items():
        metric = str(main_figure(thing, test)).split("/")[-1]
        overall = test["figures"][f"{thing}/{metric}"]["value"]
        single = [_line(row, metric, test) for row in rows if len(_of(row)) == 1 and row[metric]["value"] is not None]
        if single and overall is not None:
            drawn.append(plots.groups(thing, metric, single, overall))
        crossed.append(_crossing(thing, metric, [row for row in rows if len(_of(row)) > 1], overall, test))
    return section(
        "groups",
        "By group",
        "Groups as annotated, on the test part; the label's own errors are in these figures too. Groups of fewer than "
        f"{test['least']} examples, or of examples in fewer than {test['least_clusters']} clusters, are drawn in grey "
        "and are never called the worst.",
        _worst(test),
        "The two groups of a gap were picked as the extremes: among many small groups a gap is expected by chance, and "
        "the interval beside it, which is that of two groups named before, holds less often than 95 %.",
        boxed("plots", *drawn),
        *_crossings(crossed),
        subtitle("All groups, with 95 % intervals"),
        boxed("long-table", _everything(tables, test)),
    )


def _worst(test: Content) -> Html:
    rows = []
    for thing, ways in test["worst"].items():
        for way, worst in ways.items():
            gap = test["gap"][thing][way]
            figure = worst["figure"]
            unit = "years" if in_years(figure) else "points"
            rows.append(
                (
                    f"{spaced(thing)}, {named(figure)}",
                    spaced(way).replace(" x ", " × "),
                    _name(worst),
                    f"{worst['n']:,}",
                    number(figure, worst["value"]),
                    interval(figure, worst),
                    f"{bare(figure, gap['value'])} {unit}",
                    interval(figure, gap),
                    f"{_name(gap['best'])}, of {gap['groups']}",
                )
            )
    if not rows:
        return Html("")
    header = ("", "by", "worst group", "examples", "test", "95 % interval", "gap", "interval", "to the best group")
    return page.table(header, rows, numbers=range(3, 8))


def _crossings(crossed: Sequence[str]) -> list[str]:
    if not any(crossed):
        return []
    said = "Orange is worse than all examples together, blue better; groups too small to say are pale."
    return [subtitle("Groups of several attributes"), said, boxed("tables", *crossed)]


def _crossing(thing: str, metric: str, rows: Sequence[Content], overall: float | None, test: Content) -> Html:
    """A thing's figure by all attributes together, shaded by how far it is from that of all examples."""
    if not rows or overall is None:
        return Html("")
    known = [name for name in _ATTRIBUTES if rows[0][name] is not None]
    columns = sorted({row[known[-1]] for row in rows}, key=_place)
    away = [
        abs(row[metric]["value"] - overall) for row in rows if not _few(row, test) and row[metric]["value"] is not None
    ]
    scale = _FULL_SHADE / (max(away, default=0.0) or 1.0)
    cells: dict[str, dict[str, Cell]] = {}
    for row in rows:
        value = row[metric]["value"]
        if value is None:
            continue
        better = (value - overall) * (-1 if less_is_better(metric) else 1)
        few = _few(row, test)
        cell = Cell(bare(metric, value), f"n {row['n']:,}", 0.0 if few else better * scale, few)
        cells.setdefault(", ".join(row[name] for name in known[:-1]), {})[row[known[-1]]] = cell
    found = {name: [row.get(column, Cell("")) for column in columns] for name, row in cells.items()}
    unit = "years" if in_years(metric) else "%"
    caption = f"{spaced(thing)}: {named(metric)}, {unit} (all: {bare(metric, overall)})"
    return heat(spaced(known[-1]), columns, found, caption)


def _everything(tables: Mapping[str, Sequence[Content]], test: Content) -> Html:
    """All groups with the main figure of all things."""
    metrics = {thing: str(main_figure(thing, test)).split("/")[-1] for thing in tables}
    rows: dict[str, dict[str, Any]] = {}
    for thing, found in tables.items():
        for row in found:
            own = rows.setdefault(_name(row), {"n": 0})
            own["n"] = max(own["n"], row["n"])
            own[thing] = with_interval(metrics[thing], row[metrics[thing]])
    return page.table(
        ("group", "examples", *(f"{spaced(thing)}, {named(metric)}" for thing, metric in metrics.items())),
        [(name, f"{row['n']:,}", *(row.get(thing, NONE) for thing in metrics)) for name, row in rows.items()],
        numbers=range(1, 2 + len(metrics)),
    )


def _line(row: Content, metric: str, test: Content) -> dict[str, Any]:
    return {"name": _name(row), "n": row["n"], "few": _few(row, test)} | row[metric]


def _few(row: Content, test: Content) -> bool:
    """Whether a group is too small to be ranked."""
    return bool(row["n"] < test["least"] or row["clusters"] < test["least_clusters"])


def _of(row: Content) -> list[str]:
    """What a group's examples share."""
    return [row[name] for name in _ATTRIBUTES if row[name] is not None]


def _name(row: Content) -> str:
    return ", ".join(_of(row))


def _place(name: str) -> tuple[int, str]:
    """Age bands in their order; others by name."""
    start = name.split("-")[0]
    return (int(start) if start.isdecimal() else -1, name)
