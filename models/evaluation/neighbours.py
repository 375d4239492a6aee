"""What distances of distributions do not answer: whether a set covers the real one, and whether it copies it.

References
----------
Kynkaanniemi et al. (2019), arXiv:1904.06991, Sect. 3: precision and recall by the balls of nearest neighbours.
Meehan, Chaudhuri & Dasgupta (2020), arXiv:2004.05675, Sect. 3: training images, held-out and generated ones compared.
"""

# N, M = real and generated images, F = features

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from models.evaluation.wasserstein import MIN_SAMPLES, checked

NEIGHBOURS = 3
"""The ball of an image reaches to its third neighbour, as published."""
BLOCK_BYTES = 64 << 20
"""Distances that are held at once."""


def precision_recall(
    real: np.ndarray, generated: np.ndarray, neighbours: int = NEIGHBOURS, min_samples: int = MIN_SAMPLES
) -> tuple[float, float]:
    """Share of generated images that lie among real ones, and of real images that lie among generated ones.

    Two sets of one distribution do not reach 1: set beside it what two real sets give. Distances are computed in blocks
    of rows: beside the features (of 50,000 images 64 in float64 are 25 MB a set) it needs a few times `BLOCK_BYTES`.

    Parameters
    ----------
    real, generated
        Features [N, F] and [M, F], finite and in one unit. Of sets of equal size, or the values are not comparable.
    neighbours
        A set's balls reach from each image to that neighbour in its own set.
    min_samples
        Fewest images of a set.

    Raises
    ------
    ValueError
        If a set has too few images or values that are not finite, or features differ in length.
    """
    if real.ndim != 2 or generated.shape[1:] != real.shape[1:]:
        raise ValueError(f"features are {real.shape} and {generated.shape}, expected [N, F] and [M, F]")
    for name, values in (("real", real), ("generated", generated)):
        checked(values[:, 0], f"features of the {name} set", max(min_samples, neighbours + 1))
        if not np.isfinite(values).all():
            raise ValueError(f"features of the {name} set are not all finite: leave those images out")
    first, second = np.asarray(real, np.float64), np.asarray(generated, np.float64)
    reach, other_reach = _reach(first, neighbours), _reach(second, neighbours)
    precise, recalled = np.zeros(len(second), bool), np.zeros(len(first), bool)
    for rows in _blocks(len(first), len(second)):
        between = squared_distances(first[rows], second)
        precise |= (between <= reach[rows, None]).any(axis=0)
        recalled[rows] = (between <= other_reach).any(axis=1)
    return float(precise.mean()), float(recalled.mean())


def _blocks(num: int, width: int) -> Iterator[slice]:
    """Rows 0 to `num` in blocks whose distances from `width` rows take `BLOCK_BYTES` at most."""
    step = max(1, BLOCK_BYTES // (8 * width))
    for start in range(0, num, step):
        yield slice(start, min(start + step, num))


def squared_distances(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Squared distances [N, M] of the rows of two float64 tables; rounding does not make one negative."""
    squares = (first**2).sum(1)[:, None] - 2 * first @ second.T + (second**2).sum(1)
    return np.maximum(squares, 0.0)


def _reach(values: np.ndarray, neighbours: int) -> np.ndarray:
    """Squared distance [N] of each row to its neighbour of that number, itself not counted."""
    reach = np.empty(len(values))
    for rows in _blocks(len(values), len(values)):
        own = squared_distances(values[rows], values)
        own[np.arange(len(own)), np.arange(rows.start, rows.stop)] = 0.0
        reach[rows] = np.partition(own, neighbours, axis=1)[:, neighbours]
    return reach


@dataclass(frozen=True)
class Copying:
    """How near generated images are to training images, beside held-out real ones.

    Parameters
    ----------
    generated, held_out
        Median distances from the nearest training image.
    nearer
        Probability that a generated image is nearer to one than a held-out image is: 0.5 where both are alike, 1
        where all are copies. Below 0.5: less like training images than real ones are.
    error
        Its standard error, if both were alike.
    """

    generated: float
    held_out: float
    nearer: float
    error: float


def copying(generated: np.ndarray, held_out: np.ndarray, min_samples: int = MIN_SAMPLES) -> Copying:
    """Compare distances from the nearest training image: Mann & Whitney's U as a probability.

    Parameters
    ----------
    generated, held_out
        Distances of generated images and of real ones that were not trained on, as `engine.images.nearest` gives them.
    min_samples
        Fewest of either.

    Raises
    ------
    ValueError
        If there are too few, or one is not finite.
    """
    made = checked(generated, "distances of generated images", min_samples)
    other = np.sort(checked(held_out, "distances of held-out images", min_samples))
    below = np.searchsorted(other, made, "left")
    upto = np.searchsorted(other, made, "right")
    nearer = 1 - float((below + upto).mean()) / (2 * len(other))
    error = ((len(made) + len(other) + 1) / (12 * len(made) * len(other))) ** 0.5
    return Copying(float(np.median(made)), float(np.median(other)), nearer, error)
