"""Prior of a VAE's latents that is learned: a small flow from N(0, 1) to where encoded images are.

A VAE of images on a thin manifold fills a part of its latent space alone, and what is drawn from N(0, 1) lies
beside it (Dai & Wipf 2019, arXiv:1903.05789, who train a second VAE of the latents; Rosca et al. 2018,
arXiv:1802.06847). Here the second model is flow matching (Lipman et al. 2023, arXiv:2210.02747), of latents as the
encoder draws them, without a gradient to it.
"""

# B rows, D latents, K conditions

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.generators.flow_networks import TimeEmbedding
from models.generators.networks import EqualLinear
from models.generators.solver import integrated, step_times

REPEATS = 8
"""Times and draws of noise for each latent of a batch: the network is small, and the loss is noisy."""
STEPS = 16
"""Of the solver."""


class LatentPrior(nn.Module):
    """Velocity of latents on their way from N(0, 1), told the time and the conditions.

    Parameters
    ----------
    num_latent, num_conditions
        D and K.
    width
        Of the hidden layers.
    layers
        Residual layers.
    """

    def __init__(self, num_latent: int, num_conditions: int, width: int, layers: int) -> None:
        super().__init__()
        self.embedding = TimeEmbedding(num_conditions, width)
        self.first = EqualLinear(num_latent, width)
        self.blocks = nn.ModuleList(EqualLinear(width, width) for _ in range(2 * layers))
        self.last = EqualLinear(width, num_latent)

    def forward(self, x: Tensor, time: Tensor, condition: Tensor) -> Tensor:
        """Velocities [B, D] of x [B, D] at times [B] in [0, 1]."""
        embedded, x = self.embedding(time, condition), self.first(x)
        for first, second in zip(self.blocks[::2], self.blocks[1::2], strict=True):
            x = x + second(F.silu(first(F.silu(x + embedded))))
        return self.last(F.silu(x))

    def drawn(self, noise: Tensor, condition: Tensor) -> Tensor:
        """Latents [B, D] of noise [B, D]."""

        def velocity(x: Tensor, time: float) -> Tensor:
            return self(x, x.new_full((len(x),), time), condition)

        return integrated(velocity, noise, step_times(STEPS, 1.0))


def prior_loss(
    network: Callable[[Tensor, Tensor, Tensor], Tensor], latent: Tensor, condition: Tensor
) -> Tensor:
    """Mean squared error of velocities at times and noise drawn anew, a scalar.

    Parameters
    ----------
    network
        A `LatentPrior`, wrapped or not.
    latent
        [B, D], as the encoder draws it.
    condition
        [B, K].
    """
    latent, condition = latent.repeat(REPEATS, 1), condition.repeat(REPEATS, 1)
    noise, time = torch.randn_like(latent), torch.rand(len(latent), device=latent.device)
    found = network(torch.lerp(noise, latent, time[:, None]), time, condition)
    return (found - (latent - noise)).square().mean()
