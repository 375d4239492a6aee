"""How badly a spectrum is reconstructed: weighted error and (weighted) reconstruction probability.

Three views of one residual. The decoder gives for each pixel a mean and an intrinsic scatter, the
observation gives the noise; what differs is which variance the residual is compared with. Plain functions
on tensors: nothing here knows the network.
"""

# B spectra, L pixels, K windows (of `window` pixels; the last may be shorter)

import math
from typing import NamedTuple

import torch
from torch import Tensor

LOG_2PI = math.log(2 * math.pi)


class GaussianTerms(NamedTuple):
    """The parts of log N(flux; mean, scatter + 1/ivar) that depend on the model, by pixel or window."""

    chi2: Tensor
    log_ratio: Tensor


def gaussian_terms(flux: Tensor, ivar: Tensor, mean: Tensor, scatter: Tensor) -> GaussianTerms:
    """Squared residual over total variance, and log(total variance * ivar); both 0 where ivar is 0.

    Written with ivar only, never 1/ivar, so that unusable pixels need no mask.

    Parameters
    ----------
    flux, ivar, mean, scatter
        [B, L] normalised flux, its inverse variance, the decoder's mean and intrinsic variance > 0.
    """
    ratio = torch.addcmul(torch.ones((), device=flux.device), scatter, ivar)
    chi2 = (flux - mean).square() * ivar / ratio
    return GaussianTerms(chi2, ratio.log())


def log_ivar_sum(ivar: Tensor) -> tuple[Tensor, Tensor]:
    """Sum of log(ivar) over usable pixels and their number, [B] each."""
    usable = ivar > 0
    return torch.where(usable, ivar, 1.0).log_().sum(1), usable.sum(1, dtype=ivar.dtype)


def log_likelihood(terms: GaussianTerms, log_ivar: Tensor, num_good: Tensor) -> Tensor:
    """Sum over usable pixels of log N(flux; mean, scatter + 1/ivar), [B], in nats.

    Variant B of the reconstruction probability before averaging: An & Cho (2015), Algorithm 4, with the
    noise of each pixel added to the decoder's variance.
    """
    return -0.5 * (terms.chi2.sum(1) + terms.log_ratio.sum(1) - log_ivar + num_good * LOG_2PI)


class Scatter(NamedTuple):
    """Decoder's intrinsic variance exp(window + pixel): logs [B, K] of each spectrum, [L] common to all."""

    window: Tensor
    pixel: Tensor

    def expand(self, window_pixels: int) -> Tensor:
        """Log variance of each pixel, [B, L]."""
        wide = self.window.repeat_interleave(window_pixels, dim=1)[:, : len(self.pixel)]
        return wide + self.pixel


class DrawScores(NamedTuple):
    """Scores of one latent draw: [B], of windows [B, K]; NaN without a usable pixel, 0 in a window without."""

    weighted_mse: Tensor
    log_wrp: Tensor
    log_likelihood: Tensor
    window_chi2: Tensor
    window_sum: Tensor


class DrawScorer:
    """Scores of spectra [B, L] for one decoded draw after the other.

    What does not depend on the draw is computed once, and the logarithm of the scatter is summed on its windows:
    with a dozen passes over the pixels a draw costs a fifth of the decoder that makes it.
    """

    def __init__(self, flux: Tensor, ivar: Tensor, window_pixels: int) -> None:
        self._flux, self._ivar, self._window_pixels = flux, ivar, window_pixels
        self._log_ivar, self.num_good = log_ivar_sum(ivar)
        self.window_good = window_sum((ivar > 0).to(ivar.dtype), window_pixels)
        self._window_weight = window_sum(ivar, window_pixels)
        self._weight = self._window_weight.sum(1)

    def __call__(self, mean: Tensor, scatter: Scatter) -> DrawScores:
        """Score one draw; `mean` [B, L] is overwritten.

        Returns
        -------
        DrawScores
            `weighted_mse`: residual^2 averaged with weights ivar. `log_wrp` (variant A, the working definition
            of the weighted reconstruction probability of Nicolaou et al. 2025, arXiv:2506.17376, whose text does
            not give it): log N(flux; mean, scatter) averaged with weights ivar, so that noise enters as weight
            only. `log_likelihood` (variant B): log N(flux; mean, scatter + 1/ivar) averaged over
            usable pixels. `window_chi2`: sum of residual^2 / (scatter + 1/ivar). `window_sum`: sum of
            (flux - mean) / sqrt(scatter + 1/ivar), which finds what is slightly off over many pixels.
        """
        wide = scatter.window.exp().repeat_interleave(self._window_pixels, dim=1)
        variance = wide[:, : mean.shape[1]].mul_(scatter.pixel.exp())
        residual = mean.sub_(self._flux)
        log_scatter = torch.linalg.vecdot(scatter.window, self._window_weight) + self._ivar @ scatter.pixel
        weighted = residual.square().mul_(self._ivar)
        error = weighted.sum(1)
        density = weighted.div_(variance).sum(1) + log_scatter
        ratio = variance.mul_(self._ivar).add_(1)
        standardised = torch.div(self._ivar, ratio, out=weighted).sqrt_().mul_(residual)
        excess = -window_sum(standardised, self._window_pixels)
        window_chi2 = window_sum(standardised.square_(), self._window_pixels)
        terms = GaussianTerms(window_chi2, ratio.log_())
        return DrawScores(
            error / self._weight,
            -0.5 * (density / self._weight + LOG_2PI),
            log_likelihood(terms, self._log_ivar, self.num_good) / self.num_good,
            window_chi2,
            excess,
        )


def window_sum(values: Tensor, window: int) -> Tensor:
    """Sum [B, L] over consecutive windows of `window` pixels: [B, K]."""
    whole = values.shape[1] // window * window  # padding the last window would copy all the others
    sums = values[:, :whole].unflatten(1, (-1, window)).sum(-1)
    return sums if whole == values.shape[1] else torch.cat([sums, values[:, whole:].sum(1, keepdim=True)], 1)


def window_significance(chi2: Tensor, num_good: Tensor) -> Tensor:
    """Excess chi2 of each window in standard deviations, [B, K]; -inf without a usable pixel.

    Significance of a window of n usable pixels is (chi2 - n) / sqrt(2 n), chi-square's mean and
    variance, so that a window with few usable pixels neither hides nor wins by chance.

    Parameters
    ----------
    chi2, num_good
        [B, K] sums over windows.
    """
    significance = (chi2 - num_good) * torch.rsqrt(2 * num_good)
    return torch.where(num_good > 0, significance, -torch.inf)


def antithetic_normal(num_draws: int, num_latent: int, seed: int) -> Tensor:
    """Draw standard normals [num_draws, D] in pairs e, -e; the same for every spectrum.

    One table for all rows makes a score independent of the batch that a row comes in. In pairs
    the first-order error of the Monte Carlo mean cancels, so two draws suffice where the decoder
    is nearly linear over the posterior.

    Raises
    ------
    ValueError
        If `num_draws` is not even and positive.
    """
    if num_draws < 2 or num_draws % 2:
        raise ValueError(f"num_draws is {num_draws}, must be even and at least 2")
    generator = torch.Generator().manual_seed(seed)
    half = torch.randn(num_draws // 2, num_latent, generator=generator)
    return torch.cat([half, -half])
