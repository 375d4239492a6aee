"""What generators with a discriminator share: losses, R1, judging without its gradients."""

# B images, C channels, S pixels a side, D latents, L styles

import contextlib
from collections.abc import Iterator, Mapping
from typing import ClassVar, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.generators.adversarial_config import AdversarialConfig
from models.generators.average import Averaged
from models.generators.task import GeneratorTask
from models.training import unwrapped

Judge = TypeVar("Judge", bound=nn.Module)

GENERATOR, DISCRIMINATOR = "generator", "discriminator"


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Cross entropies of real and generated images, added [nat] (Goodfellow et al. 2014, arXiv:1406.2661, Eq. 1)."""
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def generator_loss(fake: Tensor) -> Tensor:
    """Cross entropy of generated images with "real": the non-saturating loss (Goodfellow et al. 2014, Sect. 3)."""
    return F.softplus(-fake).mean()


def r1_penalty(logits: Tensor, images: Tensor) -> Tensor:
    """Half the squared gradient of logits [B] by the real images [B, C, S, S] they are of, mean over images.

    Mescheder et al. (2018, arXiv:1801.04406), Eq. 9, without gamma.
    """
    (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return 0.5 * gradient.square().sum((1, 2, 3)).mean()


class AdversarialTask(GeneratorTask):
    """Base of the tasks with a generator and a discriminator.

    A step trains the discriminator, then the generator against it. Each wrapped module is called once, so that
    each backward pass synchronises the gradients of one network; the generator is judged by the discriminator
    without its wrapping and without gradients of its weights.
    """

    betas: ClassVar[tuple[float, float]] = (0.0, 0.99)

    def __init__(self, config: AdversarialConfig, networks: Mapping[str, nn.Module], seed: int) -> None:
        super().__init__(config, networks, seed)
        self._adversarial = config

    def _draws(self, rows: int) -> tuple[Tensor, Tensor]:
        """Draws [B, D] and noise [B, num_noise] from the generators of the device."""
        count = self._adversarial.num_latent + self._adversarial.num_noise
        numbers = torch.randn(rows, count, device=self._device)
        return numbers[:, : self._adversarial.num_latent], numbers[:, self._adversarial.num_latent :]

    def _has_r1(self, step: int) -> bool:
        return bool(self._adversarial.r1_weight) and step % self._adversarial.r1_interval == 0

    def _with_r1(self, loss: Tensor, logits: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
        """Add the lazy penalty; it comes back beside the loss."""
        penalty = r1_penalty(logits, images)
        return loss + self._adversarial.r1_weight * self._adversarial.r1_interval * penalty, penalty

    @contextlib.contextmanager
    def _judge(self, kind: type[Judge]) -> Iterator[Judge]:
        """Give the discriminator without wrapping, a `kind`; the graph holds none of its weights."""
        judge = unwrapped(self.modules[DISCRIMINATOR])
        judge = judge.trained if isinstance(judge, Averaged) else judge
        if not isinstance(judge, kind):
            raise TypeError(f"discriminator is a {type(judge).__name__}, expected {kind.__name__}")
        judge.requires_grad_(False)
        try:
            yield judge
        finally:
            judge.requires_grad_(True)
