"""Style-based generator: mapping network, modulated convolutions, images summed over scales.

Karras et al. (2020, arXiv:1912.04958; StyleGAN2). Ours differs: images are doubled before the convolution and not
within it, noise inputs are optional, and to-image layers take the style of the convolution before them.
"""

# B images, C channels, S pixels a side, D latents, K conditions, L styles (convolutions)

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.generators.adversarial_config import AdversarialConfig
from models.generators.config import SMALLEST
from models.generators.networks import EqualLinear, activated, doubled

MAPPING_RATE = 0.01
"""Learning rate of the mapping network relative to all else (Karras et al. 2019, arXiv:1812.04948, App. C)."""


class Made(NamedTuple):
    """Images [B, C, S, S], stretched, and the styles [B, L, D] that they are made of."""

    images: Tensor
    styles: Tensor


class Mapping(nn.Module):
    """From draws of N(0, 1) and conditions to the intermediate latent w."""

    def __init__(self, config: AdversarialConfig) -> None:
        super().__init__()
        size, told = config.num_latent, len(config.conditions)
        self.told = EqualLinear(told, size) if told else None
        inputs = size * (1 + bool(told))
        self.layers = nn.ModuleList(
            EqualLinear(size if n else inputs, size, rate=MAPPING_RATE) for n in range(config.mapping_layers)
        )

    def forward(self, draws: Tensor, condition: Tensor) -> Tensor:
        """Latents w [B, D] of draws [B, D], which count by their direction, and conditions [B, K]."""
        x = draws * (draws.square().mean(1, keepdim=True) + 1e-8).rsqrt()
        if self.told is not None:
            x = torch.cat([x, self.told(condition)], 1)
        for layer in self.layers:
            x = activated(layer(x))
        return x


class ModulatedConv(nn.Module):
    """Convolution whose weights are scaled for each image by its style (StyleGAN2, Eqs. 1 and 3).

    The scale of its inputs is put on the features instead of the weights, and the demodulation on the outputs:
    the same numbers, and one convolution for the whole batch.

    Parameters
    ----------
    is_demodulated
        Whether each output is divided by the norm of its scaled weights: inputs of variance 1 then give
        outputs of variance 1, whatever the style.
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: int, num_latent: int, is_demodulated: bool = True
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.style = EqualLinear(num_latent, inputs, bias=1.0)
        self._scale, self._padding = 1 / math.sqrt(inputs * kernel**2), kernel // 2
        self._is_demodulated = is_demodulated

    def forward(self, x: Tensor, latent: Tensor) -> Tensor:
        """Map [B, inputs, S, S] with latents [B, D] to [B, outputs, S, S]."""
        style, weight = self.style(latent), self.weight * self._scale
        y = F.conv2d(x * style[:, :, None, None], weight, padding=self._padding)
        if not self._is_demodulated:
            return y
        squares = style.float().square() @ weight.float().square().sum((2, 3)).T
        return y * (squares + 1e-8).rsqrt().to(y)[:, :, None, None]


class StyledConv(nn.Module):
    """Modulated convolution, noise if there is any, bias, leaky ReLU."""

    def __init__(self, inputs: int, outputs: int, config: AdversarialConfig) -> None:
        super().__init__()
        self.convolution = ModulatedConv(inputs, outputs, 3, config.num_latent)
        self.bias = nn.Parameter(torch.zeros(outputs, 1, 1))
        self.noise_strength = nn.Parameter(torch.zeros(())) if config.noise_inputs else None

    def forward(self, x: Tensor, latent: Tensor, noise: Tensor) -> Tensor:
        """Map [B, inputs, S, S] to [B, outputs, S, S], with noise [B, 1, S, S]."""
        y = self.convolution(x, latent)
        if self.noise_strength is not None:
            y = y + self.noise_strength * noise
        return activated(y + self.bias)


class Level(nn.Module):
    """One size of the image: one or two styled convolutions, and what it adds to the image."""

    def __init__(self, inputs: int, outputs: int, is_innermost: bool, config: AdversarialConfig) -> None:
        super().__init__()
        self._is_innermost = is_innermost
        widths = [(inputs, outputs)] if is_innermost else [(inputs, outputs), (outputs, outputs)]
        self.convolutions = nn.ModuleList(StyledConv(*pair, config) for pair in widths)
        self.to_image = ModulatedConv(
            outputs, config.num_channels, 1, config.num_latent, is_demodulated=False
        )
        self.bias = nn.Parameter(torch.zeros(config.num_channels, 1, 1))

    def forward(
        self, x: Tensor, image: Tensor | None, styles: Tensor, noise: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Features and image, both of this size; `styles` [B, 1 or 2, D]."""
        x = x if self._is_innermost else doubled(x)
        for n, convolution in enumerate(self.convolutions):
            x = convolution(x, styles[:, n], noise[n])
        added = self.to_image(x, styles[:, -1]) + self.bias
        return x, added if image is None else doubled(image) + added


class Synthesis(nn.Module):
    """From styles to an image: a learned constant of 4 x 4 pixels, then levels of twice the size each."""

    def __init__(self, config: AdversarialConfig) -> None:
        super().__init__()
        widths = config.widths[::-1]
        self.constant = nn.Parameter(torch.randn(1, widths[0], SMALLEST, SMALLEST))
        self.levels = nn.ModuleList(
            Level(widths[max(n - 1, 0)], widths[n], n == 0, config) for n in range(config.num_levels + 1)
        )

    def forward(self, styles: Tensor, noise: Tensor) -> Tensor:
        """Stretched images [B, C, S, S] of styles [B, L, D] and noise [B, num_noise]."""
        x, image, first, used = self.constant.expand(len(styles), -1, -1, -1), None, 0, 0
        for n, level in enumerate(self.levels):
            count, side = 1 + (n > 0), SMALLEST << n
            maps: list[Tensor] = []
            for _ in range(count):
                maps.append(
                    noise[:, used : used + side**2].view(-1, 1, side, side) if noise.shape[1] else noise
                )
                used += side**2
            x, image = level(x, image, styles[:, first : first + count], maps)
            first += count
        assert image is not None
        return image.float()


class StyleGenerator(nn.Module):
    """Mapping and synthesis."""

    def __init__(self, config: AdversarialConfig) -> None:
        super().__init__()
        self.num_styles = config.num_styles
        self.mapping = Mapping(config)
        self.synthesis = Synthesis(config)

    def decode(self, latent: Tensor, noise: Tensor) -> Tensor:
        """Images of latents w [B, D], the same for all convolutions."""
        return self.synthesis(latent[:, None].expand(-1, self.num_styles, -1), noise)

    def forward(
        self,
        draws: Tensor,
        condition: Tensor,
        noise: Tensor,
        mixed: Tensor | None = None,
        crossover: Tensor | None = None,
    ) -> Made:
        """Images of draws; one call a step, so that DDP sees it.

        Parameters
        ----------
        draws, condition, noise
            [B, D], [B, K], [B, num_noise].
        mixed, crossover
            Other draws [B, D], and from which convolution on they are taken [B], L: none.
        """
        latent = self.mapping(draws, condition)
        styles = latent[:, None].expand(-1, self.num_styles, -1)
        if mixed is not None and crossover is not None:
            other = self.mapping(mixed, condition)[:, None]
            is_first = torch.arange(self.num_styles, device=draws.device) < crossover[:, None]
            styles = torch.where(is_first[:, :, None], styles, other)
        return Made(self.synthesis(styles, noise), styles)


class Head(nn.Module):
    """One logit from features, given conditions by a projection (Miyato & Koyama 2018, arXiv:1802.05637)."""

    def __init__(self, num_features: int, num_conditions: int) -> None:
        super().__init__()
        self.logit = EqualLinear(num_features, 1)
        self.told = EqualLinear(num_conditions, num_features) if num_conditions else None
        self._scale = 1 / math.sqrt(num_features)

    def forward(self, features: Tensor, condition: Tensor) -> Tensor:
        """Logits [B] of features [B, F]."""
        logit = self.logit(features)[:, 0]
        if self.told is not None:
            logit = logit + self._scale * (features * self.told(condition)).sum(1)
        return logit.float()
