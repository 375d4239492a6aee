"""Where in a spectrum the evidence lies: the windows with the most excess chi2."""

# B spectra, K windows

import numpy as np


def explain_windows(significance: np.ndarray, wave_edges: np.ndarray, num: int) -> dict[str, np.ndarray]:
    """Name the worst windows of each spectrum.

    Parameters
    ----------
    significance
        [B, K] excess chi2 in standard deviations; -inf in a window without a usable pixel.
    wave_edges
        [K + 1] edges of the windows [Angstrom].
    num
        How many to name.

    Returns
    -------
    dict
        `window_wave_min`, `window_wave_max` [Angstrom] and `window_sigma`, [B, num] each, the worst first, NaN where
        fewer windows have a usable pixel; `worst_wave_min`, `worst_wave_max`: [B], the first of them.
    """
    short = max(num - significance.shape[1], 0)
    padded = np.pad(significance, ((0, 0), (0, short)), constant_values=-np.inf)
    order = np.argsort(-padded, axis=1, kind="stable")[:, :num]
    sigma = np.take_along_axis(padded, order, axis=1)
    is_seen = np.isfinite(sigma)
    first, last = (np.pad(edges, (0, short)) for edges in (wave_edges[:-1], wave_edges[1:]))
    low, high = (np.where(is_seen, edges[order], np.nan) for edges in (first, last))
    return {
        "window_wave_min": low,
        "window_wave_max": high,
        "window_sigma": np.where(is_seen, sigma, np.nan),
        "worst_wave_min": low[:, 0],
        "worst_wave_max": high[:, 0],
    }
