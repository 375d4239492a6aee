"""Losses of the U-Net VAE: likelihood of the clean image, KL of the latent, free bits.

Means run over all pixels of a batch, usable or not: so the mean over workers is that of the joined batch.
"""

# B images, C bands, S pixels a side, D latents

import torch
from torch import Tensor
from torch.nn import functional as F

from models.band_gan_stretch import Stretch
from models.unet_vae_networks import Output

ACTIVE_NAT = 0.01
"""A latent whose KL is above this, mean over images, says something (Burda et al. 2016, Sect. 5.2, use its
variance)."""


def latent_kl(output: Output) -> Tensor:
    """KL(N(mean, exp(logvar)) || N(0, 1)) of each latent [B, D], in nats.

    Kingma & Welling (2014), arXiv:1312.6114, Appendix B.
    """
    mean, logvar = output.latent_mean, output.latent_logvar
    return 0.5 * (mean.square() + logvar.exp() - 1 - logvar)


def with_free_bits(kl: Tensor, free_bits: float) -> Tensor:
    """Sum over latents of max(free_bits, mean over images) of a KL [B, D], [nat].

    Kingma et al. (2016), arXiv:1606.04934, Sect. 3.2, with one latent a group.
    """
    if not kl.shape[1]:
        return kl.new_zeros(())
    return kl.mean(0).clamp(min=free_bits).sum() if free_bits else kl.sum(1).mean()


def gaussian_nll(output: Output, stretch: Stretch, clean: Tensor, usable: Tensor, floor: float) -> Tensor:
    """Negative log likelihood of clean fluxes [nats], mean over pixels, 0 where not usable; no log(2 pi) / 2.

    N(clean; inverse(mean), (exp(log_variance) + floor^2) slope^2) in units of the stretch's scale (Nix &
    Weigend 1994, Eq. 5). In flux and not in stretched values, so that the mean has no bias where the stretch
    is not linear. The slope of the stretch is held fixed, or a network could lower its loss by predicting too
    bright.

    Parameters
    ----------
    output
        [B, C, S, S] of the network.
    stretch
        Of the bands.
    clean
        Target [nJy]; any value where not usable.
    usable
        bool.
    floor
        Least standard deviation, in the stretch's scale; it grows with the slope, as the variance does.
    """
    slope = stretch.slope(output.mean).detach()
    variance = (output.log_variance.exp() + floor**2) * slope.square()
    residual = torch.where(usable, clean, 0) - stretch.inverse(output.mean)
    terms = residual.square() / variance + (variance / stretch.scale.square()).log()
    return 0.5 * torch.where(usable, terms, 0).mean()


def absolute_difference(output: Output, stretch: Stretch, clean: Tensor, usable: Tensor) -> Tensor:
    """Absolute difference of stretched values, mean over pixels; 0 where not usable."""
    difference = (output.mean - stretch(torch.where(usable, clean, 0))).abs()
    return torch.where(usable, difference, 0).mean()


def cross_entropy(output: Output, clean: Tensor, usable: Tensor) -> Tensor:
    """Binary cross entropy of images in [0, 1], mean over pixels [nats]; 0 where not usable.

    Its least value is the entropy of the target and not 0: a pixel of 0.5 costs 0.69.
    """
    target = torch.where(usable, clean, 0)
    terms = F.binary_cross_entropy_with_logits(output.mean, target, reduction="none")
    return torch.where(usable, terms, 0).mean()
