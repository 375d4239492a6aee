"""How far probabilities of two classes can be trusted: temperature, reliability, errors, ranking.

A logit is the log odds of class 1, log p / (1 - p). With two classes everything is said of the probability of
class 1; Guo et al. (2017) take that of the class that was chosen, which is its mirror image below 1/2.
"""

# N objects, M bins

import numpy as np

TEMPERATURE_RANGE = (0.01, 100.0)
"""Where the likelihood has no optimum (classes apart, or logits of no use) the nearer end is returned."""
BISECTIONS = 60
"""Halvings of the range of log temperature: beyond the precision of float64."""


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Probability of class 1 [N]: 1 / (1 + exp(-logit)), without overflow. NaN stays NaN."""
    return 0.5 * (1 + np.tanh(0.5 * np.asarray(logits, np.float64)))


def negative_log_likelihood(logits: np.ndarray, outcome: np.ndarray) -> float:
    """Mean of -log p(outcome) [nats]: log(1 + exp(-logit)) for class 1, log(1 + exp(logit)) for class 0."""
    signed = np.where(outcome == 1, logits, -np.asarray(logits, np.float64))
    return float(np.logaddexp(0, -signed).mean())


def fit_temperature(logits: np.ndarray, outcome: np.ndarray) -> float:
    """Find the temperature T whose probabilities sigmoid(logit / T) are the most likely.

    The negative log likelihood is convex in 1 / T, so its slope, the mean of (sigmoid(logit / T) - outcome)
    logit, changes its sign once: found by bisection, which no start can lead astray.

    Parameters
    ----------
    logits
        [N] finite.
    outcome
        [N] 0 or 1, both of them present.

    Returns
    -------
    float
        Within `TEMPERATURE_RANGE`. Above 1 the logits were too certain.

    Raises
    ------
    ValueError
        If there is no object, a class is missing, or an outcome is neither 0 nor 1.

    References
    ----------
    Guo et al. (2017), arXiv:1706.04599, Sect. 4.2, Eq. 9: temperature scaling.
    """
    logits, outcome = np.asarray(logits, np.float64), np.asarray(outcome)
    _check_outcome(outcome)
    cold, hot = np.log(TEMPERATURE_RANGE)
    for _ in range(BISECTIONS):
        middle = 0.5 * (cold + hot)
        slope = ((sigmoid(logits / np.exp(middle)) - outcome) * logits).mean()
        # A positive slope in 1 / T: the likelihood grows with T.
        cold, hot = (middle, hot) if slope > 0 else (cold, middle)
    return float(np.exp(0.5 * (cold + hot)))


def halves(key: np.ndarray, outcome: np.ndarray) -> np.ndarray:
    """Divide objects in two, by their keys alone: each half has as many of either class, or one more.

    Parameters
    ----------
    key
        [N] hash of each object. In each class every second one, ordered by it, is in the same half.
    outcome
        [N] 0 or 1.

    Returns
    -------
    numpy.ndarray
        [N] 0 or 1.

    Raises
    ------
    ValueError
        If a class has fewer than two objects.
    """
    _check_outcome(outcome)
    half = np.empty(len(outcome), np.int8)
    for value in (0, 1):
        mine = np.flatnonzero(outcome == value)
        if len(mine) < 2:
            raise ValueError(f"class {value} has {len(mine)} object, must have at least 2: one for each half")
        half[mine[np.argsort(key[mine], kind="stable")]] = np.arange(len(mine)) % 2
    return half


def cross_fitted(logits: np.ndarray, outcome: np.ndarray, half: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities [N] at the temperature of the other half, and the temperatures [2] of the halves."""
    temperatures = np.array([fit_temperature(logits[half == one], outcome[half == one]) for one in (0, 1)])
    return sigmoid(logits / temperatures[1 - half]), temperatures


def reliability(probability: np.ndarray, outcome: np.ndarray, num_bins: int = 15) -> np.ndarray:
    """Count objects, and compare predicted with observed, in bins of equal width of the probability.

    Parameters
    ----------
    probability
        [N] of class 1, in [0, 1]; bins are (low, high], and 0 is in the first.
    outcome
        [N] 0 or 1.
    num_bins
        M.

    Returns
    -------
    numpy.ndarray
        [M, 3]: objects, mean probability, fraction of class 1. The last two are NaN in an empty bin.

    References
    ----------
    Guo et al. (2017), Sect. 2, Eqs. 3-4 and their Fig. 1: reliability diagrams.
    """
    index = np.clip(np.ceil(np.asarray(probability) * num_bins).astype(int) - 1, 0, num_bins - 1)
    count = np.bincount(index, minlength=num_bins)
    sums = (np.bincount(index, values, num_bins) for values in (probability, outcome))
    with np.errstate(invalid="ignore"):
        return np.stack([count, *(total / count for total in sums)], axis=1)


def calibration_error(table: np.ndarray) -> float:
    """Sum over bins of (n_m / n) |fraction - mean probability|: the expected calibration error, 0 to 1.

    Parameters
    ----------
    table
        [M, 3] of `reliability`.

    References
    ----------
    Naeini, Cooper & Hauskrecht (2015), AAAI, Eq. 5; Guo et al. (2017), Eq. 5.
    """
    filled = table[table[:, 0] > 0]
    return float(filled[:, 0] @ np.abs(filled[:, 2] - filled[:, 1]) / filled[:, 0].sum())


def brier_score(probability: np.ndarray, outcome: np.ndarray) -> float:
    """Mean of (probability - outcome)^2: 0 is perfect, 1/4 is what 1/2 for everything gives.

    References
    ----------
    Brier (1950), Mon. Weather Rev. 78, 1, Eq. 2; half of his, which sums over both classes.
    """
    return float(np.square(np.asarray(probability, np.float64) - outcome).mean())


def auroc(score: np.ndarray, outcome: np.ndarray) -> float:
    """Area under the receiver operating characteristic: P(score of a 1 > score of a 0), ties counting half.

    Returns
    -------
    float
        0.5 without information, 1 if all of class 1 are above; NaN if a class is missing.

    References
    ----------
    Hanley & McNeil (1982), Radiology 143, 29: equal to the Mann-Whitney statistic.
    """
    positive = np.asarray(outcome) == 1
    num_positive, num_negative = positive.sum(), (~positive).sum()
    if not num_positive or not num_negative:
        return float("nan")
    _, place, count = np.unique(score, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(count) - 0.5 * (count - 1))[place]
    excess = ranks[positive].sum() - num_positive * (num_positive + 1) / 2
    return float(excess / (num_positive * num_negative))


def _check_outcome(outcome: np.ndarray) -> None:
    found = np.unique(outcome)
    if found.tolist() != [0, 1]:
        got = ", ".join(f"{value:g}" for value in found) or "none"
        raise ValueError(f"outcomes are {got} ({len(outcome)} objects), must be 0 and 1, some of each")
