"""How lonely an object is in latent space: mean distance to its nearest neighbours in a reference sample.

Exact search (faiss, flat index): the reference is a sample of at most some ten thousand, for which an exact
search costs less than a decoder pass, and an approximate one would make scores depend on the index.
"""

# N reference objects, B queries, D latents, k neighbours

from typing import NamedTuple

import faiss
import numpy as np

SELF_DISTANCE = 1e-4
"""Neighbours nearer than this times (1 + |latent|) are the object itself: rounding between batches is 1e-6."""

MATRIX_PRODUCT_FROM = 20
"""Queries from which faiss searches by a matrix product. faiss 1.15 starts at 128,000: three times slower."""


class Found(NamedTuple):
    """What a search found, nearest first: [B, k] distances and indices of reference objects."""

    distance: np.ndarray
    index: np.ndarray

    def nearest(self, num: int) -> "Found":
        """Return the first `num` of each."""
        return Found(self.distance[:, :num], self.index[:, :num])

    def mean_distance(self, num: int) -> np.ndarray:
        """Mean distance to the first `num`, [B] float32."""
        return self.distance[:, :num].mean(1, dtype=np.float64).astype(np.float32)


class Neighbours:
    """The reference sample, indexed.

    Parameters
    ----------
    reference
        [N, D] latent means.
    num_neighbours
        k; the reference must hold at least k + 1.
    num_threads
        Threads of a search. faiss keeps this per process, so the last one set counts for all.

    Raises
    ------
    ValueError
        If the reference is too small.
    """

    def __init__(self, reference: np.ndarray, num_neighbours: int, num_threads: int = 1) -> None:
        if len(reference) <= num_neighbours:
            raise ValueError(
                f"{len(reference)} reference latents are too few for {num_neighbours} neighbours"
            )
        self._reference = np.ascontiguousarray(reference, np.float32)
        self._num_neighbours = num_neighbours
        self._num_threads = num_threads
        self._index = faiss.IndexFlatL2(self._reference.shape[1])
        self._index.add(self._reference)  # pyright: ignore[reportCallIssue]  # faiss: wrapped at import

    def search(self, latents: np.ndarray, num: int) -> Found:
        """Find the nearest `num` others of each object.

        An object that is itself in the reference does not count as its own neighbour. Neighbours of latents that
        are not finite are at a distance of NaN.

        Parameters
        ----------
        latents
            [B, D] latent means.
        num
            How many; the reference must hold at least one more.

        Raises
        ------
        ValueError
            If the reference is too small.
        """
        if len(self._reference) <= num:
            raise ValueError(f"{len(self._reference)} reference latents are too few for {num} neighbours")
        queries = np.ascontiguousarray(latents, np.float32)
        if not len(queries):
            return Found(np.empty((0, num), np.float32), np.empty((0, num), np.int64))
        faiss.omp_set_num_threads(self._num_threads)
        faiss.cvar.distance_compute_blas_threshold = MATRIX_PRODUCT_FROM
        _, index = self._index.search(queries, num + 1)  # pyright: ignore[reportCallIssue]
        # faiss expands |a-b|^2 for large batches, which is inexact near 0 and differs between batch sizes.
        distance = np.linalg.norm(self._reference[index] - queries[:, None], axis=2)
        order = np.argsort(distance, axis=1, kind="stable")
        distance, index = (np.take_along_axis(values, order, axis=1) for values in (distance, index))
        is_self = distance[:, :1] < SELF_DISTANCE * (1 + np.linalg.norm(queries, axis=1, keepdims=True))
        return Found(
            np.where(is_self, distance[:, 1:], distance[:, :-1]),
            np.where(is_self, index[:, 1:], index[:, :-1]),
        )

    def mean_distance(self, latents: np.ndarray) -> np.ndarray:
        """Mean Euclidean distance of [B, D] latents to the k nearest others, [B] float32."""
        return self.search(latents, self._num_neighbours).mean_distance(self._num_neighbours)
