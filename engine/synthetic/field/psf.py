"""Point spread functions of the bands: from given WebbPSF files, or from the pupil of the telescope.

Effective PSF = (optics and detector pixel) convolved with the pixel of the mosaic, so that the value at a pixel is
the light that falls into it. All of them hold all light: unit sum.
"""

import io
from collections.abc import Sequence
from functools import cache
from typing import Any

import galsim
import numpy as np
from astropy.io import fits

from engine.errors import SourceError
from engine.storage import Storage
from engine.synthetic.field.bands import BANDS, DETECTOR_PIXEL_ARCSEC, PIVOT_MICRON, FloatArray

SEGMENT_M, GAP_M = 1.32, 0.007
"""Flat-to-flat width of the 18 hexagonal mirror segments and the gap between them [m]."""
PUPIL_STEP_M, PUPIL_PIXELS = 0.016, 430
"""Sampling of the pupil, 6.6 m wide: the PSF repeats beyond 15 arcsec at 1.15 micron."""
WIDEST_OFFSET = 0.15
"""Relative difference between the pixel scale of a given PSF and that of the detector that is accepted."""


def load_psfs(psf_uri: str, storage: Storage) -> tuple[galsim.GSObject, ...]:
    """PSFs of the six bands with the detector's pixel, from files of `psf_uri` or from the pupil if empty.

    Raises
    ------
    SourceError
        If the folder lacks a band, or a file is no PSF on the grid of the band's detector.
    """
    if not psf_uri:
        return tuple(pupil_psf(band) for band in range(len(BANDS)))
    files = [file.uri for file in storage.list(psf_uri, ".fits")]
    return tuple(_given_psf(band, _file_of(name, files, psf_uri), storage) for band, name in enumerate(BANDS))


def _file_of(name: str, files: Sequence[str], psf_uri: str) -> str:
    matching = [uri for uri in files if name in uri.rpartition("/")[2].lower()]
    if len(matching) != 1:
        hint = "One file a band, with the band's name in the file's."
        raise SourceError(
            "no PSF, or several", psf_uri, f"{len(matching)} files for {name}", "1", hint, "not_found"
        )
    return matching[0]


def _given_psf(band: int, uri: str, storage: Storage) -> galsim.GSObject:
    """Interpolate the image of a WebbPSF file (`DET_DIST` if there is one, else the first image)."""
    with fits.open(io.BytesIO(storage.read(uri))) as hdus:
        images: dict[str, Any] = {hdu.name: hdu for hdu in list[Any](hdus) if hdu.data is not None}
        hdu = images.get("DET_DIST", next(iter(images.values()), None))
        scale = float(hdu.header.get("PIXELSCL", 0.0)) if hdu is not None else 0.0
        expected = float(DETECTOR_PIXEL_ARCSEC[band])
        if hdu is None or abs(scale / expected - 1.0) > WIDEST_OFFSET:
            raise SourceError(
                "PSF of another pixel scale", uri, f"PIXELSCL = {scale}", f"{expected} arcsec of {BANDS[band]}",
                "Give PSFs sampled at the detector's pixels.", "unsupported_layout",
            )  # fmt: skip
        image = galsim.ImageD(np.asarray(hdu.data, np.float64), scale=scale)
    return galsim.InterpolatedImage(image, x_interpolant="lanczos5", flux=1.0)


@cache
def pupil_psf(band: int) -> galsim.GSObject:
    """PSF of a perfect segmented mirror at the band's pivot wavelength, with the detector's pixel.

    Its transform is the autocorrelation of the pupil (Goodman, Introduction to Fourier Optics, Eq. 6-28). Left out:
    wavefront error, the secondary mirror's supports, the width of the band.
    """
    num = PUPIL_PIXELS
    spectrum = np.abs(np.fft.fft2(pupil(), s=(2 * num, 2 * num))) ** 2
    transfer = np.fft.fftshift(np.fft.ifft2(spectrum).real)[1:, 1:]
    per_arcsec = np.radians(1.0 / 3600.0) * 2.0 * np.pi / (1e-6 * PIVOT_MICRON[band])
    image = galsim.ImageCD(
        (transfer / transfer.max()).astype(complex),
        xmin=1 - num,
        ymin=1 - num,
        scale=PUPIL_STEP_M * per_arcsec,
    )
    return galsim.Convolution(
        galsim.InterpolatedKImage(image), galsim.Pixel(float(DETECTOR_PIXEL_ARCSEC[band]))
    )


def pupil() -> FloatArray:
    """Transmission of the telescope's pupil, [PUPIL_PIXELS, PUPIL_PIXELS]: 18 hexagons around a hole."""
    places = (np.arange(PUPIL_PIXELS) - (PUPIL_PIXELS - 1) / 2) * PUPIL_STEP_M
    x, y = np.meshgrid(places, places)
    pitch = SEGMENT_M + GAP_M
    is_open = np.zeros(x.shape, bool)
    for i, j in ((i, j) for i in range(-2, 3) for j in range(-2, 3)):
        if 0 < max(abs(i), abs(j), abs(i + j)) <= 2:
            is_open |= _hexagon(x - pitch * (np.sqrt(0.75) * i), y - pitch * (j + 0.5 * i))
    return is_open.astype(np.float64)


def _hexagon(x: FloatArray, y: FloatArray) -> np.ndarray:
    """Inside of a hexagon with two sides along x."""
    half = SEGMENT_M / 2
    slanted = np.sqrt(0.75) * np.abs(x) + 0.5 * np.abs(y)
    return (np.abs(y) <= half) & (slanted <= half)
