"""Circular aperture photometry on cutouts, for a batch at once, and residuals in magnitudes.

The weights are those of `sep.sum_circle(subpix=5)` (SExtractor's sub-pixel sampling). Noise is taken to be
independent from pixel to pixel; where a mosaic was resampled it is not, and errors are too small by a
factor that depends on the kernel. Within 0.3 arcsec on drizzled mosaics of 0.03 arcsec it is 1.5 (SW) and 2.4 (LW).
Casertano et al. (2000), AJ 120, 2747, appendix: noise of drizzled images in apertures.
"""

# B objects, S pixels a side, K sub-pixels a side of a window

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from models.scoring.cutouts import Cutouts
from models.spec import Batch

INDEPENDENT = "pixels taken as independent; on drizzled 0.03 arcsec mosaics the true S/N is lower, by 1.5 (SW) to 2.4 (LW)"
"""What columns of signal to noise say of themselves."""

SUBPIXELS = 5
"""Sub-pixels a side; the area of an aperture of 10 pixels radius is right to 1e-3."""

MAG_PER_LN = 2.5 / math.log(10)


def aperture_weights(size: int, dx: Tensor, dy: Tensor, radius: Tensor) -> Tensor:
    """Part of each pixel that lies within a circle, in steps of 1/25.

    Parameters
    ----------
    size
        Pixels a side of the cutout.
    dx, dy
        [B] centre minus `size // 2`, where the centre of a pixel has a whole number [pixel].
    radius
        [B] radius [pixel].

    Returns
    -------
    Tensor
        [B, S, S] float32, order y, x.

    Raises
    ------
    ValueError
        If a circle reaches beyond the cutout.
    """
    middle = size // 2
    weights = torch.zeros(len(dx), size, size, device=dx.device)
    if not len(dx):
        return weights
    reach = float((radius + torch.maximum(dx.abs(), dy.abs())).max())
    if not reach <= size - 1 - middle + 0.5:
        raise ValueError(f"aperture reaches {reach:.1f} pixels from the centre of a cutout of {size} pixels")
    half = min(math.ceil(reach), size - 1 - middle)
    step = torch.arange((2 * half + 1) * SUBPIXELS, device=dx.device, dtype=torch.float64)
    at = (step + 0.5) / SUBPIXELS - 0.5 - half
    x2, y2 = ((at - centre.double()[:, None]).square() for centre in (dx, dy))
    inside = y2[:, :, None] + x2[:, None, :] < radius.double().square()[:, None, None]
    cells = inside.unflatten(2, (-1, SUBPIXELS)).unflatten(1, (-1, SUBPIXELS))
    window = slice(middle - half, middle + half + 1)
    weights[:, window, window] = cells.sum((2, 4)) / SUBPIXELS**2
    return weights


def apertures(radius_arcsec: float, batch: Batch, images: Cutouts) -> Tensor:
    """Weights of the pixels in each object's circle, [B, S, S].

    Parameters
    ----------
    radius_arcsec
        Radius of the circle.
    batch
        With `dx`, `dy` and `pixel_scale` of `models.scoring.cutouts.cutout_input`.
    images
        Cutouts of the same objects: size and device.
    """
    dx, dy, scale = places(batch, images.science.device)
    return aperture_weights(images.science.shape[-1], dx, dy, radius_arcsec / scale)


def places(batch: Batch, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Columns `dx`, `dy` [pixel] and `pixel_scale` [arcsec] of a batch, [B] float32 each."""
    dx, dy, scale = (
        torch.tensor(np.asarray(batch[name], np.float32), device=device)
        for name in ("dx", "dy", "pixel_scale")
    )
    return dx, dy, scale


class Photometry(NamedTuple):
    """Aperture fluxes and 1-sigma errors [nJy], and the usable part of the aperture, [B, bands] each."""

    flux: Tensor
    error: Tensor
    fraction: Tensor


def photometry(cutouts: Cutouts, weights: Tensor) -> Photometry:
    """Sum of the usable pixels in apertures, scaled up to the whole area where some are not usable.

    Flux is what `sep.sum_circle` gives with a mask; the error of a scaled sum is scaled as the sum is.

    Parameters
    ----------
    cutouts
        [B, bands, S, S].
    weights
        [B, S, S] of `aperture_weights`.
    """
    good = usable_weights(cutouts.usable, weights)
    fraction = good.sum((2, 3)) / weights.sum((1, 2))[:, None]
    variance = (good * cutouts.error.square()).sum((2, 3))
    flux = (good * cutouts.science).sum((2, 3))
    return Photometry(flux / fraction, variance.sqrt() / fraction, fraction)


def usable_weights(usable: Tensor, weights: Tensor) -> Tensor:
    """Weights of each band, 0 where a pixel is not usable; [B, bands, S, S]."""
    return weights[:, None] * usable


def magnitude_residual(flux: np.ndarray, predicted: np.ndarray, error: np.ndarray) -> np.ndarray:
    """Measured minus predicted magnitude; positive where the object is fainter than predicted [mag].

    Of asinh magnitudes (Lupton, Gunn & Szalay 1999, AJ 118, 1406, Eq. 3) with softening b = error: equal to
    -2.5 log10(flux / predicted) where both are well above the error, finite where one is zero or negative.

    Parameters
    ----------
    flux, predicted, error
        [...] in one unit; error > 0.
    """
    return -MAG_PER_LN * (np.arcsinh(flux / (2 * error)) - np.arcsinh(predicted / (2 * error)))
