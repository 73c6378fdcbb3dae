"""What a report says besides figures: what they do not say, the data, how it was run, and the model card."""

from typing import Any

from agegender_jax import page
from agegender_jax.evaluate.report import identities
from agegender_jax.labels import AGE_GROUPS, DISCLAIMER
from agegender_jax.page import Html, escape
from agegender_jax.report.components import boxed, listed, metadata, section, subtitle
from agegender_jax.report.format import interval, share, spaced
from agegender_jax.report.mistakes import ADULT
from agegender_jax.report.results import Content
from agegender_jax.splits import PARTS, marked
from agegender_jax.text import duration


def top(content: Content, shown: int) -> Html:
    """The title, what the run is of in a line, and what nobody should miss.

    Args:
      content: of the report.
      shown: how many pictures the page holds.
    """
    kind, costs = "recordings" if content["data"]["kind"] == "audio" else "pictures", content["costs"]
    line = (
        f"{content['backbone']} on {content['dataset']}, {kind} at {content['image_size']}×{content['image_size']}; "
        f"protocol {marked(content['protocol'])}, age groups {content['age_groups']}, "
        f"split {content['split']['sha256'][:16]}; {costs['epochs']:.1f} epochs in {duration(costs['seconds'])}"
        + (f" at {costs['images_per_second']:,.0f} images/s" if costs["images_per_second"] else "")
        + f" on {_devices(content['hardware'])}"
    )
    notes = []
    if content["synthetic"]:
        notes.append(f"The data are {DISCLAIMER}.")
    if content["leaky"]:
        notes.append(
            "Leaky: whoever is tested on may have been learnt from. These are no figures for people who are new."
        )
    if shown:
        what = f"{shown} drawn {kind}" if content["synthetic"] else f"{shown} pictures of {_people(kind)}"
        notes.append(f"This file contains {what}. Terms: {terms(content)}")
    notes.append(
        "Labels are perceived age and gender as annotated, not metadata about anybody. Not for age checks, "
        "identification or decisions about people."
    )
    return Html(
        f"<h1>{escape(content['run'])}</h1>\n" + f'<p class="lead">{escape(line)}</p>\n' + boxed("note", *notes)
    )


def _people(kind: str) -> str:
    return "people's voices" if kind == "recordings" else "people"


def limits(content: Content) -> Html:
    """What the figures do not say."""
    same = content["data"]["identical_files"] or {}
    subjects = content["data"]["subjects"]
    noise = "The labels are what was annotated, and a network can agree with them no better than they agree with the "
    noise += "truth, or with themselves."
    if same.get("groups"):
        conflicts = share(same["conflicting_groups"], same["groups"])
        noise += (
            f" Of the files that are in this dataset more than once, {conflicts} "
            f"carry contradicting labels, {same['groups_over_5_years']:,} with ages more than 5 years apart."
        )
    who = f"{identities(subjects)[:1].upper()}{identities(subjects)[1:]}." if subjects else ""
    return section(
        "limits",
        "What these figures do not say",
        listed(
            f"Anything about people: the data are {DISCLAIMER}." if content["synthetic"] else "",
            noise,
            who,
            "The intervals are of the choice of test examples alone. Another seed, other training examples or another "
            "split move the figures as well: train repeats (launch.py --repeats) before one run is called better.",
            "The test part comes from the same dataset as the training. Other cameras, lighting, ages, countries and "
            "languages are another matter: measure there (agegender evaluate RUN --dataset).",
            "A figure of a group is of the examples that carry its label, not of a people. Small groups have wide "
            "intervals, and the absence of a gap in them is no evidence that there is none.",
        ),
    )


def data(content: Content) -> Html:
    """Data and split."""
    split, known, same = content["split"], content["data"], content["data"]["identical_files"] or {}
    fold = f", fold {split['fold']} of {split['folds']}" if split["folds"] else ""
    rows: dict[str, str] = {
        "dataset": f"{content['dataset']} {known['dataset_version'] or ''}"
        + (" (drawn)" if content["synthetic"] else ""),
        "files, SHA-256": known["data_sha256"] or "",
        "split": f"{marked(split['protocol'])}{fold}, seed {split['seed']}",
        "split, SHA-256": split["sha256"],
        "examples": ", ".join(f"{split[part]:,} {part}" for part in PARTS),
        "people": identities(known["subjects"]) if known["subjects"] else "",
        "groups": f"{split['groups']:,}, of which {split['groups_in_several_parts']:,} lie in several parts",
        "identical files": f"{same['groups']:,} groups, {same['conflicting_groups']:,} with conflicting labels, whose "
        f"{same['conflicting_files']:,} files are kept out of validation and test"
        if same.get("groups")
        else "",
        "age groups": f"{content['age_groups']}: {AGE_GROUPS[content['age_groups']].description}",
        "spectrogram": ", ".join(f"{spaced(key)} {value}" for key, value in (known["spectrogram"] or {}).items()),
    }
    strata = page.table(
        (f"by {spaced(split['stratified_by'])}, which all parts have in equal shares", *PARTS),
        [(name, *(f"{found[part]:,}" for part in PARTS)) for name, found in split["strata"].items()],
        numbers=range(1, 4),
    )
    return section("data", "Data and split", metadata(rows), boxed("long-table", strata))


def origin(content: Content) -> Html:
    """What was run, with what, and what it cost."""
    costs, hardware = content["costs"], content["hardware"]
    pace = f"{costs['images_per_second']:,.0f} images/s while training" if costs["images_per_second"] else ""
    first = f"first step after {costs['first_step_seconds']:.0f} s" if costs["first_step_seconds"] else ""
    spent = ", ".join(f"{name} {duration(seconds)}" for name, seconds in (costs["seconds_of"] or {}).items())
    parts = [f"training spent on {spent}"] if spent else []
    parts += [f"peak memory {costs['peak_memory_bytes'] / 1e9:.2f} GB"] if costs["peak_memory_bytes"] else []
    rows = {
        "time": f"{duration(costs['seconds'])} for {costs['epochs']:.1f} epochs ({costs['steps']:,} steps)",
        "since the last start": "; ".join(filter(None, (pace, first, *parts))),
        "parameters": f"{costs['parameters']:,}",
        "device": _devices(hardware),
        "processor": f"{hardware['processor']}, {hardware['cores']} cores",
        "versions": ", ".join(f"{name} {version}" for name, version in content["versions"].items()),
        "begun from": content["pretrained"],
    }
    changes = page.table(
        ("key of the recipe", "default", "this run"),
        [(each["key"], _plain(each["base"]), _plain(each["run"])) for each in content["differences"]],
        numbers=(),
    )
    command = Html(f"<pre>{escape(content['command'])}</pre>\n") if content["command"] else "The command was not kept."
    return section(
        "run",
        "What was run",
        "To repeat it:",
        command,
        metadata(rows),
        subtitle("Where its recipe differs from the default"),
        changes if content["differences"] else "Nowhere.",
    )


def _devices(hardware: Content) -> str:
    kind = f" ({hardware['device']})" if hardware["device"] != hardware["backend"] else ""
    return f"{hardware['devices']} {hardware['backend']}{kind}"


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_plain, value))
    return f"{value:g}" if isinstance(value, float) else repr(value) if value == "" else str(value)


def terms(content: Content) -> str:
    """Under which the dataset may be used."""
    if content["synthetic"]:
        return "none: the data were drawn from a seed, and the terms of the original do not apply."
    return content["data"]["terms"] or "not stated by the dataset's builder: find out before you use or share anything."


def card(content: Content) -> Html:
    """The model card."""
    begun = content["pretrained"]
    return section(
        "card",
        "Model card",
        subtitle("Intended use"),
        "Research, teaching and benchmarking: comparing methods on one dataset, under one protocol and one split.",
        subtitle("Out of scope"),
        listed(
            "Age checks of any kind: access, age-restricted sales, online services.",
            "Identifying or verifying anybody; surveillance.",
            "Decisions about a person: hiring, credit, policing, migration, health, prices, advertising to minors.",
            "Inferring anybody's gender identity, or treating an answer as a fact about the person.",
        ),
        *_age_checks(content),
        subtitle("What the labels mean"),
        "Perceived age and perceived gender as annotated in the dataset. Gender has the classes that the annotators "
        "were given, which is a limit of the data and no statement about people"
        + (
            "; “undefined” means an infant who was not annotated, and is no third gender. "
            if "undefined" in content["things"].get("gender", {}).get("names", ())
            else ". "
        )
        + "Race, where the dataset has it, is used to compare errors and never as a target.",
        subtitle("Terms"),
        f"{content['dataset']}: {terms(content)}",
        ""
        if content["synthetic"]
        else "Treat what was learned from the data, the weights too, as under the same terms.",
        f"The training began from {begun}, whose own terms apply as well." if begun else "",
        ""
        if content["synthetic"]
        else "Faces and voices may be biometric data in law: to ask, to inform and to delete is the "
        "duty of whoever uses them.",
    )


def _age_checks(content: Content) -> list[str]:
    """Why not to check ages, in the run's own numbers."""
    found = content["around_18"]
    claim = (
        "Uraimov and Yoo (2022) call a network that is right about the age group in 52.85 % of all cases acceptable "
        f"for preventing sales to under-{ADULT}s. It is not, and neither is this one."
    )
    if found is None:
        return [subtitle("Why no age checks"), f"{claim} This run says no ages that can be counted."]
    minors, adults = found["minors"], found["adults"]
    does, grown, young = {
        "age": ("takes", f"for {ADULT} or older", f"for under {ADULT}"),
        "age_group": ("puts", "into an age group of adults alone", "into one of minors alone"),
    }[found["by"]]
    if minors["n"]:
        said = (
            f"Of those in its test part who are annotated as under {ADULT} it {does} {_counted(minors)} {grown}, and "
            f"of the adults {_counted(adults)} {young}."
        )
    else:
        said = f"Its test part holds nobody who is annotated as under {ADULT}, so how many it lets pass is not known."
    said += " Of drawn data this says nothing about people." if content["synthetic"] else ""
    tested = "How such a claim is tested, NIST's evaluation of age estimation shows (Challenge 25)."
    return [subtitle("Why no age checks"), f"{claim} {said} {tested}"]


def _counted(found: Content) -> str:
    text = share(found["mistaken"], found["n"])
    return f"{text[:-1]}; 95 % interval {interval('share', found['share'])})" if found["n"] else text
