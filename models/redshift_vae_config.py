"""Settings of the redshift-aware autoencoder: those of the spectral VAE, and its rest-frame grid and convolutions."""

from dataclasses import dataclass

from models.settings import check
from models.spectral_vae_config import SpectralVAEConfig

STRIDES = (4, 4, 2)
"""Of the three convolutions: one position of the last sees 32 pixels."""


@dataclass(frozen=True, kw_only=True)
class RedshiftVAEConfig(SpectralVAEConfig):
    """Network, loss and optimiser. Spectra are in the observed frame; `wave_*` and `num_pixels` describe that grid."""

    num_latent: int = 10
    """Latent dimensions."""
    hidden: tuple[int, ...] = (256, 128)
    """Hidden units of the decoder from its output inwards, and of the encoder after its convolutions."""
    channels: tuple[int, ...] = (24, 48, 96)
    """Channels of the three convolutions; half of the last are values, half say where to look."""
    kernel_pixels: int = 9
    """Width of the convolutions, odd."""
    rest_wave_min_angstrom: float = 640.0
    """First rest-frame pixel of the decoder; 3600 Angstrom at redshift 4.6."""
    rest_wave_max_angstrom: float = 9840.0
    """Last rest-frame pixel; above the red end of the observed grid, for stars that approach us."""
    num_rest_pixels: int = 2860
    """Logarithmic pixels of the decoder; the default has 286 km/s each, as the rest-frame preset has."""

    def __post_init__(self) -> None:
        """Check ranges; all messages name the field, the value and the range."""
        super().__post_init__()
        object.__setattr__(self, "channels", tuple(self.channels))
        check(len(self.channels) == len(STRIDES) and min(self.channels) >= 1 and self.channels[-1] % 2 == 0,
              "channels", self.channels, "three positive numbers, the last even")  # fmt: skip
        check(
            self.kernel_pixels >= 1 and self.kernel_pixels % 2 == 1,
            "kernel_pixels",
            self.kernel_pixels,
            "odd",
        )
        check(0 < self.rest_wave_min_angstrom < self.rest_wave_max_angstrom, "rest_wave_min_angstrom",
              self.rest_wave_min_angstrom, f"positive and below {self.rest_wave_max_angstrom}")  # fmt: skip
        check(self.num_rest_pixels >= 2, "num_rest_pixels", self.num_rest_pixels, "at least 2")
