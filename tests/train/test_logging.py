"""What is written is what TensorBoard and a reader of JSON find, also after an interruption."""

import io
import json
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util import tensor_util

from agegender_jax.train import logging
from agegender_jax.train.logging import Progress, TimeBreakdown, Writers


def lines(directory: Path) -> list[dict[str, Any]]:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    text = (directory / "metrics.jsonl").read_text(encoding="utf-8")
    return [json.loads(line, parse_constant=refuse) for line in text.splitlines()]


def events(directory: Path) -> EventAccumulator:
    return EventAccumulator(str(directory / "tensorboard"), size_guidance={"scalars": 0, "images": 0}).Reload()


def scalars(directory: Path) -> dict[str, list[tuple[int, float]]]:
    reader = events(directory)
    return {tag: [(e.step, e.value) for e in reader.Scalars(tag)] for tag in reader.Tags()["scalars"]}


def write(directory: Path, start: int, steps: range, offset: float = 0.0) -> None:
    for path in (directory / "tensorboard").glob("events.*"):  # named by the second, which a real restart never shares
        path.rename(path.with_name(path.name.replace("tfevents.", "tfevents.0", 1)))
    with Writers(directory, start) as writers:
        for step in steps:
            writers.scalars(step, {"train/loss": step + offset, "train/n": step})


def test_tensorboard_and_the_lines_hold_the_same_metrics(tmp_path: Path) -> None:
    with Writers(tmp_path, 0) as writers:
        writers.scalars(1, {"train/loss": 2.5, "validation/n": 7})
        writers.scalars(2, {"train/loss": 1.25})
    assert [{k: v for k, v in line.items() if k != "seconds"} for line in lines(tmp_path)] == [
        {"step": 1, "train/loss": 2.5, "validation/n": 7},
        {"step": 2, "train/loss": 1.25},
    ]
    assert scalars(tmp_path) == {"train/loss": [(1, 2.5), (2, 1.25)], "validation/n": [(1, 7.0)]}


def test_what_is_not_finite_is_null_in_json(tmp_path: Path) -> None:
    with Writers(tmp_path, 0) as writers:
        writers.scalars(1, {"a": float("nan"), "b": float("inf"), "c": 1.0})
    (line,) = lines(tmp_path)
    assert (line["a"], line["b"], line["c"]) == (None, None, 1.0)
    assert np.isnan(scalars(tmp_path)["a"][0][1])


def test_texts_and_pictures_are_there(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)
    with Writers(tmp_path, 0) as writers:
        writers.text("recipe", "**bold**")
        writers.image("test/confusion", picture, 5)
        writers.flush()
    reader = events(tmp_path)
    (image,) = reader.Images("test/confusion")
    assert image.step == 5
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(image.encoded_image_string))), picture)
    (tag,) = [tag for tag in reader.Tags()["tensors"] if tag.startswith("recipe")]
    assert tensor_util.make_ndarray(reader.Tensors(tag)[0].tensor_proto).item() == b"**bold**"


def test_a_resumed_run_has_every_step_once(tmp_path: Path) -> None:
    write(tmp_path, 0, range(1, 7))
    write(tmp_path, 4, range(5, 9), offset=100.0)  # the checkpoint was that of step 4
    expected = [(s, s + (100.0 if s > 4 else 0.0)) for s in range(1, 9)]
    assert [(line["step"], line["train/loss"]) for line in lines(tmp_path)] == expected
    assert scalars(tmp_path)["train/loss"] == expected


def test_a_run_that_was_interrupted_before_its_first_checkpoint_begins_anew(tmp_path: Path) -> None:
    write(tmp_path, 0, range(1, 4))
    write(tmp_path, 0, range(1, 3), offset=0.5)
    assert [(line["step"], line["train/loss"]) for line in lines(tmp_path)] == [(1, 1.5), (2, 2.5)]
    assert scalars(tmp_path)["train/loss"] == [(1, 1.5), (2, 2.5)]


@pytest.mark.parametrize(
    "torn", [b'{"step": 3, "seconds": 1.0, "tr', b"\x00\x00\xff\x00", b'{"step": 3}', b"12", b"null", b"\n"]
)
def test_a_torn_last_line_is_dropped(tmp_path: Path, torn: bytes) -> None:
    write(tmp_path, 0, range(1, 3))
    with open(tmp_path / "metrics.jsonl", "ab") as file:
        file.write(torn)
    write(tmp_path, 3, range(4, 5))
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 4]
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_last_line_that_only_lacks_its_end_is_kept(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "seconds": 2.0, "a": 1.0}')
    write(tmp_path, 1, range(2, 3))
    assert [line["step"] for line in lines(tmp_path)] == [1, 2]


def test_what_ends_a_run_is_there_once_even_if_it_ends_twice(tmp_path: Path) -> None:
    for _ in range(2):
        with Writers(tmp_path, 4) as writers:
            writers.scalars(4, {"test/age/mae": 5.0})
    assert [line["step"] for line in lines(tmp_path)] == [4]


def test_an_evaluation_that_will_be_made_again_is_taken_back(tmp_path: Path) -> None:
    for evaluated in (True, False):
        with Writers(tmp_path, 4, evaluated=evaluated) as writers:
            writers.scalars(4, {"train/loss": 1.0})
            writers.scalars(4, {"validation/n": 7.0})
    assert [sorted(line)[2] for line in lines(tmp_path)] == ["train/loss", "train/loss", "validation/n"]
    with Writers(tmp_path, 5, evaluated=False):
        pass
    assert len(lines(tmp_path)) == 3  # those of an earlier step stand


def test_time_goes_on_where_it_stopped(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text(
        '{"step": 1, "seconds": 100.0, "a": 1.0}\n{"step": 2, "seconds": 250.0, "a": 1.0}\n'
    )
    with Writers(tmp_path, 1) as writers:
        assert 100.0 <= writers.seconds < 130.0
        writers.scalars(2, {"a": 0.0})
    assert 100.0 <= lines(tmp_path)[-1]["seconds"] < 130.0


def test_without_a_terminal_progress_is_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress(10, 0, 4)
    progress.update(5, 1.0, 5, 0.5)
    progress.line("step 5/10")
    progress.close()
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "step 5/10\n")


def test_on_a_terminal_progress_is_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    progress = Progress(10, 2, 4)
    progress.update(6, 2.0, 4, 0.125)
    progress.line("a line")
    progress.close()
    shown = terminal.getvalue()
    assert "6/10" in shown
    assert "loss 0.125, 8 images/s" in shown
    assert "a line\n" in shown


def test_processes_that_are_not_the_primary_one_write_and_print_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with Writers(None, 4) as writers:
        writers.scalars(5, {"train/loss": 1.0})
        writers.text("recipe", "text")
        writers.image("picture", np.zeros((2, 2, 3), np.uint8), 5)
        writers.flush()
        assert 0 <= writers.seconds < 60
    bar = Progress(8, 4, 16, shown=False)
    bar.line("first steps done")
    bar.update(5, 0.1, 1, 0.5)
    bar.close()
    assert capsys.readouterr() == ("", "")
    assert list(tmp_path.rglob("*")) == []


def test_spent_counts_what_it_is_told_and_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(logging.time, "monotonic", lambda: now)
    spent = TimeBreakdown()
    for what, seconds in (("input", 2.0), ("step", 5.0), ("input", 1.0)):
        with spent.on(what):
            now += seconds
        now += 0.5
    with suppress(ZeroDivisionError), spent.on("checkpoint"):
        now += 4.0
        _ = 1 / 0
    assert spent.seconds == {
        "compilation": 0.0, "input": 3.0, "step": 5.0, "evaluation": 0.0, "checkpoint": 4.0, "idle": 1.5
    }  # fmt: skip


def test_spent_knows_its_kinds() -> None:
    with pytest.raises(KeyError), TimeBreakdown().on("coffee"):
        pass
