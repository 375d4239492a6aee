"""One rank from two kinds of evidence: strange where the model lives, and strange off it.

References
----------
Nathan, Nikolaou & Lahav (2025), "Finding Pegasus", arXiv:2502.04310: a detector on the latent manifold and one
off it (reconstruction) find different anomalies; a union of one of each finds more than either.
"""

# B objects

from collections.abc import Mapping, Sequence

import numpy as np


def union(log10_p: Mapping[str, np.ndarray], names: Sequence[str]) -> np.ndarray:
    """Highest -log10 p among the named scores, [B]; NaN only where all are NaN."""
    best = log10_p[names[0]]
    for name in names[1:]:
        best = np.fmax(best, log10_p[name])
    return best


def rank(
    log10_p: Mapping[str, np.ndarray], on_manifold: Sequence[str], off_manifold: Sequence[str]
) -> dict[str, np.ndarray]:
    """On-manifold, off-manifold and combined anomaly score.

    Parameters
    ----------
    log10_p
        Score name to -log10 of its tail probability among normal objects, [B].
    on_manifold, off_manifold
        Which scores speak for which kind.

    Returns
    -------
    dict
        `on_manifold_score`, `off_manifold_score`, `anomaly_score` (their maximum), [B] each. They are
        comparable because each is a probability; no weights are tuned.
    """
    on, off = union(log10_p, on_manifold), union(log10_p, off_manifold)
    return {"on_manifold_score": on, "off_manifold_score": off, "anomaly_score": np.fmax(on, off)}
