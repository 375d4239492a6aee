"""Settings of the flow: U-Net, times that are trained, solver."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from models.generators.config import SMALLEST, GeneratorConfig
from models.settings import check


@dataclass(frozen=True, kw_only=True)
class ImageFlowConfig(GeneratorConfig):
    """Network, training and solver of the flow."""

    width: int = 32
    """Channels of the first level; they double with each halving up to `max_width`."""
    max_width: int = 128
    """Most channels of a level."""
    patch: Literal[1, 2, 4] = 2
    """Pixels a side that are packed into channels before the first level."""
    halvings: int = 3
    """Times that the network halves the packed image."""
    blocks: int = 1
    """Residual blocks of each level, on the way in and on the way out."""
    attention_pixels: int = 8
    """Levels with so many pixels a side or fewer have attention; 0: none has."""
    prediction: Literal["data", "velocity"] = "data"
    """What the network gives. data: the mean of the image, from which the velocity follows (Li & He 2025, arXiv:
    2511.13720): images without noise are smooth, and a network need not carry noise through to say so.
    velocity: as published for rectified flows."""
    time_mean: float = 1.0
    """Of the logit of the times that are trained, which is normal (Esser et al. 2024, arXiv:2403.03206, Eq.
    19). About 1, as Karras et al. (2022, arXiv:2206.00364, Table 1) in their units: images without noise have
    detail that is seen late. Lower for large images: more of the noisy times."""
    time_scale: float = 1.4
    """Its standard deviation."""
    late_fraction: float = 0.25
    """Part of the times that are late instead: 1 - time has a logarithm spread evenly over `late_gaps`. There the
    last steps of the solver are, and the smallest scales of images without noise are seen nowhere else."""
    late_gaps: tuple[float, float] = (0.003, 0.1)
    """Least and largest 1 - time of late times."""
    least_gap: float = 0.05
    """Least 1 - time that errors of a predicted image are divided by in training."""
    peak_weight: float = 0.5
    """Exponent of the weights of errors where images are predicted bright (`models.generators.images.bright_weights`).
    With 0 cores come out half as bright; 0.5 weighs cores about as the linear weight that was tried (docs/log.md). Of
    predicted images only, not of velocities."""
    steps: int = 16
    """Steps of the solver from noise to image; it asks the network twice for each but the last."""
    time_power: float = 2.0
    """Times of the steps are 1 - (1 - n / steps)^power: above 1 they are closer near the image, where small
    scales are made."""
    monitor_steps: int = 0
    """Steps of the solver for the images that an epoch is judged by; 0: as many as samples take. With fewer the solver is
    judged more than the network: 6 instead of 16 chose an early epoch, whose cores were half as bright."""
    learning_rate: float = 1e-3
    """Peak learning rate of Adam."""
    learning_rate_warmup_fraction: float = 0.02
    """Part of training over which the learning rate grows; a cosine to 1 % of the peak follows."""
    grad_clip_norm: float = 1.0
    """Largest norm of the gradient; 0: any."""

    def __post_init__(self) -> None:
        """Check ranges; all messages name the field, the value and the range."""
        super().__post_init__()
        object.__setattr__(self, "late_gaps", tuple(self.late_gaps))
        check(self.patch in (1, 2, 4), "patch", self.patch, "1 or 2 or 4")
        kinds = ("data", "velocity")
        check(self.prediction in kinds, "prediction", self.prediction, " or ".join(kinds))
        for name in ("blocks", "steps"):
            check(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        for name in ("attention_pixels", "halvings", "monitor_steps"):
            check(getattr(self, name) >= 0, name, getattr(self, name), "0 or positive")
        check(self.peak_weight >= 0, "peak_weight", self.peak_weight, "0 or positive")
        check(0 <= self.late_fraction <= 1, "late_fraction", self.late_fraction, "in [0, 1]")
        low, high = self.late_gaps
        check(0 < low < high <= 1, "late_gaps", self.late_gaps, "two growing numbers in (0, 1]")
        for name in ("time_scale", "time_power", "least_gap"):
            check(getattr(self, name) > 0, name, getattr(self, name), "positive")
        fraction = self.learning_rate_warmup_fraction
        check(0 <= fraction < 1, "learning_rate_warmup_fraction", fraction, "in [0, 1)")
        smallest = SMALLEST * self.patch // 2 << self.halvings
        check(self.size >= smallest, "size", self.size,
              f"at least {smallest} for patch {self.patch} and {self.halvings} halvings")  # fmt: skip

    @property
    def flow_widths(self) -> tuple[int, ...]:
        """Channels of each level: `halvings` + 1 values."""
        return tuple(min(self.width << level, self.max_width) for level in range(self.halvings + 1))


PRESETS: Mapping[str, ImageFlowConfig] = {
    "tiny": ImageFlowConfig(size=16, width=16, max_width=32, halvings=1, attention_pixels=4, steps=8),
    "cpu64": ImageFlowConfig(),
    "published256": ImageFlowConfig(
        size=256, width=96, max_width=384, patch=4, halvings=3, blocks=2, attention_pixels=16, time_mean=0.0,
        learning_rate=2e-4, ema_decay=0.9999, steps=24, precision="auto",
    ),
}  # fmt: skip
"""Configurations by name. `published256` is our model at the image size of Holzschuh et al. (2022, arXiv:
2203.11956), who have none of its kind."""
