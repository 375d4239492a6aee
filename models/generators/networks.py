"""Layers that families share: equalised layers, the trunk that judges or encodes images, the VAE's decoder.

Equalised learning rates (Karras et al. 2018, arXiv:1710.10196, Sect. 4.1): weights start from N(0, 1) and are
scaled where they are used, so that Adam moves all layers at one relative speed.
"""

# B images, C channels, S pixels a side, K conditions, F features

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.generators.config import SMALLEST, GeneratorConfig

SLOPE = 0.2
"""Of leaky ReLUs below 0."""
GAIN = math.sqrt(2)
"""Restores the variance that a leaky ReLU takes, to 2 %."""


def activated(x: Tensor) -> Tensor:
    """Leaky ReLU that keeps the variance."""
    return F.leaky_relu(x, SLOPE) * GAIN


class EqualLinear(nn.Module):
    """Linear layer with an equalised learning rate.

    Parameters
    ----------
    inputs, outputs
        Features.
    bias
        Of all outputs at the start.
    rate
        Factor on its learning rate.
    """

    def __init__(self, inputs: int, outputs: int, bias: float = 0.0, rate: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / rate)
        self.bias = nn.Parameter(torch.full((outputs,), bias / rate))
        self._scale, self._rate = rate / math.sqrt(inputs), rate

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, inputs] to [B, outputs]."""
        return F.linear(x, self.weight * self._scale, self.bias * self._rate)


class EqualConv(nn.Module):
    """Convolution of odd kernel with an equalised learning rate; keeps the size of the image."""

    def __init__(self, inputs: int, outputs: int, kernel: int, is_biased: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs)) if is_biased else None
        self._scale, self._padding = 1 / math.sqrt(inputs * kernel**2), kernel // 2

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, inputs, S, S] to [B, outputs, S, S]."""
        return F.conv2d(x, self.weight * self._scale, self.bias, padding=self._padding)


def doubled(x: Tensor) -> Tensor:
    """Upsample by 2 with the filter (1, 3, 3, 1) / 4 along each axis: bilinear interpolation."""
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


class Halving(nn.Module):
    """Residual block that halves the image (StyleGAN2's; Karras et al. 2020, arXiv:1912.04958, Fig. 7)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first = EqualConv(inputs, inputs, 3)
        self.second = EqualConv(inputs, outputs, 3)
        self.skip = EqualConv(inputs, outputs, 1, is_biased=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, inputs, S, S] to [B, outputs, S / 2, S / 2]."""
        y = activated(self.second(F.avg_pool2d(activated(self.first(x)), 2)))
        return (y + self.skip(F.avg_pool2d(x, 2))) / GAIN


class Doubling(nn.Module):
    """Residual block that doubles the image."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first = EqualConv(inputs, outputs, 3)
        self.second = EqualConv(outputs, outputs, 3)
        self.skip = EqualConv(inputs, outputs, 1, is_biased=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, inputs, S, S] to [B, outputs, 2 S, 2 S]."""
        y = activated(self.second(activated(self.first(doubled(x)))))
        return (y + doubled(self.skip(x))) / GAIN


class Trunk(nn.Module):
    """From an image to features: residual halvings down to 4 x 4 pixels, then a linear layer.

    Parameters
    ----------
    num_features
        Of the output.
    has_deviation
        Whether the innermost features are joined by how much they vary over the batch (Karras et al. 2018,
        arXiv:1710.10196, Sect. 3): a judge then sees when a generator repeats itself.
    """

    def __init__(self, config: GeneratorConfig, num_features: int, has_deviation: bool = False) -> None:
        super().__init__()
        widths, inner = config.widths, config.widths[-1]
        self._has_deviation = has_deviation
        self.first = EqualConv(config.num_channels, widths[0], 1)
        self.blocks = nn.ModuleList(Halving(widths[n], widths[n + 1]) for n in range(config.num_levels))
        self.mixed = EqualConv(inner + has_deviation, inner, 3)
        self.last = EqualLinear(inner * SMALLEST**2, num_features)

    def forward(self, images: Tensor, deviation: Tensor | None = None) -> Tensor:
        """Features [B, F] of stretched images [B, C, S, S].

        Parameters
        ----------
        deviation
            Scalar in the place of how much this batch varies, so that rows do not depend on each other.
        """
        x = self.inner(images)
        if self._has_deviation:
            value = batch_deviation(x) if deviation is None else deviation
            x = torch.cat([x, value.to(x).expand(len(x), 1, *x.shape[2:])], 1)
        return activated(self.last(activated(self.mixed(x)).flatten(1)))

    def inner(self, images: Tensor) -> Tensor:
        """Innermost features [B, F, 4, 4]."""
        x = activated(self.first(images))
        for block in self.blocks:
            x = block(x)
        return x


def batch_deviation(x: Tensor) -> Tensor:
    """Measure the standard deviation over the batch of features [B, F, S, S], mean over all else; a scalar.

    Over the whole batch, not groups of 4 as in StyleGAN: fewer rows make a noisier statistic.
    """
    return (x.var(0, unbiased=False) + 1e-8).sqrt().mean()


class Decoder(nn.Module):
    """From a latent and conditions to an image: a linear layer to 4 x 4 pixels, then residual doublings."""

    def __init__(self, config: GeneratorConfig, num_latent: int) -> None:
        super().__init__()
        widths = config.widths
        self._inner = widths[-1]
        self.first = EqualLinear(num_latent + len(config.conditions), self._inner * SMALLEST**2)
        levels = reversed(range(config.num_levels))
        self.blocks = nn.ModuleList(Doubling(widths[n + 1], widths[n]) for n in levels)
        self.last = EqualConv(widths[0], config.num_channels, 3)

    def forward(self, latent: Tensor, condition: Tensor) -> Tensor:
        """Stretched images [B, C, S, S] of latents [B, D] and conditions [B, K]."""
        x = activated(self.first(torch.cat([latent, condition], 1)))
        x = x.view(len(x), self._inner, SMALLEST, SMALLEST)
        for block in self.blocks:
            x = block(x)
        return self.last(x)
