"""spender's autoencoder, trained by us on our sample: `uv pip install spender`."""

import numpy as np
import torch
from spender import SpectrumAutoencoder
from spender.instrument import Instrument

from benchmarks.ablation.linear import pixel_weights
from benchmarks.ablation.methods import Settings
from benchmarks.ablation.reduction import Points
from benchmarks.ablation.sample import Batch, Sample
from benchmarks.training_spectra import WIDE_REST
from models.spectral_vae_config import SpectralVAEConfig

BATCH_ROWS = 64


class ObservedGrid(Instrument):
    """Our binned grid, without line-spread function or calibration."""


class _Network:
    """Spender's model at the redshifts of the rows that are scored; rows come in order, as in `AtRedshifts`."""

    def __init__(self, model: SpectrumAutoencoder) -> None:
        self._model, self._z, self._here, self._next = model, torch.zeros(0), torch.zeros(0), 0

    def tell(self, batch: Batch) -> Batch:
        self._z, self._next = torch.tensor(batch["z"], dtype=torch.float32), 0
        return batch

    def encode(self, flux: torch.Tensor, ivar: torch.Tensor) -> torch.Tensor:  # noqa: ARG002 - the protocol's
        first = self._next if self._next < len(self._z) else 0
        self._next = first + len(flux)
        self._here = self._z[first : self._next]
        return torch.cat([self._model.encode(part) for part in flux.split(BATCH_ROWS)])

    def decode(self, latent: torch.Tensor) -> torch.Tensor:
        decoder, encoder = self._model.decoder, self._model.encoder
        return decoder(latent, instrument=encoder.instrument, z=self._here)


def train(sample: Sample, config: SpectralVAEConfig, settings: Settings, seed: int) -> Points:
    """Train with Adam and spender's weighted squared error; weights as our linear methods have them."""
    wave = torch.linspace(config.wave_min_angstrom, config.wave_max_angstrom, config.num_pixels)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        rest = torch.tensor(WIDE_REST.wave, dtype=torch.float32)
        model = SpectrumAutoencoder(
            ObservedGrid(wave), rest, n_latent=config.num_latent, n_hidden=(64, 128, 256)
        )
        optimizer = torch.optim.Adam(model.parameters(), 1e-3)
        rng = np.random.default_rng((seed, 17))
        for _ in range(settings.spender_steps):
            batch = sample.batch("observed", rng.integers(len(sample.columns["z"]), size=BATCH_ROWS))
            flux, ivar, z = (torch.tensor(batch[n], dtype=torch.float32) for n in ("flux", "ivar", "z"))
            loss = model.loss(flux, pixel_weights(ivar), z=z) / BATCH_ROWS
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
    network = _Network(model.eval())
    return Points(network.encode, network.decode, network.tell)
