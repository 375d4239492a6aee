"""What contaminants are seen through: pixels, PSFs and noise of each channel of an image."""

# C = channels

import math
from collections.abc import Sequence
from dataclasses import dataclass

import galsim
import numpy as np

from engine.synthetic.field.bands import (
    BANDS,
    DETECTOR_PIXEL_ARCSEC,
    background_rms_njy,
    electrons_per_njy,
)
from engine.synthetic.field.psf import pupil_psf
from engine.synthetic.field.render import Renderer

SPIKE_AXIS_RATIO = 0.04
"""Width of a diffraction spike over its length."""


@dataclass(frozen=True)
class Optics:
    """Channels on one pixel grid, in the order of the images.

    Parameters
    ----------
    pixel_arcsec
        Side of a pixel.
    psfs
        One a channel, of unit flux, with the detector's pixel.
    bands
        One a channel: position in `BANDS` of the band whose colours contaminants take there.
    rms
        One a channel: background rms a pixel in the unit of the images. It sets how far light is drawn.
    detector_arcsec
        One a channel: pixel that the noise was drizzled from; 0: noise is white.
    electrons
        One a channel: electrons for a flux of 1, for the photon noise of contaminants; inf: they bring none.
    """

    pixel_arcsec: float
    psfs: tuple[galsim.GSObject, ...]
    bands: tuple[int, ...]
    rms: tuple[float, ...]
    detector_arcsec: tuple[float, ...]
    electrons: tuple[float, ...]

    def __post_init__(self) -> None:
        """Check that every channel has one of each."""
        for name in ("bands", "rms", "detector_arcsec", "electrons"):
            if len(getattr(self, name)) != len(self.psfs):
                raise ValueError(
                    f"{name} has {len(getattr(self, name))} values, must have {len(self.psfs)}: one a PSF"
                )

    def renderers(self, largest: int) -> list[tuple[list[int], Renderer]]:
        """Channels of one detector, and what draws them; `largest` stamp as in `Renderer`."""
        found = []
        for detector in sorted(set(self.detector_arcsec)):
            channels = [c for c, side in enumerate(self.detector_arcsec) if side == detector]
            psfs, rms = [self.psfs[c] for c in channels], np.array([self.rms[c] for c in channels])
            found.append((channels, Renderer(psfs, tuple(channels), self.pixel_arcsec, None, largest, rms)))
        return found


def nircam_optics(
    pixel_arcsec: float = 0.03, psfs: Sequence[galsim.GSObject] | None = None, bands: Sequence[str] = BANDS
) -> Optics:
    """NIRCam mosaics of the depth of CEERS.

    Parameters
    ----------
    pixel_arcsec
        Of the images.
    psfs
        Of the six bands, see `psf.load_psfs`; None: of the telescope's pupil, with its six spikes.
    bands
        Channels of the images, names in `BANDS`.
    """
    places = tuple(BANDS.index(band) for band in bands)
    return Optics(
        pixel_arcsec,
        tuple(psfs[place] if psfs else pupil_psf(place) for place in places),
        places,
        tuple(float(background_rms_njy(pixel_arcsec)[place]) for place in places),
        tuple(float(DETECTOR_PIXEL_ARCSEC[place]) for place in places),
        tuple(float(electrons_per_njy()[place]) for place in places),
    )


def sampled_psf(image: np.ndarray, pixel_arcsec: float) -> galsim.GSObject:
    """PSF from an image [H, W] whose pixels have `pixel_arcsec`; scaled to unit sum.

    Raises
    ------
    ValueError
        If the image is not flat, or has no flux.
    """
    total = float(image.sum()) if image.ndim == 2 else math.nan
    if not (math.isfinite(total) and total > 0):
        raise ValueError(
            f"PSF of shape {image.shape} has the sum {total}, must be [H, W] with a positive sum"
        )
    pixels = galsim.ImageD(np.asarray(image, np.float64), scale=pixel_arcsec)
    return galsim.InterpolatedImage(pixels, x_interpolant="lanczos5", flux=1.0)


def gaussian_psf(fwhm_arcsec: float, num_spikes: int = 4, spike_share: float = 0.05) -> galsim.GSObject:
    """Gaussian with diffraction spikes: thin Gaussians of twelve times its width, crossing in the centre.

    Parameters
    ----------
    fwhm_arcsec
        Of the core.
    num_spikes
        Even: 4 for the vanes of a secondary mirror; 0: none.
    spike_share
        Part of the light in all spikes.
    """
    if num_spikes % 2 or num_spikes < 0:
        raise ValueError(f"num_spikes is {num_spikes}, must be even: they come in pairs")
    core = galsim.Gaussian(fwhm=fwhm_arcsec)
    if not num_spikes or not spike_share:
        return core
    length = galsim.Gaussian(fwhm=12 * fwhm_arcsec * SPIKE_AXIS_RATIO**0.5)
    turns = [
        galsim.Shear(q=SPIKE_AXIS_RATIO, beta=360.0 / num_spikes * n * galsim.degrees)
        for n in range(num_spikes // 2)
    ]
    spikes = galsim.Sum([length.shear(turn) for turn in turns]).withFlux(spike_share)
    return galsim.Sum([core.withFlux(1 - spike_share), galsim.Convolution(spikes, core)])


def gaussian_optics(
    fwhm_px: Sequence[float], rms: Sequence[float], pixel_arcsec: float,
    bands: Sequence[str] = ("f200w", "f150w", "f115w"),
) -> Optics:  # fmt: skip
    """Fallback where no PSF is given: Gaussians with four spikes, white noise, images in any unit.

    Parameters
    ----------
    fwhm_px, rms
        One a channel: width of the PSF [pixel], and background rms in the unit of the images.
    pixel_arcsec
        Of the images; it sets how large galaxies are, with `size_factor`.
    bands
        One a channel: whose colours contaminants take. By default red, green, blue.
    """
    num = len(fwhm_px)
    return Optics(
        pixel_arcsec,
        tuple(gaussian_psf(fwhm * pixel_arcsec) for fwhm in fwhm_px),
        tuple(BANDS.index(band) for band in bands),
        tuple(rms),
        (0.0,) * num,
        (math.inf,) * num,
    )
