"""How good a cleaned image is: PSNR, conserved flux, and structure made from noise alone.

Structural similarity (SSIM) is left to `benchmarks.denoising`: it needs a library that models do without.
"""

# B images, C bands, S pixels a side

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

PEAK_SIGMA = 3.0
"""A local maximum above this many times the error of its pixel counts as a peak."""


class FalseStructure(NamedTuple):
    """What a network makes of noise alone, [B, C] each; both are 0 for a network that leaves nothing.

    `flux_sigma`: sum of the cleaned image over the error of the sum of the noisy one. `peaks`: local maxima
    above `PEAK_SIGMA`.
    """

    flux_sigma: Tensor
    peaks: Tensor


def psnr(image: Tensor, clean: Tensor, usable: Tensor) -> Tensor:
    """Peak signal-to-noise ratio [B, C] in dB: 10 log10(peak^2 / mean squared difference) over usable pixels.

    Huynh-Thu & Ghanbari (2008), Electronics Letters 44, 800, Eq. 1, but with the peak of the clean image in
    the band for a fixed range: fluxes have none. NaN where the band has no positive usable pixel.

    Parameters
    ----------
    image, clean, usable
        [B, C, S, S]; values do not matter where not usable.
    """
    clean = torch.where(usable, clean, 0)
    square = torch.where(usable, (image - clean).square(), 0).sum((2, 3)) / usable.sum((2, 3))
    peak = clean.amax((2, 3))
    ratio = 10 / math.log(10) * (peak.square() / square.clamp(min=1e-30)).log()
    return torch.where(peak > 0, ratio, torch.nan)


def flux_ratio(image: Tensor, clean: Tensor, weights: Tensor) -> Tensor:
    """Flux in an aperture over that of the clean image, [B, C]: 1 where flux is conserved.

    Parameters
    ----------
    image, clean
        [B, C, S, S] in one unit.
    weights
        [B, S, S] of `aperture.aperture_weights`.
    """
    measured, true = ((weights[:, None] * values).sum((2, 3)) for values in (image, clean))
    return torch.where(true > 0, measured / true, torch.nan)


def false_structure(denoised: Tensor, error: Tensor) -> FalseStructure:
    """Flux and peaks in cleaned images of pure noise.

    The truth is 0, so that all of it is made up. White noise as it is has a `flux_sigma` of unit variance and
    0.00135 S^2 pixels above 3 sigma, most of them peaks.

    Parameters
    ----------
    denoised
        [B, C, S, S] as the network gives it for science = noise.
    error
        Standard deviation of that noise, positive.
    """
    flux = denoised.sum((2, 3)) / error.square().sum((2, 3)).sqrt()
    is_highest = F.max_pool2d(denoised, 3, 1, 1) == denoised
    return FalseStructure(flux, (is_highest & (denoised > PEAK_SIGMA * error)).sum((2, 3)))
