"""Intervals of what is measured between two sets, by drawing them again: with replacement, or halves of them.

A distance between samples grows when they are drawn again with replacement: of like rows there are fewer different
ones. The mean of that growth is taken off (Efron & Tibshirani 1993, Sect. 10.2), or an interval would lie above its value.
What looks at nearest neighbours cannot be drawn so: a row that is drawn twice is its own neighbour. Halves without
replacement scatter as much as whole sets of independent rows do (Shao & Tu 1995, The Jackknife and Bootstrap, Sect. 2.3:
deleting half of n, the factor (n - d) / d is 1), and have no ties.
"""

from collections.abc import Callable, Mapping

import numpy as np

CONFIDENCE = 0.95

Compare = Callable[[np.ndarray, np.ndarray], Mapping[str, float]]
"""(rows of the real set, rows of the generated set) to distances by name; a draw may lack some, see `bootstrap`."""

Choose = Callable[[np.random.Generator, int], np.ndarray]
"""Rows of a draw from so many."""


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
        Name to lower and upper end at `CONFIDENCE`; no distance is below 0. NaN where a draw lacks the distance, or has
        none because too few of its images can be measured: an interval of the other draws alone would be too narrow.

    Raises
    ------
    ValueError
        If a set is empty or there are fewer than 2 repeats, and what `distance` raises of the sets themselves.
    """
    if min(num_real, num_generated) < 1 or repeats < 2:
        raise ValueError(
            f"{num_real} and {num_generated} images and {repeats} repeats: at least 1, 1 and 2 are needed"
        )

    def again(rng: np.random.Generator, num: int) -> np.ndarray:
        return rng.integers(num, size=num)

    return _intervals(distance, num_real, num_generated, repeats, seed, again)


def by_halves(
    distance: Compare, num_real: int, num_generated: int, repeats: int = 200, seed: int = 1
) -> dict[str, tuple[float, float]]:
    """Do the same from halves of both sets, for what nearest neighbours decide; arguments as of `bootstrap`.

    Raises
    ------
    ValueError
        If a set has fewer than 2 images or there are fewer than 2 repeats, and what `distance` raises of the sets themselves.
    """
    if min(num_real, num_generated, repeats) < 2:
        raise ValueError(
            f"{num_real} and {num_generated} images and {repeats} repeats: at least 2 of each are needed"
        )

    def half(rng: np.random.Generator, num: int) -> np.ndarray:
        return rng.permutation(num)[: num // 2]

    return _intervals(distance, num_real, num_generated, repeats, seed, half)


def _intervals(
    distance: Compare, num_real: int, num_generated: int, repeats: int, seed: int, choose: Choose
) -> dict[str, tuple[float, float]]:
    value = distance(np.arange(num_real), np.arange(num_generated))
    rng = np.random.default_rng(seed)
    found: dict[str, list[float]] = {name: [] for name in value}
    for _ in range(repeats):
        drawn = _of_draw(distance, choose(rng, num_real), choose(rng, num_generated))
        for name, draws in found.items():
            draws.append(drawn.get(name, np.nan))
    return {name: _ends(np.array(draws), value[name]) for name, draws in found.items()}


def _of_draw(distance: Compare, real: np.ndarray, generated: np.ndarray) -> Mapping[str, float]:
    try:
        return distance(real, generated)
    except ValueError:  # what the sets allow, by a few images, one draw in many may not
        return {}


def _ends(draws: np.ndarray, value: float) -> tuple[float, float]:
    if not np.isfinite(draws).all():
        return np.nan, np.nan
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(draws, [tail, 100 - tail]) - (draws.mean() - value)
    return max(float(low), 0.0), max(float(high), 0.0)
