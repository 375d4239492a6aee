"""Distances between samples in one dimension: on a line, on a circle, and between histograms.

References
----------
Ramdas, Garcia Trillos & Cuturi (2017), Entropy 19, 47, Sect. 3: W1 is the area between distribution functions.
Rabin, Delon & Gousseau (2011), J. Math. Imaging Vis. 41, 147, Sect. 2: on a circle, after the best shift.
"""

# N, M = samples of the two sets

import numpy as np

MIN_SAMPLES = 20
"""Fewer values than this in either set say nothing of a distribution."""


def checked(values: np.ndarray, what: str, least: int = MIN_SAMPLES) -> np.ndarray:
    """Return values as float64 [N].

    Raises
    ------
    ValueError
        If there are fewer than `least`, or one is not finite; `what` names them.
    """
    values = np.asarray(values, np.float64).ravel()
    if len(values) < least:
        raise ValueError(
            f"{what}: {len(values)} values, at least {least} are needed for a distance. Measure more images, or lower min_samples."
        )
    num_bad = int((~np.isfinite(values)).sum())
    if num_bad:
        raise ValueError(
            f"{what}: {num_bad} of {len(values)} values are not finite. Leave them out and say how many."
        )
    return values


def wasserstein(first: np.ndarray, second: np.ndarray) -> float:
    """1-Wasserstein distance of two samples, [N] and [M], in their unit; 0 if they are the same.

    Raises
    ------
    ValueError
        If a sample is empty or has a value that is not finite.
    """
    first, second = checked(first, "first sample", 1), checked(second, "second sample", 1)
    places, difference = _differences(first, second)
    return float(np.abs(difference[:-1]) @ np.diff(places))


def circular_wasserstein(first: np.ndarray, second: np.ndarray, period: float) -> float:
    """1-Wasserstein distance on a circle: light may be moved either way round.

    Parameters
    ----------
    first, second
        Samples [N] and [M], any representative of an angle.
    period
        Circumference; pi for orientations in radians.

    Returns
    -------
    float
        In the unit of the period, at most a quarter of it.
    """
    if not period > 0:
        raise ValueError(f"period is {period}, it must be above 0")
    first, second = (checked(values, "sample", 1) % period for values in (first, second))
    places, difference = _differences(first, second)
    gaps = np.diff(places, append=places[0] + period)
    shift = _weighted_median(difference, gaps)
    return float(np.abs(difference - shift) @ gaps)


def histogram_wasserstein(
    first: np.ndarray, second: np.ndarray, low: float, high: float, num_edges: int
) -> float:
    """1-Wasserstein distance of histograms on `num_edges` evenly spaced edges, as the published code takes it.

    Parameters
    ----------
    first, second
        Samples [N] and [M]; what is outside of `low` to `high` is left out there too.
    low, high, num_edges
        Edges.

    Raises
    ------
    ValueError
        If more than 1 % of a sample is outside: its distance would be that of the rest alone.
    """
    edges = np.linspace(low, high, num_edges)
    shares = []
    for name, values in (("first", first), ("second", second)):
        counts, _ = np.histogram(np.asarray(values, np.float64), edges)
        inside = counts.sum() / max(len(values), 1)
        if inside < 0.99:
            raise ValueError(
                f"{1 - inside:.1%} of the {name} sample is not within {low} to {high}, where the published histogram"
                " is. Use images in the published unit, or exact distances (`augment.exact_power`, `--exact`)."
            )
        shares.append(counts / counts.sum())
    return float(np.abs(np.cumsum(shares[0] - shares[1])).sum() * (edges[1] - edges[0]))


def _differences(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sorted places of both samples, and the difference of the distribution functions from each on; [N + M] each."""
    places = np.concatenate([first, second])
    order = np.argsort(places, kind="stable")
    steps = np.concatenate([np.full(len(first), 1 / len(first)), np.full(len(second), -1 / len(second))])
    return places[order], np.cumsum(steps[order])


def _weighted_median(values: np.ndarray, weights: np.ndarray) -> float:
    order = np.argsort(values)
    total = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(total, total[-1] / 2)])
