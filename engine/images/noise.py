"""Noise of cutouts that came without an error map, from their own background."""

import numpy as np
from astropy.stats import mad_std, sigma_clipped_stats


def background_rms(science: np.ndarray, mask: np.ndarray, clip_sigma: float = 3.0) -> np.ndarray:
    """Measure the standard deviation of each cutout's background.

    Pixels further than `clip_sigma` from the median are clipped until none is left, the spread being the
    median absolute deviation times 1.4826; what remains of the sources biases it high, by some per cent
    where they fill a third of the cutout. The noise of drizzled pixels is correlated: it is the rms of single
    pixels, smaller than what apertures see.

    Parameters
    ----------
    science
        float32 [B, S, S].
    mask
        bool [B, S, S], True where bad.
    clip_sigma
        Where to clip.

    Returns
    -------
    numpy.ndarray
        float32 [B], in the unit of `science`; NaN where no pixel is usable.
    """
    rms = np.full(len(science), np.nan, np.float32)
    usable = ~mask.all(axis=(-2, -1))
    if usable.any():
        values = np.where(mask, np.nan, science).reshape(len(science), -1)[usable]
        _, _, rms[usable] = sigma_clipped_stats(
            values, mask=np.isnan(values), sigma=clip_sigma, maxiters=None, stdfunc=mad_std, axis=1
        )
    return rms
