"""Settings of the spectral VAE: network, loss, optimiser, and the grids that it is made for."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np

from models.scoring import spectral
from models.settings import check

MIN_COMPRESSION = 100
"""Pixels a latent dimension at least, as in Nicolaou et al. (2025)."""


@dataclass(frozen=True, kw_only=True)
class SpectralVAEConfig:
    """Network, loss and optimiser of the spectral VAE. The default needs no redshift."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    num_pixels: int = 7781
    """Pixels of a prepared spectrum."""
    num_latent: int = 77
    """Latent dimensions; compression num_pixels / num_latent must be at least 100, as in the paper."""
    hidden: tuple[int, ...] = (384, 192)
    """Hidden units of the encoder, mirrored in the decoder. 384 keep float16 weights below 16 MB."""
    wave_min_angstrom: float = 3600.0
    """Centre of the first pixel (observed or rest frame, as prepared)."""
    wave_max_angstrom: float = 9824.0
    """Centre of the last pixel."""
    wave_spacing: Literal["linear", "log"] = "linear"
    """Whether pixels have equal steps of wavelength or of its logarithm."""
    window_pixels: int = 64
    """Pixels that share the data-dependent part of the scatter; also the window of worst_wave_*."""
    encoder_floor: float = 1.0
    """Inverse variance at which the encoder takes a pixel at half its value [1/norm^2]."""
    beta: float = 1.0
    """Weight of the KL term (Higgins et al. 2017); 1 is the ELBO."""
    beta_warmup_fraction: float = 0.1
    """Part of training over which beta grows from 0."""
    info_lambda: float = 0.0
    """Weight of the maximum mean discrepancy between latents and prior (InfoVAE, Zhao et al. 2017,
    Eq. 6: lambda + alpha - 1, with beta = 1 - alpha); 0 turns it off."""
    learning_rate: float = 1e-3
    """Peak learning rate of AdamW."""
    learning_rate_warmup_fraction: float = 0.05
    """Part of training over which the learning rate grows; a cosine to 1 % of the peak follows."""
    weight_decay: float = 1e-4
    """Of matrices; biases are not decayed."""
    grad_clip_norm: float = 1.0
    """Largest norm of the gradient."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of matrix products in training. auto: bfloat16 where the device computes with it natively."""
    scoring: spectral.ScoringConfig = field(default_factory=spectral.ScoringConfig)
    """How spectra are scored with the trained network."""

    def __post_init__(self) -> None:
        """Check ranges; all messages name the field, the value and the range."""
        object.__setattr__(self, "hidden", tuple(self.hidden))
        for name in ("num_pixels", "num_latent", "window_pixels"):
            check(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        check(
            self.num_pixels >= MIN_COMPRESSION * self.num_latent,
            "num_latent",
            self.num_latent,
            f"at most num_pixels / {MIN_COMPRESSION} = {self.num_pixels // MIN_COMPRESSION}",
        )
        check(bool(self.hidden) and min(self.hidden) >= 1, "hidden", self.hidden, "positive widths")
        check(0 < self.wave_min_angstrom < self.wave_max_angstrom, "wave_min_angstrom",
               self.wave_min_angstrom, f"positive and below wave_max_angstrom = {self.wave_max_angstrom}")  # fmt: skip
        for name in ("encoder_floor", "learning_rate", "grad_clip_norm"):
            check(getattr(self, name) > 0, name, getattr(self, name), "positive")
        for name in ("beta", "info_lambda", "weight_decay"):
            check(getattr(self, name) >= 0, name, getattr(self, name), "0 or positive")
        for name in ("beta_warmup_fraction", "learning_rate_warmup_fraction"):
            check(0 <= getattr(self, name) < 1, name, getattr(self, name), "in [0, 1)")
        check(self.wave_spacing in ("linear", "log"), "wave_spacing", self.wave_spacing, "linear or log")
        precisions = ("auto", "float32", "bfloat16")
        check(self.precision in precisions, "precision", self.precision, " or ".join(precisions))

    @property
    def num_windows(self) -> int:
        """Windows of `window_pixels` pixels; the last may be shorter."""
        return -(-self.num_pixels // self.window_pixels)

    @property
    def wave_edges(self) -> np.ndarray:
        """Edges of the windows [Angstrom], K + 1."""
        pixel = np.minimum(np.arange(self.num_windows + 1) * self.window_pixels, self.num_pixels) - 0.5
        position = pixel / max(self.num_pixels - 1, 1)
        low, high = self.wave_min_angstrom, self.wave_max_angstrom
        return low * (high / low) ** position if self.wave_spacing == "log" else low + (high - low) * position


PRESETS: Mapping[str, SpectralVAEConfig] = {
    "observed_7781x77": SpectralVAEConfig(),
    "rest_1000x10": SpectralVAEConfig(
        num_pixels=1000,
        num_latent=10,
        hidden=(512, 128),
        wave_min_angstrom=2700.0,
        wave_max_angstrom=7000.0,
        wave_spacing="log",
        window_pixels=16,
    ),
    "rest_2860x10": SpectralVAEConfig(
        num_pixels=2860,
        num_latent=10,
        hidden=(256, 128),
        wave_min_angstrom=640.0,
        wave_max_angstrom=9840.0,
        wave_spacing="log",
        window_pixels=16,
        # There residuals tell more than their pattern over the windows does: `benchmarks.rank_choice`, seed 4.
        scoring=spectral.ScoringConfig(off_manifold=("reduced_chi2", "worst_window_sigma")),
    ),
}
"""Configurations by name; the second fits `SpectrumPrep(frame="rest")`, the third what `jobs/configs/desi_rest.toml` prepares:
all that redshifts up to 4.6 bring in, 286 km/s a pixel."""
