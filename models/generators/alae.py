"""Adversarial latent autoencoder of galaxy images: a style-based GAN with an encoder into its own latent space.

Pidhorskyi et al. (2020, arXiv:2004.04467). Mapping F, generator G, encoder E, discriminator D: D judges E(image),
and E is to find the latent again that G made an image of. Ours differs: updates of their Algorithm 1 are made
together, one for (E, D) and one for (F, G), with weights of the same moment; E is a residual trunk and takes no
styles out of instance normalisation; G has the demodulation of StyleGAN2; R1 is lazy.
"""

# B images, C channels, S pixels a side, D latents, K conditions

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from engine.column import Column
from models.generators.adversarial import (
    DISCRIMINATOR,
    GENERATOR,
    AdversarialTask,
    discriminator_loss,
    generator_loss,
)
from models.generators.adversarial_config import AdversarialConfig
from models.generators.average import Averaged
from models.generators.encoding import encoder_columns, encoder_spec
from models.generators.images import Seen
from models.generators.networks import EqualLinear, Trunk, activated
from models.generators.sampling import Family
from models.generators.style_networks import Head, Made, StyleGenerator
from models.generators.task import fresh
from models.settings import check
from models.spec import Batch
from models.training import to_floats, unwrapped


@dataclass(frozen=True, kw_only=True)
class ImageALAEConfig(AdversarialConfig):
    """Networks, losses and optimisers of the ALAE."""

    latent_weight: float = 1.0
    """Of the squared difference of latents and encoded images of them."""
    judge_layers: int = 3
    """Layers of the discriminator of latents."""

    def __post_init__(self) -> None:
        """Check ranges; all messages name the field, the value and the range."""
        super().__post_init__()
        check(self.latent_weight > 0, "latent_weight", self.latent_weight, "positive")
        check(self.judge_layers >= 1, "judge_layers", self.judge_layers, "at least 1")


_PUBLISHED = ImageALAEConfig(
    size=256, width=64, max_width=512, num_latent=512, mapping_layers=8, r1_weight=10.0, r1_interval=16,
    ema_decay=0.999, precision="auto",
)  # fmt: skip

PRESETS: Mapping[str, ImageALAEConfig] = {
    "tiny": ImageALAEConfig(size=16, width=8, max_width=16, num_latent=16, mapping_layers=2, judge_layers=2),
    "cpu64": ImageALAEConfig(),
    "published256": _PUBLISHED,
    "published256_sersic": replace(_PUBLISHED, num_latent=32),
}
"""Configurations by name. `published256`: image and latent of Holzschuh et al. (2022) for COSMOS and SKIRT,
`published256_sersic` for their Sersic set. Layers of the mapping and of D, and R1, are those of Pidhorskyi et al.
(2020)."""


class ALAEGenerator(StyleGenerator):
    """F and G; only the first rows train F."""

    def forward(self, draws: Tensor, condition: Tensor, noise: Tensor, num_mapped: int) -> Made:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Images of draws; from row `num_mapped` on, without a gradient of the mapping."""
        latent = self.mapping(draws, condition)
        latent = torch.cat([latent[:num_mapped], latent[num_mapped:].detach()])
        return Made(self.decode(latent, noise), latent[:, None])


class Judged(NamedTuple):
    """Logits of real and generated images [B], and what generated images are encoded to [B, D]."""

    real: Tensor
    fake: Tensor
    latent: Tensor


class EncodingDiscriminator(nn.Module):
    """E and D: encodes an image, and judges the latent given its conditions."""

    def __init__(self, config: ImageALAEConfig) -> None:
        super().__init__()
        features, size = config.widths[-1], config.num_latent
        self.trunk = Trunk(config, features)
        self.encoded = EqualLinear(features, size)
        self.layers = nn.ModuleList(EqualLinear(size, size) for _ in range(config.judge_layers))
        self.head = Head(size, len(config.conditions))

    def encode(self, images: Tensor) -> Tensor:
        """Latents w [B, D]."""
        return self.encoded(self.trunk(images)).float()

    def judge(self, latent: Tensor, condition: Tensor) -> Tensor:
        """Logits [B] of latents."""
        for layer in self.layers:
            latent = activated(layer(latent))
        return self.head(latent, condition)

    def forward(self, real: Tensor, fake: Tensor, condition: Tensor) -> Judged:
        """Judge as many of the first generated images as there are real ones; encode as many of the last."""
        rows = len(real)
        latent = self.encode(fake)
        return Judged(
            self.judge(self.encode(real), condition), self.judge(latent[:rows], condition), latent[-rows:]
        )


def latent_loss(latent: Tensor, encoded: Tensor) -> Tensor:
    """Squared difference of latents [B, D] and what their images are encoded to, mean (ALAE, Eq. 8)."""
    return (encoded - latent).square().mean()


class ImageALAETask(AdversarialTask):
    """Networks, optimisers and step of the ALAE; see `models.generators.adversarial.AdversarialTask`.

    Half of the generated images of a step are for the adversarial losses. The others are for the latent loss,
    which must not train F: it would make latents easy to find instead of finding them.
    """

    def __init__(self, config: ImageALAEConfig, seed: int) -> None:
        with fresh(seed):
            networks = {
                GENERATOR: Averaged(ALAEGenerator(config)),
                DISCRIMINATOR: Averaged(EncodingDiscriminator(config)),
            }
        super().__init__(config, networks, seed)
        self._config = config

    def step(self, batch: Batch, step: int) -> dict[str, float]:
        """One step of Adam for (E, D), and one for (F, G), whose loss is `loss`."""
        seen = self._seen(batch, step)
        rows = len(seen.images)
        with self._seeded(step), self._precision():
            draws, noise = self._draws(2 * rows)
            made: Made = self.modules[GENERATOR](draws, seen.condition.repeat(2, 1), noise, rows)
        latent = made.styles[rows:, 0].detach().float()
        metrics = self._train_discriminator(seen, made.images.detach(), latent, step)
        with self._judge(EncodingDiscriminator) as judge, self._precision():
            encoded = judge.encode(made.images)
            adversarial = generator_loss(judge.judge(encoded[:rows], seen.condition))
        metrics["adversarial"], metrics["latent"] = adversarial, latent_loss(latent, encoded[rows:])
        metrics["loss"] = adversarial + self._config.latent_weight * metrics["latent"]
        self._update(GENERATOR, metrics["loss"], step)
        return to_floats(metrics)

    def evaluate(self, batch: Batch) -> dict[str, float]:
        """Distances of generated images from those of the batch, and losses of the discriminator.

        `loss` is the distance (`models.generators.distances`), with draws that depend on the batch alone;
        `latent` is the loss of latents of the generated images.
        """
        return self._evaluated(batch, self._judged)

    def _judged(self, seen: Seen) -> tuple[Tensor, dict[str, Tensor]]:
        rows = len(seen.images)
        draws, noise = self._draws(rows)
        made: Made = self.modules[GENERATOR](draws, seen.condition, noise, rows)
        judged: Judged = self.modules[DISCRIMINATOR](seen.images, made.images, seen.condition)
        latent = latent_loss(made.styles[:, 0], judged.latent)
        return made.images, {
            "discriminator": discriminator_loss(judged.real, judged.fake), "latent": latent,
        }  # fmt: skip

    def _train_discriminator(self, seen: Seen, fake: Tensor, latent: Tensor, step: int) -> dict[str, Tensor]:
        real = seen.images.requires_grad_(self._has_r1(step))
        with self._precision():
            judged: Judged = self.modules[DISCRIMINATOR](real, fake, seen.condition)
        metrics = {"discriminator": discriminator_loss(judged.real, judged.fake)}
        loss = metrics["discriminator"] + self._config.latent_weight * latent_loss(latent, judged.latent)
        if self._has_r1(step):
            loss, metrics["r1"] = self._with_r1(loss, judged.real, real)
        self._update(DISCRIMINATOR, loss, step)
        return metrics


def _build(config: ImageALAEConfig) -> nn.Module:
    """Both networks under their names, as checkpoints name the weights."""
    return nn.ModuleDict({GENERATOR: ALAEGenerator(config), DISCRIMINATOR: EncodingDiscriminator(config)})


def _family(config: ImageALAEConfig, module: nn.Module) -> Family:
    """Family whose latent is w."""
    inner = unwrapped(module)
    networks = list(inner.eval().values()) if isinstance(inner, nn.ModuleDict) else [inner]
    generator, discriminator = networks[0], networks[-1]
    if not isinstance(generator, ALAEGenerator) or not isinstance(discriminator, EncodingDiscriminator):
        raise TypeError(f"module is a {type(inner).__name__}, expected the two networks of image_alae")
    return Family(
        num_latent=config.num_latent,
        num_noise=config.num_noise,
        mapped=generator.mapping,
        decode=lambda latent, noise, _: generator.decode(latent, noise),
        encode=lambda images, _: discriminator.encode(images),
    )


def _writes(config: ImageALAEConfig) -> tuple[Column, ...]:
    text = "Intermediate latent w of the encoder"
    return encoder_columns(config.num_latent, text, "training asks for equal latents, not for equal pixels")


SPEC = encoder_spec("image_alae", ImageALAEConfig, _build, ImageALAETask, _writes, _family, PRESETS)
