"""U-Net whose innermost level is a Gaussian latent, and whose skips are limited so that the latent is used.

Ronneberger et al. (2015, arXiv:1505.04597) with the bottleneck of Kingma & Welling (2014, arXiv:1312.6114).
Where full skips lead around the latent, the posterior is that of the prior and the network is a U-Net: each
skip is therefore narrowed to a few channels, scaled by a learned gate, and closed for some of the images in
training.
"""

# B images, C bands, S pixels a side, D latents

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.band_gan_stretch import Stretch
from models.scoring.cutouts import Cutouts
from models.unet_vae_config import UNetVAEConfig

GROUP_CHANNELS = 8
"""Channels that are normalised together."""
LOG_VARIANCE_START = -2.0
"""The decoder begins with a scatter of 40 % of a stretched value."""
LOG_VARIANCE_RANGE = 10.0
LATENT_LOGVAR_RANGE = 12.0


class Output(NamedTuple):
    """What `UNetVAE.forward` gives: [B, C, S, S] mean and log variance, [B, D] latent mean and log variance.

    Gaussian likelihood: `mean` and `log_variance` are of the stretched flux. Bernoulli: `mean` is the logit,
    and `log_variance` has no meaning (0).
    """

    mean: Tensor
    log_variance: Tensor
    latent_mean: Tensor
    latent_logvar: Tensor


class Skip(nn.Module):
    """A level of the encoder on its way to the decoder: few channels, times a gate."""

    def __init__(self, channels: int, passed: int, gate: float) -> None:
        super().__init__()
        self.narrow = nn.Conv2d(channels, passed, 1)
        self.gate = nn.Parameter(torch.tensor(gate))

    def forward(self, features: Tensor, is_open: Tensor) -> Tensor:
        """Pass [B, channels, S, S] where `is_open` [B] is 1; 0 elsewhere. With a gate of 0 nothing passes."""
        return self.narrow(features) * (self.gate * is_open.view(-1, 1, 1, 1))


class UNetVAE(nn.Module):
    """Encoder, latent and decoder; takes fluxes as seen and stretches them itself."""

    def __init__(self, config: UNetVAEConfig) -> None:
        super().__init__()
        self._num_bands, self._noise_input = config.num_bands, config.noise_input
        self._has_variance, self._gate = config.likelihood == "gaussian", config.skip_gate
        self.num_latent = config.num_latent
        zero = (0.0,) * config.num_bands
        self.stretch = Stretch(zero, config.scale_njy, config.stretch == "asinh")
        widths = config.widths
        self.first = _block(config.num_bands * (1 + config.noise_input), widths[0], is_normalised=False)
        self.down = nn.ModuleList(_down(widths[n], widths[n + 1]) for n in range(config.levels))
        self._add_latent(config)
        passed = self._add_skips(config)
        self.up = nn.ModuleList(
            _Up(widths[n + 1], passed.get(n, 0), widths[n], is_normalised=n > 0) for n in range(config.levels)
        )
        self._keeps = config.identity_skip and config.skip_gate != "none" and self._has_variance
        num_maps = 1 + self._has_variance + self._keeps
        self.last = nn.Conv2d(widths[0], config.num_bands * num_maps, 3, padding=1)

    def _add_latent(self, config: UNetVAEConfig) -> None:
        if config.num_latent:
            pixels = config.size // 2**config.levels
            inner = (config.widths[-1], pixels, pixels)
            self.latent_out = nn.Linear(math.prod(inner), 2 * config.num_latent)
            self.latent_in = nn.Sequential(
                nn.Linear(config.num_latent, math.prod(inner)), nn.Unflatten(1, inner)
            )

    def _add_skips(self, config: UNetVAEConfig) -> dict[int, int]:
        """Make the skips; return how many channels each level passes."""
        self._levels = frozenset(() if config.skip_gate == "none" else config.skip_levels)
        if config.skip_gate != "learned":
            return {level: config.widths[level] for level in self._levels}
        start, num = config.skip_gate_start, config.skip_channels
        self.skips = nn.ModuleDict({str(n): Skip(config.widths[n], num, start) for n in sorted(self._levels)})
        return dict.fromkeys(self._levels, num)

    def forward(self, images: Cutouts, noise: Tensor, is_open: Tensor | None = None) -> Output:
        """Encode, draw with the standard normal `noise` [B, D], decode; one call a step, so that DDP sees it.

        Parameters
        ----------
        images
            As seen, [B, C, S, S]; unusable pixels are not looked at.
        noise
            0 gives the latent mean.
        is_open
            [B] 1 where skips are open, 0 where closed; None: all open. Full skips are always open.
        """
        seen = self.stretch(images.science) * images.usable
        levels, latent_mean, latent_logvar = self.encode(images)
        latent = torch.addcmul(latent_mean, (0.5 * latent_logvar).exp(), noise)
        mean, log_variance = self.decode(latent, levels, is_open, seen)
        return Output(mean, log_variance, latent_mean, latent_logvar)

    def encode(self, images: Cutouts) -> tuple[list[Tensor], Tensor, Tensor]:
        """Return features of all levels, outermost first, and latent means and log variances [B, D]."""
        seen = self.stretch(images.science) * images.usable
        levels = [self.first(torch.cat([seen, self._trust(images)], 1) if self._noise_input else seen)]
        for down in self.down:
            levels.append(down(levels[-1]))
        if not self.num_latent:
            empty = seen.new_zeros(len(seen), 0)
            return levels, empty, empty
        mean, logvar = self.latent_out(levels[-1].flatten(1)).float().chunk(2, dim=1)
        return levels, mean, LATENT_LOGVAR_RANGE * torch.tanh(logvar / LATENT_LOGVAR_RANGE)

    def decode(
        self,
        latent: Tensor,
        levels: list[Tensor],
        is_open: Tensor | None = None,
        seen: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Mean and log variance of `Output` for latents [B, D], the levels of `encode`, and the stretched image."""
        x = self.latent_in(latent) if self.num_latent else levels[-1]
        opened = x.new_ones(len(x)) if is_open is None else is_open
        for level in reversed(range(len(self.up))):
            x = self.up[level](x, self._passed(level, levels[level], opened))
        mean, *maps = self.last(x).float().split(self._num_bands, 1)
        if self._keeps and seen is not None:
            mean = mean + maps.pop().sigmoid() * seen * opened[:, None, None, None]
        if not self._has_variance:
            return mean, torch.zeros_like(mean)
        log_variance = maps[0] + LOG_VARIANCE_START
        return mean, LOG_VARIANCE_RANGE * torch.tanh(log_variance / LOG_VARIANCE_RANGE)

    def flux(self, output: Output) -> Tensor:
        """Clean image, [B, C, S, S], in the unit of the input."""
        return self.stretch.inverse(output.mean) if self._has_variance else output.mean.sigmoid()

    def sigma(self, output: Output) -> Tensor:
        """Give the standard deviation of the clean image, to first order; Bernoulli: sqrt(p (1 - p))."""
        if self._has_variance:
            return (0.5 * output.log_variance).exp() * self.stretch.slope(output.mean)
        return (F.logsigmoid(output.mean) / 2 + F.logsigmoid(-output.mean) / 2).exp()

    def _trust(self, images: Cutouts) -> Tensor:
        typical = self.stretch.scale.square()
        return images.usable * typical / (typical + images.error.square())

    def _passed(self, level: int, features: Tensor, is_open: Tensor) -> Tensor | None:
        if level not in self._levels:
            return None
        return features if self._gate == "full" else self.skips[str(level)](features, is_open)


class _Up(nn.Module):
    """Double the image, add what a skip brings, mix."""

    def __init__(self, before: int, passed: int, after: int, is_normalised: bool) -> None:
        super().__init__()
        self.grow = nn.ConvTranspose2d(before, after, 2, 2)
        self.mix = _block(after + passed, after, is_normalised)

    def forward(self, x: Tensor, passed: Tensor | None) -> Tensor:
        """From [B, before, S, S] to [B, after, 2 S, 2 S]."""
        x = self.grow(x)
        return self.mix(x if passed is None else torch.cat([x, passed], 1))


def _block(before: int, after: int, is_normalised: bool = True) -> nn.Sequential:
    """Two 3 x 3 convolutions, the first normalised unless the brightness of the image has to pass."""
    norm = _norm(after) if is_normalised else nn.Identity()
    return nn.Sequential(
        nn.Conv2d(before, after, 3, padding=1), norm, nn.SiLU(),
        nn.Conv2d(after, after, 3, padding=1), nn.SiLU(),
    )  # fmt: skip


def _down(before: int, after: int) -> nn.Sequential:
    """Halve the image, then mix."""
    return nn.Sequential(nn.Conv2d(before, after, 2, 2), nn.SiLU(), *_block(after, after))


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(max(1, channels // GROUP_CHANNELS), channels)
