"""Checkpoints: what is saved is what comes back, bit for bit, whatever happens to the newest."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import logging

from agegender_jax import checkpoints as module
from agegender_jax.checkpoints import Checkpoints, _checksum, read_model
from agegender_jax.errors import UserError
from agegender_jax.mesh import by_batch, make_mesh, replicated


def example(seed: int) -> dict[str, Any]:
    """A state with what training states hold: dictionaries keyed by names and numbers, nested tuples, scalars."""
    rng = np.random.default_rng(seed)
    kernel = rng.normal(size=(64, 32)).astype(np.float32)
    kernel.flat[:4] = np.nan, -0.0, np.inf, 1e-40
    tree = {
        "params": {"blocks": {0: {"kernel": kernel}, 1: {"bias": rng.normal(size=3).astype(np.float32)}}},
        "opt": ({"mu": rng.normal(size=(64, 32)).astype(np.float32)}, {"count": np.int32(seed)}),
        "half": jnp.asarray(rng.normal(size=5), jnp.bfloat16),
        "flags": np.array([True, False, bool(seed % 2)]),
    }
    return jax.device_put(tree, replicated(make_mesh()))


def abstract(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), tree)


def assert_same_bits(found: Any, expected: Any) -> None:
    assert str(jax.tree.structure(found)) == str(jax.tree.structure(expected))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


@contextmanager
def opened(directory: Path, keep: int = 3) -> Iterator[Checkpoints]:
    checkpoints = Checkpoints(directory, keep)
    try:
        yield checkpoints
    finally:
        checkpoints.close()


@pytest.fixture
def three(tmp_path: Path) -> Path:
    """Checkpoints of the steps 1, 2 and 3, holding `example(step)`; the second is the best."""
    with opened(tmp_path / "checkpoints") as checkpoints:
        for step, figure in ((1, 0.1), (2, 0.9), (3, 0.5)):
            state = example(step)
            checkpoints.save(step, state, state["params"], figure)
    return tmp_path / "checkpoints"


@pytest.fixture
def warnings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    said: list[str] = []
    monkeypatch.setattr(logging, "warning", lambda text, *args: said.append(text % args))
    return said


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(bytes(content))


def largest(folder: Path) -> Path:
    return max((path for path in (folder / "ocdbt.process_0" / "d").iterdir()), key=lambda path: path.stat().st_size)


def test_both_items_come_back_bit_for_bit(three: Path) -> None:
    state = example(2)
    with opened(three) as checkpoints:
        assert checkpoints.steps == [1, 2, 3]
        found = checkpoints.restore(2, "training", abstract(state))
        assert_same_bits(found, state)
        assert set(found["params"]["blocks"]) == {0, 1}  # numbers, not their names
        assert_same_bits(checkpoints.restore(2, "model", abstract(state["params"])), state["params"])
        assert all(leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(found))
        assert all(len(leaf.sharding.device_set) == 8 for leaf in jax.tree.leaves(found))


def test_arrays_may_be_laid_out_otherwise_than_they_were_saved(three: Path) -> None:
    state, split = example(1), by_batch(make_mesh())
    layout = abstract(state)
    kernel = layout["params"]["blocks"][0]
    kernel["kernel"] = jax.ShapeDtypeStruct((64, 32), jnp.float32, sharding=split)
    with opened(three) as checkpoints:
        found = checkpoints.restore(1, "training", layout)
    assert_same_bits(found, state)
    assert found["params"]["blocks"][0]["kernel"].sharding == split


def test_without_a_layout_the_arrays_come_back_as_they_were_saved(three: Path) -> None:
    state = example(2)
    with opened(three) as checkpoints:
        found = checkpoints.restore(2, "model", None)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(state["params"]), strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def test_the_newest_and_the_best_are_kept(tmp_path: Path) -> None:
    state = example(0)
    with opened(tmp_path, keep=2) as checkpoints:
        for step, figure in enumerate((0.1, 0.8, 0.3, None, 0.2, 0.4), start=1):
            checkpoints.save(step, state, state["params"], figure)
            checkpoints.wait()
        assert checkpoints.steps == [2, 5, 6]
        assert checkpoints.best == 2
    with opened(tmp_path, keep=2) as checkpoints:
        assert (checkpoints.steps, checkpoints.best) == ([2, 5, 6], 2)


def test_one_saved_without_a_figure_is_given_one(tmp_path: Path) -> None:
    state = example(0)
    with opened(tmp_path, keep=1) as checkpoints:
        checkpoints.save(1, state, state["params"], 0.5)
        checkpoints.save(2, state, state["params"], None)
        checkpoints.wait()
        assert (checkpoints.evaluated(1), checkpoints.evaluated(2), checkpoints.best) == (True, False, 1)
        checkpoints.rate(2, 0.7)
        assert (checkpoints.evaluated(2), checkpoints.best) == (True, 2)
        checkpoints.save(3, state, state["params"], float("nan"))
        checkpoints.wait()
        assert (checkpoints.evaluated(3), checkpoints.best) == (True, 2)
        assert checkpoints.steps == [2, 3]  # 1 is neither the newest nor the best any more
    with opened(tmp_path, keep=1) as checkpoints:
        assert (checkpoints.evaluated(2), checkpoints.evaluated(3), checkpoints.best) == (True, True, 2)
        assert_same_bits(checkpoints.restore(2, "training", abstract(state)), state)


def test_the_best_without_figures_is_the_newest(tmp_path: Path) -> None:
    state = {"w": jnp.ones(2)}
    with opened(tmp_path) as checkpoints:
        assert checkpoints.best is None
        checkpoints.save(1, state, state, -5.0)
        checkpoints.save(2, state, state, float("nan"))
        checkpoints.save(3, state, state, None)
        checkpoints.wait()
        assert checkpoints.best == 1  # any figure is better than none, and NaN is none
    with opened(tmp_path / "other") as checkpoints:
        checkpoints.save(1, state, state)
        checkpoints.save(2, state, state)
        checkpoints.wait()
        assert checkpoints.best == 2


def test_a_step_may_be_saved_again(tmp_path: Path) -> None:
    with opened(tmp_path) as checkpoints:
        for seed in (1, 2):
            checkpoints.save(7, example(seed), example(seed)["params"])
            checkpoints.wait()
        assert_same_bits(checkpoints.restore(7, "training", abstract(example(2))), example(2))


def test_a_state_that_is_donated_right_after_saving_is_saved_as_it_was(tmp_path: Path) -> None:
    everywhere = replicated(make_mesh())
    update = jax.jit(lambda tree: jax.tree.map(lambda x: x * 1.5 + 1, tree), donate_argnums=0)
    state = jax.device_put({"a": np.ones((256, 256), np.float32), "b": np.arange(64, dtype=np.float32)}, everywhere)
    state = update(state)
    layout = abstract(state)
    copies = {}
    with opened(tmp_path, keep=6) as checkpoints:
        for step in range(1, 7):
            copies[step] = jax.tree.map(lambda x: np.array(x, copy=True), state)
            checkpoints.save(step, state, {"a": state["a"]})
            for _ in range(4):
                state = update(state)
        jax.block_until_ready(state)
        checkpoints.wait()
        for step, expected in copies.items():
            assert_same_bits(checkpoints.restore(step, "training", layout), expected)
            assert_same_bits(checkpoints.restore(step, "model", {"a": layout["a"]}), {"a": expected["a"]})


def test_nothing_saved_is_nothing_restored(tmp_path: Path) -> None:
    with opened(tmp_path / "checkpoints") as checkpoints:
        assert checkpoints.steps == []
        assert checkpoints.restore_newest("training", abstract(example(0))) is None


DAMAGES: dict[str, Callable[[Path], None]] = {
    "data cut short": lambda step: truncate(largest(step / "training")),
    "data with a flipped bit": lambda step: flip(largest(step / "training")),
    "data gone": lambda step: largest(step / "training").unlink(),
    "manifest cut short": lambda step: truncate(step / "training" / "manifest.ocdbt"),
    "structure gone": lambda step: (step / "training" / "_METADATA").unlink(),
    "checksums gone": lambda step: (step / "checksums" / "manifest.ocdbt").unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_newest_gives_way_to_the_one_before(
    three: Path, warnings: list[str], damage: Callable[[Path], None]
) -> None:
    damage(three / "3")
    with opened(three) as checkpoints:
        restored = checkpoints.restore_newest("training", abstract(example(0)))
        assert restored is not None
        assert restored[0] == 2
        assert_same_bits(restored[1], example(2))
        assert any("step 3" in text for text in warnings)
        assert checkpoints.steps == [1, 2]
        state = example(3)
        checkpoints.save(3, state, state["params"])  # training comes by again
        checkpoints.wait()
        assert_same_bits(checkpoints.restore(3, "training", abstract(state)), state)
    assert (three.parent / "damaged_checkpoints" / "3").is_dir()


def test_what_another_process_read_damaged_nobody_restores(three: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else one would go on from another step than the others."""
    verdicts = iter([True, False])  # all could read their part; one found another checksum
    monkeypatch.setattr("agegender_jax.checkpoints.all_agree", lambda good: good and next(verdicts))
    with opened(three) as checkpoints, pytest.raises(UserError, match="its arrays are not those that were saved"):
        checkpoints.restore(2, "model", None)


def test_where_none_can_be_read_all_stay_and_it_is_said_each_time(three: Path, warnings: list[str]) -> None:
    for step in ("1", "2", "3"):
        truncate(largest(three / step / "training"))
    for _ in range(2):  # the second start must not begin anew in silence
        with opened(three) as checkpoints:
            with pytest.raises(UserError, match=r"none of the checkpoints of steps \[1, 2, 3\] can be read"):
                checkpoints.restore_newest("training", abstract(example(0)))
            assert checkpoints.steps == [1, 2, 3]
    assert len(warnings) == 6


def test_reading_the_model_writes_nothing_and_finds_damage(three: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in three.rglob("*")}
    state = example(2)["params"]
    assert_same_bits(read_model(three, 2, abstract(state)), state)
    assert before == {path: path.stat().st_mtime_ns for path in three.rglob("*")}
    flip(largest(three / "2" / "model"))
    for step in (2, 4):
        with pytest.raises(UserError, match=f"checkpoint of step {step}"):
            read_model(three, step, abstract(state))


def test_restoring_a_damaged_or_absent_step_is_one_sentence(three: Path) -> None:
    flip(largest(three / "2" / "model"))
    with opened(three) as checkpoints:
        for step in (2, 4):
            with pytest.raises(UserError, match=f"checkpoint of step {step} cannot be read") as caught:
                checkpoints.restore(step, "model", abstract(example(2)["params"]))
            assert "\n" not in str(caught.value)
        assert_same_bits(checkpoints.restore(2, "training", abstract(example(2))), example(2))


def rename(path: Path) -> None:
    path.write_text(path.read_text().replace("figure", "fagure"))


@pytest.mark.parametrize("damage", [truncate, rename, lambda path: path.write_text("[]")])
def test_a_damaged_figure_does_not_shut_out_the_checkpoints(
    three: Path, warnings: list[str], damage: Callable[[Path], None]
) -> None:
    damage(three / "2" / "metrics" / "metrics")
    with opened(three) as checkpoints:
        assert checkpoints.steps == [1, 2, 3]
        assert checkpoints.best == 3  # 2, the best, is now not evaluated
        assert not checkpoints.evaluated(2)
    assert any("not evaluated" in text for text in warnings)


def test_of_one_that_was_not_evaluated_a_damaged_word_changes_nothing(tmp_path: Path) -> None:
    with opened(tmp_path) as checkpoints:
        checkpoints.save(1, example(0), example(0)["params"], None)
    flip(tmp_path / "1" / "metrics" / "metrics")  # in the middle
    with opened(tmp_path) as checkpoints:
        assert not checkpoints.evaluated(1)


def test_a_figure_stands_without_what_else_is_said_of_it(three: Path, warnings: list[str]) -> None:
    """Earlier versions wrote the figure alone."""
    path = three / "2" / "metrics" / "metrics"
    path.write_text(json.dumps({"figure": json.loads(path.read_text())["figure"]}))
    with opened(three) as checkpoints:
        assert (checkpoints.best, checkpoints.evaluated(2)) == (2, True)
    assert not warnings


def test_what_an_interrupted_save_left_is_no_checkpoint_and_is_removed(three: Path) -> None:
    (three / "4.orbax-checkpoint-tmp" / "training").mkdir(parents=True)
    (three / "4.orbax-checkpoint-tmp" / "training" / "half").write_bytes(b"half")
    with opened(three) as checkpoints:
        assert checkpoints.steps == [1, 2, 3]
        restored = checkpoints.restore_newest("training", abstract(example(0)))
        assert restored is not None
        assert restored[0] == 3
    assert not (three / "4.orbax-checkpoint-tmp").exists()


@pytest.mark.parametrize("dtype", [np.float32, np.int32, np.float16, np.uint8, np.float64, jnp.bfloat16])
def test_the_checksum_sees_every_flipped_bit(dtype: Any) -> None:
    values = np.random.default_rng(0).normal(size=6).astype(dtype)
    before = int(_checksum(values))
    for byte in range(values.nbytes):
        for bit in (0, 7):
            content = bytearray(values.tobytes())
            content[byte] ^= 1 << bit
            assert int(_checksum(np.frombuffer(bytes(content), values.dtype))) != before


def test_the_checksum_of_a_split_array_is_that_of_the_whole_one_and_gathers_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mesh = make_mesh()
    values = np.random.default_rng(0).normal(size=(64, 3)).astype(jnp.bfloat16)
    whole = int(_checksum([values, values]))
    shapes = []
    monkeypatch.setattr(module, "_sum", lambda array, add=module._sum: shapes.append(array.shape) or add(array))
    split, copied = jax.device_put(values, by_batch(mesh)), jax.device_put(values, replicated(mesh))
    assert int(_checksum([split, copied])) == whole
    assert shapes == [(8, 3)] * 8 + [(64, 3)]
