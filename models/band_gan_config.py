"""Settings of the band GAN: networks, stretch, losses, optimisers, and the published ones beside ours."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from models.scoring.band_columns import BandScoringConfig
from models.scoring.cutouts import BANDS
from models.settings import check

NOISE_NJY = (0.140, 0.165, 0.138, 0.087, 0.080, 0.118)
"""Background rms of CEERS mosaics at 0.03 arcsec [nJy per pixel]."""

MAX_NOISE_CORRELATION = 0.7
"""Three pixels in a row cannot be mixed to more than 1 / sqrt(2)."""

Bands = tuple[float, float, float, float, float, float]


@dataclass(frozen=True, kw_only=True)
class BandGANConfig:
    """Networks, losses and optimisers of the band GAN. The default works at the native size of a cutout."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    size: int = 96
    """Pixels a side of a cutout."""
    network_pixels: int = 0
    """Pixels a side that the networks see, by bilinear interpolation; 0: those of the cutout."""
    stretch: Literal["asinh", "linear"] = "asinh"
    """Of (flux - offset) / scale."""
    offset_njy: Bands = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    """Flux that becomes 0, for each band [nJy per pixel]."""
    scale_njy: Bands = NOISE_NJY
    """Unit of flux, for each band [nJy per pixel]. With asinh, about the noise. The same for all objects, so
    that colours keep their meaning where the depth differs."""
    noise_input: bool = True
    """Whether the generator is told how far each pixel can be trusted: scale^2 / (scale^2 + error^2), or 0
    if it is masked."""
    levels: int = 4
    """Times that the generator halves the image."""
    width: int = 32
    """Channels of the first level; they double at each level up to 8 times. Cost goes with the square."""
    norm: Literal["group", "batch"] = "group"
    """Normalisation. group: over channels and pixels of one image, the same in training and evaluation."""
    dropout: float = 0.0
    """Part of the channels dropped in the innermost levels."""
    full_resolution: bool = True
    """Whether the last layer sees the input, and adds to a linear mixture of its bands."""
    discriminator_layers: int = 2
    """Times that the discriminator halves the image: 2, 3: it judges patches of 34, 70 pixels."""
    discriminator_width: int = 16
    """Channels of its first layer. With as many as the generator has, it costs as much to train."""
    nll_weight: float = 1.0
    """Weight of the Gaussian negative log likelihood; 0: the generator gives no variance."""
    l1_weight: float = 1.0
    """Weight of the absolute difference of stretched images."""
    adversarial_weight: float = 0.02
    """Weight of the adversarial term; 0: no discriminator."""
    adversarial_noise: bool = True
    """Whether the prediction gets the noise of the error map before it is judged; else its smoothness gives
    it away."""
    noise_correlation: float = 0.62
    """Correlation of that noise between neighbours along an axis. 0.62: mosaics of 0.03 arcsec from the 0.063 arcsec
    pixels of the LW detectors. With white noise the discriminator is right without looking at the object."""
    augment: bool = True
    """Whether each step turns or flips its images, one of the 8 symmetries of the square."""
    learning_rate: float = 1e-3
    """Peak learning rate of Adam for both networks."""
    discriminator_rate_factor: float = 0.2
    """Of the discriminator's learning rate to the generator's."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """cosine: linear warm-up, then down to 1 % of the peak."""
    learning_rate_warmup_fraction: float = 0.05
    """Part of training over which the learning rate grows; not used if constant."""
    beta1: float = 0.5
    """Decay of Adam's first moment; that of the second is 0.999."""
    grad_clip_norm: float = 1.0
    """Largest norm of the gradient of each network; 0: any."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of convolutions in training. auto: bfloat16 where the device computes with it natively."""
    scoring: BandScoringConfig = field(default_factory=BandScoringConfig)
    """How objects are scored with the trained network."""

    def __post_init__(self) -> None:
        """Check ranges; all messages name the field, the value and the range."""
        for name in ("offset_njy", "scale_njy"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
            check(len(getattr(self, name)) == len(BANDS), name, getattr(self, name), f"{len(BANDS)} values")
        self._check_numbers()
        for name, choices in _CHOICES.items():
            check(getattr(self, name) in choices, name, getattr(self, name), " or ".join(choices))
        smallest = 2**self.levels
        check(self.pixels % smallest == 0, "network_pixels" if self.network_pixels else "size",
               self.pixels, f"a multiple of 2^levels = {smallest}")  # fmt: skip
        smallest = 3 * 2**self.discriminator_layers
        check(self.pixels >= smallest, "discriminator_layers", self.discriminator_layers,
               f"fewer: they need at least {smallest} pixels, the networks see {self.pixels}")  # fmt: skip
        check(self.scoring.num_latent <= self.bottleneck_channels, "scoring.num_latent", self.scoring.num_latent,
               f"at most the {self.bottleneck_channels} channels of the innermost level")  # fmt: skip

    def _check_numbers(self) -> None:
        for name in ("size", "levels", "width", "discriminator_layers", "discriminator_width"):
            check(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        for name in ("learning_rate", "discriminator_rate_factor"):
            check(getattr(self, name) > 0, name, getattr(self, name), "positive")
        for name in ("nll_weight", "l1_weight", "adversarial_weight", "grad_clip_norm", "network_pixels"):
            check(getattr(self, name) >= 0, name, getattr(self, name), "0 or positive")
        for name in ("dropout", "learning_rate_warmup_fraction", "beta1"):
            check(0 <= getattr(self, name) < 1, name, getattr(self, name), "in [0, 1)")
        check(0 <= self.noise_correlation <= MAX_NOISE_CORRELATION, "noise_correlation", self.noise_correlation,
               f"in [0, {MAX_NOISE_CORRELATION}]")  # fmt: skip
        check(min(self.scale_njy) > 0, "scale_njy", self.scale_njy, "positive")
        check(
            self.nll_weight + self.l1_weight > 0, "l1_weight", self.l1_weight, "positive if nll_weight is 0"
        )

    @property
    def pixels(self) -> int:
        """Pixels a side that the networks see."""
        return self.network_pixels or self.size

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels after each halving."""
        return tuple(self.width * min(2**level, 8) for level in range(self.levels))

    @property
    def bottleneck_channels(self) -> int:
        """Channels of the innermost level."""
        return self.widths[-1]


_CHOICES = {
    "stretch": ("asinh", "linear"),
    "norm": ("group", "batch"),
    "schedule": ("cosine", "constant"),
    "precision": ("auto", "float32", "bfloat16"),
}


# 10 and 90 % of the positive pixels of the 74 CEERS galaxies of Ferreira et al. (2023) at 0.03 arcsec.
_LOW_NJY = (0.029, 0.035, 0.033, 0.025, 0.025, 0.034)
_HIGH_NJY = (0.878, 1.285, 1.704, 2.055, 2.271, 2.619)

PRESETS: Mapping[str, BandGANConfig] = {
    "default": BandGANConfig(),
    "published": BandGANConfig(
        network_pixels=256,
        stretch="linear",
        offset_njy=_LOW_NJY,
        scale_njy=tuple(high - low for low, high in zip(_LOW_NJY, _HIGH_NJY, strict=True)),  # pyright: ignore[reportArgumentType]
        noise_input=False,
        levels=8,
        width=64,
        norm="batch",
        dropout=0.5,
        full_resolution=False,
        discriminator_layers=3,
        discriminator_width=64,
        nll_weight=0.0,
        l1_weight=100.0,
        adversarial_weight=1.0,
        adversarial_noise=False,
        augment=False,
        learning_rate=2e-4,
        discriminator_rate_factor=1.0,
        schedule="constant",
        grad_clip_norm=0.0,
    ),
}
"""Configurations by name. `published` is Pearce-Casey et al. (2023) without the defects of their released notebook:
the generator has an adversarial gradient, the discriminator is conditional, percentiles are applied in flux,
where they were taken in its logarithm, and the output is linear instead of Tanh, so that cores brighter than
the upper percentile can be reached. Losses are taken at the native size, 256 pixels are inside the networks."""


def l1_only(config: BandGANConfig) -> BandGANConfig:
    """Return the ablation: the same generator without a discriminator."""
    return dataclasses.replace(config, adversarial_weight=0.0)
