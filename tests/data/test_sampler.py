"""Batch order: nothing lost, nothing dependent on where one starts, and the same for ever."""

import numpy as np
import pytest

from agegender_jax.data.sampler import BatchSampler


def test_every_epoch_is_a_permutation_and_nothing_is_dropped() -> None:
    rows = np.array([3, 7, 8, 20, 41, 42, 99])
    stream = BatchSampler(rows, batch_size=3, seed=5).batches(0, 14)  # 42 rows are six epochs of 7
    assert (stream.shape, stream.dtype) == ((14, 3), np.int32)
    epochs = stream.reshape(6, 7)
    for epoch in epochs:
        np.testing.assert_array_equal(np.sort(epoch), rows)
    assert len({tuple(epoch) for epoch in epochs.tolist()}) == 6  # each in an order of its own
    assert (BatchSampler(rows, batch_size=3, seed=6).batches(0, 14) != stream).any()


@pytest.mark.parametrize("batch_size", [1, 4, 7, 25])  # the last is more than three epochs in one batch
def test_random_access_equals_sequential(batch_size: int) -> None:
    whole = BatchSampler(np.arange(7), batch_size, seed=1).batches(0, 20)
    order = BatchSampler(np.arange(7), batch_size, seed=1)
    for start, steps in [(13, 4), (0, 2), (19, 1), (2, 11), (5, 5)]:
        np.testing.assert_array_equal(order.batches(start, steps), whole[start : start + steps])


def test_order_never_changes() -> None:
    # The first six raw 64-bit words of NumPy 2.4's Philox under SeedSequence([3, 0]) begin, in units of 1e18,
    # 0.8, 2.4, 3.9, 17.740, 17.713, 13.4; under SeedSequence([3, 1]) 15.8, 16.6, 17.1, 12.7, 17.2, 2.1.
    rows = BatchSampler(np.arange(6), batch_size=4, seed=3).batches(0, 3)
    assert rows.tolist() == [[0, 1, 2, 5], [4, 3, 5, 3], [0, 1, 2, 4]]


def test_order_follows_the_rows_given() -> None:
    positions = BatchSampler(np.arange(5), 5, seed=2).batches(0, 3)
    rows = np.array([10, 30, 20, 50, 40])
    np.testing.assert_array_equal(BatchSampler(rows, 5, seed=2).batches(0, 3), rows[positions])


def test_an_epoch_is_shuffled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    order, shuffled = BatchSampler(np.arange(1000), 10, seed=0), []
    epoch = BatchSampler._epoch
    monkeypatch.setattr(BatchSampler, "_epoch", lambda self, n: (shuffled.append(n), epoch(self, n))[1])
    for step in range(0, 200, 20):
        order.batches(step, 20)
    assert shuffled == [0, 1]
    with pytest.raises(ValueError, match="row"):
        BatchSampler(np.array([], np.int32), 4, seed=0)
