"""Calibration of the probabilities of classes and of the intervals of ages, and what abstaining is worth.

The confidence of a prediction is the probability that the head gave it. An age's distribution is over the whole years
0 to 100, of which year k spreads evenly over [k - 1/2, k + 1/2], as `heads.quantile` has it.
"""

from collections.abc import Mapping

import numpy as np

from agegender_jax.models.heads.decoding import quantile

BINS = 15
LEVELS = (0.5, 0.68, 0.8, 0.9, 0.95)
"""Levels of central intervals of ages."""

COVERAGES = (1.0, 0.95, 0.9, 0.8, 0.7, 0.5)
"""Shares of the examples that are predicted where a model may abstain."""

TEMPERATURES = (0.05, 20.0)
"""Bounds of a fitted temperature."""

_TINY = float(np.finfo(np.float32).tiny)  # where a probability is 0 in float32


def reliability(confidence: np.ndarray, correct: np.ndarray, bins: int = BINS) -> list[dict[str, float]]:
    """Computes the reliability curve: bins of as many examples each, least confident first.

    Bins of equal mass, not equal width, so that none is of a handful of examples (Nguyen & O'Connor 2015). Equal
    confidences stay together, so that the order of rows says nothing.

    `confidence`, float `[n]`, and `correct`, bool `[n]`, are of each prediction. There are at most so many `bins`;
    one that ties leave empty is left out.

    Returns:
      `confidence` and `accuracy`, means over a bin, and `n`.

    >>> reliability(np.array([0.6, 0.8, 0.9, 0.9]), np.array([True, False, True, True]), bins=2)
    [{'confidence': 0.7, 'accuracy': 0.5, 'n': 2}, {'confidence': 0.9, 'accuracy': 1.0, 'n': 2}]
    """
    confidence = confidence.astype(np.float64)
    place = np.searchsorted(np.sort(confidence), confidence, side="left") * bins // max(len(confidence), 1)
    return [
        {"confidence": float(confidence[of].mean()), "accuracy": float(correct[of].mean()), "n": int(of.sum())}
        for of in (place == each for each in np.unique(place))
    ]


def expected_calibration_error(curve: list[dict[str, float]]) -> float:
    """Computes ECE: mean |accuracy - confidence| of bins by their size (Naeini et al. 2015; Guo et al. 2017, eq. 3)."""
    count = sum(each["n"] for each in curve)
    off = sum(each["n"] * abs(each["accuracy"] - each["confidence"]) for each in curve)
    return off / count if count else float("nan")


def negative_log_likelihood(probability: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Computes -log of the label's probability, `[n, K]` and int `[n]` -> float64 `[n]`; 88 of a probability of 0.

    >>> negative_log_likelihood(np.array([[0.25, 0.75]]), np.array([1])).round(4).tolist()
    [0.2877]
    """
    given = _normal(probability)[np.arange(len(label)), label]
    return -np.log(np.maximum(given, _TINY))


def brier(probability: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Computes the Brier score, float64 `[n]`: squared error summed over all classes, 0 to 2 (Brier 1950).

    Of two classes it is twice what scikit-learn's `brier_score_loss` gives by default.

    >>> brier(np.array([[0.25, 0.75]]), np.array([1])).tolist()
    [0.125]
    """
    off = _normal(probability)
    off[np.arange(len(label)), label] -= 1
    return (off**2).sum(-1)


def fit_temperature(probability: np.ndarray, label: np.ndarray) -> float | None:
    """Fits the temperature of the least negative log-likelihood, `[n, K]` and int `[n]` (Guo et al. 2017, section 4.2).

    Above 1 the head was too sure of itself. It is fitted on validation examples only, never on those reported.

    Returns:
      Of `TEMPERATURES`, an end where nothing between is better; None where there is no example.
    """
    if not len(label):
        return None
    from scipy.optimize import minimize_scalar

    logits = np.log(np.maximum(_normal(probability), _TINY))
    own = logits[np.arange(len(label)), label]

    def loss(log_temperature: float) -> float:
        from scipy.special import logsumexp

        scale = np.exp(-log_temperature)
        return float((logsumexp(scale * logits, axis=-1) - scale * own).mean())

    bounds = tuple(np.log(TEMPERATURES))
    between = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-4}).x
    return float(np.exp(min((*bounds, between), key=loss)))


def at_bound(temperature: float) -> bool:
    """Returns whether a fitted temperature lies at an end of `TEMPERATURES`, so that a better one may lie beyond.

    >>> at_bound(19.99), at_bound(1.5)
    (True, False)
    """
    return bool(np.abs(np.log(temperature) - np.log(TEMPERATURES)).min() < 0.01)


def temper(probability: np.ndarray, temperature: float) -> np.ndarray:
    """Computes distributions at another temperature, float64 `[n, K]`: p^(1/T), normalised.

    Logarithms of probabilities are logits up to a constant, which is all that Guo et al. divide by T. The likeliest
    class stays the likeliest.

    >>> temper(np.array([[0.2, 0.8]]), 0.5).round(4).tolist()
    [[0.0588, 0.9412]]
    """
    logits = np.log(np.maximum(_normal(probability), _TINY)) / temperature
    return _normal(np.exp(logits - logits.max(-1, keepdims=True)))


def interval(probability: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    """Computes central intervals of ages, two float64 `[n]` in years, no age below 0.

    >>> low, high = interval(np.full((1, 101), 1 / 101), 0.5)
    >>> low.round(2).tolist(), high.round(2).tolist()
    ([24.75], [75.25])
    """
    return np.maximum(quantile(probability, (1 - level) / 2), 0), quantile(probability, (1 + level) / 2)


def kept(confidence: np.ndarray, coverages: tuple[float, ...] = COVERAGES) -> Mapping[float, np.ndarray]:
    """Returns the most confident rows, int `[m]`, by share (selective prediction; El-Yaniv & Wiener 2010).

    Of equal confidences, float `[n]`, the first rows are kept; the number of rows is rounded up.

    >>> {share: rows.tolist() for share, rows in kept(np.array([0.5, 0.9, 0.7]), (1.0, 0.5)).items()}
    {1.0: [0, 1, 2], 0.5: [1, 2]}
    """
    order = np.argsort(-confidence, kind="stable")
    count = len(confidence)
    return {share: np.sort(order[: int(np.ceil(round(share * count, 6)))]) for share in coverages}


def _normal(probability: np.ndarray) -> np.ndarray:
    """Returns a float64 copy whose rows sum to one: those of float32 do so almost."""
    exact = np.array(probability, np.float64)
    exact /= exact.sum(-1, keepdims=True)
    return exact
