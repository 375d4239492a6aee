"""Settings of the disk classifier: images, network, training; the published network beside ours."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, Literal

from engine.images.bands import BANDS, Band
from models.band_gan_config import NOISE_NJY
from models.settings import check

NUM_BANDS = 3
NUM_CLASSES = 2
"""Not a disk, a disk: the order of the logits."""
BASIS_SIZE = {3: 6, 5: 11}
"""Free numbers of a kernel of so many pixels a side for each pair of channels, divided by the symmetry: one
in the middle, and on each ring around it the angular frequencies 0, 1, 1, 2, 2. escnn's choice of what pixels
can hold."""

NUM_FACTORS = 500
"""Factors from 1 to 6 tried for the plain network; wide ones need sqrt(2 rotations 6 / 9) < 5."""


@dataclass(frozen=True, kw_only=True)
class DiskClassifierConfig:
    """Images, network and training of the disk classifier."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    size: int = 96
    """Pixels a side of a cutout."""
    bands: tuple[Band, Band, Band] = ("f150w", "f277w", "f444w")
    """The bands that the network sees, from blue to red."""
    network_pixels: int = 65
    """Pixels a side of the square around the source that the network sees. Odd, and odd again after each
    halving but the last: only then does a pixel grid that is halved stay symmetric about the source."""
    oversampling: int = 1
    """Pixels of the network for one step between pixels of the cutout, by bilinear interpolation."""
    stretch: Literal["relative", "band", "noise"] = "relative"
    """Unit of flux inside asinh. relative: a part of the object's own brightness, never less than the noise.
    A class must not be read off the magnitude: training samples of disks and spheroids never have the same
    one. band: of its brightness in each band, so that its colour does not show either, only how colours change
    across it. noise: the noise alone, so that the brightness of an object shows."""
    softening: float = 0.1
    """Unit of flux inside the relative asinh, as part of the mean flux of the centre: where the stretch turns
    from linear to logarithmic."""
    centre_pixels: float = 5.0
    """Radius of the circle whose mean flux is the object's brightness [pixel of the cutout]."""
    architecture: Literal["group", "plain"] = "group"
    """group: respects rotations and reflections. plain: a convolutional network of the same depth and as many
    free parameters, to compare with."""
    rotations: Literal[4, 8, 16] = 8
    """Rotations of the group; with as many reflections. 8: the 16 elements that Mirzoyan (2025,
    arXiv:2506.19434) calls D16 and escnn D8. 16: the 32 elements that Pandya et al. (2023, arXiv:2311.01500)
    and escnn call D16."""
    fields: tuple[int, ...] = (4, 6, 8, 8, 12, 16)
    """Regular fields after each block; a field is one channel for each element of the group."""
    halvings: tuple[int, ...] = (1, 2, 4, 5)
    """Blocks, counted from 1, after which the image is blurred and halved."""
    kernel_pixels: Literal[3, 5] = 3
    """Pixels a side of the convolutions. 5: with random weights features change by a quarter less under 45
    degrees, for 2.8 times the cost (`benchmarks.equivariance`)."""
    blur_sigma: float = 1.0
    """Of the Gaussian before an image is halved [pixel]. 0.66 as published aliases more: features change by a
    third more under 45 degrees."""
    dropout: float = 0.2
    """Part of the invariant features that are dropped before the last layer."""
    label_smoothing: float = 0.05
    """Part of the certainty of a label that is taken away: people disagree on disks."""
    learning_rate: float = 3e-3
    """Peak learning rate of AdamW."""
    weight_decay: float = 1e-4
    """Of AdamW."""
    learning_rate_warmup_fraction: float = 0.05
    """Part of training over which the learning rate grows; then half a cosine down to 1 %."""
    grad_clip_norm: float = 1.0
    """Largest norm of the gradient; 0: any."""
    augment: bool = True
    """Whether each image is turned or flipped at random in training: 8 symmetries of the square. The group
    network gains little, as it has them, but for sources that are not in the middle of a pixel."""
    colour_jitter: float = 0.0
    """Scatter of ln of a factor on each band of an image in training: colours are not shapes. 0: none."""
    size_jitter: float = 0.0
    """Training images are enlarged by a factor between 1 / (1 + this) and 1 + this, uniform in its logarithm."""
    blur_jitter_pixels: float = 0.0
    """Training images are blurred by a Gaussian of a width [pixel, sigma] between 0 and this: other PSFs."""
    noise_jitter: float = 0.0
    """Measured training images get more noise, between 0 and this [noise of the band]."""
    adaptation_weight: float = 0.0
    """Of the Sinkhorn divergence between the features of training objects with a class and of those without, which
    are taken for another domain (`models.disk_adaptation`); 0: none."""
    adaptation_warmup_fraction: float = 0.2
    """Part of training before domains are compared: features must mean something first."""
    use_denoised: bool = False
    """Whether there is a column `denoised`: training takes either image, and `prob_disk` is of that one."""
    denoised_share: float = 0.5
    """Part of the training images that are denoised, where there are such; 1: no others."""
    aperture_radius_arcsec: float = 0.30
    """Radius of the circle in which the signal to noise is measured, and that must be observed."""
    min_aperture_fraction: float = 0.5
    """Part of the circle that must be usable in each of the three bands; else there is no probability."""
    threshold: float = 0.5
    """`prob_disk` from which on `disk_class` is 1."""
    min_snr: float = 5.0
    """Signal to noise in the aperture below which objects are flagged LOW_SNR. Pixels are taken as independent: on drizzled
    mosaics of 0.03 arcsec, whose noise is correlated, the true S/N in F444W is lower by 2.4, about 2 at a `min_snr` of 5."""
    num_bins: int = 15
    """Bins of the reliability tables; 15 as in Guo et al. (2017, arXiv:1706.04599)."""
    batch_rows: int = 16
    """Objects that go through the network at once inside the predictor, on a CPU: few enough for its cache, enough
    to pay for a call."""

    def __post_init__(self) -> None:
        """Check ranges; all messages name the field, the value and the range."""
        for name in ("bands", "fields", "halvings"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        self._check_numbers()
        places = [BANDS.index(band) for band in self.bands if band in BANDS]
        is_ordered = len(self.bands) == len(places) == NUM_BANDS and places == sorted(set(places))
        check(is_ordered, "bands", self.bands, f"{NUM_BANDS} of {', '.join(BANDS)}, from blue to red")
        for name, choices in _CHOICES.items():
            check(getattr(self, name) in choices, name, getattr(self, name), " or ".join(map(str, choices)))
        check(bool(self.fields) and min(self.fields) >= 1, "fields", self.fields, "positive numbers")
        blocks = [block for block in range(1, len(self.fields) + 1) if block in self.halvings]
        expected = f"growing numbers of blocks, 1 to {len(self.fields)}"
        check(list(self.halvings) == blocks, "halvings", self.halvings, expected)
        self._check_pixels()

    def _check_numbers(self) -> None:
        for name in ("size", "oversampling", "num_bins", "batch_rows"):
            check(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        for name in ("softening", "blur_sigma", "learning_rate", "aperture_radius_arcsec"):
            check(getattr(self, name) > 0, name, getattr(self, name), "positive")
        for name in ("weight_decay", "grad_clip_norm", "min_snr", "colour_jitter", "size_jitter",
                     "blur_jitter_pixels", "noise_jitter", "adaptation_weight"):  # fmt: skip
            check(getattr(self, name) >= 0, name, getattr(self, name), "0 or positive")
        for name in ("dropout", "label_smoothing", "learning_rate_warmup_fraction",
                     "adaptation_warmup_fraction"):  # fmt: skip
            check(0 <= getattr(self, name) < 1, name, getattr(self, name), "in [0, 1)")
        check(0 <= self.denoised_share <= 1, "denoised_share", self.denoised_share, "in [0, 1]")
        fraction = self.min_aperture_fraction
        check(0 < fraction <= 1, "min_aperture_fraction", fraction, "in (0, 1]")
        check(0 < self.threshold < 1, "threshold", self.threshold, "in (0, 1)")
        check(self.centre_pixels >= 1, "centre_pixels", self.centre_pixels, "at least 1")

    def _check_pixels(self) -> None:
        step, found = 2 ** len(self.halvings), self.network_pixels
        smallest = (self.kernel_pixels - 1) * step + 1
        largest = 2 * ((self.size - 1) // 2) + 1
        is_symmetric = found % 2 == 1 and (self.pixels - 1) % step == 0
        for valid, expected in (
            (self.pixels >= smallest,
             f"larger: the network sees {self.pixels} pixels, {len(self.halvings)} halvings need {smallest}"),
            (is_symmetric, f"odd, (network_pixels - 1) * oversampling a multiple of 2^halvings = {step}"),
            (found <= largest, f"at most {largest}, to be around the source in a cutout of {self.size}"),
        ):  # fmt: skip
            check(valid, "network_pixels", found, expected)

    @property
    def pixels(self) -> int:
        """Pixels a side that the first block sees."""
        return (self.network_pixels - 1) * self.oversampling + 1

    @property
    def group_order(self) -> int:
        """Elements of the group: channels of a field."""
        return 2 * self.rotations if self.architecture == "group" else 1

    @property
    def band_indices(self) -> tuple[int, ...]:
        """Places of the bands among the six of a cutout."""
        return tuple(BANDS.index(band) for band in self.bands)

    @property
    def noise_njy(self) -> tuple[float, ...]:
        """Noise of each band [nJy per pixel]; one for all objects, so that colours keep their meaning."""
        return tuple(NOISE_NJY[index] for index in self.band_indices)

    @property
    def widths(self) -> tuple[int, ...]:
        """Fields after each block; those of the plain network are single channels."""
        return self.fields if self.architecture == "group" else plain_widths(self)


_CHOICES = {
    "stretch": ("relative", "band", "noise"),
    "architecture": ("group", "plain"),
    "rotations": (4, 8, 16),
    "kernel_pixels": (3, 5),
}


def group_parameters(config: DiskClassifierConfig) -> int:
    """Count the free parameters of the group network: expansion coefficients, norms of fields, last layer."""
    fields = config.fields
    pairs = NUM_BANDS * fields[0] + 2 * config.rotations * sum(a * b for a, b in pairwise(fields))
    return BASIS_SIZE[config.kernel_pixels] * pairs + _rest(fields)


def plain_parameters(widths: tuple[int, ...], kernel_pixels: int) -> int:
    """Count the parameters of the plain network with these channels."""
    pairs = NUM_BANDS * widths[0] + sum(a * b for a, b in pairwise(widths))
    return kernel_pixels**2 * pairs + _rest(widths)


def plain_widths(config: DiskClassifierConfig) -> tuple[int, ...]:
    """Channels of the plain network, in proportion to `fields`: as many parameters as the group network."""
    wanted, kernel = group_parameters(config), config.kernel_pixels
    factors = (1 + step / 100 for step in range(NUM_FACTORS))
    choices = (tuple(round(factor * num) for num in config.fields) for factor in factors)
    return min(choices, key=lambda widths: abs(plain_parameters(widths, kernel) - wanted))


def _rest(widths: tuple[int, ...]) -> int:
    """Gains and offsets of the norms, and the last layer."""
    return 2 * sum(widths) + (widths[-1] + 1) * NUM_CLASSES


PRESETS: Mapping[str, DiskClassifierConfig] = {
    "default": DiskClassifierConfig(),
    "published": DiskClassifierConfig(
        oversampling=4,
        stretch="noise",
        fields=(12, 24, 48, 48, 48, 48, 96, 96, 96, 112, 192),
        halvings=(1, 2, 4, 7, 9, 10, 11),
        blur_sigma=0.66,
        dropout=0.0,
        label_smoothing=0.0,
        learning_rate=1e-2,
    ),
    "small": DiskClassifierConfig(network_pixels=33, fields=(2, 3, 4, 6), halvings=(1, 2, 3), dropout=0.0),
}
"""Configurations by name. `published` has the blocks of Pandya et al. (2023), from which Mirzoyan (2025) most
likely took the network; he gives no layers. It sees 257 pixels where theirs sees 255 and pads one more,
the first block is blurred where theirs has a stride, and the stretch is ours; their learning rate falls in
three steps. `small` is for tests and laptops."""
