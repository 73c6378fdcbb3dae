"""Checkpoints: what is saved is what comes back, bit for bit, whatever happens to the newest."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from agegender_jax.checkpoints import Checkpoints, checksum, device_sum, host_sum, read_model
from agegender_jax.errors import UserError
from agegender_jax.mesh import by_batch, make_mesh, replicated
from agegender_jax.train.state import TrainState
from tests.runs import two_devices


def example(seed: int) -> dict[str, Any]:
    """Items with what training states hold: dictionaries keyed by names and numbers, nested tuples, scalars."""
    rng = np.random.default_rng(seed)
    kernel = rng.normal(size=(64, 32)).astype(np.float32)
    kernel.flat[:4] = np.nan, -0.0, np.inf, 1e-40
    items = {
        "model": {"blocks": {0: {"kernel": kernel}, 1: {"bias": rng.normal(size=3).astype(np.float32)}}},
        "training": {
            "opt": ({"mu": rng.normal(size=(64, 32)).astype(np.float32)}, {"count": np.int32(seed)}),
            "half": jnp.asarray(rng.normal(size=5), jnp.bfloat16),
            "flags": np.array([True, False, bool(seed % 2)]),
        },
    }
    return jax.device_put(items, replicated(two_devices()))


def layout(items: Any) -> Any:
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), items)


def assert_same_bits(tree: Any, expected: Any) -> None:
    assert str(jax.tree.structure(tree)) == str(jax.tree.structure(expected))
    for a, b in zip(jax.tree.leaves(tree), jax.tree.leaves(expected), strict=True):
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
        for step, score in ((1, 0.1), (2, 0.9), (3, 0.5)):
            checkpoints.save(step, example(step), score)
    return tmp_path / "checkpoints"


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(bytes(content))


def largest(folder: Path) -> Path:
    return max((path for path in (folder / "ocdbt.process_0" / "d").iterdir()), key=lambda path: path.stat().st_size)


def test_items_come_back_bit_for_bit_in_any_layout(three: Path) -> None:
    items = example(2)
    sharded = layout(items)
    sharded["model"]["blocks"][0]["kernel"] = jax.ShapeDtypeStruct(
        (64, 32), jnp.float32, sharding=by_batch(two_devices())
    )
    with opened(three) as checkpoints:
        assert checkpoints.steps == [1, 2, 3]
        restored = checkpoints.restore(2, layout(items))
        assert_same_bits(restored, items)
        assert set(restored["model"]["blocks"]) == {0, 1}  # numbers, not their names
        assert all(leaf.sharding == replicated(two_devices()) for leaf in jax.tree.leaves(restored))
        restored = checkpoints.restore(2, sharded)
        assert_same_bits(restored, items)
        assert restored["model"]["blocks"][0]["kernel"].sharding == by_batch(two_devices())
        as_saved = checkpoints.restore(2, {"model": None})
    assert as_saved.keys() == {"model"}
    for a, b in zip(jax.tree.leaves(as_saved), jax.tree.leaves(items["model"]), strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


@pytest.mark.parametrize("average", [None, ({"w": 6}, {"mean": 7})])
def test_a_training_state_is_stored_once(average: Any) -> None:
    state = TrainState(step=1, params={"w": 2}, stats={"mean": 3}, opt_state=({"mu": 4}, 5), average=average)  # type: ignore[arg-type]
    items = state.to_items()
    assert items["model"] == state.evaluated
    assert sorted(jax.tree.leaves(items)) == sorted(jax.tree.leaves(state))
    assert TrainState.from_items(items) == state


@pytest.mark.parametrize(
    ("scores", "steps", "best"), [((0.1, 0.8, 0.3, None, 0.2, 0.4), [2, 5, 6], 2), ((None, None, None), [2, 3], 3)]
)
def test_the_newest_and_the_best_are_kept(tmp_path: Path, scores: Any, steps: list[int], best: int) -> None:
    with opened(tmp_path, keep=2) as checkpoints:
        for step, score in enumerate(scores, start=1):
            checkpoints.save(step, {"model": jnp.ones(2)}, score)
            checkpoints.wait()
        assert (checkpoints.steps, checkpoints.best) == (steps, best)
    with opened(tmp_path, keep=2) as checkpoints:
        assert (checkpoints.steps, checkpoints.best) == (steps, best)


def test_a_checkpoint_without_a_score_is_given_one(tmp_path: Path) -> None:
    items = {"model": jnp.ones(2)}
    with opened(tmp_path, keep=1) as checkpoints:
        assert (checkpoints.steps, checkpoints.best, checkpoints.restore_newest({"model": None})) == ([], None, None)
        checkpoints.save(1, items, -5.0)
        checkpoints.save(2, items)
        checkpoints.wait()
        assert (checkpoints.evaluated(1), checkpoints.evaluated(2), checkpoints.best) == (True, False, 1)
        checkpoints.rate(2, 0.7)
        assert (checkpoints.evaluated(2), checkpoints.best) == (True, 2)
        checkpoints.save(3, items, float("nan"))
        checkpoints.wait()
        assert (checkpoints.evaluated(3), checkpoints.best) == (True, 2)
        assert checkpoints.steps == [2, 3]  # 1 is neither the newest nor the best any more
    with opened(tmp_path, keep=1) as checkpoints:
        assert (checkpoints.evaluated(2), checkpoints.evaluated(3), checkpoints.best) == (True, True, 2)
        assert_same_bits(checkpoints.restore(2, layout(items)), items)


def test_a_state_that_is_donated_right_after_saving_is_saved_as_it_was(tmp_path: Path) -> None:
    everywhere = replicated(two_devices())
    update = jax.jit(lambda tree: jax.tree.map(lambda x: x * 1.5 + 1, tree), donate_argnums=0)
    state = jax.device_put({"a": np.ones((256, 256), np.float32), "b": np.arange(64, dtype=np.float32)}, everywhere)
    state = update(state)
    copies = {}
    with opened(tmp_path, keep=6) as checkpoints:
        for step in range(1, 7):
            copies[step] = jax.tree.map(lambda x: np.array(x, copy=True), state)
            checkpoints.save(step, {"training": state})
            for _ in range(4):
                state = update(state)
        jax.block_until_ready(state)
        checkpoints.wait()
        for step, expected in copies.items():
            assert_same_bits(checkpoints.restore(step, layout({"training": state})), {"training": expected})


DAMAGES: dict[str, Callable[[Path], None]] = {
    "data cut short": lambda step: truncate(largest(step / "training")),
    "data with a flipped bit": lambda step: flip(largest(step / "training")),
    "model with a flipped bit": lambda step: flip(largest(step / "model")),
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
        restored = checkpoints.restore_newest(layout(example(0)))
        assert restored[0] == 2
        assert_same_bits(restored[1], example(2))
        assert any("step 3" in text for text in warnings)
        assert checkpoints.steps == [1, 2]
        for seed in (4, 3):  # training comes by again, twice
            checkpoints.save(3, example(seed))
            checkpoints.wait()
        assert_same_bits(checkpoints.restore(3, layout(example(3))), example(3))
    assert (three.parent / "damaged_checkpoints" / "3").is_dir()


def test_a_checkpoint_that_another_process_cannot_read_is_restored_by_none(
    three: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else one would go on from another step than the others."""
    verdicts = iter([True, False])  # all could read their shards; one of them computed another checksum
    monkeypatch.setattr("agegender_jax.checkpoints.all_agree", lambda good: good and next(verdicts))
    with opened(three) as checkpoints, pytest.raises(UserError, match="step 2"):
        checkpoints.restore(2, {"model": None})


def test_every_item_is_summed_even_after_a_damaged_one(three: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The processes exchange the sums of their shards: one that leaves out an item keeps the others waiting."""
    summed: list[object] = []
    monkeypatch.setattr("agegender_jax.checkpoints.checksum", lambda tree: summed.append(tree) or -1)
    with opened(three) as checkpoints, pytest.raises(UserError, match="step 2"):
        checkpoints.restore(2, layout(example(2)))
    assert len(summed) == 2


def test_where_none_can_be_read_all_stay(three: Path, warnings: list[str]) -> None:
    for step in ("1", "2", "3"):
        truncate(largest(three / step / "training"))
    for _ in range(2):  # the second start must not begin anew
        with opened(three) as checkpoints:
            with pytest.raises(UserError, match=r"\[1, 2, 3\]"):
                checkpoints.restore_newest(layout(example(0)))
            assert checkpoints.steps == [1, 2, 3]
    assert len(warnings) == 6


def test_reading_the_model_reads_and_writes_nothing_else(three: Path) -> None:
    flip(largest(three / "2" / "training"))
    before = {path: path.stat().st_mtime_ns for path in three.rglob("*")}
    model = example(2)["model"]
    assert_same_bits(read_model(three, 2, layout(model)), model)
    assert before == {path: path.stat().st_mtime_ns for path in three.rglob("*")}


def test_a_damaged_or_missing_model_is_named_in_one_sentence(three: Path) -> None:
    flip(largest(three / "2" / "model"))
    model = layout(example(2)["model"])
    with opened(three) as checkpoints:
        for step in (2, 4):
            for read in (
                lambda step: checkpoints.restore(step, {"model": model}),
                lambda step: read_model(three, step, model),
            ):
                with pytest.raises(UserError, match=f"step {step}") as caught:
                    read(step)
                assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "damage",
    [truncate, lambda path: path.write_text(path.read_text().replace("score", "scare")), lambda p: p.write_text("[]")],
)
def test_a_damaged_score_does_not_shut_out_the_checkpoints(
    three: Path, warnings: list[str], damage: Callable[[Path], None]
) -> None:
    damage(three / "2" / "metrics" / "metrics")
    with opened(three) as checkpoints:
        assert (checkpoints.steps, checkpoints.best) == ([1, 2, 3], 3)  # 2, the best, is now not evaluated
        assert not checkpoints.evaluated(2)
    assert any("2/metrics" in text for text in warnings)


def test_what_an_interrupted_save_left_is_no_checkpoint_and_is_removed(three: Path) -> None:
    (three / "4.orbax-checkpoint-tmp" / "training").mkdir(parents=True)
    (three / "4.orbax-checkpoint-tmp" / "training" / "half").write_bytes(b"half")
    with opened(three) as checkpoints:
        assert checkpoints.steps == [1, 2, 3]
        restored = checkpoints.restore_newest(layout(example(0)))
        assert restored[0] == 3
    assert not (three / "4.orbax-checkpoint-tmp").exists()


@pytest.mark.parametrize("dtype", [np.float32, np.int32, np.float16, np.uint8, np.float64, jnp.bfloat16])
def test_the_checksum_detects_every_flipped_bit_and_swapped_elements(dtype: Any) -> None:
    values = np.random.default_rng(0).normal(size=6).astype(dtype)
    before = checksum(values)
    for byte in range(values.nbytes):
        for bit in (0, 7):
            content = bytearray(values.tobytes())
            content[byte] ^= 1 << bit
            assert checksum(np.frombuffer(bytes(content), values.dtype)) != before
    assert checksum([values[[1, 0, 2, 3, 4, 5]]]) != before or values[0] == values[1]


SHARDED = [
    ((), PartitionSpec()),
    ((16,), PartitionSpec("data")),
    ((8, 6), PartitionSpec("data", "model")),
    ((3, 5, 8), PartitionSpec(None, None, ("data", "model"))),
    ((4, 3), PartitionSpec("data")),
    ((4, 3), PartitionSpec()),
]


@pytest.mark.parametrize("dtype", [np.float32, np.int8, np.bool_, jnp.bfloat16])
def test_the_checksum_of_a_sharded_array_gathers_nothing(dtype: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the devices and on the host it is the sum over the whole array, by its definition."""
    mesh = make_mesh(model=2)
    for shape, spec in SHARDED:
        values = np.asarray(np.random.default_rng(0).normal(scale=50, size=shape)).astype(dtype)
        words = np.frombuffer(values.tobytes(), f"u{values.dtype.itemsize}")
        expected = sum(int(word) * (2 * position + 1) for position, word in enumerate(words)) % 2**32
        array = jax.device_put(values, NamedSharding(mesh, spec))
        shards: list[Any] = []
        monkeypatch.setattr(
            "agegender_jax.checkpoints.host_sum",
            lambda data, *rest, shards=shards: shards.append(data.shape) or host_sum(data, *rest),
        )
        assert checksum([array]) == expected
        assert set(shards) == {array.addressable_shards[0].data.shape}
        assert int(device_sum(array)) == expected
        assert device_sum(array).is_fully_replicated
        assert "all-gather" not in device_sum.lower(array).compile().as_text()
