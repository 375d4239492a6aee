"""Intervals of distances by bootstrap.

A distance between samples grows when they are drawn again with replacement: of like rows there are fewer different
ones. The mean of that growth is taken off (Efron & Tibshirani 1993, Sect. 10.2), or an interval would lie above its value.
"""

from collections.abc import Callable, Mapping

import numpy as np

CONFIDENCE = 0.95

Compare = Callable[[np.ndarray, np.ndarray], Mapping[str, float]]
"""(rows of the real set, rows of the generated set) to distances by name."""


def bootstrap(
    distance: Compare, num_real: int, num_generated: int, repeats: int = 200, seed: int = 1
) -> dict[str, tuple[float, float]]:
    """Interval of each distance between two sets, of which both were drawn by chance.

    Parameters
    ----------
    distance
        Distances between choices of rows of both sets.
    num_real, num_generated
        Images of the sets.
    repeats
        How often both are drawn again.
    seed
        Of the draws.

    Returns
    -------
    dict
        Name to lower and upper end at `CONFIDENCE`; no distance is below 0.

    Raises
    ------
    ValueError
        If a set is empty or there are fewer than 2 repeats, and what `distance` raises.
    """
    if min(num_real, num_generated) < 1 or repeats < 2:
        raise ValueError(
            f"{num_real} and {num_generated} images and {repeats} repeats: at least 1, 1 and 2 are needed"
        )
    value = distance(np.arange(num_real), np.arange(num_generated))
    rng = np.random.default_rng(seed)
    found: dict[str, list[float]] = {name: [] for name in value}
    for _ in range(repeats):
        rows = rng.integers(num_real, size=num_real), rng.integers(num_generated, size=num_generated)
        for name, one in distance(*rows).items():
            found[name].append(one)
    tail = 100 * (1 - CONFIDENCE) / 2
    ends = {}
    for name, draws in found.items():
        low, high = np.percentile(draws, [tail, 100 - tail]) - (np.mean(draws) - value[name])
        ends[name] = (max(float(low), 0.0), max(float(high), 0.0))
    return ends
