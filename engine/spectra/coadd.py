"""Merge the three arms of DESI coadds onto the common grid, a whole file at once.

The cameras share one 0.8 Angstrom grid, so nothing is resampled: where one camera covers a pixel it is
copied, where two do their inverse-variance weighted mean is taken.

References
----------
Guy et al. (2023), AJ 165, 144, Sect. 4.9: coadds on the common grid. `desispec.coaddition.coadd_cameras`
does the same with the resolution matrices, which are not read here.
"""

# N = spectra in the file, B = spectra merged, n = pixels of a camera

from collections.abc import Mapping

import numpy as np

from engine.errors import SourceError
from engine.spectra.grid import CAMERA_SLICES, NUM_PIXELS, WAVE_OBS

GRID_TOLERANCE_ANGSTROM = 0.01
"""Wavelengths off by more than an 80th of a pixel are another grid; float32 rounding is 0.0005."""

BLOCK_ROWS = 64
"""Spectra merged at a time: their arms and temporaries stay in the processor's cache (3 times faster)."""

Arms = Mapping[str, np.ndarray]
"""Camera (b, r, z) to array; a missing camera is absent."""


def merge_arms(
    flux: Arms, ivar: Arms, mask: Arms, rows: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Coadd the cameras by inverse variance.

    Parameters
    ----------
    flux, ivar
        Camera to [N, n] flux density [1e-17 erg / (s cm2 Angstrom)] and its inverse variance.
    mask
        Camera to [N, n] integers, non-zero is bad; a camera without one has no bad pixel but those
        of ivar <= 0.
    rows
        [B] spectra to merge, in this order; None: all.

    Returns
    -------
    flux, ivar
        float32 [B, 7781]. A pixel that is masked, not finite or has ivar <= 0 in every camera that
        covers it has flux 0 and ivar 0.

    Raises
    ------
    ValueError
        If there is no camera.
    """
    if not flux:
        raise ValueError("no camera to merge")
    num = len(next(iter(flux.values()))) if rows is None else len(rows)
    flux_out = np.zeros((num, NUM_PIXELS), np.float32)
    ivar_out = np.zeros((num, NUM_PIXELS), np.float32)
    for start in range(0, num, BLOCK_ROWS):
        part = slice(start, start + BLOCK_ROWS)
        chosen = part if rows is None else rows[part]
        picked = [
            {camera: arm[camera][chosen] for camera in flux if camera in arm} for arm in (flux, ivar, mask)
        ]
        _merge_block(picked[0], picked[1], picked[2], flux_out[part], ivar_out[part])
    return flux_out, ivar_out


def _merge_block(flux: Arms, ivar: Arms, mask: Arms, flux_out: np.ndarray, ivar_out: np.ndarray) -> None:
    """Merge a few spectra into arrays of zeros."""
    end = 0  # first pixel of the common grid that no camera has covered yet
    for camera, where in CAMERA_SLICES.items():
        if camera not in flux:
            continue
        good = _usable(ivar[camera], mask.get(camera))
        with np.errstate(invalid="ignore", over="ignore"):
            good &= np.isfinite(flux[camera] * ivar[camera])  # one pass finds NaN and infinity in either
        overlap = max(end - where.start, 0)
        alone, shared = slice(where.start + overlap, where.stop), slice(where.start, where.start + overlap)
        for arm, out in ((flux[camera], flux_out), (ivar[camera], ivar_out)):
            np.copyto(out[:, alone], arm[:, overlap:], where=good[:, overlap:])
        more = (np.where(good[:, :overlap], arm[:, :overlap], 0) for arm in (flux[camera], ivar[camera]))
        _add(flux_out[:, shared], ivar_out[:, shared], *more)
        end = where.stop


def usable_cameras(ivar: Arms, mask: Arms) -> dict[str, np.ndarray]:
    """Whether each spectrum has a usable pixel in each camera: camera to [B]; only cameras present."""
    return {camera: np.any(_usable(ivar[camera], mask.get(camera)), axis=1) for camera in ivar}


def check_grid(wave: Arms, where: str) -> None:
    """Check that each camera's wavelengths are its part of the common grid.

    Raises
    ------
    SourceError
        `wrong_wavelength_grid`, naming the camera and the largest difference.
    """
    for camera, found in wave.items():
        expected = WAVE_OBS[CAMERA_SLICES[camera]]
        if found.shape != expected.shape:
            raise _wrong_grid(f"camera {camera} has another length", where, f"{found.size} pixels", expected)
        off = np.abs(found.astype(np.float64) - expected)
        if not off.max() <= GRID_TOLERANCE_ANGSTROM:  # NaN is wrong too
            got = f"{found[0]:.3f}-{found[-1]:.3f} Angstrom, off by up to {off.max():.3g}"
            raise _wrong_grid(f"camera {camera} is on another grid", where, got, expected)


def _wrong_grid(what: str, where: str, got: str, expected: np.ndarray) -> SourceError:
    wanted = f"{expected.size} pixels, {expected[0]:.1f}-{expected[-1]:.1f} Angstrom vacuum"
    return SourceError(what, where, got, wanted, reason="wrong_wavelength_grid")


def _usable(ivar: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    good = ivar > 0
    return good if mask is None else good & (mask == 0)


def _add(flux: np.ndarray, ivar: np.ndarray, more_flux: np.ndarray, more_ivar: np.ndarray) -> None:
    """Average two cameras in place by inverse variance."""
    flux *= ivar
    flux += more_flux * more_ivar
    ivar += more_ivar
    np.divide(flux, ivar, out=flux, where=ivar > 0)
