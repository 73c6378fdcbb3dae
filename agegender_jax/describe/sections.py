"""The description of a dataset: sections of sentences and tables that the terminal and the page both show."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from agegender_jax.describe import statistics
from agegender_jax.describe.divisions import divisions
from agegender_jax.describe.reading import Contents
from agegender_jax.labels import AGE_GROUPS, DISCLAIMER
from agegender_jax.splits import PARTS, marked
from agegender_jax.text import Table
from tfds_builders.adience.fold_files import PUBLISHED_AGE, PUBLISHED_GENDER

DEFAULT_SCHEME = "nearest"
LABELS_AND_TERMS = "Labels and terms"
"""Title of a section that the page shows first."""

_LISTED = 25  # ranges, sizes and rates that are listed; the others are counted
_GROUPS = 10  # age groups that are listed even where they are empty
_NOT_COUNTS = ("terms", "labels", "identities")  # of the builder's metadata: not among its counts
_SIDE_BY_SIDE = ("levi_hassner", "literal", "nearest")  # age groups that are compared fold by fold


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of the description.

    Attributes:
      title: of the section.
      parts: sentences and tables, in order.
      plots: names of the plots that the page shows with it.
    """

    title: str
    parts: Sequence[str | Table]
    plots: Sequence[str] = ()


def describe(contents: Contents, scheme: str | None = None) -> list[Section]:
    """Returns the sections of the description of a dataset.

    Args:
      contents: the dataset.
      scheme: of age groups; None shows all, and takes `DEFAULT_SCHEME` where there is room for one.
    """
    one, schemes = scheme or DEFAULT_SCHEME, (scheme,) if scheme else tuple(AGE_GROUPS)
    columns = contents.columns
    return [
        _what(contents),
        Section(LABELS_AND_TERMS, [f"Labels: {origin(contents)}.", f"Terms: {terms(contents)}"]),
        _genders(columns),
        _ages(columns),
        _age_groups(columns, one, schemes),
        *_races(columns),
        *_classes(columns),
        _subjects(contents),
        _headers(contents),
        *_folds(contents, one),
        _identical(columns),
        _splits(columns, one),
    ]


def title(contents: Contents) -> str:
    """Returns the dataset's name, configuration and version."""
    return " ".join(filter(None, (contents.prepared.name, contents.config, contents.prepared.version)))


def terms(contents: Contents) -> str:
    """Returns the terms under which the dataset may be used."""
    if contents.prepared.synthetic:
        return "none: the data are synthetic, and the terms of the original do not apply"
    return contents.source.terms or "not stated by the builder: find out before you use or share it"


def origin(contents: Contents) -> str:
    """Returns what the labels are."""
    if contents.prepared.synthetic:
        return "the labels that the synthetic data were made for"
    return str(contents.metadata.get("labels", "")) or "perceived age and gender as annotated"


def _what(contents: Contents) -> Section:
    kind = "recordings" if contents.prepared.kind == "audio" else "images"
    parts: list[str | Table] = [
        f"{len(contents.source):,} {kind}, {_megabytes(int(contents.headers['bytes'].sum()))}"
        f"{f' ({DISCLAIMER})' if contents.prepared.synthetic else ''}.",
    ]
    counts = [
        (name.replace("_", " "), _value(value)) for name, value in contents.metadata.items() if _is_count(name, value)
    ]
    if counts:
        parts.append(Table(("counted by the builder", ""), counts))
    return Section("What it is", parts)


def _is_count(name: str, value: Any) -> bool:
    return name not in _NOT_COUNTS and not isinstance(value, str) and value not in ({}, [], None)


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        items = list(value.items())
        more = f", and {len(items) - _LISTED} more" if len(items) > _LISTED else ""
        return ", ".join(f"{name}: {_value(item)}" for name, item in items[:_LISTED]) + more
    if isinstance(value, list):
        return " / ".join(map(_value, value))
    if isinstance(value, float):
        return f"{value:,.1f}".removesuffix(".0")
    return f"{value:,}" if isinstance(value, int) else str(value)


def _genders(columns: statistics.Columns) -> Section:
    counts = statistics.genders(columns)
    parts: list[str | Table] = [_counted(counts, "gender")]
    if counts["undefined"]:
        parts.append('"undefined" is Adience\'s "u": nearly always an infant that was not annotated.')
    return Section("Gender", parts)


def _ages(columns: statistics.Columns) -> Section:
    age = statistics.ages(columns)
    rows = [(name, f"{age[name]:,}") for name in ("exact", "ranges", "unknown")]
    parts: list[str | Table] = [Table(("ages", "files"), rows)]
    if age["exact"]:
        names = ("youngest", "lower quartile", "median", "upper quartile", "oldest")
        years = [(name, f"{age[key]:g}") for name, key in zip(names, ("min", "q1", "median", "q3", "max"), strict=True)]
        parts.append(Table(("exact ages", "years"), years))
        parts.append(f"{_percent(age['commonest_share'])} of the exact ages are {age['commonest']:g}.")
    if "multiples_of_5" in age:
        parts.append(
            f"Heaping: {_percent(age['multiples_of_5'])} of the {age['whole']:,} whole ages from "
            f"{statistics.HEAPING_FROM} on are multiples of 5; without rounding, about 20 % would be."
        )
    if ranges := age["ranges_by"]:
        shown = [(name, f"{count:,}") for name, count in ranges[:_LISTED]]
        parts.append(Table(("annotated range", "files"), shown, _cut(len(ranges))))
    return Section("Age", parts, ("ages",) if age["exact"] else ())


def _age_groups(columns: statistics.Columns, one: str, schemes: Sequence[str]) -> Section:
    counts = statistics.age_group_counts(columns, schemes)
    if all(of_scheme["none"] == len(columns["key"]) for of_scheme in counts.values()):
        return Section("Age groups", ["No file has an age group."])
    parts: list[str | Table] = [f"{name}: {AGE_GROUPS[name].description}." for name in schemes]
    left_out = False
    alike: dict[tuple[str, ...], list[str]] = {}  # schemes whose groups have the same names share a table
    for name in schemes:
        alike.setdefault(tuple(counts[name]), []).append(name)
    for groups, members in alike.items():
        filled = [group for group in groups if len(groups) <= _GROUPS or any(counts[name][group] for name in members)]
        rows = [(group, *(f"{counts[name][group]:,}" for name in members)) for group in filled]
        parts.append(Table(("age group", *members), rows))
        left_out |= len(filled) < len(groups)
    if left_out:
        parts.append("Of a scheme with many groups, those without files are left out.")
    by_gender = statistics.age_groups_by_gender(columns, one)
    total = statistics.age_group_counts(columns, [one])[one]
    rows = [
        (group, *(f"{of_scheme[group]:,}" for of_scheme in by_gender.values()), f"{count:,}")
        for group, count in total.items()
    ]
    parts.append(Table(("age group", *by_gender, "all"), rows, f"Age groups ({one}) by gender"))
    return Section("Age groups", parts, ("age_groups",))


def _races(columns: statistics.Columns) -> list[Section]:
    counts = statistics.races(columns)
    note = "As annotated; used to compare errors between groups, never as a target."
    return [Section("Race", [note, _counted(counts, "race")])] if counts else []


def _classes(columns: statistics.Columns) -> list[Section]:
    classes = statistics.classes(columns)
    if not classes:
        return []
    few = sum(not each["splittable"] for each in classes)
    rows = [
        (
            each["name"],
            f"{each['files']:,}",
            f"{each['subjects']:,}" + (f" + {each['unidentified']:,} unknown" if each["unidentified"] else ""),
            "" if each["splittable"] else "cannot be split three ways",
        )
        for each in classes
    ]
    parts: list[str | Table] = [Table(("class", "files", "subjects", ""), rows)]
    if few:
        parts.append(
            f"{few} of {len(classes)} classes have fewer than 3 subjects and cannot be split three ways with nobody "
            "in two parts; learn gender and age bands or years instead, or add speakers."
        )
    return [Section("Classes", parts, ("classes",))]


def _subjects(contents: Contents) -> Section:
    columns = contents.columns
    known = statistics.identified(columns)
    parts: list[str | Table] = []
    rows = []
    if meaning := contents.metadata.get("identities"):
        parts.append(f"Subjects: {meaning}.")
    if known.any():
        rows.append(_sizes("subjects", statistics.sizes(columns["subject"][known])))
        if unknown := int((~known).sum()):
            parts.append(f"{unknown:,} files have no identified subject; each counts as a subject of its own.")
    else:
        parts.append(
            "No subject is identified: metrics are an upper bound for new people. Identical files stay together, "
            "but two files of one person may be in training and in test."
        )
    groups = statistics.sizes(columns["group"])
    if groups["known"]:
        rows.append(_sizes("recordings" if contents.voices else "users", groups))
    if rows:
        parts.append(Table(("", "distinct", "files with one", "fewest files", "median", "most files"), rows))
    return Section("Subjects and groups", parts, ("subjects",) if known.any() else ())


def _sizes(name: str, size: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        name,
        *(f"{size[key]:,}" for key in ("distinct", "known", "min")),
        f"{size['median']:g}",
        f"{size['max']:,}",
    )


def _headers(contents: Contents) -> Section:
    headers = statistics.headers(contents.headers)
    sound = contents.prepared.kind == "audio"
    parts: list[str | Table] = []
    if seconds := headers.get("seconds"):
        parts.append(
            f"{seconds['total'] / 3600:.2f} hours; a recording lasts {seconds['min']:.2f} to {seconds['max']:.2f} "
            f"seconds, median {seconds['median']:.2f}."
        )
    by = headers["by_rate" if sound else "by_size"]
    rows = [(f"{value:,} Hz" if sound else value, f"{count:,}") for value, count in by[:_LISTED]]
    if rows:
        parts.append(Table(("sample rate" if sound else "pixels", "files"), rows, _cut(len(by))))
    if headers["unreadable"]:
        parts.append(f"{headers['unreadable']:,} files have no header that can be read.")
    return Section("Recordings" if sound else "Images", parts, ("sounds",) if seconds else ())


def _folds(contents: Contents, one: str) -> list[Section]:
    columns = contents.columns
    schemes = tuple(dict.fromkeys((*_SIDE_BY_SIDE, one)))
    folds = statistics.folds(columns, one, schemes)
    if not folds:
        return []
    names = [f"fold {each['fold']}" for each in folds]

    def row(name: str, values: Sequence[int]) -> tuple[str, ...]:
        return (name, *(f"{value:,}" for value in values), f"{sum(values):,}")

    rows = [row(key, [each[key] for each in folds]) for key in ("rows", "subjects", "groups")]
    rows += [row(name, [each["genders"][name] for each in folds]) for name in folds[0]["genders"]]
    parts: list[str | Table] = [Table(("", *names, "sum"), rows)]
    rows = [row(name, [each["age_groups"][name] for each in folds]) for name in folds[0]["age_groups"]]
    parts.append(Table(("age group", *names, "sum"), rows, f"Age groups ({one})"))
    rows = [row(f"age group, {name}", [each["with_group"][name] for each in folds]) for name in schemes]
    rows.append(row("male or female", [each["gendered"] for each in folds]))
    counted = contents.metadata
    published = {"levi_hassner_age": PUBLISHED_AGE, "levi_hassner_gender": PUBLISHED_GENDER}
    for name, numbers in published.items():
        if isinstance(values := counted.get(name), list) and len(values) == len(folds):
            label = "age (levi_hassner)" if name.endswith("age") else "male or female"
            rows.append(row(f"{label}, with repeated rows", values))
            if len(numbers) == len(folds):
                rows.append(row(f"{label}, as published", numbers))
    parts.append(
        Table(
            ("usable rows", *names, "sum"),
            rows,
            "What is usable under each scheme; published numbers (Levi and Hassner 2015) count repeated rows",
        )
    )
    across = {name: statistics.in_several(columns[name], columns["fold"]) for name in ("subject", "group")}
    parts.append(f"In two folds or more: {across['subject']:,} subjects, {across['group']:,} groups.")
    return [Section("Published folds", parts, ("folds",))]


def _identical(columns: statistics.Columns) -> Section:
    counts = statistics.identical(columns)
    if not counts["groups"]:
        return Section("Identical files", ["No two files are identical."])
    return Section(
        "Identical files",
        [
            f"{counts['groups']:,} groups of identical files, {counts['files']:,} files in all. In "
            f"{counts['conflicting_groups']:,} of them ({counts['conflicting_files']:,} files) labels disagree, in "
            f"{counts['groups_over_5_years']:,} by more than 5 years. Splits keep identical files together under "
            "disjoint, and those that disagree in train."
        ],
    )


def _splits(columns: statistics.Columns, scheme: str) -> Section:
    files, people, refused = [], [], []
    for each in divisions(columns, scheme):
        folds = f", fold 0 of {each['folds']}" if each["folds"] else ""
        name = f"{marked(each['protocol'])}, by {each['stratify'].replace('_', ' ')}{folds}"
        if "refused" in each:
            refused.append(f"{name}: refused. {each['refused']}")
            continue
        rows, subjects, hashed = each["rows"], each["subjects"], each["sha256"][:16]
        files.append((name, *(f"{rows[part]:,}" for part in PARTS), f"{each['groups_in_several']:,}", hashed))
        if subjects:
            several = f"{each['subjects_in_several']:,}"
            people.append((name, *(f"{subjects[part]:,}" for part in PARTS), several))
    parts: list[str | Table] = [
        f"With the default recipe (age groups {scheme}). A group is all that shares a subject, a user or recording, or "
        "a file's very content; one in several parts has leaked from training into testing."
    ]
    if files:
        parts.append(Table(("files", *PARTS, "groups in several parts", "hash"), files))
    if people:
        parts.append(Table(("subjects", *PARTS, "in several parts"), people))
    return Section("Splits", [*parts, *refused])


def _counted(counts: Mapping[str, int], name: str) -> Table:
    total = max(1, sum(counts.values()))
    return Table((name, "files", "share"), [(key, f"{n:,}", _percent(n / total)) for key, n in counts.items()])


def _cut(count: int) -> str:
    return f"The commonest {_LISTED} of {count}" if count > _LISTED else ""


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"
