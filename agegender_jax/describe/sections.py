"""The description of a dataset: sections of sentences and tables that the terminal and the page both show."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from agegender_jax.data.partition import contradictions
from agegender_jax.describe import statistics
from agegender_jax.describe.reading import Contents
from agegender_jax.describe.statistics import Columns
from agegender_jax.labels import AGE_GROUPS, DISCLAIMER, GENDERS
from agegender_jax.splits import PARTS, marked
from agegender_jax.text import Table
from tfds_builders.adience.fold_files import PUBLISHED_AGE, PUBLISHED_GENDER

DEFAULT_SCHEME = "nearest"
LABELS_AND_TERMS = "Labels and terms"

_LISTED = 25  # ranges, sizes and rates that are listed; the others are counted
_GROUPS = 10  # age groups that are listed even where they are empty
_NOT_COUNTS = ("terms", "labels", "identities")  # of the builder's metadata: not among its counts
_SIDE_BY_SIDE = ("levi_hassner", "literal", "nearest")  # age groups that are compared fold by fold


@dataclasses.dataclass(frozen=True)
class Section:
    """A section of the description: sentences and tables in order, and names of the plots that the page shows below."""

    title: str
    content: Sequence[str | Table]
    plots: Sequence[str] = ()


def describe(contents: Contents, scheme: str | None = None) -> list[Section]:
    """Returns the sections of the description of a dataset, with a scheme of age groups.

    None shows all schemes, and takes `DEFAULT_SCHEME` where there is room for one.
    """
    one, schemes = scheme or DEFAULT_SCHEME, (scheme,) if scheme else tuple(AGE_GROUPS)
    columns = contents.columns
    return [
        _summary(contents),
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
    prepared = contents.prepared
    return " ".join(filter(None, (prepared.name, prepared.config, prepared.version)))


def terms(contents: Contents) -> str:
    """Returns the terms under which the dataset may be used."""
    if contents.prepared.synthetic:
        return "none: the data are synthetic, and the terms of the original do not apply"
    return contents.source.terms or "not stated by the builder: find out before you use or share it"


def origin(contents: Contents) -> str:
    """Returns where the labels come from."""
    if contents.prepared.synthetic:
        return "the labels that the synthetic data were made for"
    return str(contents.source.metadata.get("labels", "")) or "perceived age and gender as annotated"


def _summary(contents: Contents) -> Section:
    kind = "recordings" if contents.prepared.kind == "audio" else "images"
    synthetic = f" ({DISCLAIMER})" if contents.prepared.synthetic else ""
    megabytes = contents.headers["bytes"].sum() / 1e6
    content: list[str | Table] = [f"{len(contents.source):,} {kind}, {megabytes:,.1f} MB{synthetic}."]
    counts = [
        (name.replace("_", " "), _value(value))
        for name, value in contents.source.metadata.items()
        if name not in _NOT_COUNTS and not isinstance(value, str) and value not in ({}, [], None)
    ]
    return Section("What it is", content + ([Table(("counted by the builder", ""), counts)] if counts else []))


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


def _genders(columns: Columns) -> Section:
    counts = statistics.count(columns["gender"], statistics.GENDER_NAMES)
    note = ['"undefined" is Adience\'s "u": nearly always an infant that was not annotated.']
    return Section("Gender", [_shares(counts, "gender"), *(note if counts["undefined"] else [])])


def _ages(columns: Columns) -> Section:
    years, ranges = statistics.exact_ages(columns), statistics.age_ranges(columns)
    counts = {"exact": len(years), "ranges": sum(ranges.values())}
    counts["unknown"] = len(columns["age"]) - sum(counts.values())
    content: list[str | Table] = [Table(("ages", "files"), _rows(counts))]
    if len(years):
        names = ("youngest", "lower quartile", "median", "upper quartile", "oldest")
        quartiles = np.percentile(years, [0, 25, 50, 75, 100])
        values = [(name, f"{value:g}") for name, value in zip(names, quartiles, strict=True)]
        commonest, count = next(iter(statistics.commonest(years.tolist()).items()))
        content.append(Table(("exact ages", "years"), values))
        content.append(f"{_percent(count / len(years))} of the exact ages are {commonest:g}.")
    if heaping := statistics.heaping(years):
        content.append(
            f"Heaping: {_percent(heaping[1])} of the {heaping[0]:,} whole ages from {statistics.HEAPING_FROM} on are "
            "multiples of 5; without rounding, about 20 % would be."
        )
    if ranges:
        content.append(Table(("annotated range", "files"), _rows(ranges)[:_LISTED], _cut(len(ranges))))
    return Section("Age", content, ("ages",) if len(years) else ())


def _age_groups(columns: Columns, one: str, schemes: Sequence[str]) -> Section:
    counts = {name: statistics.by_age_group(columns, name) for name in schemes}
    if all(groups["none"] == len(columns["key"]) for groups in counts.values()):
        return Section("Age groups", ["No file has an age group."])
    content: list[str | Table] = [f"{name}: {AGE_GROUPS[name].description}." for name in schemes]
    hidden = False
    alike: dict[tuple[str, ...], list[str]] = {}  # schemes whose groups have the same names share a table
    for name, groups in counts.items():
        alike.setdefault(tuple(groups), []).append(name)
    for names, members in alike.items():
        shown = [group for group in names if len(names) <= _GROUPS or any(counts[name][group] for name in members)]
        rows = [(group, *(f"{counts[name][group]:,}" for name in members)) for group in shown]
        content.append(Table(("age group", *members), rows))
        hidden |= len(shown) < len(names)
    if hidden:
        content.append("Of a scheme with many groups, those without files are left out.")
    genders = statistics.by_gender(columns, one) | {"all": statistics.by_age_group(columns, one)}
    rows = [(group, *(f"{groups[group]:,}" for groups in genders.values())) for group in genders["all"]]
    content.append(Table(("age group", *genders), rows, f"Age groups ({one}) by gender"))
    return Section("Age groups", content, ("age_groups",))


def _races(columns: Columns) -> list[Section]:
    if (columns["race"] < 0).all():
        return []
    note = "As annotated; used to compare errors between groups, never as a target."
    return [Section("Race", [note, _shares(statistics.count(columns["race"], statistics.RACE_NAMES), "race")])]


def _classes(columns: Columns) -> list[Section]:
    classes = statistics.classes(columns)
    if not classes:
        return []
    few = sum(not each.splittable for each in classes)
    rows = [
        (
            each.name,
            f"{each.files:,}",
            f"{each.subjects:,}" + (f" + {each.unidentified:,} unknown" if each.unidentified else ""),
            "" if each.splittable else "cannot be split three ways",
        )
        for each in classes
    ]
    note = (
        f"{few} of {len(classes)} classes have fewer than 3 subjects and cannot be split three ways with nobody "
        "in two parts; learn gender and age bands or years instead, or add speakers."
    )
    table = Table(("class", "files", "subjects", ""), rows)
    return [Section("Classes", [table, note] if few else [table], ("classes",))]


def _subjects(contents: Contents) -> Section:
    known = statistics.identified(contents.columns)
    sizes = {"subjects": statistics.sizes(contents.columns["subject"])}
    sizes["recordings" if contents.voices else "users"] = statistics.sizes(contents.columns["group"])
    meaning = contents.source.metadata.get("identities")
    content: list[str | Table] = [f"Subjects: {meaning}."] if meaning else []
    if not known.any():
        content.append(
            "No subject is identified: metrics are an upper bound for new people. Identical files stay together, "
            "but two files of one person may be in training and in test."
        )
    elif not known.all():
        content.append(f"{(~known).sum():,} files have no identified subject; each counts as a subject of its own.")
    rows = [
        (name, f"{len(n):,}", f"{n.sum():,}", f"{n[-1]:,}", f"{np.median(n):g}", f"{n[0]:,}")
        for name, n in sizes.items()
        if len(n)
    ]
    if rows:
        content.append(Table(("", "distinct", "files with one", "fewest files", "median", "most files"), rows))
    return Section("Subjects and groups", content, ("subjects",) if known.any() else ())


def _headers(contents: Contents) -> Section:
    headers, sound = contents.headers, contents.prepared.kind == "audio"
    readable = headers["rate" if sound else "width"] > 0
    content: list[str | Table] = []
    if sound and readable.any():
        seconds = headers["seconds"][readable]
        content.append(
            f"{seconds.sum() / 3600:.2f} hours; a recording lasts {seconds.min():.2f} to {seconds.max():.2f} "
            f"seconds, median {np.median(seconds):.2f}."
        )
    counts = contents.rates() if sound else contents.sizes()
    if counts:
        title = "sample rate" if sound else "pixels"
        content.append(Table((title, "files"), _rows(counts)[:_LISTED], _cut(len(counts))))
    if unreadable := (~readable).sum():
        content.append(f"{unreadable:,} files have no header that can be read.")
    return Section("Recordings" if sound else "Images", content, ("sounds",) if sound and readable.any() else ())


def _folds(contents: Contents, one: str) -> list[Section]:
    folds = statistics.folds(contents.columns)
    if not folds:
        return []
    header = ("", *(f"fold {number}" for number in folds), "sum")

    def rows(count: Callable[[Columns], Mapping[str, int]]) -> list[tuple[str, ...]]:
        """Counts each fold: a row a name, a column a fold, and their sum."""
        counts = [count(columns) for columns in folds.values()]
        return [_summed(name, [each[name] for each in counts]) for name in counts[0]]

    overview = rows(
        lambda columns: {
            "rows": len(columns["key"]),
            "subjects": len(statistics.sizes(columns["subject"])),
            "groups": len(statistics.sizes(columns["group"])),
            **statistics.count(columns["gender"], statistics.GENDER_NAMES),
        }
    )
    schemes = dict.fromkeys((*_SIDE_BY_SIDE, one))
    usable = rows(
        lambda columns: {
            **{f"age group, {name}": int((statistics.assigned(columns, name) >= 0).sum()) for name in schemes},
            "male or female": int(np.isin(columns["gender"], range(len(GENDERS))).sum()),
        }
    )
    for key, label, published in (
        ("levi_hassner_age", "age (levi_hassner)", PUBLISHED_AGE),
        ("levi_hassner_gender", "male or female", PUBLISHED_GENDER),
    ):
        values = contents.source.metadata.get(key)
        if isinstance(values, list) and len(values) == len(folds):
            usable.append(_summed(f"{label}, with repeated rows", values))
            if len(published) == len(folds):
                usable.append(_summed(f"{label}, as published", published))
    note = "What is usable under each scheme; published numbers (Levi and Hassner 2015) count repeated rows"
    groups = rows(lambda columns: statistics.by_age_group(columns, one))
    subjects, units = (
        statistics.in_several(contents.columns[name], contents.columns["fold"]) for name in ("subject", "group")
    )
    content: list[str | Table] = [
        Table(header, overview),
        Table(("age group", *header[1:]), groups, f"Age groups ({one})"),
        Table(("usable rows", *header[1:]), usable, note),
        f"In two folds or more: {subjects:,} subjects, {units:,} groups.",
    ]
    return [Section("Published folds", content, ("folds",))]


def _identical(columns: Columns) -> Section:
    counts = contradictions(columns)[1]
    if not counts["groups"]:
        return Section("Identical files", ["No two files are identical."])
    sentence = (
        f"{counts['groups']:,} groups of identical files, {counts['files']:,} files in all. In "
        f"{counts['conflicting_groups']:,} of them ({counts['conflicting_files']:,} files) labels disagree, in "
        f"{counts['groups_over_5_years']:,} by more than 5 years. Splits keep identical files together under "
        "disjoint, and those that disagree in train."
    )
    return Section("Identical files", [sentence])


def _splits(columns: Columns, scheme: str) -> Section:
    files, subjects, refused = [], [], []
    for each in statistics.divisions(columns, scheme):
        folds = f", fold 0 of {each.folds}" if each.folds else ""
        name = f"{marked(each.protocol)}, by {each.stratify.replace('_', ' ')}{folds}"
        if each.split is None:
            refused.append(f"{name}: refused. {each.refused}")
            continue
        rows = (f"{len(getattr(each.split, part)):,}" for part in PARTS)
        files.append((name, *rows, f"{each.split.report['groups_in_several_parts']:,}", each.split.sha256[:16]))
        if each.subjects:
            counts = (f"{each.subjects[part]:,}" for part in PARTS)
            subjects.append((name, *counts, f"{each.subjects_in_several:,}"))
    content: list[str | Table] = [
        f"With the default recipe (age groups {scheme}). A group is all that shares a subject, a user or recording, or "
        "the same file content; one in several parts has leaked from training into testing."
    ]
    if files:
        content.append(Table(("files", *PARTS, "groups in several parts", "hash"), files))
    if subjects:
        content.append(Table(("subjects", *PARTS, "in several parts"), subjects))
    return Section("Splits", [*content, *refused])


def _rows(counts: Mapping[str, int]) -> list[tuple[str, ...]]:
    return [(name, f"{n:,}") for name, n in counts.items()]


def _summed(name: str, values: Sequence[int]) -> tuple[str, ...]:
    return (name, *(f"{value:,}" for value in (*values, sum(values))))


def _shares(counts: Mapping[str, int], name: str) -> Table:
    total = max(1, sum(counts.values()))
    return Table((name, "files", "share"), [(key, f"{n:,}", _percent(n / total)) for key, n in counts.items()])


def _cut(count: int) -> str:
    return f"The commonest {_LISTED} of {count}" if count > _LISTED else ""


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
