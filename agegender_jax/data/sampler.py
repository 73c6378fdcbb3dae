"""Which examples make which batch: a pure function of (seed, step)."""

import numpy as np

_KEPT = 2  # epochs whose order is remembered: a stretch of steps may begin in one and end in the next


class BatchSampler:
    """An endless stream of shuffled epochs, cut into batches of equal size.

    Every example comes exactly once in each epoch and nothing is dropped: where an epoch does not fill its last
    batch, the next epoch begins in it. Any stretch of steps can be asked for at any time and by any thread, so a
    resumed run needs nothing but its step.

    >>> order = BatchSampler(np.arange(5), batch_size=2, seed=0)
    >>> sorted(order.batches(0, 5).ravel().tolist())
    [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    >>> bool((order.batches(0, 5)[3:] == order.batches(3, 2)).all())
    True
    """

    def __init__(self, rows: np.ndarray, batch_size: int, seed: int) -> None:
        if not len(rows):
            raise ValueError("a stream of batches needs at least one row")
        self._rows, self._batch_size, self._seed = np.asarray(rows, np.int32), batch_size, seed
        self._epochs: dict[int, np.ndarray] = {}

    def batches(self, start: int, steps: int) -> np.ndarray:
        """Returns the rows of steps `start` to `start + steps - 1`, int32 `[steps, batch_size]`."""
        n = len(self._rows)
        position = np.arange(start * self._batch_size, (start + steps) * self._batch_size)
        epochs = range(position[0] // n, position[-1] // n + 1)
        known = self._epochs  # read once and replaced whole, for threads ask side by side
        needed = {epoch: known[epoch] if epoch in known else self._epoch(epoch) for epoch in epochs}
        others = {epoch: order for epoch, order in known.items() if epoch not in needed}
        self._epochs = dict([*others.items(), *needed.items()][-_KEPT:])
        stream = np.concatenate(list(needed.values()))
        return stream[position - epochs[0] * n].reshape(steps, self._batch_size)

    def _epoch(self, epoch: int) -> np.ndarray:
        # Raw bits and a sort: NumPy keeps the bits of a bit generator stable across its versions, not `permutation`.
        bits = np.random.Philox(np.random.SeedSequence([self._seed, epoch])).random_raw(len(self._rows))
        return self._rows[np.argsort(bits, kind="stable")]
