"""Autoencoder that knows the redshift: its decoder makes a rest-frame spectrum and moves it to the observed grid.

In the spirit of spender (Melchior et al. 2023, AJ 166, 74): convolutions with attention encode the observed
spectrum, the decoder works in the rest frame, and the likelihood is where the noise is, on observed pixels. So a
residual of the sky and a wrong redshift can both be seen. Ours differs: it is variational with an intrinsic
scatter, like `models.spectral_vae`, whose likelihood and training it shares; the encoder is told where in the rest
frame each position lies; there is no similarity loss, as the rest frame is given and not learned.
"""

# B spectra, L observed pixels, R rest-frame pixels, P positions after the convolutions, D latents, K windows

import itertools
import math
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from models import spectral_vae
from models.redshift_vae_config import STRIDES, RedshiftVAEConfig
from models.scoring import spectral
from models.scoring.reconstruction import Scatter, window_sum
from models.spec import Batch, Predict
from models.spectral_vae import (
    LATENT_LOGVAR_RANGE,
    LOG_SCATTER_RANGE,
    LOG_SCATTER_START,
    Output,
    SpectralVAETask,
    bounded,
    perceptron,
    reconstruction,
)
from models.training import unwrapped

NUM_WAVES = 6
"""Sines and cosines that tell a position in the rest frame."""
LOG_SCALE_RANGE = 4.0
"""Spectra are scaled to a median of 1: a factor of 55 either way is more than any redshift needs."""


class RedshiftVAE(nn.Module):
    """Convolutional encoder with attention, rest-frame decoder."""

    position: Tensor

    def __init__(self, config: RedshiftVAEConfig) -> None:
        super().__init__()
        self._window, self._floor = config.window_pixels, config.encoder_floor
        self._num_rest = config.num_rest_pixels
        first, *_ = config.hidden
        widths = (2, *config.channels)
        self.convolutions = nn.ModuleList(
            nn.Conv1d(a, b, config.kernel_pixels, stride, config.kernel_pixels // 2)
            for (a, b), stride in zip(itertools.pairwise(widths), STRIDES, strict=True)
        )
        self.place_in = nn.Linear(2 * NUM_WAVES, config.channels[0])
        summary = config.channels[-1] // 2 + config.num_windows + 1
        self.encoder = perceptron((summary, *config.hidden), activate_input=False)
        self.latent_out = nn.Linear(config.hidden[-1], 2 * config.num_latent)
        self.decoder = perceptron((config.num_latent, *reversed(config.hidden)), activate_input=False)
        self.rest_out = nn.Linear(first, config.num_rest_pixels)
        self.scale_out = nn.Linear(config.num_latent + 1, 1)
        self.scatter_out = nn.Linear(first + 1, config.num_windows)
        self.pixel_scatter = nn.Parameter(torch.full((config.num_pixels,), LOG_SCATTER_START))
        nn.init.ones_(self.rest_out.bias)  # prepared spectra have median 1
        position, self._per_log_wave = _observed_positions(config)
        self.register_buffer("position", position, persistent=False)

    def encode(self, flux: Tensor, ivar: Tensor, redshift: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of the latent posterior, [B, D] each.

        Parameters
        ----------
        flux, ivar
            [B, L] prepared spectra in the observed frame; flux finite everywhere.
        redshift
            [B] finite and > -1.
        """
        trust = ivar / (ivar + self._floor)
        compressed = flux * (0.25 * flux.abs() + 1).rsqrt() * trust
        first, *others = self.convolutions
        hidden = first(torch.stack([compressed, trust], dim=1))
        step = STRIDES[0]
        place = self._rest_position(redshift)[:, ::step][:, : hidden.shape[2]] / self._num_rest
        hidden = hidden + self.place_in(_waves(place)).transpose(1, 2)
        for convolution in others:
            hidden = convolution(nn.functional.leaky_relu(hidden))
        values, where = nn.functional.leaky_relu(hidden).chunk(2, dim=1)
        attended = (values * where.softmax(dim=2)).sum(2)
        level = window_sum(compressed, self._window) / self._window
        summary = torch.cat([attended, level, redshift.log1p()[:, None]], dim=1)
        mean, logvar = self.latent_out(self.encoder(summary)).float().chunk(2, dim=1)
        return mean, bounded(logvar, LATENT_LOGVAR_RANGE)

    def decode(self, latent: Tensor, redshift: Tensor) -> tuple[Tensor, Scatter]:
        """Mean of each observed pixel, [B, L], and the intrinsic variance, for latents [B, D] at redshifts [B]."""
        hidden = self.decoder(latent)
        stretch = redshift.log1p()[:, None]
        # Spectra are scaled by their median over the observed grid, which moves with the redshift.
        scale = bounded(self.scale_out(torch.cat([latent, stretch], dim=1)).float(), LOG_SCALE_RANGE).exp()
        mean = scale * interpolate(self.rest_out(hidden).float(), self._rest_position(redshift))
        window = self.scatter_out(torch.cat([hidden, stretch], dim=1)).float()
        return mean.float(), Scatter(bounded(window, LOG_SCATTER_RANGE), self.pixel_scatter)

    def forward(self, flux: Tensor, ivar: Tensor, redshift: Tensor, noise: Tensor) -> Output:
        """Encode, draw with the standard normal `noise` [B, D], decode; one call a step, so that DDP sees it."""
        latent_mean, latent_logvar = self.encode(flux, ivar, redshift)
        latent = torch.addcmul(latent_mean, (0.5 * latent_logvar).exp(), noise)
        mean, scatter = self.decode(latent, redshift)
        return Output(mean, scatter.expand(self._window), latent, latent_mean, latent_logvar)

    def _rest_position(self, redshift: Tensor) -> Tensor:
        """Where observed pixels fall on the rest-frame grid, in pixels, [B, L]."""
        return self.position - redshift.log1p()[:, None] * self._per_log_wave


def _observed_positions(config: RedshiftVAEConfig) -> tuple[Tensor, float]:
    """Positions of the observed pixels at redshift 0 on the rest-frame grid [L], and pixels per unit of ln(wave)."""
    low, high, num = config.wave_min_angstrom, config.wave_max_angstrom, config.num_pixels
    wave = np.geomspace(low, high, num) if config.wave_spacing == "log" else np.linspace(low, high, num)
    rest_low, rest_high = config.rest_wave_min_angstrom, config.rest_wave_max_angstrom
    per_log_wave = (config.num_rest_pixels - 1) / math.log(rest_high / rest_low)
    return torch.tensor(np.log(wave / rest_low) * per_log_wave, dtype=torch.float32), per_log_wave


def interpolate(rest: Tensor, position: Tensor) -> Tensor:
    """Linear interpolation of spectra [B, R] at fractional pixels [B, L]; beyond an end its value."""
    last = rest.shape[1] - 1
    place = position.clamp(0, last)
    below = place.floor().clamp(max=last - 1)
    part = place - below
    index = below.long()
    return torch.lerp(rest.gather(1, index), rest.gather(1, index + 1), part)


def _waves(place: Tensor) -> Tensor:
    """Sines and cosines [B, P, 2 NUM_WAVES] of places in [0, 1], from one period to 2^(NUM_WAVES - 1)."""
    periods = 2.0 ** torch.arange(NUM_WAVES, device=place.device)
    angle = 2 * math.pi * place[:, :, None] * periods
    return torch.cat([angle.sin(), angle.cos()], dim=2)


class AtRedshifts(threading.local):
    """The network as `models.scoring` sees it: at the redshifts of the rows that this thread is scoring.

    Scoring walks over rows in order, in mini-batches, and begins anew where it walks over them again.
    """

    def __init__(self, vae: RedshiftVAE) -> None:
        self._vae = vae
        self._redshift, self._here, self._next = torch.zeros(0), torch.zeros(0), 0

    def tell(self, batch: Batch) -> dict[str, np.ndarray]:
        """Take the redshifts of a batch; give the batch with rows unusable that have none."""
        usable, redshift = _usable(batch["z"])
        device = next(self._vae.parameters()).device
        self._redshift, self._next = torch.from_numpy(redshift).to(device), 0
        if usable.all():
            return dict(batch)
        return {**batch, **{name: np.where(usable[:, None], batch[name], 0) for name in ("flux", "ivar")}}

    def encode(self, flux: Tensor, ivar: Tensor) -> tuple[Tensor, Tensor]:
        """Latent mean and log variance of the next rows."""
        first = self._next if self._next < len(self._redshift) else 0
        self._next = first + len(flux)
        self._here = self._redshift[first : self._next]
        return self._vae.encode(flux, ivar, self._here)

    def decode(self, latent: Tensor) -> tuple[Tensor, Scatter]:
        """Decode at the redshifts of the rows that were encoded last."""
        return self._vae.decode(latent, self._here)


def _usable(redshift: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which redshifts are finite and > -1, and float32 redshifts with 0 in place of the others, [B] each."""
    z = np.asarray(redshift, np.float64)
    usable = np.isfinite(z) & (z > -1)
    return usable, np.where(usable, z, 0.0).astype(np.float32)


class RedshiftVAETask(SpectralVAETask):
    """The task of the spectral VAE with the redshift as a third input; rows without one teach nothing."""

    network = RedshiftVAE

    def _inputs(self, batch: Batch) -> tuple[Tensor, ...]:
        usable, redshift = _usable(batch["z"])
        flux, ivar = super()._inputs(batch)
        known = torch.from_numpy(usable[:, None]).to(self._device)
        return flux * known, ivar * known, torch.from_numpy(redshift).to(self._device)


def _told(at: AtRedshifts, batches: Iterable[Batch]) -> Iterator[Batch]:
    return (at.tell(batch) for batch in batches)


def _fit(
    config: RedshiftVAEConfig, module: nn.Module, reference: Iterable[Batch], held_out: Iterable[Batch]
) -> dict[str, np.ndarray]:
    at = AtRedshifts(_evaluating(module))
    scorer = spectral.Scorer(config, at, next(module.parameters()).device)
    return spectral.fit(config, scorer, _told(at, reference), _told(at, held_out), torch.get_num_threads())


def _fit_kinds(
    config: RedshiftVAEConfig,
    module: nn.Module,
    fitted: Mapping[str, np.ndarray],
    anomalies: Iterable[Batch],
) -> dict[str, np.ndarray]:
    at = AtRedshifts(_evaluating(module))
    scorer = spectral.Scorer(config, at, next(module.parameters()).device)
    return spectral.fit_kind(config, scorer, fitted, _told(at, anomalies), torch.get_num_threads())


def _predictor(
    config: RedshiftVAEConfig, module: nn.Module, fitted: Mapping[str, np.ndarray], device: torch.device
) -> Predict:
    at = AtRedshifts(_evaluating(module.to(device)))
    scorer = spectral.Scorer(config, at, device)
    predict = spectral.predictor(config, scorer, fitted, torch.get_num_threads())
    return lambda batch: predict(at.tell(batch))


def _reconstruct(config: RedshiftVAEConfig, module: nn.Module, batch: Batch) -> dict[str, np.ndarray]:
    at = AtRedshifts(_evaluating(module))
    return reconstruction(at, at.tell(batch), config.window_pixels, next(module.parameters()).device)


def _evaluating(module: nn.Module) -> RedshiftVAE:
    vae = unwrapped(module).eval()
    if not isinstance(vae, RedshiftVAE):
        raise TypeError(f"module is a {type(vae).__name__}, expected RedshiftVAE")
    return vae


SPEC = replace(
    spectral_vae.SPEC,
    name="redshift_vae",
    version=1,
    config=RedshiftVAEConfig,
    presets={},
    build=RedshiftVAE,
    task=RedshiftVAETask,
    fit=_fit,
    predictor=_predictor,
    reconstruct=_reconstruct,
    decode=None,
    fit_kinds=_fit_kinds,
)
"""Reads, learns from and writes what the spectral VAE does; latents alone do not say what it decodes."""
