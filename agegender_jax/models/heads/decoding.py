"""How a distribution over ordered classes, such as whole years, becomes one number."""

from collections.abc import Callable, Mapping

import numpy as np


def expectation(probability: np.ndarray) -> np.ndarray:
    """Returns the mean age, `[n, years] -> [n]` float32.

    >>> expectation(np.array([[0.5, 0.0, 0.5]])).tolist()
    [1.0]
    """
    return (probability @ np.arange(probability.shape[-1], dtype=np.float64)).astype(np.float32)


def median(probability: np.ndarray) -> np.ndarray:
    """Returns the age below which half of the probability lies, `[n, years] -> [n]` float32.

    >>> median(np.array([[0.25, 0.5, 0.25], [0.0, 0.0, 1.0]])).tolist()
    [1.0, 2.0]
    """
    return quantile(probability, 0.5).astype(np.float32)


def quantile(probability: np.ndarray, share: float) -> np.ndarray:
    """Returns the age below which a share of the probability lies, `[n, years] -> [n]` float64.

    Year k is taken to spread evenly over [k - 1/2, k + 1/2], so the age is continuous.

    >>> quantile(np.array([[0.25, 0.5, 0.25]]), 0.75).tolist()
    [1.5]
    """
    cumulative = _cumulative(probability)
    year = (cumulative < share).sum(-1)
    rows = np.arange(len(probability))
    mass = np.diff(cumulative, axis=-1, prepend=0.0)[rows, year]
    below = cumulative[rows, year] - mass
    return year - 0.5 + (share - below) / mass


def mode(probability: np.ndarray) -> np.ndarray:
    """Returns the likeliest age, `[n, years] -> [n]` float32; of equal ones the lowest.

    >>> mode(np.array([[0.2, 0.5, 0.3]])).tolist()
    [1.0]
    """
    return probability.argmax(-1).astype(np.float32)


def rank(probability: np.ndarray) -> np.ndarray:
    """Returns the number of the k with P(age > k) > 1/2, `[n, years] -> [n]` float32, as the ordinal losses do.

    >>> rank(np.array([[0.25, 0.5, 0.25], [0.5, 0.5, 0.0]])).tolist()
    [1.0, 0.0]
    """
    return (_cumulative(probability) < 0.5).sum(-1).astype(np.float32)


def _cumulative(probability: np.ndarray) -> np.ndarray:
    cumulative = np.cumsum(probability, axis=-1, dtype=np.float64)
    return cumulative / cumulative[..., -1:]


DECODINGS: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "median": median,
    "expectation": expectation,
    "mode": mode,
    "rank": rank,
}
"""How a distribution over years becomes one number, by `heads.age.decoding`."""
