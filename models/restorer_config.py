"""Settings of the restorer: network, the task that it is set, optimiser."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from models.settings import check


@dataclass(frozen=True, kw_only=True)
class RestorerConfig:
    """Network, blur and noise of the task, training. The defaults are the published ones, for images of 64 pixels."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    size: int = 64
    """Pixels a side of an image."""
    num_channels: int = 4
    """Bands of an image: g, r, i, z as published."""
    image_channels: int = 0
    """Channels of the images that are read, of which the first `num_channels` are taken: 5 of staged SKIRT images, the
    last of which holds their size. 0: `num_channels`."""
    unit: str = ""
    """Unit of the pixels, for the columns."""
    scale: float = 1.0
    """Brightness that the network sees as 1; as published images are not normalised."""
    width: int = 32
    """Channels of all layers but the code."""
    blocks: int = 5
    """Residual blocks before the code, and after it."""
    code_channels: int = 2
    """Channels of the code, which has all pixels of the image."""
    kernel_px: int = 5
    """Side of all convolutions, odd."""
    negative_slope: float = 0.3
    """Of the leaky rectifier; not published, 0.3 is the default of the library that the seed uses."""
    psf_sigma_px: float = 2.0
    """Standard deviation of the Gaussian that images are blurred with; 0: they are not."""
    psf_size_px: int = 41
    """Side of its kernel, odd."""
    noise_sigma: float = 4.0
    """Standard deviation of the noise of a pixel [unit of the image]: 1 / 0.25 as published."""
    augment: bool = True
    """Whether training turns or flips the images of a step by one of the 8 symmetries of the square."""
    learning_rate: float = 1e-4
    """Of Adam, in the beginning."""
    learning_rate_factor: float = 0.8
    """It is multiplied with this..."""
    learning_rate_steps: int = 2500
    """...after so many steps, 50 epochs of 50..."""
    least_learning_rate: float = 1e-6
    """...down to this."""
    predict_rows: int = 64
    """Images that go through the network at once after training."""

    def __post_init__(self) -> None:
        """Check ranges; all messages name the field, the value and the range."""
        least = {"size": 4, "num_channels": 1, "width": 1, "blocks": 0, "code_channels": 1,
                 "learning_rate_steps": 1, "predict_rows": 1}  # fmt: skip
        for name, value in least.items():
            check(getattr(self, name) >= value, name, getattr(self, name), f"at least {value}")
        check(not self.image_channels or self.image_channels >= self.num_channels, "image_channels",
              self.image_channels, f"0, or at least num_channels = {self.num_channels}")  # fmt: skip
        for name in ("kernel_px", "psf_size_px"):
            check(getattr(self, name) % 2 == 1, name, getattr(self, name), "odd")
        for name in ("scale", "learning_rate", "least_learning_rate"):
            check(getattr(self, name) > 0, name, getattr(self, name), "positive")
        for name in ("psf_sigma_px", "noise_sigma", "negative_slope"):
            check(getattr(self, name) >= 0, name, getattr(self, name), "0 or positive")
        check(
            0 < self.learning_rate_factor <= 1, "learning_rate_factor", self.learning_rate_factor, "in (0, 1]"
        )

    @property
    def num_pixels(self) -> int:
        """Values of a restored image: length of its column."""
        return self.num_channels * self.size**2

    @property
    def num_read(self) -> int:
        """Values of an image that is read."""
        return (self.image_channels or self.num_channels) * self.size**2

    def rate(self, step: int) -> float:
        """Learning rate of a step."""
        factor = self.learning_rate_factor ** (step // self.learning_rate_steps)
        return max(self.learning_rate * factor, min(self.least_learning_rate, self.learning_rate))


PRESETS: Mapping[str, RestorerConfig] = {
    "small": RestorerConfig(num_channels=1, width=16, blocks=2, learning_rate=1e-3, learning_rate_steps=200),
    "published": RestorerConfig(),
}
"""Configurations by name: `small` learns on CPUs in minutes; `published` is that of Holzschuh et al. (2022)."""
