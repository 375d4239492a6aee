"""Exact statements about binomial counts: intervals of a rate, and how surprising a count is.

Both are written with the incomplete beta function and its inverse, so that a million groups cost a second.
"""

import numpy as np

CONFIDENCE = 0.95
"""Coverage of the intervals of rates."""


def binomial_interval(hits: np.ndarray, trials: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Exact interval of a binomial probability at `CONFIDENCE`.

    Parameters
    ----------
    hits, trials
        int [N], 0 <= hits <= trials, trials >= 1.

    Returns
    -------
    low, high
        float64 [N]; 0 where there is no hit, 1 where there are only hits.

    References
    ----------
    Clopper & Pearson (1934), Biometrika 26, 404, as quantiles of the beta distribution.
    """
    from scipy.special import betaincinv  # half a second that a query without rates need not pay

    tail = (1.0 - CONFIDENCE) / 2.0
    misses = trials - hits
    low = np.where(hits == 0, 0.0, betaincinv(np.maximum(hits, 1), misses + 1, tail))
    high = np.where(misses == 0, 1.0, betaincinv(hits + 1, np.maximum(misses, 1), 1.0 - tail))
    return low, high


def binomial_excess(hits: np.ndarray, trials: np.ndarray, rate: np.ndarray) -> np.ndarray:
    """Probability of so many hits or more.

    Parameters
    ----------
    hits, trials
        int [N], 0 <= hits <= trials, trials >= 1.
    rate
        Probability of a hit, [N] in [0, 1].

    Returns
    -------
    numpy.ndarray
        float64 [N]; 1 where there is no hit.

    References
    ----------
    Abramowitz & Stegun (1964), 26.5.24: the tail of the binomial is an incomplete beta function.
    """
    from scipy.special import betainc

    return np.where(hits == 0, 1.0, betainc(np.maximum(hits, 1), trials - hits + 1, rate))
