"""What a trained method is to the scoring of `models.scoring`: an autoencoder at the redshifts of its rows."""

# B spectra, L pixels, D latents

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from benchmarks.ablation.linear import pixel_weights
from benchmarks.ablation.sample import Batch
from models.redshift_vae import AtRedshifts, RedshiftVAE
from models.scoring.reconstruction import Scatter
from models.spectral_vae_config import SpectralVAEConfig

NO_SPREAD = -60.0
"""Log variance of latents of a method that gives one point and no posterior."""
MIN_SCATTER = 1e-6
BATCH_ROWS = 512


class Reduction(Protocol):
    """Latents of spectra and spectra of latents, as `models.scoring.spectral.Autoencoder`, after `tell`."""

    def tell(self, batch: Batch) -> Batch:
        """Take what is needed beside flux and ivar, before the rows of a batch are encoded."""
        ...

    def encode(self, flux: Tensor, ivar: Tensor) -> tuple[Tensor, Tensor]:
        """Latent mean and log variance, [B, D] each."""
        ...

    def decode(self, latent: Tensor) -> tuple[Tensor, Scatter]:
        """Mean of each pixel [B, L] and intrinsic scatter."""
        ...


class Told:
    """A network that needs nothing but flux and ivar."""

    def __init__(self, network: torch.nn.Module) -> None:
        self.encode, self.decode = network.encode, network.decode

    def tell(self, batch: Batch) -> Batch:
        """Nothing is needed."""
        return batch


def at_redshifts(network: RedshiftVAE) -> Reduction:
    """Wrap the redshift-aware network as its own predictor does."""
    return AtRedshifts(network)  # pyright: ignore[reportReturnType]


@dataclass
class Points:
    """A method without posterior and without scatter: latents are scaled to unit spread, scatter is measured.

    Parameters
    ----------
    encode_points, decode_points
        [B, L] flux and ivar to [B, D], and back to [B, L].
    tell_batch
        Called before the rows of a batch; None if nothing is needed.
    """

    encode_points: Callable[[Tensor, Tensor], Tensor]
    decode_points: Callable[[Tensor], Tensor]
    tell_batch: Callable[[Batch], Batch] | None = None
    centre: Tensor | float = 0.0
    spread: Tensor | float = 1.0
    log_scatter: Tensor | None = None
    num_windows: int = 0

    def tell(self, batch: Batch) -> Batch:
        """Hand the batch on."""
        return self.tell_batch(batch) if self.tell_batch else batch

    def encode(self, flux: Tensor, ivar: Tensor) -> tuple[Tensor, Tensor]:
        """Scaled latents, and as good as no variance."""
        mean = (self.encode_points(flux, ivar) - self.centre) / self.spread
        return mean, torch.full_like(mean, NO_SPREAD)

    def decode(self, latent: Tensor) -> tuple[Tensor, Scatter]:
        """Spectra of scaled latents; the scatter of a pixel is the same for all."""
        assert self.log_scatter is not None
        mean = self.decode_points(latent * self.spread + self.centre)
        return mean, Scatter(torch.zeros(len(latent), self.num_windows), self.log_scatter)

    def settle(self, config: SpectralVAEConfig, batches: list[Batch]) -> "Points":
        """Measure spread of latents and scatter of pixels on training spectra."""
        latents, sums, weights = [], torch.zeros(config.num_pixels), torch.zeros(config.num_pixels)
        with torch.inference_mode():
            for batch in batches:
                told = self.tell(batch)
                flux, ivar = (torch.tensor(told[name]) for name in ("flux", "ivar"))
                latent = self.encode_points(flux, ivar)
                latents.append(latent)
                excess, weight = excess_variance(flux - self.decode_points(latent), ivar)
                sums, weights = sums + excess, weights + weight
        every = torch.cat(latents)
        self.centre, self.spread = every.mean(0), every.std(0).clamp_min(1e-12)
        self.log_scatter = (sums / weights.clamp_min(1e-12)).clamp_min(MIN_SCATTER).log()
        self.num_windows = config.num_windows
        return self


def excess_variance(residual: Tensor, ivar: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted sums over spectra of (residual^2 - 1/ivar), and of the weights, [L] each.

    Their ratio estimates by moments how much of the squared residual the noise does not explain. The weight is that
    of `linear.pixel_weights`, squared, so that noisy pixels do not drown it.
    """
    weight = pixel_weights(ivar).square()
    noise = torch.where(ivar > 0, 1 / ivar.clamp_min(1e-30), 0.0)
    return (weight * (residual.square() - noise)).sum(0), weight.sum(0)


def chi2_per_pixel(reduction: Reduction, batch: Batch) -> np.ndarray:
    """Squared residual in units of the noise alone, mean over usable pixels, [B]; NaN without a usable pixel."""
    told = reduction.tell(batch)
    out = []
    with torch.inference_mode():
        for start in range(0, len(told["flux"]), BATCH_ROWS):
            rows = slice(start, start + BATCH_ROWS)
            flux, ivar = (torch.tensor(told[name][rows], dtype=torch.float32) for name in ("flux", "ivar"))
            mean = reduction.decode(reduction.encode(flux, ivar)[0])[0]
            out.append(((flux - mean).square() * ivar).sum(1) / (ivar > 0).sum(1))
    return torch.cat(out).numpy()
