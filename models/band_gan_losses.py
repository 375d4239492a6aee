"""Losses of the band GAN, and the symmetries of a square that its images are turned by.

All means run over all pixels of a batch, usable or not: so the mean over workers is that of the joined batch.
"""

# B objects, S pixels a side

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from models.band_gan_networks import Output
from models.band_gan_stretch import Stretch
from models.scoring.cutouts import Cutouts


def gaussian_nll(output: Output, stretch: Stretch, target: Cutouts) -> Tensor:
    """Negative log likelihood of measured fluxes, mean over pixels [nats], without log(2 pi) / 2.

    N(flux; inverse(mean), scatter + error^2) in units of the stretch's scale, 0 where not usable (Nix & Weigend
    1994, Eq. 5, with the variance split in two). In flux and not in stretched values: noise is symmetric in
    flux, so the mean has no bias where the stretch is not linear. The scatter is that of the stretched value
    times the slope of the stretch; the slope is held fixed, or a network could lower its loss by predicting
    too bright.

    Parameters
    ----------
    output
        Of the generator.
    stretch
        Of the LW bands.
    target
        Measured LW bands, [B, 3, S, S].
    """
    scatter = output.log_variance.exp() * stretch.slope(output.mean).detach().square()
    variance = scatter + target.error.square()
    residual = target.science - stretch.inverse(output.mean)
    terms = residual.square() / variance + (variance / stretch.scale.square()).log()
    return 0.5 * torch.where(target.usable, terms, 0).mean()


def absolute_difference(output: Output, stretch: Stretch, target: Cutouts) -> Tensor:
    """Absolute difference of stretched values, mean over pixels, [3] for each band; 0 where not usable.

    Its optimum is the median, which a monotonic stretch does not move.
    """
    difference = (output.mean - stretch(target.science)).abs()
    return torch.where(target.usable, difference, 0).mean((0, 2, 3))


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Half the sum of the cross entropies of measured and predicted (Isola et al. 2017, Eq. 1 and Sect. 3.3)."""
    return 0.5 * (F.softplus(-real).mean() + F.softplus(fake).mean())


def generator_loss(fake: Tensor) -> Tensor:
    """Cross entropy of the prediction with "measured": the non-saturating loss (Goodfellow et al. 2014, Sect. 3)."""
    return F.softplus(-fake).mean()


def drizzled_noise(like: Tensor, correlation: float) -> Tensor:
    """Draw normal noise of unit variance, correlated as that of drizzled mosaics is.

    White noise under the kernel (a, 1, a) along both axes, scaled: neighbours correlate by 2 a / (1 + 2 a^2), the
    next ones by a^2 / (1 + 2 a^2), diagonal ones by the product of the axes.

    Parameters
    ----------
    like
        [B, C, S, S]: shape, type and device.
    correlation
        Of neighbours along an axis, 0 to 0.7.
    """
    batch, channels, *sides = like.shape
    white = torch.randn(batch, channels, *(side + 2 for side in sides), dtype=like.dtype, device=like.device)
    side = (1 - math.sqrt(1 - 2 * correlation**2)) / (2 * correlation) if correlation else 0.0
    kernel = torch.tensor([side, 1.0, side], dtype=like.dtype, device=like.device)
    kernel = (kernel / kernel.norm()).outer(kernel / kernel.norm()).expand(channels, 1, 3, 3)
    return F.conv2d(white, kernel, groups=channels)
