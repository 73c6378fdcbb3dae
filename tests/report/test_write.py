"""The page of a report: self-contained, escaped, complete, and never in the place of something else."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from agegender_jax.errors import UserError
from agegender_jax.labels import DISCLAIMER
from agegender_jax.report import images, sections
from agegender_jax.report.content import Content, gather, own_predictions
from agegender_jax.report.write import render, write_report
from agegender_jax.run import Run
from tests.html_page import Page

_ANCHORS = {"results", "limits", "groups", "confusion", "calibration", "abstaining", "age-bias", "learning", "mistakes"}


@pytest.fixture(scope="module")
def html(content: Content) -> str:
    return render(content)


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def test_it_is_self_contained_complete_and_escaped(content: Content, html: str, page: Page) -> None:
    assert page.embedded == []
    assert "default-src 'none'" in html
    assert len(html) < 5_000_000
    assert _ANCHORS | {"card", "data", "run"} <= set(page.links)
    assert html.index('id="results"') < html.index('id="groups"')
    assert page.count("script") == page.count("b") - page.text.count("baseline:") == 0  # each tile has one <b>
    for text in ('<script>alert(1)</script>"&$x$\\u202e.jpg', "small <run>", "research <only>", "<b>fast</b>"):
        assert text in page.text
    assert render(content) == html


def test_every_plot_is_described(page: Page) -> None:
    labels = page.values("aria-label")
    labels = [label for label in labels if label not in ("contents", "link to this section")]
    assert len(labels) == page.count("svg") == 15
    # glance, 3 of groups, 3 of calibration, 3 of abstaining, 2 of ages, 3 curves
    assert all(len(label) > 30 for label in labels)


def _cells(*texts: str) -> str:
    return "".join(f'<td class="number">{text}</td>' for text in texts)


def test_tables_hold_the_numbers_of_the_analysis(content: Content, html: str) -> None:
    test, baseline = content.test, content.baseline["gender/accuracy"]

    def percent(value: dict[str, Any]) -> tuple[str, str]:
        return f"{100 * value['value']:.1f} %", f"{100 * value['low']:.1f} to {100 * value['high']:.1f}"

    accuracy = percent(test["metrics"]["gender/accuracy"])
    assert f"<td>accuracy</td>{_cells(*accuracy, f'{100 * baseline:.1f} %')}" in html
    worst = test["worst"]["gender"]["gender"]
    assert f"<td>{worst['gender']}</td>{_cells(str(worst['n']), *percent(worst))}" in html
    counts = test["confusion"]["gender"]["counts"]
    assert sum(map(sum, counts)) == 120
    assert f">{counts[0][1]}<small>{100 * counts[0][1] / sum(counts[0]):.0f} %</small></td>" in html
    calibration = test["calibration"]["gender"]
    for score in ("nll", "brier"):
        ends = calibration["intervals"][score]
        assert _cells(f"{ends['low']:.3f} to {ends['high']:.3f}") in html


def test_the_card_contradicts_age_checks_with_the_run_s_own_numbers(content: Content, page: Page) -> None:
    assert content.around_18 is not None
    minors = content.around_18["minors"]
    assert f"predicts {minors['mistaken']} of {minors['n']} (" in page.text
    for heading in ("Intended use", "Out of scope", "Why no age checks", "What the labels mean", "Terms"):
        assert heading in page.text
    assert "No subject is identified" in page.text
    assert "4 of 10 (40.0 %)" in page.text


VOICES = {"kind": "audio", "spectrogram": {"kind": "log_mel", "rate": 16000}}


@pytest.mark.parametrize(
    ("heads", "options", "absent", "texts"),
    [
        (["class_name"], {}, {"age-bias"}, ["This run predicts no ages.", "always female_", "female_31"]),
        pytest.param(
            ["gender", "age_group"],
            {"settings": {"model.backbone": "routed"}},
            {"age-bias"},
            ["into an age group of adults alone", "within one group"],
            marks=pytest.mark.slow,
        ),
        (
            ["age"],
            {"settings": {"heads.age.loss": "l1"}},
            {"calibration", "abstaining", "confusion"},
            ["mean absolute error"],
        ),
        (
            ["gender"],
            {"metadata_of_data": VOICES, "speakers": 4},
            {"age-bias"},
            [", recordings at ", "kind log_mel, rate 16000", "120 examples in 4 clusters"],
        ),
    ],
    ids=["class_name", "routed", "l1", "voices"],
)
def test_pages_of_other_runs(
    heads: list[str],
    options: dict[str, Any],
    absent: set[str],
    texts: list[str],
    made: Callable[..., Run],
    tmp_path: Path,
) -> None:
    run = made(tmp_path / "other", heads=tuple(heads), **options)
    content = gather(run, own_predictions(run))
    summary = run.require_summary()
    for name, interval in content.test["metrics"].items():
        assert interval["value"] == pytest.approx(summary["test"][name])
    assert content.baseline == pytest.approx(summary["baseline"])
    if run.recipe.model.backbone == "routed":
        assert content.around_18 is not None
        assert content.around_18["by"] == "age_group_predicted"
    page = Page(render(content))
    assert _ANCHORS - set(page.ids) == absent
    for text in texts:
        assert text in page.text
    assert "nan" not in page.text.lower().split()
    assert "None" not in page.text
    if options.get("speakers"):  # of four speakers no group is the worst
        assert content.test["worst"] == {"gender": {}}


def test_notes_stand_where_they_hold(content: Content) -> None:
    def changed(**test: Any) -> Content:
        return dataclasses.replace(content, test=content.test | test)

    for temperature, noted in ((0.3, False), (20.0, True)):
        gender = content.test["calibration"]["gender"] | {"temperature": temperature}
        view = sections.calibration(changed(calibration={"gender": gender}))
        assert ("the end of 0.05 to 20" in view["tables"][0].rows[0][-1]) is noted
    (rows,) = content.test["bias_by_age"].values()
    for young, old, noted in ((4.0, -6.0, True), (-1.0, -6.0, False)):
        ends = [rows[i] | {"bias": rows[i]["bias"] | {"value": value}} for i, value in ((0, young), (-1, old))]
        view = sections.ages(changed(bias_by_age={"age": [ends[0], *rows[1:-1], ends[1]]}))
        assert view["to_the_middle"] is noted


def test_synthetic_and_leaky_stand_at_the_top(content: Content, html: str) -> None:
    test = content.test | {"draws": 250}
    text = render(dataclasses.replace(content, synthetic=True, leaky=True, protocol="paper", test=test))
    for phrase in (DISCLAIMER, "Leaky: ", "paper (leaky)"):
        assert phrase in text[: text.index("<h2")]
        assert phrase not in html
    assert "Terms:" not in text[: text.index("<h2")]  # it holds no images
    assert "from 1,000 bootstrap" in html
    assert "from 250 bootstrap" in text


def test_images_are_embedded_on_request(content: Content, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = np.array(images.keys(content) + [f"other{i}" for i in range(30)])
    opened: Any = SimpleNamespace(
        data=SimpleNamespace(columns={"key": keys}, read=lambda rows: np.zeros((len(rows), 160, 160, 3), np.uint8)),
        model=SimpleNamespace(preprocessor=SimpleNamespace(to_display=lambda pixels: pixels)),
        split=SimpleNamespace(test=np.arange(len(keys))),
        heads={},
        run=None,
    )
    samples: list[np.ndarray] = []

    def panels(opened: Any, rows: np.ndarray) -> dict[str, np.ndarray]:
        samples.append(rows)
        return {"gender": np.zeros((300, 500, 3), np.uint8)}

    monkeypatch.setattr(images, "saliency_panels", panels)
    html = render(content, images.load_images(opened, content))
    page = Page(html)
    rows = sum(len(rows) for kinds in content.mistakes.values() for rows in kinds.values())
    assert len(page.embedded) == page.count("img") == rows + 1
    assert [len(rows) for rows in samples] == [images.SAMPLE]
    top = html[: html.index("<h2")]
    assert f"This file contains {len(images.keys(content)) + images.SAMPLE} images of people." in top
    assert "Terms: research &lt;only&gt;" in top
    assert "saliency" in page.ids


def test_page_and_numbers_are_written_and_replaced(made: Callable[..., Run], tmp_path: Path) -> None:
    run = made(tmp_path / "run", count=60)
    path = write_report(run)
    assert path == run.directory / "report" / "index.html"
    first = path.read_bytes()
    assert write_report(run).read_bytes() == first
    assert sorted(each.name for each in path.parent.iterdir()) == ["index.html", "report.json"]
    numbers = json.loads((path.parent / "report.json").read_text())
    assert (numbers["generator"], numbers["test"]["n"]) == ("agegender report", 12)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("mine.html", "my thesis"),
        ("mine.json", "[1]"),
        ("mine.json", '{"generator": "agegender report", "run": "another"}'),
        ("report.pdf", None),
    ],
)
def test_nothing_of_others_is_overwritten(name: str, content: str | None, run: Run, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=f"{name}.*--out"):
        write_report(run, out=tmp_path / (name if content is None else "mine.html"))
    assert [each.read_text() for each in tmp_path.iterdir()] == ([] if content is None else [content])
