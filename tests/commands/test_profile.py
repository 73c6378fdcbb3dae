"""`agegender profile`."""

import gzip
from pathlib import Path

import pytest

from agegender_jax import cli
from agegender_jax.train import loop

QUICKSTART = str(Path(__file__).parents[2] / "configs" / "quickstart.py")
SMALL = ["dataset.synthetic=96", "dataset.image_size=32", "train.batch_size=16", "train.steps_per_dispatch=1"]


def _command(tmp_path: Path, *arguments: str, config: str = QUICKSTART, data_dir: Path | None = None) -> int:
    given = ["--set", *SMALL]
    return cli.main([
        "profile", config, *given, "--out", str(tmp_path / "out"), "--data_dir", str(data_dir or tmp_path), *arguments
    ])  # fmt: skip


@pytest.mark.slow
def test_a_profile_says_where_the_time_went(
    tmp_path: Path, data_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    summaries = []
    train = loop.train_recipe
    monkeypatch.setattr(loop, "train_recipe", lambda *a, **k: summaries.append(train(*a, **k)) or summaries[-1])
    assert _command(tmp_path, "--dispatches=2", data_dir=data_dir) == 0
    (summary,) = summaries
    assert summary.steps == 2
    assert all(seconds > 0 for seconds in summary.seconds_of.values())
    printed, error = capsys.readouterr()
    assert "gender/accuracy" not in printed + error  # nothing was learned
    for name in ("compilation", "input", "step", "evaluation", "checkpoint", "idle"):
        assert f"\n{name}" in f"\n{printed}"
    assert list((tmp_path / "out").glob("plugins/profile/*/*.xplane.pb"))
    (trace,) = (tmp_path / "out").glob("plugins/profile/*/perfetto_trace.json.gz")
    assert f"{trace}: the trace of 1 dispatch." in printed
    with gzip.open(trace, "rt") as file:
        assert "jit_train_steps" in file.read()  # the second dispatch
    assert [path.name for path in tmp_path.iterdir()] == ["out"]  # the run itself is gone


@pytest.mark.parametrize(("arguments", "key"), [
    (["--set=train.batch_size=none"], "batch_size"),
    (["--set=train.no_such_key=1"], "no_such_key"),
])  # fmt: skip
def test_a_change_that_is_none_is_a_sentence(
    arguments: list[str], key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _command(tmp_path, *arguments) == 2
    error = capsys.readouterr().err
    assert key in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_recipe_that_is_not_there_is_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _command(tmp_path, config="configs/nothing.py") == 2
    assert "configs/nothing.py" in capsys.readouterr().err
    command = ["profile", "configs/nothing.py", "--out", str(tmp_path / "out"), "--data_dir", str(tmp_path)]
    assert cli.main(command) == 2  # also where nothing is changed in it
    assert "configs/nothing.py" in capsys.readouterr().err


def test_nothing_is_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    assert _command(tmp_path) == 2
    assert "--out" in capsys.readouterr().err
