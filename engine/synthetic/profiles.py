"""Rest-frame grids, resampling to the observed grid, and lines added to many spectra at once.

Wavelengths are vacuum [Angstrom]. Rest grids are uniform in log10, so that a velocity is a number of
pixels and a redshift is a shift.
"""

# B = spectra, R = rest-frame pixels, L = observed pixels, M = lines

from dataclasses import dataclass

import numpy as np

from engine.spectra.grid import WAVE_MIN_ANGSTROM, WAVE_OBS, WAVE_STEP_ANGSTROM

LIGHT_SPEED_KMS = 299792.458
LOG_STEP = 5e-5
"""Step of rest grids in log10 of the wavelength: 34.5 km/s, half a resolution element of DESI."""
LSF_SIGMA_ANGSTROM = 0.68
"""Gaussian sigma of the instrument, from the second moment of RESOLUTION in public DESI coadds."""
WINDOW_SIGMAS = 4.5
"""Lines are cut where they have fallen to 4e-5 of their peak."""

FloatArray = np.ndarray


@dataclass(frozen=True, slots=True)
class LogGrid:
    """Pixel centres uniform in log10 by `step`, from `wave_min` to at least `wave_max` [Angstrom]."""

    wave_min: float
    wave_max: float
    step: float = LOG_STEP

    @property
    def num_pixels(self) -> int:
        """Number of pixels."""
        return int(np.ceil(np.log10(self.wave_max / self.wave_min) / self.step)) + 1

    @property
    def wave(self) -> FloatArray:
        """Pixel centres [Angstrom], float64."""
        return self.wave_min * 10.0 ** (self.step * np.arange(self.num_pixels))

    @property
    def pixel_kms(self) -> float:
        """Velocity of a step of one pixel [km/s]."""
        return self.step * float(np.log(10.0)) * LIGHT_SPEED_KMS

    def pixel(self, wave: FloatArray | float) -> FloatArray:
        """Fractional pixel of a wavelength [Angstrom]."""
        return np.log10(np.asarray(wave) / self.wave_min) / self.step


def to_observed(rest: FloatArray, grid: LogGrid, z: FloatArray) -> FloatArray:
    """Shift rest-frame spectra [B, R] to redshifts [B] by linear interpolation; float32 [B, L].

    Flux density keeps its scale: the brightness is set afterwards. Pixels outside of the rest grid
    take the nearest value of it.
    """
    position = grid.pixel(WAVE_OBS).astype(np.float32)
    shift = (np.log10(1.0 + z) / grid.step).astype(np.float32)
    out = np.empty((len(rest), WAVE_OBS.size), np.float32)
    for row, offset, target in zip(rest, shift, out, strict=True):
        place = np.clip(position - offset, 0.0, grid.num_pixels - 1.001)
        left = place.astype(np.int32)
        start = row[left]
        np.add(start, (place - left) * (row[left + 1] - start), out=target)
    return out


def add_gaussians(flux: FloatArray, centre: FloatArray, sigma: FloatArray, peak: FloatArray) -> None:
    """Add Gaussian lines to spectra [B, N] in place.

    Parameters
    ----------
    flux
        Spectra on any uniform grid.
    centre, sigma, peak
        [B, M]: centre and sigma [pixels], peak [as flux]. Lines with peak 0 and lines outside of the grid
        cost nothing.
    """
    for column in range(centre.shape[1]):
        _add_gaussian(flux, centre[:, column], sigma[:, column], peak[:, column])


def _add_gaussian(flux: FloatArray, centre: FloatArray, sigma: FloatArray, peak: FloatArray) -> None:
    half = WINDOW_SIGMAS * sigma
    rows = np.flatnonzero((peak != 0) & (centre > -half) & (centre < flux.shape[1] - 1 + half))
    if rows.size == 0:
        return
    reach = int(np.ceil(half[rows].max()))
    middle = np.rint(centre[rows]).astype(np.int64)[:, None]
    pixel = middle + np.arange(-reach, reach + 1)
    offset = (pixel - centre[rows, None]).astype(np.float32)
    shape = np.exp(-0.5 * np.square(offset / sigma[rows, None].astype(np.float32)))
    value = peak[rows, None].astype(np.float32) * shape
    inside = (pixel >= 0) & (pixel < flux.shape[1])
    where = np.broadcast_to(rows[:, None], pixel.shape)
    if inside.all():
        flux[where, pixel] += value
    else:
        flux[where[inside], pixel[inside]] += value[inside]


def add_observed_lines(
    flux: FloatArray, wave_rest: FloatArray, line_flux: FloatArray, sigma_kms: FloatArray, z: FloatArray
) -> None:
    """Add emission lines to observed spectra [B, L] in place, widened by the instrument.

    Parameters
    ----------
    flux
        Observed spectra, `engine.spectra.grid.WAVE_OBS`.
    wave_rest
        [M] rest wavelengths [Angstrom].
    line_flux
        [B, M] integrated flux [flux unit x Angstrom].
    sigma_kms
        [B] velocity dispersion [km/s].
    z
        [B] redshift of the gas.
    """
    wave = wave_rest * (1.0 + z[:, None])
    sigma = np.hypot(wave * (sigma_kms[:, None] / LIGHT_SPEED_KMS), LSF_SIGMA_ANGSTROM)
    peak = line_flux / (sigma * np.sqrt(2.0 * np.pi))
    centre = (wave - WAVE_MIN_ANGSTROM) / WAVE_STEP_ANGSTROM
    add_gaussians(flux, centre, sigma / WAVE_STEP_ANGSTROM, peak)


def interpolation_weights(values: FloatArray, nodes: FloatArray) -> FloatArray:
    """Weights [B, K] of linear interpolation between increasing nodes [K]; clipped at the ends."""
    place = np.interp(values, nodes, np.arange(len(nodes)))
    return np.maximum(0.0, 1.0 - np.abs(place[:, None] - np.arange(len(nodes)))).astype(np.float32)
