"""U-Net for an image on its way from noise, told the time and the conditions: gives the image, or a velocity."""

# B images, C channels, S pixels a side, K conditions, E embedding

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.generators.flow_config import ImageFlowConfig

GROUP_CHANNELS = 8
"""Channels that are normalised together."""
NUM_FREQUENCIES = 32
LARGEST_FREQUENCY = 100.0
"""Of the time embedding [radian a unit of time]."""
BRANCH_START = 0.1
"""Of weights that end a residual branch or the network, relative to others: blocks begin near the identity."""


class TimeEmbedding(nn.Module):
    """Time and conditions as one vector: cosines and sines of the time, linear conditions, two layers."""

    frequencies: Tensor

    def __init__(self, num_conditions: int, size: int) -> None:
        super().__init__()
        grid = torch.logspace(0, math.log10(LARGEST_FREQUENCY), NUM_FREQUENCIES)
        self.register_buffer("frequencies", grid, persistent=False)
        self.first = nn.Linear(2 * NUM_FREQUENCIES, size)
        self.told = nn.Linear(num_conditions, size, bias=False) if num_conditions else None
        self.second = nn.Linear(size, size)

    def forward(self, time: Tensor, condition: Tensor) -> Tensor:
        """Vectors [B, E] of times [B] and conditions [B, K]."""
        angle = time[:, None] * self.frequencies
        x = self.first(torch.cat([angle.cos(), angle.sin()], 1))
        if self.told is not None:
            x = x + self.told(condition)
        return F.silu(self.second(F.silu(x)))


class Block(nn.Module):
    """Residual block whose second normalisation is scaled and shifted by the embedding.

    Dhariwal & Nichol (2021, arXiv:2105.05233, Sect. 3.1): adaptive group normalisation.
    """

    def __init__(self, inputs: int, outputs: int, embedding: int) -> None:
        super().__init__()
        self.first_norm, self.second_norm = _norm(inputs), _norm(outputs)
        self.first = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.second = _ending(nn.Conv2d(outputs, outputs, 3, padding=1))
        self.told = nn.Linear(embedding, 2 * outputs)
        self.skip = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor, embedded: Tensor) -> Tensor:
        """Map [B, inputs, S, S] to [B, outputs, S, S]."""
        y = self.second_norm(self.first(F.silu(self.first_norm(x))))
        scale, shift = self.told(embedded)[:, :, None, None].chunk(2, 1)
        return self.skip(x) + self.second(F.silu(y * (1 + scale) + shift))


class Attention(nn.Module):
    """Residual self-attention between pixels, with one head for 32 channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self._heads = max(1, channels // 32)
        self.norm = _norm(channels)
        # Softmax ignores what is added to all keys: they have no bias.
        self.query = nn.Conv2d(channels, channels, 1)
        self.key = nn.Conv2d(channels, channels, 1, bias=False)
        self.value = nn.Conv2d(channels, channels, 1)
        self.last = _ending(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, channels, S, S] to the same shape."""
        normed = self.norm(x)
        query, key, value = (
            layer(normed).unflatten(1, (self._heads, -1)).flatten(3).transpose(2, 3)
            for layer in (self.query, self.key, self.value)
        )
        y = F.scaled_dot_product_attention(query, key, value)
        return x + self.last(y.transpose(2, 3).reshape(x.shape))


class Level(nn.Module):
    """Blocks of one size, each followed by attention where the image is small."""

    def __init__(self, widths: list[tuple[int, int]], embedding: int, has_attention: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(*pair, embedding) for pair in widths)
        self.attention = nn.ModuleList(Attention(outputs) for _, outputs in widths if has_attention)

    def forward(self, x: Tensor, embedded: Tensor) -> Tensor:
        """Map to the width of the last block."""
        for n, block in enumerate(self.blocks):
            x = block(x, embedded)
            x = self.attention[n](x) if len(self.attention) else x
        return x


class FlowNetwork(nn.Module):
    """U-Net with skips; what it gives, the mean of the image or a velocity, is a matter of its training.

    Pixels are packed `patch` x `patch` into channels first (Shi et al. 2016, arXiv:1609.05158), so that the
    widest convolutions see a smaller image.
    """

    def __init__(self, config: ImageFlowConfig) -> None:
        super().__init__()
        widths, channels = config.flow_widths, config.num_channels * config.patch**2
        embedding, blocks, self._patch = 4 * widths[0], config.blocks, config.patch
        sides = [config.size // config.patch >> level for level in range(len(widths))]
        attends = [side <= config.attention_pixels for side in sides]
        self.embedding = TimeEmbedding(len(config.conditions), embedding)
        self.first = nn.Conv2d(channels, widths[0], 3, padding=1)
        self.down, self.up, before = nn.ModuleList(), nn.ModuleList(), widths[0]
        for width, has_attention in zip(widths, attends, strict=True):
            pairs = [(before, width)] + [(width, width)] * (blocks - 1)
            self.down.append(Level(pairs, embedding, has_attention))
            before = width
        for width, has_attention in reversed(list(zip(widths, attends, strict=True))):
            pairs = [(before + width, width)] + [(width, width)] * (blocks - 1)
            self.up.append(Level(pairs, embedding, has_attention))
            before = width
        self.last_norm = _norm(before)
        self.last = _ending(nn.Conv2d(before, channels, 3, padding=1))

    def forward(self, images: Tensor, time: Tensor, condition: Tensor) -> Tensor:
        """Give [B, C, S, S].

        Parameters
        ----------
        images
            [B, C, S, S] at their times: stretched images mixed with noise.
        time
            [B], 0 (noise) to 1 (image).
        condition
            [B, K], scaled to [-1, 1].
        """
        embedded, skipped = self.embedding(time, condition), list[Tensor]()
        x = self.first(_packed(images, self._patch))
        for n, level in enumerate(self.down):
            x = level(F.avg_pool2d(x, 2) if n else x, embedded)
            skipped.append(x)
        for n, level in enumerate(self.up):
            x = F.interpolate(x, scale_factor=2, mode="nearest") if n else x
            x = level(torch.cat([x, skipped.pop()], 1), embedded)
        return F.pixel_shuffle(self.last(F.silu(self.last_norm(x))), self._patch).float()


def _packed(images: Tensor, patch: int) -> Tensor:
    """`F.pixel_unshuffle`, which gives a wrong shape for no rows at all (torch 2.13)."""
    rows, channels, height, width = images.shape
    parts = images.view(rows, channels, height // patch, patch, width // patch, patch)
    packed = parts.permute(0, 1, 3, 5, 2, 4)
    return packed.reshape(rows, channels * patch**2, height // patch, width // patch)


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(math.gcd(channels, max(1, channels // GROUP_CHANNELS)), channels)


def _ending(layer: nn.Conv2d) -> nn.Conv2d:
    with torch.no_grad():
        layer.weight *= BRANCH_START
    return layer
