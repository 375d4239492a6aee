"""Generator and discriminator of the band GAN: pix2pix (Isola et al. 2017, arXiv:1611.07004), for six bands.

Generator: U-Net of 4 x 4 convolutions of stride 2. Discriminator: a convolutional network that judges patches of
the predicted bands *given* the input bands. Both take fluxes in nJy at the native size and stretch, and
resize, them themselves.
"""

# B objects, S pixels a side, F channels of the innermost level

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.band_gan_config import BandGANConfig
from models.band_gan_stretch import Stretch
from models.scoring.cutouts import LW, LW_BANDS, SW, Cutouts

NUM_BANDS = len(LW_BANDS)
GROUP_CHANNELS = 8
"""Channels that are normalised together."""
LOG_VARIANCE_START = -2.0
"""The generator begins with a scatter of 40 % of the flux."""
LOG_VARIANCE_RANGE = 10.0
INIT_SIGMA = 0.02
"""Of weights; Isola et al. (2017), Sect. 6.2."""


class Output(NamedTuple):
    """What the generator gives: [B, 3, S, S] mean and log variance of the stretched LW bands, [B, F] features.

    The log variance is that of what the noise does not explain; -inf if the generator gives none.
    """

    mean: Tensor
    log_variance: Tensor
    features: Tensor


class Generator(nn.Module):
    """U-Net from three SW bands to three LW bands, with a linear last layer."""

    def __init__(self, config: BandGANConfig) -> None:
        super().__init__()
        self._pixels, self._has_variance = config.network_pixels, config.nll_weight > 0
        self._noise_input, self._full_resolution = config.noise_input, config.full_resolution
        asinh = config.stretch == "asinh"
        self.stretch_in = Stretch(config.offset_njy[SW], config.scale_njy[SW], asinh)
        self.stretch_out = Stretch(config.offset_njy[LW], config.scale_njy[LW], asinh)
        channels, widths = NUM_BANDS * (1 + config.noise_input), config.widths
        outputs = NUM_BANDS * (1 + self._has_variance)
        self.down = nn.ModuleList(_down(config, channels, level) for level in range(config.levels))
        first = widths[0] if config.full_resolution else outputs
        self.up = nn.ModuleList(_up(config, first, level) for level in range(config.levels))
        if config.full_resolution:
            self.last = nn.Conv2d(first + channels, outputs, 3, padding=1)
            self.mixture = nn.Conv2d(NUM_BANDS, NUM_BANDS, 1)
        self.apply(_start)
        if config.full_resolution:
            nn.init.constant_(self.mixture.weight, 1 / NUM_BANDS)

    def forward(self, inputs: Cutouts) -> Output:
        """Predict from SW cutouts [B, 3, S, S]; one call a step, so that DDP sees it."""
        stretched = self.stretch_in(inputs.science) * inputs.usable
        images = torch.cat([stretched, self._trust(inputs)], 1) if self._noise_input else stretched
        images = _resized(images, self._pixels)
        x, features = self._network(images)
        mean, log_variance = x[:, :NUM_BANDS], x[:, NUM_BANDS:]
        if self._full_resolution:
            mean = mean + self.mixture(images[:, :NUM_BANDS]).float()
        size = 0 if not self._pixels else inputs.science.shape[-1]
        mean = _resized(mean, size)
        if not self._has_variance:
            return Output(mean, torch.full_like(mean, -torch.inf), features)
        log_variance = LOG_VARIANCE_RANGE * torch.tanh(
            (log_variance + LOG_VARIANCE_START) / LOG_VARIANCE_RANGE
        )
        return Output(mean, _resized(log_variance, size), features)

    def flux(self, output: Output) -> Tensor:
        """Predicted LW fluxes [nJy], [B, 3, S, S]."""
        return self.stretch_out.inverse(output.mean)

    def sigma(self, output: Output) -> Tensor:
        """Scatter of the predicted fluxes beside noise [nJy], to first order; 0 if the network gives none."""
        return (0.5 * output.log_variance).exp() * self.stretch_out.slope(output.mean)

    def _trust(self, inputs: Cutouts) -> Tensor:
        typical = self.stretch_in.scale.square()
        return inputs.usable * typical / (typical + inputs.error.square())

    def _network(self, images: Tensor) -> tuple[Tensor, Tensor]:
        skipped: list[Tensor] = []
        x = images
        for down in self.down:
            x = down(x)
            skipped.append(x)
        features = skipped.pop().float().mean((2, 3))
        for level in reversed(range(len(self.up))):
            x = self.up[level](x if level == len(self.up) - 1 else torch.cat([x, skipped[level]], 1))
        return (self.last(torch.cat([x, images], 1)) if self._full_resolution else x).float(), features


def _down(config: BandGANConfig, channels: int, level: int) -> nn.Sequential:
    """Halve the image; neither the outermost nor the innermost level is normalised."""
    before = channels if level == 0 else config.widths[level - 1]
    layers: list[nn.Module] = [] if level == 0 else [nn.LeakyReLU(0.2)]
    layers += [nn.Conv2d(before, config.widths[level], 4, 2, 1, bias=config.norm == "group")]
    if level not in (0, config.levels - 1):
        layers += [_norm(config, config.widths[level])]
    return nn.Sequential(*layers)


def _up(config: BandGANConfig, outputs: int, level: int) -> nn.Sequential:
    """Double the image; dropout in the levels of eight times the width within the innermost."""
    innermost, outermost = level == config.levels - 1, level == 0
    before = config.widths[level] * (1 if innermost else 2)
    after = outputs if outermost else config.widths[level - 1]
    last = outermost and not config.full_resolution
    layers: list[nn.Module] = [nn.ReLU()]
    layers += [nn.ConvTranspose2d(before, after, 4, 2, 1, bias=last or config.norm == "group")]
    if not last:
        layers += [_norm(config, after)] + ([nn.LeakyReLU(0.2)] if outermost else [])
    is_dropped = config.dropout and not innermost and after == config.widths[-1]
    return nn.Sequential(*layers, *([nn.Dropout(config.dropout)] if is_dropped else []))


class Discriminator(nn.Module):
    """PatchGAN: a logit for each patch and LW band, high where the LW bands look measured given the SW bands."""

    def __init__(self, config: BandGANConfig) -> None:
        super().__init__()
        self._pixels = config.network_pixels
        asinh = config.stretch == "asinh"
        self.stretch_in = Stretch(config.offset_njy[SW], config.scale_njy[SW], asinh)
        self.stretch_out = Stretch(config.offset_njy[LW], config.scale_njy[LW], asinh)
        width = config.discriminator_width
        layers: list[nn.Module] = [nn.Conv2d(2 * NUM_BANDS, width, 4, 2, 1), nn.LeakyReLU(0.2)]
        for level in range(1, config.discriminator_layers + 1):
            before, after = (width * min(2**n, 8) for n in (level - 1, level))
            stride = 2 if level < config.discriminator_layers else 1
            layers += [nn.Conv2d(before, after, 4, stride, 1, bias=config.norm == "group")]
            layers += [_norm(config, after), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(after, NUM_BANDS, 4, 1, 1))
        self.apply(_start)

    def forward(self, given: Cutouts, usable: Tensor, *images: Tensor) -> tuple[Tensor, ...]:
        """Judge LW images of the same objects, each by itself, so that batch statistics do not mix.

        Parameters
        ----------
        given
            SW cutouts, [B, 3, S, S].
        usable
            [B, 3, S, S]: pixels of the LW images that count; the others are 0 in all of them.
        images
            LW fluxes [nJy], [B, 3, S, S] each.

        Returns
        -------
        tuple
            Logits [B, 3, patches, patches], one tensor an image.
        """
        condition = self.stretch_in(given.science) * given.usable
        pairs = (torch.cat([condition, self.stretch_out(image) * usable], 1) for image in images)
        return tuple(self.layers(_resized(pair, self._pixels)).float() for pair in pairs)


def _norm(config: BandGANConfig, channels: int) -> nn.Module:
    if config.norm == "batch":
        return nn.BatchNorm2d(channels)
    return nn.GroupNorm(max(1, channels // GROUP_CHANNELS), channels)


def _start(module: nn.Module) -> None:
    """Draw weights from N(0, 0.02^2), gains of normalisation from N(1, 0.02^2); biases 0."""
    weight, bias = (getattr(module, name, None) for name in ("weight", "bias"))
    if isinstance(weight, Tensor):
        nn.init.normal_(weight, 1.0 if isinstance(module, nn.BatchNorm2d | nn.GroupNorm) else 0.0, INIT_SIGMA)
    if isinstance(bias, Tensor):
        nn.init.zeros_(bias)


def _resized(images: Tensor, pixels: int) -> Tensor:
    """Bilinear interpolation to `pixels` a side; 0: as they are."""
    if pixels in (0, images.shape[-1]):
        return images
    return F.interpolate(images, size=(pixels, pixels), mode="bilinear", antialias=True)
