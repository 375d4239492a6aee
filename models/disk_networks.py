"""Networks of the disk classifier in plain torch: what is trained to compare with, and what predicts.

A block is a convolution, batch normalisation and ReLU; after some of them the image is blurred and halved.
Then the largest value over the elements of the group, the mean over pixels, and a linear layer: features that
do not change when the object is turned or mirrored. The network that learns them is in
`models.disk_equivariant`; the one here has its filters written out (`models.disk_export`) and needs no escnn.
Channels lie innermost in memory, which is faster on CPUs and GPUs.
"""

# B objects, S pixels a side of an image, N of what the first block sees, F fields, G elements of the group

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.disk_classifier_config import NUM_BANDS, NUM_CLASSES, DiskClassifierConfig
from models.scoring.cutouts import Cutouts


class Preparation(nn.Module):
    """From three bands in nJy to what the first block sees: stretched, within a disc.

    With u the flux in units of the band's noise, "noise" gives asinh(u). "relative" gives asinh(u / s) /
    asinh(f / s), where f >= 1 is the mean of u over the bands and the central circle, and s >= 1 the
    softening times f. An object that is much brighter than the noise then gives the same image at any
    brightness, its colours stay, and noise is not blown up where an object is faint. "band" does so with the
    mean over the circle in each band alone.
    """

    noise: Tensor
    disc: Tensor
    centre: Tensor

    def __init__(self, config: DiskClassifierConfig) -> None:
        super().__init__()
        self._expected = (NUM_BANDS, config.network_pixels, config.network_pixels)
        self._bands, self.pixels = config.bands, config.pixels
        self._stretch, self._softening = config.stretch, config.softening
        radius = min(config.centre_pixels, config.network_pixels / 2)
        buffers = {
            "noise": torch.tensor(config.noise_njy).view(-1, 1, 1),
            "centre": disc(config.network_pixels, radius),
            "disc": disc(config.pixels, config.pixels / 2),
        }
        for name, value in buffers.items():
            self.register_buffer(name, value, persistent=False)

    def forward(self, images: Cutouts) -> Tensor:
        """Return [B, 3, N, N] of the centres of cutouts (`models.disk_images`).

        Raises
        ------
        ValueError
            If they have other bands or another size.
        """
        found = tuple(images.science.shape[1:])
        if found != self._expected:
            raise ValueError(
                f"images are {found}, must be {self._expected}: bands {' '.join(self._bands)}, y, x"
            )
        stretched = self._stretched(images.science / self.noise, images.usable)
        if self.pixels != stretched.shape[-1]:
            stretched = F.interpolate(stretched, size=(self.pixels,) * 2, mode="bilinear", align_corners=True)
        return stretched * self.disc

    def _stretched(self, flux: Tensor, usable: Tensor) -> Tensor:
        flux = flux * usable
        if self._stretch == "noise":
            return torch.asinh(flux)
        weights, over = usable * self.centre, (2, 3) if self._stretch == "band" else (1, 2, 3)
        brightness = (flux * weights).sum(over, keepdim=True) / weights.sum(over, keepdim=True).clamp(min=1)
        brightness = brightness.clamp(min=1)
        unit = (self._softening * brightness).clamp(min=1)
        return torch.asinh(flux / unit) / torch.asinh(brightness / unit)


class Blur(nn.Module):
    """Gaussian blur of each channel against aliasing, and every second pixel of it with the outermost ones.

    Beyond the edge is 0. An image of an odd number n of pixels becomes (n + 1) / 2, symmetric as it was.

    References
    ----------
    Zhang (2019), arXiv:1904.11486: blur before subsampling.
    """

    kernel: Tensor

    def __init__(self, sigma: float) -> None:
        super().__init__()
        self.register_buffer("kernel", gaussian(sigma)[None, None], persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Halve [B, C, n, n]."""
        channels = images.shape[1]
        kernel = self.kernel.to(images.dtype).expand(channels, -1, -1, -1)
        return F.conv2d(images, kernel, stride=2, padding=kernel.shape[-1] // 2, groups=channels)


class InvariantHead(nn.Module):
    """Largest value over the group, mean over pixels, linear layer.

    Parameters
    ----------
    num_fields, group_order
        F and G; channels are in the order field, element.
    dropout
        Part of the features dropped in training.
    """

    def __init__(self, num_fields: int, group_order: int, dropout: float) -> None:
        super().__init__()
        self._shape = (num_fields, group_order)
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(num_fields, NUM_CLASSES)

    def forward(self, images: Tensor, with_features: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """Return logits [B, 2] of [B, F * G, n, n], and the invariant features [B, F] if they are asked for."""
        invariant = images.unflatten(1, self._shape).amax(2).to(self.linear.weight.dtype).mean((2, 3))
        logits = self.linear(self.dropout(invariant))
        return (logits, invariant) if with_features else logits


class DiskNetwork(nn.Module):
    """Logits of cutouts; `normalised` tells the network that is trained from the one that predicts.

    Parameters
    ----------
    config
        Settings. Of a group network only the form with written-out filters can be built here.
    normalised
        True: convolutions without offset, and batch normalisation (architecture "plain" only). False: the
        normalisation is part of the convolutions.

    Attributes
    ----------
    products
        float32 or bfloat16: how `models.disk_packed` lays it out.
    """

    def __init__(self, config: DiskClassifierConfig, normalised: bool = False) -> None:
        super().__init__()
        if normalised and config.architecture != "plain":
            raise ValueError(
                f"architecture is {config.architecture}, must be plain to be trained without escnn"
            )
        self.products = torch.float32
        self.preparation = Preparation(config)
        channels = [NUM_BANDS, *(width * config.group_order for width in config.widths)]
        self.blocks = nn.Sequential(
            *(_block(config, number, *pair, normalised) for number, pair in enumerate(pairwise(channels), 1))
        )
        self.head = InvariantHead(config.widths[-1], config.group_order, config.dropout)

    def forward(self, images: Cutouts, with_features: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """Return logits [B, 2], not a disk and a disk, of images [B, 3, S, S]; one call a step, for DDP.

        With the invariant features [B, F] that they are made of, if those are asked for.
        """
        prepared = self.preparation(images).contiguous(memory_format=torch.channels_last)
        return self.head(self.blocks(prepared), with_features)


def _block(
    config: DiskClassifierConfig, number: int, before: int, after: int, normalised: bool
) -> nn.Sequential:
    pixels, block = config.kernel_pixels, nn.Sequential()
    convolution = nn.Conv2d(before, after, pixels, padding=pixels // 2, bias=not normalised)
    block.add_module("convolution", convolution)
    if normalised:
        block.add_module("norm", nn.BatchNorm2d(after))
    block.add_module("relu", nn.ReLU())
    if number in config.halvings:
        block.add_module("blur", Blur(config.blur_sigma))
    return block


def gaussian(sigma: float) -> Tensor:
    """Gaussian of `sigma` pixels on a square that reaches to about 3 sigma, of sum 1."""
    reach = round(3 * sigma)
    at = torch.arange(-reach, reach + 1)
    row = torch.exp(-at.square() / (2 * sigma**2))
    kernel = row.outer(row)
    return kernel / kernel.sum()


def disc(pixels: int, radius: float) -> Tensor:
    """Square of `pixels` a side: 1 within `radius` of the middle, 0 outside, with an edge of one pixel."""
    at = torch.arange(pixels) - (pixels - 1) / 2
    distance = (at.square()[:, None] + at.square()[None, :]).sqrt()
    return (radius + 0.5 - distance).clamp(0, 1)
