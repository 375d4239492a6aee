"""Settings of the U-Net VAE that cleans images: network, latent, skips, likelihood, optimiser."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from models.band_gan_config import NOISE_NJY
from models.settings import check


@dataclass(frozen=True, kw_only=True)
class UNetVAEConfig:
    """Network, losses and optimiser of the U-Net VAE. The default works on six NIRCam bands in nJy."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    size: int = 96
    """Pixels a side of a cutout."""
    num_bands: int = 6
    """Bands, or channels of a colour image."""
    likelihood: Literal["gaussian", "bernoulli"] = "gaussian"
    """gaussian: of fluxes, with a variance for each pixel. bernoulli: binary cross entropy of images in [0,
    1]."""
    stretch: Literal["asinh", "linear"] = "asinh"
    """Of flux / scale, before the network."""
    scale_njy: tuple[float, ...] = NOISE_NJY
    """Unit of flux, for each band [nJy per pixel]; with asinh, about the noise. The same for all images, so
    that fluxes keep their calibration. 1 for images in [0, 1]."""
    noise_input: bool = True
    """Whether the network is told how far each pixel can be trusted: scale^2 / (scale^2 + error^2), 0 if
    masked."""
    levels: int = 4
    """Times that the network halves the image."""
    width: int = 24
    """Channels of the first level; they double at each level up to 8 times. Cost goes with the square."""
    num_latent: int = 128
    """Latent dimensions; 0: none, the innermost features go on as they are and it is a plain U-Net."""
    skip_gate: Literal["learned", "full", "none"] = "learned"
    """How levels of the encoder reach those of the decoder. learned: `skip_channels` of each, times a gate
    that is learned. full: all channels, as in a U-Net: the latent may then say nothing. none: all goes
    through the latent."""
    skip_levels: tuple[int, ...] = (0, 1, 2, 3)
    """Levels that have one, 0 at the size of the image, each halved from the one before. Not used if none."""
    skip_channels: int = 4
    """Channels that pass a learned gate."""
    skip_gate_start: float = 0.5
    """Gates at the start."""
    skip_dropout: float = 0.3
    """Part of the training images whose learned gates are all closed, so that the latent has to describe
    them."""
    identity_skip: bool = True
    """Whether the network may take over pixels as they are: clean = keep * seen + rest, keep between 0 and 1 for
    each pixel. Bright pixels then keep their flux. Closed with the gates; of fluxes only, and not if
    skip_gate is none."""
    beta: float = 1.0
    """Weight of the KL term (Higgins et al. 2017); 1 is the ELBO."""
    beta_warmup_fraction: float = 0.2
    """Part of training over which beta grows from 0."""
    free_bits: float = 0.05
    """KL [nat] of each latent, mean over a batch, below which it costs the same (Kingma et al. 2016, Sect.
    3.2)."""
    variance_floor: float = 0.02
    """Least standard deviation of a stretched clean value. A target without noise gives the likelihood no
    bound."""
    l1_weight: float = 1.0
    """Weight of the absolute difference of stretched images beside the Gaussian likelihood: it holds the mean
    while the variance is not yet learned. 0: the likelihood alone."""
    augment: bool = True
    """Whether each step turns or flips its images, one of the 8 symmetries of the square."""
    learning_rate: float = 1e-3
    """Peak learning rate of Adam."""
    learning_rate_warmup_fraction: float = 0.05
    """Part of training over which the learning rate grows; a cosine to 1 % of the peak follows."""
    grad_clip_norm: float = 1.0
    """Largest norm of the gradient."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of convolutions in training. auto: bfloat16 where the device computes with it natively."""
    aperture_radius_arcsec: float = 0.3
    """Circle in which the flux before and after is compared; it must fit into the cutout."""
    min_aperture_fraction: float = 0.5
    """Part of the circle that must be usable in the reddest band."""
    blend_fraction: float = 0.3
    """Light removed outside of the aperture, up to a third of the cutout's side from the centre, in what is kept up to
    there, beyond which an object is flagged BLENDED, if it is 5 sigma as well."""
    max_flux_njy: float = 300.0
    """Flux in the aperture, in the brightest band, that the network is given at most: a brighter image is scaled down
    to it, with its error, and what comes out is scaled back. Training samples are faint, real ones are not. Not for
    images in [0, 1]."""
    predict_rows: int = 64
    """Images that go through the network at once where they are cleaned."""

    def __post_init__(self) -> None:
        """Check ranges; all messages name the field, the value and the range."""
        for name in ("scale_njy", "skip_levels"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        self._check_numbers()
        for name, choices in _CHOICES.items():
            check(getattr(self, name) in choices, name, getattr(self, name), " or ".join(choices))
        check(len(self.scale_njy) == self.num_bands, "scale_njy", self.scale_njy, f"{self.num_bands} values")
        check(min(self.scale_njy) > 0, "scale_njy", self.scale_njy, "positive")
        check(
            self.size % 2**self.levels == 0, "size", self.size, f"a multiple of 2^levels = {2**self.levels}"
        )
        levels = self.skip_levels
        is_known = set(levels) <= set(range(self.levels)) and len(set(levels)) == len(levels)
        check(is_known, "skip_levels", levels, f"different levels of 0 to {self.levels - 1}")
        check(
            self.skip_gate == "none" or bool(levels),
            "skip_levels",
            levels,
            "one or more unless skip_gate is none",
        )
        linear = self.stretch == "linear" or self.likelihood == "gaussian"
        check(linear, "stretch", self.stretch, "linear if likelihood is bernoulli")

    def _check_numbers(self) -> None:
        for name in ("size", "num_bands", "levels", "width", "skip_channels", "predict_rows"):
            check(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        for name in (
            "learning_rate",
            "grad_clip_norm",
            "aperture_radius_arcsec",
            "blend_fraction",
            "max_flux_njy",
            "variance_floor",
            "skip_gate_start",
        ):
            check(getattr(self, name) > 0, name, getattr(self, name), "positive")
        for name in ("num_latent", "beta", "free_bits", "l1_weight"):
            check(getattr(self, name) >= 0, name, getattr(self, name), "0 or positive")
        for name in ("skip_dropout", "beta_warmup_fraction", "learning_rate_warmup_fraction"):
            check(0 <= getattr(self, name) < 1, name, getattr(self, name), "in [0, 1)")
        check(
            0 < self.min_aperture_fraction <= 1,
            "min_aperture_fraction",
            self.min_aperture_fraction,
            "in (0, 1]",
        )

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level, from the size of the image to the innermost: `levels` + 1 values."""
        return tuple(self.width * min(2**level, 8) for level in range(self.levels + 1))


_CHOICES = {
    "likelihood": ("gaussian", "bernoulli"),
    "stretch": ("asinh", "linear"),
    "skip_gate": ("learned", "full", "none"),
    "precision": ("auto", "float32", "bfloat16"),
}


PRESETS: Mapping[str, UNetVAEConfig] = {
    "default": UNetVAEConfig(),
    "published": UNetVAEConfig(
        size=256,
        num_bands=3,
        likelihood="bernoulli",
        stretch="linear",
        scale_njy=(1.0, 1.0, 1.0),
        noise_input=False,
        levels=5,
        width=32,
        num_latent=256,
        skip_gate="full",
        skip_levels=(0, 1, 2, 3, 4),
        skip_dropout=0.0,
        free_bits=0.0,
        beta_warmup_fraction=0.0,
        augment=False,
        learning_rate_warmup_fraction=0.0,
        aperture_radius_arcsec=2.0,
    ),
    "small": UNetVAEConfig(
        size=64, levels=3, width=8, num_latent=16, skip_levels=(0, 1, 2), precision="float32"
    ),
}
"""Configurations by name. `published`: what is known of Mirzoyan (2025): 256 x 256 x 3 images in [0, 1], a
U-Net with full skips, a Gaussian latent, binary cross entropy and beta KL. Its widths, latents, beta and
optimiser are not published: those here are ours. `small` trains on a CPU in minutes."""
