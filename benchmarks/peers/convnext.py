"""ConvNeXt (Liu et al. 2022, arXiv:2201.03545, Fig. 4 and Sect. 2): the standard networks to compare with.

`NANO` has the widths, depths and stem that timm calls convnext_nano. `SMALL` is of the same blocks, for small sets:
its stem divides by 2 and not by 4, because a galaxy is a few pixels wide. Layer scale, which lets a training of
hundreds of epochs start as the identity, and stochastic depth are left out of both.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.disk_classifier_config import NUM_BANDS, NUM_CLASSES, DiskClassifierConfig
from models.disk_networks import Preparation
from models.scoring.cutouts import Cutouts


@dataclass(frozen=True)
class Size:
    """Channels and blocks of each stage, and the pixels a side that the stem makes one of."""

    widths: tuple[int, ...]
    depths: tuple[int, ...]
    stem: int


SMALL = Size((16, 32, 64), (2, 2, 4), 2)
NANO = Size((80, 160, 320, 640), (2, 2, 8, 2), 4)


class ChannelNorm(nn.Module):
    """Layer normalisation over channels of [B, C, S, S]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.movedim(1, -1)).movedim(-1, 1)


class Block(nn.Module):
    """7 x 7 convolution of each channel, then two linear layers over channels, beside the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, channels, 7, padding=3, groups=channels),
            ChannelNorm(channels),
            nn.Conv2d(channels, 4 * channels, 1),
            nn.GELU(),
            nn.Conv2d(4 * channels, channels, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class ConvNeXt(nn.Module):
    """Logits of the two classes for centres of cutouts, prepared as for the other networks."""

    def __init__(self, config: DiskClassifierConfig, size: Size) -> None:
        super().__init__()
        self.prepare = Preparation(config)
        widths, stem = size.widths, size.stem
        layers: list[nn.Module] = [nn.Conv2d(NUM_BANDS, widths[0], stem, stem), ChannelNorm(widths[0])]
        for stage, (width, depth) in enumerate(zip(widths, size.depths, strict=True)):
            if stage:
                layers += [ChannelNorm(widths[stage - 1]), nn.Conv2d(widths[stage - 1], width, 2, 2)]
            layers += [Block(width) for _ in range(depth)]
        self.features = nn.Sequential(*layers)
        self.head = nn.Sequential(nn.LayerNorm(widths[-1], eps=1e-6), nn.Linear(widths[-1], NUM_CLASSES))

    def forward(self, images: Cutouts) -> Tensor:
        """[B, 2]."""
        features: Tensor = self.features(self.prepare(images))
        return self.head(features.mean((2, 3)))


def num_parameters(module: nn.Module) -> int:
    """Count what is learned."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


def fresh(config: DiskClassifierConfig, size: Size, seed: int) -> ConvNeXt:
    """Return a network with random weights of a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ConvNeXt(config, size)
