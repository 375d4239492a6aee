"""Settings that all generators share: what an image is, how it is stretched, conditions, optimiser."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from models.settings import check

SMALLEST = 4
"""Pixels a side of the innermost features."""
TURNED_WITH_IMAGES = frozenset({"position_angle_deg", "x_arcsec", "y_arcsec", "dx", "dy"})
"""Columns that say where a source is in its image or how it is turned: no longer true of an image that is turned."""


@dataclass(frozen=True, kw_only=True)
class GeneratorConfig:
    """Images, conditions and training of a generator."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    size: int = 64
    """Pixels a side of an image; 4 times a power of 2."""
    num_channels: int = 1
    """Bands of an image, or further channels that are generated with them."""
    image_column: str = "image"
    """Column that holds the images to learn from: `science` of staged NIRCam cutouts, which have 6 channels. What
    is generated is `image` whatever this is."""
    unit: str = ""
    """Unit of the pixels, for the columns."""
    stretch: Literal["asinh", "linear"] = "asinh"
    """Of image / softening, before mean and standard deviation are taken off. asinh for noiseless profiles and
    fluxes, whose cores are thousands of times brighter than their outskirts."""
    softening: float = 1.0
    """Where asinh turns from linear to logarithmic [unit of the image]."""
    stretched_mean: tuple[float, ...] = (0.0,)
    """Mean of the stretched pixels of the training set, for each channel; by default 0 for all. `train` measures it, on
    its first 1,024 rows, where a configuration does not give it (`models.generators.images.stretch_settings`)."""
    stretched_std: tuple[float, ...] = (1.0,)
    """Standard deviation of the stretched pixels, like the mean, by default 1: networks see values of mean 0, variance 1."""
    conditions: tuple[str, ...] = ()
    """Columns with one number an image that the generator is told, such as `half_light_radius_arcsec`."""
    condition_low: tuple[float, ...] = ()
    """Least value of each condition; what lies outside of the range is refused, before training and after. `train` takes
    least and largest value of what is staged where a configuration gives neither (`models.generators.ranges.survey`)."""
    condition_high: tuple[float, ...] = ()
    """Largest value of each condition."""
    augment: bool = True
    """Whether training turns or flips each image, one of the 8 symmetries of the square. Refused with a condition of
    `TURNED_WITH_IMAGES`, which would be noise."""
    width: int = 24
    """Channels at the size of the image; they double with each halving up to `max_width`."""
    max_width: int = 96
    """Most channels of a level."""
    learning_rate: float = 2e-3
    """Of Adam; its peak where there is a schedule."""
    grad_clip_norm: float = 0.0
    """Largest norm of the gradient; 0: any."""
    ema_decay: float = 0.999
    """Weights that are kept and sampled from are a running mean over about 1 / (1 - ema_decay) steps."""
    precision: Literal["auto", "float32", "bfloat16"] = "float32"
    """Of matrix products in training. auto: bfloat16 where the device computes with it natively."""
    batch_rows: int = 32
    """Images that go through the network at once after training. Fewer are filled up to so many: a sample is
    then computed by the same operations whatever it is asked for with."""

    def __post_init__(self) -> None:
        """Check ranges; all messages name the field, the value and the range."""
        for name in ("stretched_mean", "stretched_std", "conditions", "condition_low", "condition_high"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for name, default in (("stretched_mean", (0.0,)), ("stretched_std", (1.0,))):
            if getattr(self, name) == default:
                object.__setattr__(self, name, default * self.num_channels)
        check(self.num_levels >= 0 and SMALLEST << self.num_levels == self.size, "size", self.size,
              f"{SMALLEST} times a power of 2")  # fmt: skip
        for name in ("num_channels", "width", "batch_rows"):
            check(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        check(self.max_width >= self.width, "max_width", self.max_width, f"at least width = {self.width}")
        for name in ("softening", "learning_rate"):
            check(getattr(self, name) > 0, name, getattr(self, name), "positive")
        check(self.grad_clip_norm >= 0, "grad_clip_norm", self.grad_clip_norm, "0 or positive")
        check(0 <= self.ema_decay < 1, "ema_decay", self.ema_decay, "in [0, 1)")
        for name, choices in _CHOICES.items():
            check(getattr(self, name) in choices, name, getattr(self, name), " or ".join(choices))
        for name in ("stretched_mean", "stretched_std"):
            values = getattr(self, name)
            check(
                len(values) == self.num_channels, name, values, f"{self.num_channels} values, one a channel"
            )
        check(min(self.stretched_std) > 0, "stretched_std", self.stretched_std, "positive")
        self._check_conditions()

    def _check_conditions(self) -> None:
        names = self.conditions
        check(len(set(names)) == len(names) and self.image_column not in names, "conditions", names,
              f"different names of columns, none of them {self.image_column}")  # fmt: skip
        turned = sorted(TURNED_WITH_IMAGES & {*names}) if self.augment else []
        check(not turned, "augment", True,
              f"false with condition {', '.join(turned)}: images are turned, it is not; or take it out of conditions")  # fmt: skip
        if not (self.condition_low or self.condition_high):
            return
        for name in ("condition_low", "condition_high"):
            check(len(getattr(self, name)) == len(names), name, getattr(self, name),
                  f"{len(names)} values, one a condition; neither of both: they are measured")  # fmt: skip
        for name, low, high in zip(names, self.condition_low, self.condition_high, strict=True):
            check(low < high, f"range of condition {name}", (low, high), "growing")

    @property
    def num_levels(self) -> int:
        """Halvings from the image to the innermost features of 4 x 4 pixels."""
        return (self.size // SMALLEST).bit_length() - 1

    @property
    def num_pixels(self) -> int:
        """Values of an image: length of its column."""
        return self.num_channels * self.size**2

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level, from the size of the image to the innermost: `num_levels` + 1 values."""
        return tuple(min(self.width << level, self.max_width) for level in range(self.num_levels + 1))


_CHOICES = {"stretch": ("asinh", "linear"), "precision": ("auto", "float32", "bfloat16")}
