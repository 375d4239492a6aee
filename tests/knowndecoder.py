"""A decoder about which everything is known, and spectra for it: scores of them have closed forms."""

import numpy as np
import torch

from models.scoring.reconstruction import Scatter
from models.scoring.spectral import ScoringConfig
from models.spectral_vae_config import SpectralVAEConfig

L, D = 200, 2
CPU = torch.device("cpu")


class KnownDecoder:
    """Linear decoder and fixed posterior: everything about it is known."""

    def __init__(self, slope: float = 0.0, sigma: float = 0.3, posterior: float = 0.5) -> None:
        random = np.random.default_rng(3)
        self.offset = torch.tensor(random.normal(1, 0.2, L), dtype=torch.float32)
        self.slopes = slope * torch.tensor(random.normal(size=(D, L)), dtype=torch.float32)
        self.sigma = torch.tensor(sigma * random.uniform(0.5, 1.5, L), dtype=torch.float32)
        self.posterior = posterior

    def encode(self, flux, ivar):
        mean = flux[:, :D] - 1
        return mean, torch.full_like(mean, 2 * np.log(self.posterior))

    def decode(self, latent):
        tilt = torch.linspace(-0.2, 0.3, 4).expand(len(latent), 4)  # moved from the pixels to the windows
        pixel = 2 * self.sigma.log() - tilt[0].repeat_interleave(64)[:L]
        return self.offset + latent @ self.slopes, Scatter(tilt, pixel)


def config(**scoring) -> SpectralVAEConfig:
    return SpectralVAEConfig(
        num_pixels=L, num_latent=D, wave_max_angstrom=3759.2, scoring=ScoringConfig(**scoring)
    )


def spectra(rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    ivar = random.uniform(1, 100, (rows, L)) * (random.random((rows, L)) > 0.2)
    return random.normal(1, 0.4, (rows, L)).astype(np.float32), ivar.astype(np.float32)


def drawn(model: KnownDecoder, rows: int, seed: int) -> dict[str, np.ndarray]:
    """Spectra that the decoder and the noise made."""
    random = np.random.default_rng(seed)
    flux = model.offset.numpy() + random.normal(size=(rows, L)) * np.sqrt(model.sigma.numpy() ** 2 + 0.01)
    ivar = np.full((rows, L), 100.0, np.float32)
    return {
        "flux": flux.astype(np.float32), "ivar": ivar, "spectype": np.full(rows, "STAR", object),
        "z": np.zeros(rows), "targetid": np.arange(rows) + 10**12 * seed,
    }  # fmt: skip
