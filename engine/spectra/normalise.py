"""Bring spectra of any brightness to one scale, so that a model sees shape and not magnitude.

Numpy only: a bare training machine uses it as it is.
"""

# B = spectra, L = pixels

from typing import NamedTuple

import numpy as np

from engine.flags import CLIPPED, NORM_FLOORED

THINNING = 4
"""The median of every fourth pixel is as good a scale as that of all, and five times cheaper."""


class Normalised(NamedTuple):
    """What `normalise` returns: flux and ivar [B, L], norm [B], flags [B]."""

    flux: np.ndarray
    ivar: np.ndarray
    norm: np.ndarray
    flags: np.ndarray


def normalise(
    flux: np.ndarray, ivar: np.ndarray, floor_sigma: float, clip_min: float, clip_max: float
) -> Normalised:
    """Divide each spectrum by the median of its usable pixels, but never by less than its noise.

    Both medians are `thinned_median`.

    Parameters
    ----------
    flux, ivar
        [B, L] flux density [1e-17 erg / (s cm2 Angstrom)] and its inverse variance; ivar = 0 marks
        an unusable pixel, where flux must be finite.
    floor_sigma
        The scale is at least this many times the median noise of a pixel, so that an empty
        spectrum is not blown up and a negative median cannot turn it over.
    clip_min, clip_max
        Range of the normalised flux; what lies beyond is clipped (ivar is kept).

    Returns
    -------
    Normalised
        float32 flux (0 where ivar is 0), ivar in units of 1/norm^2, the scale `norm` in the unit of
        flux, and the bits NORM_FLOORED and CLIPPED as int32. A spectrum without a usable pixel has
        norm 1 and stays 0.
    """
    valid = ivar > 0
    median = thinned_median(flux, valid)
    # sigma falls where ivar rises, so the median sigma is that of the median ivar: no square roots.
    middle = thinned_median(ivar, valid)
    with np.errstate(divide="ignore"):
        floor = np.where(middle > 0, floor_sigma / np.sqrt(middle), 1.0)
    floored = ~(median > floor)
    norm = np.where(floored, floor, median).astype(np.float32)
    scaled = flux * (1 / norm)[:, None]
    scaled *= valid
    clipped = (scaled.max(axis=1, initial=0) > clip_max) | (scaled.min(axis=1, initial=0) < clip_min)
    np.clip(scaled, clip_min, clip_max, out=scaled)
    flags = floored * NORM_FLOORED.value | clipped * CLIPPED.value
    weights = ivar * np.square(norm)[:, None]
    return Normalised(
        scaled.astype(np.float32, copy=False),
        weights.astype(np.float32, copy=False),
        norm,
        flags.astype(np.int32),
    )


def thinned_median(values: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """`row_median` of every fourth pixel; of all pixels in a row where none of those is valid."""
    median = row_median(values[:, ::THINNING], valid[:, ::THINNING])
    for row in np.flatnonzero(np.isnan(median)):
        median[row] = row_median(values[row : row + 1], valid[row : row + 1])[0]
    return median


def signal_to_noise(flux: np.ndarray, ivar: np.ndarray) -> np.ndarray:
    """Median signal-to-noise per pixel, flux sqrt(ivar), of usable pixels: the published column `snr`.

    Of every fourth pixel, as `thinned_median`; the scale of the spectrum does not matter.

    Parameters
    ----------
    flux, ivar
        [B, L]; ivar = 0 marks an unusable pixel.

    Returns
    -------
    numpy.ndarray
        [B] in the type of `flux`; NaN for a spectrum without a usable pixel.
    """
    thin_flux, thin_ivar = flux[:, ::THINNING], ivar[:, ::THINNING]
    median = row_median(thin_flux * np.sqrt(thin_ivar), thin_ivar > 0)
    for row in np.flatnonzero(np.isnan(median)):
        median[row] = row_median((flux[row] * np.sqrt(ivar[row]))[None], ivar[row : row + 1] > 0)[0]
    return median


def row_median(values: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Median of the valid values of each row; of two middle ones the lower.

    Parameters
    ----------
    values, valid
        [B, L]; only values where `valid` is True count.

    Returns
    -------
    numpy.ndarray
        [B] in the type of `values`; NaN for a row without a valid value.
    """
    median = np.full(len(values), np.nan, values.dtype)
    for row in range(len(values)):  # one row fits the cache: faster than one sort of the matrix
        good = values[row][valid[row]]
        if good.size:
            middle = (good.size - 1) // 2
            good.partition(middle)
            median[row] = good[middle]
    return median
