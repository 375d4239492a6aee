"""DESI-like noise: sky with its lines, read noise, photons of the object, bad pixels; one draw a camera.

The three cameras are observed apart, so that pixels where two overlap carry two measurements.
"""

# B = spectra, L = pixels of the common grid, n = pixels of a camera

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from engine.spectra.grid import CAMERA_SLICES, WAVE_OBS
from engine.synthetic.profiles import FloatArray
from engine.synthetic.sky import DARK_NOISE, SKY_LINE_SIGMA_ANGSTROM, SKY_LINES

CAMERAS = tuple(CAMERA_SLICES)
REFERENCE_EXPTIME_S = 1000.0
DARK_ELECTRONS = 7.0
"""Noise of the dark sky and read-out in electrons a pixel in 1000 s: gives the throughput by wavelength."""
READ_NOISE_SHARE = 0.45
"""Part of the variance between the sky lines that is read noise, which a bright sky does not change."""
MASK_COSMIC, MASK_ALLBAD = 4, 2
"""Bits of `desispec.maskbits.specmask`."""


@dataclass(frozen=True)
class Observing:
    """How the spectra were taken; arrays [B]: exposure time [s] and sky brightness relative to dark."""

    exptime_s: FloatArray
    sky: FloatArray


@dataclass(frozen=True)
class Arms:
    """What the cameras (b, r, z) saw: flux and inverse variance float32 [B, n], mask int32 [B, n]."""

    flux: dict[str, FloatArray]
    ivar: dict[str, FloatArray]
    mask: dict[str, FloatArray]


def concatenate(parts: Sequence[Arms]) -> Arms:
    """Return the spectra of all parts in order."""

    def stack(name: str) -> dict[str, FloatArray]:
        return {camera: np.concatenate([getattr(part, name)[camera] for part in parts]) for camera in CAMERAS}

    return Arms(stack("flux"), stack("ivar"), stack("mask"))


@cache
def _response() -> dict[str, tuple[FloatArray, FloatArray, FloatArray]]:
    """By camera: variance between lines, of lines, and per unit of object flux, in 1000 s; float32 [n]."""
    line_waves, line_peaks = (np.array(column) for column in zip(*SKY_LINES, strict=True))
    response = {}
    for camera, where in CAMERA_SLICES.items():
        wave = WAVE_OBS[where]
        nodes, noise = (np.array(column) for column in zip(*DARK_NOISE[camera], strict=True))
        base = np.interp(wave, nodes, noise)
        shape = np.exp(-0.5 * np.square((wave[:, None] - line_waves) / SKY_LINE_SIGMA_ANGSTROM))
        lines = base**2 * (shape @ line_peaks)
        response[camera] = tuple(a.astype(np.float32) for a in (base**2, lines, base / DARK_ELECTRONS))
    return response


def sky_line_pattern(camera: str) -> FloatArray:
    """Noise of the sky lines relative to that between them, [n]: the shape of a bad sky subtraction."""
    base, lines, _ = _response()[camera]
    return np.sqrt(lines / base)


def variance(noiseless: FloatArray, camera: str, observing: Observing) -> FloatArray:
    """Variance [B, n] of a camera's pixels for noiseless flux [B, n] on its grid.

    Sum of read noise, sky continuum, sky lines and the object's photons; all fall as 1 / exposure time.
    """
    base, lines, photon = _response()[camera]
    scale = (REFERENCE_EXPTIME_S / observing.exptime_s)[:, None].astype(np.float32)
    sky = observing.sky[:, None].astype(np.float32)
    total = np.maximum(noiseless, 0.0) * photon
    total += base * (READ_NOISE_SHARE + (1.0 - READ_NOISE_SHARE) * sky)
    total += lines * sky
    total *= scale
    return total


def observe(noiseless: FloatArray, observing: Observing, rng: np.random.Generator) -> Arms:
    """Observe noiseless spectra [B, L] with the three cameras.

    Masked pixels (cosmic rays) have ivar 0 and a wild flux, as a reader must not trust them.
    """
    flux, ivar, mask = {}, {}, {}
    for camera, where in CAMERA_SLICES.items():
        signal = noiseless[:, where]
        var = variance(signal, camera, observing)
        noisy = rng.standard_normal(signal.shape, dtype=np.float32)
        noisy *= np.sqrt(var)
        noisy += signal
        flux[camera], ivar[camera] = noisy, 1.0 / var
        mask[camera] = np.zeros(signal.shape, np.int32)
        _strike(flux[camera], ivar[camera], mask[camera], rng)
    return Arms(flux, ivar, mask)


def _strike(flux: FloatArray, ivar: FloatArray, mask: FloatArray, rng: np.random.Generator) -> None:
    """Mask what cosmic rays destroyed: on average 0.6 hits of 1 to 3 pixels a camera and spectrum."""
    num, pixels = flux.shape
    hits = int(rng.poisson(0.6 * num))
    rows, first, length = (
        rng.integers(num, size=hits),
        rng.integers(pixels - 3, size=hits),
        rng.integers(1, 4, hits),
    )
    for step in range(3):
        here = length > step
        row, pixel = rows[here], first[here] + step
        flux[row, pixel] += rng.exponential(60.0, row.size).astype(np.float32)
        ivar[row, pixel] = 0.0
        mask[row, pixel] = MASK_COSMIC | MASK_ALLBAD
