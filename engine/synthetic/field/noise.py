"""Noise of drizzled mosaics: correlated between pixels, the same however the mosaic is divided into strips."""

from functools import cache

import numpy as np
from scipy.ndimage import correlate1d

from engine.synthetic.field.bands import DETECTOR_PIXEL_ARCSEC, FloatArray

BLOCK_ROWS = 64
"""Rows of white noise that share a seed."""
REACH = 6
"""Half width of the kernels [pixel]; what is cut is below 1 % of the peak."""
_PHASES = 4096


@cache
def drizzle_kernel(detector_arcsec: float, pixel_arcsec: float) -> FloatArray:
    """Kernel [2 REACH + 1] along an axis that gives white noise the correlation of drizzled noise.

    A detector pixel drops onto output pixels by the area T(x) that they share (pixfrac 1). Over many dithers the
    covariance of output pixels l apart is R(l) = integral of T(x) T(x + l) dx. The kernel is the symmetric one
    with R as its autocorrelation, the transform of the root of its power spectrum. Its squares sum to 1: noise
    keeps its variance.

    References
    ----------
    Fruchter & Hook (2002), PASP 114, 144, sect. 7; Casertano et al. (2000), AJ 120, 2747, appendix.
    """
    ratio = detector_arcsec / pixel_arcsec
    lags = np.arange(64)
    x = (np.arange(_PHASES) + 0.5) / _PHASES * (ratio + 1.0) - (ratio + 1.0) / 2

    def shared(place: FloatArray) -> FloatArray:
        return np.maximum(0.0, np.minimum(0.5, place + ratio / 2) - np.maximum(-0.5, place - ratio / 2))

    covariance = (shared(x) * shared(x + lags[:, None])).sum(axis=1)
    power = np.fft.hfft(covariance, 2 * lags.size - 1)
    kernel = np.fft.fftshift(np.fft.ifft(np.sqrt(np.maximum(power, 0.0))).real)
    middle = kernel.size // 2
    kept = kernel[middle - REACH : middle + REACH + 1]
    return kept / np.sqrt(np.square(kept).sum())


def unit_noise(
    seed: tuple[int, ...], rows: tuple[int, int], num_columns: int, band: int, pixel_arcsec: float
) -> FloatArray:
    """Correlated noise of unit variance, float32 [rows, num_columns].

    Parameters
    ----------
    seed
        Of the field's noise; band and block of rows are added to it.
    rows
        First row and the one after the last; neighbouring strips fit together.
    num_columns
        Width of the mosaic.
    band
        0 to 5.
    pixel_arcsec
        Of the mosaic.
    """
    start, stop = rows[0] - REACH, rows[1] + REACH
    blocks = range(start // BLOCK_ROWS, (stop - 1) // BLOCK_ROWS + 1)
    white = np.concatenate([_white((*seed, band, block + 1), num_columns + 2 * REACH) for block in blocks])
    first = start - blocks.start * BLOCK_ROWS
    kernel = drizzle_kernel(float(DETECTOR_PIXEL_ARCSEC[band]), pixel_arcsec)
    noise = correlate1d(white[first : first + stop - start], kernel, axis=0)[REACH:-REACH]
    return correlate1d(noise, kernel, axis=1)[:, REACH:-REACH]


def _white(seed: tuple[int, ...], num_columns: int) -> FloatArray:
    return np.random.default_rng(seed).standard_normal((BLOCK_ROWS, num_columns), dtype=np.float32)
