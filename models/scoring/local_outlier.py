"""Local outlier factor: how much thinner the reference is around an object than around its neighbours.

Unlike a distance it does not call objects of thinly populated classes odd. What it takes of the reference is two
numbers an object, so that scoring needs no more than one neighbour search.

References
----------
Breunig et al. (2000), "LOF: Identifying Density-Based Local Outliers", SIGMOD, Definitions 5 to 7. Equal to
scikit-learn's `LocalOutlierFactor(novelty=True)` but for an object that is itself in the reference, which is not
its own neighbour here.
"""

# N reference objects, B queries, k neighbours

from collections.abc import Mapping

import numpy as np

from models.scoring.isolation import Found, Neighbours

TINY = 1e-10
"""Added to a mean reachability distance, as scikit-learn does: more than k copies of one object have none."""


class LocalOutlierFactor:
    """What LOF needs to know of the reference.

    Parameters
    ----------
    k_distance
        [N] distance of each reference object to its k-th neighbour.
    density
        [N] local reachability density (Definition 6) [1 / distance].
    num_neighbours
        k.
    """

    def __init__(self, k_distance: np.ndarray, density: np.ndarray, num_neighbours: int) -> None:
        self._k_distance, self._density = k_distance.astype(np.float64), density.astype(np.float64)
        self._num_neighbours = num_neighbours

    def __call__(self, found: Found) -> np.ndarray:
        """Outlier factor [B] float32 of what a search found: about 1 in the crowd, more where it is lonely.

        Parameters
        ----------
        found
            k neighbours at least; further ones are left out.
        """
        near = found.nearest(self._num_neighbours)
        density = _reachability_density(near, self._k_distance)
        return (self._density[near.index].mean(1) / density).astype(np.float32)

    def arrays(self) -> dict[str, np.ndarray]:
        """Return what a checkpoint keeps."""
        return {
            "lof_k_distance": self._k_distance.astype(np.float32),
            "lof_density": self._density.astype(np.float32),
        }


def fit_local_outlier_factor(
    neighbours: Neighbours, reference: np.ndarray, num_neighbours: int
) -> LocalOutlierFactor:
    """Measure the density around each object of the reference that `neighbours` holds, [N, D]."""
    found = neighbours.search(reference, num_neighbours)
    k_distance = found.distance[:, -1].astype(np.float64)
    return LocalOutlierFactor(k_distance, _reachability_density(found, k_distance), num_neighbours)


def local_outlier_factor_from_arrays(
    arrays: Mapping[str, np.ndarray], num_reference: int, num_neighbours: int
) -> LocalOutlierFactor:
    """Make it of what `arrays` gave.

    Raises
    ------
    ValueError
        If they are missing or not one number a reference object.
    """
    for name in ("lof_k_distance", "lof_density"):
        found = arrays.get(name)
        if found is None or found.shape != (num_reference,):
            got = "nothing" if found is None else str(found.shape)
            raise ValueError(f"{name}: got {got}, expected ({num_reference},); fit the scores anew")
    return LocalOutlierFactor(arrays["lof_k_distance"], arrays["lof_density"], num_neighbours)


def _reachability_density(found: Found, k_distance: np.ndarray) -> np.ndarray:
    """Inverse of the mean reachability distance (Definitions 5 and 6), [rows]."""
    reach = np.maximum(found.distance.astype(np.float64), k_distance[found.index])
    return 1.0 / (reach.mean(1) + TINY)
