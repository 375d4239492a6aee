"""Move spectra between wavelength grids, conserving flux: to the rest frame, or onto the common grid.

Wavelengths are vacuum [Angstrom], flux is per unit wavelength. Not here: line-spread functions, and
conversion between air and vacuum (never needed for DESI and BOSS).
"""

# B = spectra, L = pixels in, R = pixels out

import numpy as np

MIN_COVERAGE = 0.5
"""An output pixel needs at least this part of its width covered by usable input pixels."""


def log_grid(wave_min_angstrom: float, wave_max_angstrom: float, num_pixels: int) -> np.ndarray:
    """Pixel centres [Angstrom] with equal steps of log wavelength, both ends included."""
    return np.geomspace(wave_min_angstrom, wave_max_angstrom, num_pixels)


def pixel_edges(wave: np.ndarray) -> np.ndarray:
    """Edges [L + 1] of pixels with centres `wave` [L]: half way, the outer ones mirrored."""
    middle = 0.5 * (wave[1:] + wave[:-1])
    return np.concatenate([[1.5 * wave[0] - 0.5 * wave[1]], middle, [1.5 * wave[-1] - 0.5 * wave[-2]]])


def deredshift(
    flux: np.ndarray, ivar: np.ndarray, wave_obs: np.ndarray, redshift: np.ndarray, wave_rest: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Resample spectra onto a common rest-frame grid, conserving flux.

    Parameters
    ----------
    flux, ivar
        [B, L] observed flux density [1e-17 erg / (s cm2 Angstrom)] and its inverse variance;
        ivar = 0 marks an unusable pixel.
    wave_obs, wave_rest
        [L], [R] pixel centres [Angstrom, vacuum], strictly increasing.
    redshift
        [B] finite and > -1.

    Returns
    -------
    flux_rest, ivar_rest
        float32 [B, R], per rest-frame Angstrom, that is flux times (1 + z). Pixels of which less than
        half is covered by usable pixels have flux and ivar 0, never NaN.

    Raises
    ------
    ValueError
        If a grid is not strictly increasing, a redshift is not > -1, or shapes disagree.
    """
    if not np.all(redshift > -1):
        raise ValueError(f"redshift must be finite and > -1, got {redshift[~(redshift > -1)][:5]}")
    stretch = 1.0 + np.asarray(redshift, np.float64)[:, None]
    edges_out = pixel_edges(_increasing(wave_rest)) * stretch
    density, weight = resample(flux, ivar, pixel_edges(_increasing(wave_obs)), edges_out)
    return (density * stretch).astype(np.float32), (weight / stretch**2).astype(np.float32)


def resample(
    flux: np.ndarray, ivar: np.ndarray, edges_in: np.ndarray, edges_out: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Average flux density over new pixels, and propagate its variance.

    With o_i the overlap of input pixel i with the output pixel, over usable pixels only:
    flux = sum(o_i f_i) / sum(o_i) and var = sum(o_i^2 / ivar_i) / sum(o_i)^2, exact for independent
    input pixels. Where everything is usable, flux times width summed over pixels is conserved.

    Parameters
    ----------
    flux, ivar
        [B, L]; flux must be finite where ivar > 0.
    edges_in
        [L + 1] strictly increasing.
    edges_out
        [B, R + 1] strictly increasing along a row, or [R + 1] for all.

    Returns
    -------
    flux, ivar
        float64 [B, R]; 0 where less than half of a pixel is covered.

    Notes
    -----
    Neighbouring output pixels share input pixels. That covariance is dropped: variances of single
    pixels are right, but pixels narrower than the input's repeat its information.
    """
    num, length = flux.shape
    if ivar.shape != flux.shape or edges_in.shape != (length + 1,):
        raise ValueError(f"shapes disagree: flux {flux.shape}, ivar {ivar.shape}, edges {edges_in.shape}")
    edges_out = np.broadcast_to(edges_out, (num, edges_out.shape[-1]))
    valid = ivar > 0
    variance = np.divide(1.0, ivar, out=np.zeros(ivar.shape), where=valid)
    overlaps = _Overlaps(edges_in, edges_out)
    covered = overlaps.total(valid.astype(np.float64), 1)
    total = overlaps.total(np.where(valid, flux, 0.0), 1)
    spread = overlaps.total(variance, 2)
    good = covered >= MIN_COVERAGE * np.diff(edges_out, axis=1)
    density = np.divide(total, covered, out=np.zeros(total.shape), where=good)
    weight = np.divide(covered**2, spread, out=np.zeros(total.shape), where=good & (spread > 0))
    return density, weight


class _Overlaps:
    """How each output pixel overlaps the input pixels: part of a first, whole ones, part of a last."""

    def __init__(self, edges_in: np.ndarray, edges_out: np.ndarray) -> None:
        num, length = len(edges_out), edges_in.size - 1
        widths = np.diff(edges_in)
        cut = np.clip(edges_out, edges_in[0], edges_in[-1])
        pixel = np.clip(np.searchsorted(edges_in, cut, side="right") - 1, 0, length - 1)
        first, last = pixel[:, :-1], pixel[:, 1:]
        same = first == last
        inner = np.diff(cut, axis=1)
        self.widths = widths
        self.first_overlap = np.where(same, inner, edges_in[first + 1] - cut[:, :-1])
        self.last_overlap = np.where(same, 0.0, cut[:, 1:] - edges_in[last])
        offset = (np.arange(num) * length)[:, None]
        self.first, self.last = first + offset, last + offset
        self.start, self.empty = np.minimum(first + 1, last) + offset, last - first < 2

    def total(self, values: np.ndarray, power: int) -> np.ndarray:
        """Sum of overlap ** power * value over each output pixel."""
        whole = (values * self.widths**power).reshape(-1)
        # reduceat sums [start, end) of every pair; an empty pair gives one element, removed after.
        pairs = np.stack([self.start, self.last], axis=-1).reshape(-1)
        middle = np.add.reduceat(whole, pairs)[::2].reshape(self.first.shape)
        flat = values.reshape(-1)
        ends = self.first_overlap**power * flat[self.first] + self.last_overlap**power * flat[self.last]
        return np.where(self.empty, 0.0, middle) + ends


def _increasing(wave: np.ndarray) -> np.ndarray:
    if wave.ndim != 1 or not np.all(np.diff(wave) > 0):
        raise ValueError("wavelengths must be one strictly increasing row")
    return wave
