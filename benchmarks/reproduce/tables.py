"""Metrics as a table: for the terminal, and for docs/RESULTS.md."""

from collections.abc import Mapping, Sequence
from typing import Any

from agegender_jax.labels import DISCLAIMER
from agegender_jax.splits import marked
from agegender_jax.text import Table, plain
from benchmarks.bench_rows import markdown_table
from benchmarks.reproduce.paper_table import Column, Line, Target

SURE = 0.05
"""p, after Holm's correction, below which a difference is taken to be one."""


_VERSIONS = ("python", "jax", "flax", "agegender_jax")
"""That stand below a table; a file of results has all."""


def without_empty(table: Table) -> Table:
    """Returns a table without the columns that are empty."""
    kept = [i for i in range(len(table.header)) if i == 0 or any(row[i] for row in table.rows)]
    return Table([table.header[i] for i in kept], [[row[i] for i in kept] for row in table.rows])


def text(target: Target, result: Mapping[str, Any]) -> str:
    """A result for the terminal."""
    compared = differences(target, result)
    blocks = [target.title, plain(metrics(target, result)), *([plain(compared)] if compared else [])]
    return "\n\n".join([*blocks, "\n".join(notes(target, result))])


def markdown(target: Target, result: Mapping[str, Any]) -> str:
    """A result for a page, without a heading."""
    compared = differences(target, result)
    bullets = "\n".join(f"- {note}" for note in notes(target, result))
    blocks = [f"```sh\n{result['command']}\n```", markdown_table(metrics(target, result)), bullets]
    return "\n\n".join([*blocks, *([markdown_table(compared)] if compared else [])])


def metrics(target: Target, result: Mapping[str, Any]) -> Table:
    """The table of a target, one line a system or way of it, the papers' own numbers in its last columns."""
    rows = {(row["system"], row["protocol"]): row for row in result["rows"]}
    protocols = list(dict.fromkeys(row["protocol"] for row in result["rows"]))
    titles = _titles(target, protocols)
    cells: list[list[str]] = []
    for system in target.systems:
        trained = {protocol: rows[system.name, protocol] for protocol in protocols if (system.name, protocol) in rows}
        lines = system.lines if trained else ()
        cells += [[line.title, system.data, *_cells(target, line, trained, protocols)] for line in lines]
    cells += _constants(target, rows, protocols, len(titles))
    table = without_empty(Table(titles, cells))
    return _without_equal(table, ("input", "epochs"))


def _titles(target: Target, protocols: Sequence[str]) -> list[str]:
    several = len(protocols) > 1
    titles = ["", target.data_title, "input", "epochs"]
    for column in target.columns.values():
        titles += [f"{column.title}, {marked(protocol)}" if several else column.title for protocol in protocols]
    first = _first(target)[1].title
    titles += [f"{first}, over repeats" + (f", {marked(protocol)}" if several else "") for protocol in protocols]
    titles += [f"{first}, paper − disjoint"]
    titles += ["parameters", "images/s", "minutes a run"]
    titles += [f"published: {column.title}" for column in target.columns.values()]
    return [*titles, "published: parameters", "published: time (no unit)"]


def _cells(target: Target, line: Line, trained: Mapping[str, Mapping[str, Any]], protocols: Sequence[str]) -> list[str]:
    """The cells of a line behind its title and its data."""
    row = next(iter(trained.values()))
    cells = [f"{row['image_size']}x{row['image_size']}", f"{row['epochs']:g}"]
    for key, column in target.columns.items():
        cells += [_metric(trained.get(protocol), line.metrics.get(key), column) for protocol in protocols]
    key, column = _first(target)
    name = line.metrics.get(key)
    for protocol in protocols:
        metric = trained[protocol]["test"].get(name) if protocol in trained else None
        both = metric and metric["folds"] is not None and metric["repeats"] is not None
        cells.append(f"± {metric['repeats']:.{column.digits}f}" if metric and both else "")
    means = [shown(trained[p]["test"].get(name)) if p in trained else None for p in ("paper", "disjoint")]
    cells.append("" if None in means else signed(means[0] - means[1], column))  # type: ignore[operator]
    speed = row["images_per_second"]
    minutes = [trained[protocol]["minutes"] for protocol in trained]
    cells += [f"{row['parameters']:,}", f"{speed:,.0f}" if speed else "", f"{sum(minutes) / len(minutes):.1f}"]
    for key, column in target.columns.items():
        cells.append(_published(line.published.get(key), column.digits))
    return [*cells, _published(line.published.get("parameters")), _published(line.published.get("time"))]


def _constants(
    target: Target, rows: Mapping[tuple[str, str], Mapping[str, Any]], protocols: Sequence[str], width: int
) -> list[list[str]]:
    """A line for each kind of data: the baseline, of the first system that has the metric."""
    lines = []
    for data in dict.fromkeys(system.data for system in target.systems):
        cells = ["baseline", data, "", ""]
        for key, column in target.columns.items():
            for protocol in protocols:
                values = [
                    rows[system.name, protocol]["baseline"].get(line.metrics.get(key))
                    for system in target.systems
                    if system.data == data and (system.name, protocol) in rows
                    for line in system.lines
                ]
                known = [value for value in values if value is not None]
                cells.append(f"{known[0]:.{column.digits}f}" if known else "")
        if any(cells[2:]):
            lines.append(cells + [""] * (width - len(cells)))
    return lines


def _first(target: Target) -> tuple[str, Column]:
    return next(iter(target.columns.items()))


def _metric(row: Mapping[str, Any] | None, name: str | None, column: Column) -> str:
    """The metric, its spread over folds, or over repeats of one fold, and its interval."""
    metric = row["test"].get(name) if row else None
    if metric is None or (value := shown(metric)) is None:
        return ""
    spread = metric["repeats"] if metric["folds"] is None else metric["folds"]
    text = f"{value:.{column.digits}f}"
    text += "" if spread is None else f" ± {spread:.{column.digits}f}"
    return text + _interval(metric["interval"], column)


def shown(metric: Mapping[str, Any] | None) -> float | None:
    """The metric of the examples of all folds together, which its interval is of; without one, the mean over runs."""
    if metric is None:
        return None
    value: float | None = metric["mean"] if metric.get("pooled") is None else metric["pooled"]
    return value


def _interval(limits: Sequence[float] | None, column: Column) -> str:
    return "" if limits is None else f" [{limits[0]:.{column.digits}f}, {limits[1]:.{column.digits}f}]"


def _published(value: float | str | None, digits: int = 0) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    text = f"{value:.4f}".rstrip("0")  # the paper's own digits, two at least
    return text + "0" * max(0, min(digits, 2) - len(text.partition(".")[2]))


def signed(value: float, column: Column) -> str:
    """With its sign.

    >>> signed(-0.0123, Column("x")), signed(0.5, Column("x", 2))
    ('−0.012', '+0.50')
    """
    return f"{value:+.{column.digits}f}".replace("-", "−")


def _without_equal(table: Table, titles: Sequence[str]) -> Table:
    """Without those of some columns that have one value in all lines: it stands below the table."""
    dropped = {
        i
        for i, title in enumerate(table.header)
        if title in titles and len({row[i] for row in table.rows if row[i]}) == 1
    }
    kept = [i for i in range(len(table.header)) if i not in dropped]
    return Table([table.header[i] for i in kept], [[row[i] for i in kept] for row in table.rows])


def differences(target: Target, result: Mapping[str, Any]) -> Table | None:
    """What the papers say of one system against another, and whether it holds here; None where nothing tells."""
    if all(one["clear"] is None for one in result["differences"]):
        return None
    several = len({one["protocol"] for one in result["differences"]}) > 1
    rows = []
    for one in result["differences"]:
        column = target.columns[one["column"]]
        what = f"{target.line(one['a']).title} − {target.line(one['b']).title}"
        what += f", {column.title}" + (f", {marked(one['protocol'])}" if several else "")
        here = signed(one["difference"], column)
        if one["interval"]:
            here += f" [{', '.join(signed(limit, column) for limit in one['interval'])}]"
        theirs = "" if one["published"] is None else signed(one["published"], column)
        rows.append([what, here, theirs, verdict(one)])
    return without_empty(Table(["difference", "here", "published", "does it hold?"], rows)) if rows else None


def verdict(difference: Mapping[str, Any]) -> str:
    """Whether a difference holds, in a few words.

    >>> verdict({"difference": 0.02, "published": 0.05, "clear": True})
    'holds'
    >>> verdict({"difference": -0.02, "published": 0.05, "clear": True})
    'the other way round'
    >>> verdict({"difference": 0.02, "published": None, "clear": True})
    'clear; the paper has no number'
    >>> verdict({"difference": 0.02, "published": 0.05, "clear": False})
    'not clear'
    """
    if difference["clear"] is None:
        return "not known"
    if not difference["clear"]:
        return "not clear"
    if difference["published"] is None:
        return "clear; the paper has no number"
    return "holds" if (difference["difference"] > 0) == (difference["published"] > 0) else "the other way round"


def notes(target: Target, result: Mapping[str, Any]) -> list[str]:
    """What is to be known of a table: a sentence or two each."""
    sentences = [_protocols(result), _runs(result)]
    rows = result["rows"]
    if len({(row["image_size"], row["epochs"]) for row in rows}) == 1:
        size, epochs = rows[0]["image_size"], rows[0]["epochs"]
        sentences.append(f"Input {size}x{size}, {epochs:g} epoch{'' if epochs == 1 else 's'}.")
    sentences += _changes(result["changes"])
    if any(row["leaky"] for row in rows):
        sentences.append("Leaky: test subjects may also be in the training set; not a result for new people.")
    sentences.append(_sources(target, {row["system"] for row in rows}))
    if result["differences"]:
        sentences.append(_judged(result))
    sentences += [f"{DISCLAIMER[0].upper()}{DISCLAIMER[1:]}."] if result["synthetic"] else []
    trained = {row["system"] for row in rows}
    sentences += dict.fromkeys(system.note for system in target.systems if system.note and system.name in trained)
    versions = ", ".join(
        f"{name} {' / '.join(result['versions'][name])}" for name in _VERSIONS if name in result["versions"]
    )
    return [*sentences, f"{'; '.join(result['hardware'])}; {versions}."]


def _protocols(result: Mapping[str, Any]) -> str:
    sentences = []
    for protocol in dict.fromkeys(row["protocol"] for row in result["rows"]):
        rows = [row for row in result["rows"] if row["protocol"] == protocol]
        learnt, tested = (_range([row[f"{part}_examples"] for row in rows]) for part in ("train", "test"))
        sentences.append(f"{marked(protocol)}: {learnt} to learn from, {tested} to test on")
    groups = " and ".join(f"`{name}`" for name in result["age_groups"])
    metrics = {name.partition("/")[0] for row in result["rows"] for name in row["test"]}
    faces = f"; age groups {groups}" if any(name.startswith("age_group") for name in metrics) else ""
    return f"Protocol {', '.join(sentences)}{faces}."


def _range(values: Sequence[int]) -> str:
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _runs(result: Mapping[str, Any]) -> str:
    repeats, folds = ({row[name] for row in result["rows"]} for name in ("repeats", "folds"))
    sentences = []
    if folds != {1}:
        sentences.append(f"{_range(list(folds))} folds: {_what(result)} ± standard deviation over them")
    if repeats != {1}:
        sentences.append(
            f"{_range(list(repeats))} repeats with other seeds on the same split"
            + (": mean ± standard deviation over them" if folds == {1} else "")
        )
    if not sentences:
        sentences.append("One run each, so the spread over seeds is not known")
    intervals = any(metric["interval"] for row in result["rows"] for metric in row["test"].values())
    return "; ".join(sentences) + ("; in brackets the 95 % interval." if intervals else ".")


def _what(result: Mapping[str, Any]) -> str:
    """What stands before the spread over folds."""
    pooled = {metric.get("pooled") is not None for row in result["rows"] for metric in row["test"].values()}
    if pooled == {True}:
        return "the metric of all folds' examples together"
    return "mean, or with an interval the metric of all folds' examples together," if True in pooled else "mean"


def _changes(changes: Mapping[str, Sequence[str]]) -> list[str]:
    """Where recipes are not the papers': what is the same for all systems first."""
    every = {
        name: [change.replace(":  ->", ": none ->") + ("none" if change.endswith("-> ") else "") for change in listed]
        for name, listed in changes.items()
    }
    shared = [change for change in next(iter(every.values())) if all(change in listed for listed in every.values())]
    sentences = [f"Other than the paper's training: {'; '.join(shared)}."] if shared else []
    own = {name: [change for change in listed if change not in shared] for name, listed in every.items()}
    also = "also " if shared else ""
    return sentences + [
        f"`{name}`, {also}other than the paper's training: {'; '.join(listed)}."
        for name, listed in own.items()
        if listed
    ]


def _sources(target: Target, systems: set[str]) -> str:
    """Where the published metrics stand."""
    lines = [line for system in target.systems if system.name in systems for line in system.lines if line.published]
    places = dict.fromkeys(line.where or target.source for line in lines)
    return f"Published: {'; '.join(places)}." if places else f"The papers have no numbers of these ({target.source})."


def _judged(result: Mapping[str, Any]) -> str:
    """Describes how differences were judged."""
    by = [one["by"] for one in result["differences"]]
    judged, sentences = len(by) - by.count(None), []
    if judged:
        sentences.append(
            f"A difference counts where its p is below {SURE:g} after Holm's correction for {judged} "
            f"difference{'s' if judged > 1 else ''}; its interval is without that correction."
        )
    if "predictions" in by:
        sentences.append("p is of paired predictions" + (", where they are kept." if "repeats" in by else "."))
    if "repeats" in by:
        other = "Without them it" if "predictions" in by else "p"
        sentences.append(f"{other} is Welch's, of the repeats alone: the choice of test examples is not in it.")
    if None in by:
        which = "Of the others" if judged else "Of one run each, without predictions,"
        sentences.append(f"{which} it is not known which differences hold.")
    return " ".join(sentences)
