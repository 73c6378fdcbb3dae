"""The page of a report: well-formed, self-contained, escaped, complete, and never in the place of something else."""

import dataclasses
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from agegender_jax.errors import UserError
from agegender_jax.labels import DISCLAIMER
from agegender_jax.report import images
from agegender_jax.report.content import Content, gather, own_predictions
from agegender_jax.report.write import render, write_report
from agegender_jax.run import Run

_VOID = {"meta", "img", "br", "link", "hr"}
_ANCHORS = ("results", "limits", "groups", "confusion", "calibration", "abstaining", "age-bias", "learning", "mistakes")
_SAID = ("card", "data", "run")


class _Page(HTMLParser):
    """Tags in balance, their attributes, and what is read."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.words = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data if self.open and self.open[-1] != "style" else ""


@pytest.fixture(scope="module")
def text(content: Content) -> str:
    return render(content)


@pytest.fixture(scope="module")
def parsed(text: str) -> _Page:
    return _Page(text)


def test_it_is_well_formed_and_needs_nothing_but_itself(text: str, parsed: _Page) -> None:
    assert parsed.open == []
    assert not {"script", "link", "iframe", "object", "img", "form"} & {tag for tag, _ in parsed.tags}
    for _, attributes in parsed.tags:
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in ("src", "href", "xlink:href", "action", "data", "poster", "srcset"):
                assert value.startswith("#"), value
    assert not re.search(r"url\((?!#)|@import", text)
    assert "default-src 'none'" in text
    assert len(text) < 5_000_000


def test_ids_are_unique_and_links_lead_somewhere(parsed: _Page) -> None:
    ids = [attributes["id"] for _, attributes in parsed.tags if "id" in attributes]
    assert len(set(ids)) == len(ids)
    links = {
        attributes[name][1:] for _, attributes in parsed.tags for name in ("href", "xlink:href") if name in attributes
    }
    assert links <= set(ids)
    assert {*_ANCHORS, *_SAID} <= links


def test_names_of_files_and_runs_are_escaped(text: str, parsed: _Page) -> None:
    assert "<script" not in text
    assert "<b>fast" not in text
    assert '<script>alert(1)</script>"&$x$\\u202e.jpg' in parsed.words
    assert "small <run>" in parsed.words
    assert "research <only>" in parsed.words


def test_every_plot_says_what_it_shows(parsed: _Page) -> None:
    labels = [attributes.get("aria-label", "") for _, attributes in parsed.tags if attributes.get("role") == "img"]
    assert len(labels) == sum(tag == "svg" for tag, _ in parsed.tags)
    assert len(labels) == 15  # glance, 3 of groups, 3 of calibration, 3 of abstaining, 2 of ages, 3 curves
    assert all(len(label) > 30 for label in labels)
    assert any(label.startswith("training loss over the training") for label in labels)


def test_metrics_stand_with_interval_and_baseline(content: Content, text: str) -> None:
    accuracy, baseline = content.test["metrics"]["gender/accuracy"], content.baseline["gender/accuracy"]
    assert baseline is not None
    cells = [
        f"{100 * accuracy['value']:.1f} %",
        f"{100 * accuracy['low']:.1f} to {100 * accuracy['high']:.1f}",
        f"{100 * baseline:.1f} %",
    ]
    row = "<tr><td>accuracy</td>" + "".join(f'<td class="number">{cell}</td>' for cell in cells)
    assert row in text
    assert text.index('id="results"') < text.index('id="groups"')


def test_confusion_has_counts_and_shares_of_rows(content: Content, text: str) -> None:
    counts = content.test["confusion"]["gender"]["counts"]
    share = f"{100 * counts[0][1] / sum(counts[0]):.0f} %"
    assert f">{counts[0][1]}<small>{share}</small></td>" in text
    assert sum(map(sum, counts)) == 120


def test_the_worst_group_is_named_with_n_and_interval(content: Content, text: str) -> None:
    worst = content.test["worst"]["gender"]["gender"]
    name, n = worst["gender"], worst["n"]
    interval = f"{100 * worst['low']:.1f} to {100 * worst['high']:.1f}"
    cells = f'<td>{name}</td><td class="number">{n}</td><td class="number">{100 * worst["value"]:.1f} %</td>'
    assert f'{cells}<td class="number">{interval}</td>' in text


def test_the_card_contradicts_age_checks_with_the_run_s_own_numbers(content: Content, parsed: _Page) -> None:
    assert content.around_18 is not None
    minors = content.around_18["minors"]
    words = " ".join(parsed.words.split())
    assert "acceptable for preventing sales to under-18s. It is not" in words
    assert f"predicts {minors['mistaken']} of {minors['n']} (" in words
    for said in ("Age checks of any kind", "Identifying or verifying", "Decisions about a person", "Perceived age"):
        assert said in words
    assert "No subject is identified: metrics are an upper bound" in words
    assert "4 of 10 (40.0 %) carry contradicting labels" in words


def _written(run: Run) -> _Page:
    """The page of a run, looked through for what is never on one."""
    parsed = _Page(render(gather(run, own_predictions(run))))
    assert parsed.open == []
    ids = [attributes["id"] for _, attributes in parsed.tags if "id" in attributes]
    assert len(set(ids)) == len(ids)
    parsed.words = " ".join(parsed.words.split())
    assert "nan" not in parsed.words.lower().split()
    assert "None" not in parsed.words
    return parsed


def test_a_run_of_a_datasets_own_classes(made: Callable[..., Run], tmp_path: Path) -> None:
    page = _written(made(tmp_path / "class_name", heads=("class_name",)))
    assert "This run predicts no ages." in page.words
    assert page.words.count("female_31") > 2  # a row and a column of the confusion, and mistakes
    assert "always female_" in page.words
    assert "age-bias" not in {attributes.get("id") for _, attributes in page.tags}


def test_a_routed_run(made: Callable[..., Run], tmp_path: Path) -> None:
    page = _written(made(tmp_path / "routed", heads=("gender", "age_group"), settings={"model.backbone": "routed"}))
    assert "puts " in page.words
    assert "into an age group of adults alone" in page.words
    assert "within one group" in page.words


def test_a_regression_of_age(made: Callable[..., Run], tmp_path: Path) -> None:
    page = _written(made(tmp_path / "l1", heads=("age",), settings={"heads.age.loss": "l1"}))
    anchors = {attributes.get("id") for _, attributes in page.tags}
    assert {"results", "age-bias", "mistakes"} < anchors
    assert not {"calibration", "abstaining", "confusion"} & anchors
    assert "mean absolute error" in page.words


def test_a_run_of_recordings_of_few_speakers(made: Callable[..., Run], tmp_path: Path) -> None:
    data = {"kind": "audio", "spectrogram": {"kind": "log_mel", "rate": 16000}}
    run = made(tmp_path / "voices", heads=("gender",), facts_of_data=data, speakers=4)
    page = _written(run)
    assert ", recordings at " in page.words
    assert "kind log_mel, rate 16000" in page.words
    assert "120 examples in 4 clusters" in page.words
    content = gather(run, own_predictions(run))
    assert content.test["worst"] == {"gender": {}}  # of four speakers no group is told the worst


def test_calibration_has_intervals_and_says_where_a_temperature_ends(content: Content, text: str) -> None:
    own = content.test["calibration"]["gender"]
    for score in ("nll", "brier"):
        ends = own["intervals"][score]
        assert f'<td class="number">{ends["low"]:.3f} to {ends["high"]:.3f}</td>' in text
    assert "(the end of" not in text
    entry = content.test["calibration"] | {"gender": own | {"temperature": 20.0}}
    ended = render(dataclasses.replace(content, test=content.test | {"calibration": entry}))
    assert "20.00 (the end of 0.05 to 20)" in ended


def test_what_the_bias_shows_is_said_where_it_shows_it(content: Content) -> None:
    (rows,) = content.test["bias_by_age"].values()

    def page(young: float, old: float) -> str:
        ends = [rows[i] | {"bias": rows[i]["bias"] | {"value": value}} for i, value in ((0, young), (-1, old))]
        changed = {"age": [ends[0], *rows[1:-1], ends[1]]}
        return render(dataclasses.replace(content, test=content.test | {"bias_by_age": changed}))

    assert "youngest are predicted too old" in page(4.0, -6.0)
    assert "youngest are predicted too old" not in page(-1.0, -6.0)


def test_the_number_of_draws_is_told(content: Content) -> None:
    assert "Intervals are from 1,000 bootstrap" in render(content)
    assert "Intervals are from 250 bootstrap" in render(
        dataclasses.replace(content, test=content.test | {"draws": 250})
    )


def test_drawn_and_leaky_are_said_before_anything_else(content: Content) -> None:
    drawn = render(dataclasses.replace(content, synthetic=True))
    assert DISCLAIMER in drawn[: drawn.index("<h2")]
    assert "Terms: none" not in drawn[: drawn.index("<h2")]  # it holds no pictures
    leaky = render(dataclasses.replace(content, leaky=True, protocol="paper"))
    assert "Leaky: " in leaky[: leaky.index("<h2")]
    assert "paper (leaky)" in leaky[: leaky.index("<h2")]


def test_the_same_run_gives_the_same_bytes(content: Content, text: str) -> None:
    assert render(content) == text


def test_pictures_are_embedded_where_they_are_asked_for(content: Content, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = np.array(images.keys(content) + [f"other{i}" for i in range(30)])
    opened: Any = SimpleNamespace(
        data=SimpleNamespace(columns={"key": keys}, read=lambda rows: np.zeros((len(rows), 160, 160, 3), np.uint8)),
        model=SimpleNamespace(preprocessor=SimpleNamespace(to_display=lambda pixels: pixels)),
        split=SimpleNamespace(test=np.arange(len(keys))),
        heads={},
        run=None,
    )
    asked = []

    def panels(opened: Any, rows: np.ndarray) -> dict[str, np.ndarray]:
        asked.append(rows)
        return {"gender": np.zeros((300, 500, 3), np.uint8)}

    monkeypatch.setattr(images, "saliency_panels", panels)
    shown = render(content, images.load_images(opened, content))
    parsed = _Page(shown)
    assert parsed.open == []
    sources = [attributes["src"] for tag, attributes in parsed.tags if tag == "img"]
    rows = sum(len(found) for kinds in content.mistakes.values() for found in kinds.values())
    assert len(sources) == rows + 1
    assert all(source.startswith("data:image/jpeg;base64,") for source in sources)
    assert len(asked[0]) == images.SAMPLE
    top = shown[: shown.index("<h2")]
    assert f"This file contains {len(images.keys(content)) + images.SAMPLE} images of people." in top
    assert "Terms: research &lt;only&gt;" in top
    assert 'id="saliency"' in shown


def test_page_and_numbers_are_written_and_replaced(made: Callable[..., Run], tmp_path: Path) -> None:
    run = made(tmp_path / "run", count=60)
    path = write_report(run)
    assert path == run.directory / "report" / "index.html"
    first = path.read_bytes()
    assert write_report(run).read_bytes() == first
    assert sorted(each.name for each in path.parent.iterdir()) == ["index.html", "report.json"]
    numbers = json.loads((path.parent / "report.json").read_text())
    assert numbers["generator"] == "agegender report"
    assert numbers["test"]["n"] == 12


def test_nothing_of_others_is_overwritten(run: Run, tmp_path: Path) -> None:
    page, numbers = tmp_path / "mine.html", tmp_path / "mine.json"
    page.write_text("my thesis")
    with pytest.raises(UserError, match=r"mine\.html.*--out"):
        write_report(run, out=page)
    assert page.read_text() == "my thesis"
    page.unlink()
    numbers.write_text("[1]")
    with pytest.raises(UserError, match=r"mine\.json.*--out"):
        write_report(run, out=page)
    assert numbers.read_text() == "[1]"
    assert not page.exists()
    numbers.write_text(json.dumps({"generator": "agegender report", "run": "another"}))
    with pytest.raises(UserError, match=r"mine\.json.*another run.*--out"):
        write_report(run, out=page)
    assert json.loads(numbers.read_text())["run"] == "another"
    with pytest.raises(UserError, match=r"report\.pdf.*--out"):
        write_report(run, out=tmp_path / "report.pdf")
