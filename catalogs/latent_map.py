"""Two coordinates for latent vectors: principal components always, UMAP where asked for."""

import warnings

import numpy as np


def principal_components(latent: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Project on the two directions of largest variance.

    Parameters
    ----------
    latent
        [N, D] finite vectors that define the directions.
    others
        [M, D] more vectors to project on the same.

    Returns
    -------
    points, other_points
        [N, 2] and [M, 2]; the second coordinate is 0 where D is 1. The largest loading of each
        direction is positive, so that the sign is the same on every machine.
    explained
        [2] fraction of the variance along each.
    """
    latent = latent.astype(np.float64)
    mean = latent.mean(0)
    values, vectors = np.linalg.eigh(np.atleast_2d(np.cov(latent - mean, rowvar=False, ddof=0)))
    axes = np.zeros((latent.shape[1], 2))
    explained = np.zeros(2)
    for index in range(min(2, latent.shape[1])):
        vector = vectors[:, -1 - index]
        axes[:, index] = vector * np.sign(vector[np.abs(vector).argmax()])
        explained[index] = values[-1 - index] / max(values.sum(), np.finfo(np.float64).tiny)
    return (latent - mean) @ axes, (others - mean) @ axes, explained


def umap_points(latent: np.ndarray, others: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Embed with UMAP; `others` are placed among the points of `latent`.

    Parameters
    ----------
    latent, others
        [N, D] and [M, D] finite vectors; N at least 16.
    seed
        Of the layout, which is then the same on one machine.

    References
    ----------
    McInnes, Healy & Melville (2018), arXiv:1802.03426.
    """
    stacked = np.concatenate([latent, others])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # no Tensorflow; a seed means one thread, which is wanted
        from umap import UMAP  # 10 s of import and compilation that only this needs

        points = UMAP(n_neighbors=15, min_dist=0.1, random_state=seed, n_jobs=1).fit_transform(stacked)
    points = np.asarray(points, np.float64)
    return points[: len(latent)], points[len(latent) :]
