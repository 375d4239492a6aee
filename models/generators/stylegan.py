"""StyleGAN2 for galaxy images: style mixing, lazy R1, path-length regularisation, non-saturating loss.

Karras et al. (2019, arXiv:1812.04948; 2020, arXiv:1912.04958). Holzschuh et al. (2022, arXiv:2203.11956) use the
first StyleGAN, whose progressive growing and instance normalisation this one replaces. It has no encoder: of an
image that it is given it says how real the discriminator finds it.
"""

# B images, C channels, S pixels a side, D latents, L styles, K conditions

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any

import numpy as np
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
from models.generators.average import Averaged, exported
from models.generators.distances import MIN_ROWS
from models.generators.encoding import not_scored
from models.generators.images import (
    STRETCH,
    Seen,
    columns_read,
    predicted_rows,
    stretch_settings,
    training_rows,
)
from models.generators.networks import Trunk, batch_deviation
from models.generators.ranges import RANGE, survey
from models.generators.sampling import (
    MAX_CONDITIONS,
    Family,
    ImageSampler,
    fit_conditions,
    kept_conditions,
    row_parts,
)
from models.generators.style_networks import Head, Made, StyleGenerator
from models.generators.task import fresh
from models.settings import check
from models.spec import Batch, ModelSpec, Predict
from models.training import to_floats, unwrapped

DEVIATION = "batch_deviation"
"""Fitted: how much the innermost features vary over batches of training images."""


@dataclass(frozen=True, kw_only=True)
class ImageStyleGANConfig(AdversarialConfig):
    """Networks, losses and optimisers of the StyleGAN."""

    mixing_probability: float = 0.9
    """Part of the images in training that take the styles of two draws (StyleGAN, Sect. 3.1)."""
    path_weight: float = 2.0
    """Of the path-length regularisation (StyleGAN2, Eq. 4); 0: none."""
    path_interval: int = 4
    """Steps of which one has it, times so much."""

    def __post_init__(self) -> None:
        """Check ranges; all messages name the field, the value and the range."""
        super().__post_init__()
        probability = self.mixing_probability
        check(0 <= probability <= 1, "mixing_probability", probability, "in [0, 1]")
        check(self.path_weight >= 0, "path_weight", self.path_weight, "0 or positive")
        check(self.path_interval >= 1, "path_interval", self.path_interval, "at least 1")


_PUBLISHED = ImageStyleGANConfig(
    size=256, width=64, max_width=512, num_latent=512, mapping_layers=8, r1_weight=10.0, r1_interval=16,
    ema_decay=0.999, precision="auto",
)  # fmt: skip

PRESETS: Mapping[str, ImageStyleGANConfig] = {
    "tiny": ImageStyleGANConfig(size=16, width=8, max_width=16, num_latent=16, mapping_layers=2),
    "cpu64": ImageStyleGANConfig(),
    "published256": replace(_PUBLISHED, noise_inputs=True),
    "published256_sersic": replace(_PUBLISHED, num_latent=32),
}
"""Configurations by name. `published256`: image and latent of Holzschuh et al. (2022) for COSMOS and SKIRT,
`published256_sersic` for their Sersic set. Networks and regularisation are of StyleGAN2 at 256 pixels; theirs is a
StyleGAN of the first kind."""

PATH_DECAY = 0.99
"""Of the running mean of path lengths (StyleGAN2, App. B)."""


class Discriminator(nn.Module):
    """Residual trunk and a logit, high where an image looks real given its conditions."""

    def __init__(self, config: ImageStyleGANConfig) -> None:
        super().__init__()
        self.trunk = Trunk(config, config.widths[-1], has_deviation=True)
        self.head = Head(config.widths[-1], len(config.conditions))

    def judge(self, images: Tensor, condition: Tensor, deviation: Tensor | None = None) -> Tensor:
        """Logits [B]; see `Trunk.forward` for `deviation`."""
        return self.head(self.trunk(images, deviation), condition)

    def forward(self, real: Tensor, fake: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [B] of either, each judged by itself: their deviations do not mix."""
        return self.judge(real, condition), self.judge(fake, condition)


def path_lengths(made: Made, noise: Tensor) -> Tensor:
    """How far images move for a step of the latent, [B]: |J^T y| (StyleGAN2, Eq. 4).

    Parameters
    ----------
    made
        Images [B, C, S, S] with a graph to their styles [B, L, D].
    noise
        y, N(0, 1) [B, C, S, S]; divided by S, so that the length does not depend on the size.

    Returns
    -------
    Tensor
        Root of the mean over styles of the squared gradient's sum over latents.
    """
    product = (made.images * noise).sum() / math.sqrt(noise.shape[-1] * noise.shape[-2])
    (gradient,) = torch.autograd.grad(product, made.styles, create_graph=True)
    return gradient.float().square().sum(2).mean(1).sqrt()


class ImageStyleGANTask(AdversarialTask):
    """Networks, optimisers and step of the StyleGAN; see `models.generators.adversarial.AdversarialTask`."""

    def __init__(self, config: ImageStyleGANConfig, seed: int) -> None:
        with fresh(seed):
            networks = {GENERATOR: Averaged(StyleGenerator(config)), DISCRIMINATOR: Discriminator(config)}
        super().__init__(config, networks, seed)
        self._config, self._path_mean = config, torch.zeros(())

    def start(self, device: torch.device, total_steps: int) -> None:
        """Move to the device and choose the precision."""
        super().start(device, total_steps)
        self._path_mean = self._path_mean.to(device)

    def state_dict(self) -> dict[str, Any]:
        """Weights, means, moments, and the running mean of path lengths."""
        return super().state_dict() | {"path_mean": self._path_mean.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        super().load_state_dict(state)
        self._path_mean = state["path_mean"].to(self._device, copy=True)

    def step(self, batch: Batch, step: int) -> dict[str, float]:
        """One step of Adam for each network; `loss` is the generator's without the path lengths."""
        seen = self._seen(batch, step)
        with self._seeded(step):
            with self._precision():
                made = self._made(seen)
            metrics = self._train_discriminator(seen, made.images.detach(), step)
            with self._judge(Discriminator) as judge, self._precision():
                loss = generator_loss(judge.judge(made.images, seen.condition))
            metrics["loss"] = loss
            if self._config.path_weight and step % self._config.path_interval == 0:
                metrics["path_penalty"] = self._path_penalty(made)
                loss = loss + self._config.path_weight * self._config.path_interval * metrics["path_penalty"]
        self._update(GENERATOR, loss, step)
        return to_floats(metrics)

    def evaluate(self, batch: Batch) -> dict[str, float]:
        """Distances of generated images from those of the batch, and losses of the discriminator.

        `loss` is the distance (`models.generators.distances`), with draws that depend on the batch alone.
        """
        return self._evaluated(batch, self._judged)

    def _judged(self, seen: Seen) -> tuple[Tensor, dict[str, Tensor]]:
        draws, noise = self._draws(len(seen.images))
        fake = self.modules[GENERATOR](draws, seen.condition, noise).images
        logits = self.modules[DISCRIMINATOR](seen.images, fake, seen.condition)
        return fake, {"discriminator": discriminator_loss(*logits)}

    def _made(self, seen: Seen) -> Made:
        """Images with the conditions of the batch, of mixed styles."""
        rows = len(seen.images)
        (draws, noise), (mixed, _) = self._draws(rows), self._draws(rows)
        num_styles, probability = self._config.num_styles, self._config.mixing_probability
        crossover = torch.randint(1, max(num_styles, 2), (rows,), device=self._device)
        is_mixed = torch.rand(rows, device=self._device) < probability
        crossover = torch.where(is_mixed, crossover, num_styles)
        return self.modules[GENERATOR](draws, seen.condition, noise, mixed, crossover)

    def _train_discriminator(self, seen: Seen, fake: Tensor, step: int) -> dict[str, Tensor]:
        real = seen.images.requires_grad_(self._has_r1(step))
        with self._precision():
            logits = self.modules[DISCRIMINATOR](real, fake, seen.condition)
        metrics = {"discriminator": discriminator_loss(*logits)}
        loss = metrics["discriminator"]
        if self._has_r1(step):
            loss, metrics["r1"] = self._with_r1(loss, logits[0], real)
        self._update(DISCRIMINATOR, loss, step)
        return metrics

    def _path_penalty(self, made: Made) -> Tensor:
        """Squared difference of path lengths from their running mean, which moves (StyleGAN2, Eq. 4)."""
        lengths = path_lengths(made, torch.randn(made.images.shape, device=self._device))
        self._path_mean = torch.lerp(lengths.detach().mean(), self._path_mean, PATH_DECAY)
        return (lengths - self._path_mean).square().mean()


def _build(config: ImageStyleGANConfig) -> nn.Module:
    """Both networks under their names, as checkpoints name the weights."""
    return nn.ModuleDict({GENERATOR: StyleGenerator(config), DISCRIMINATOR: Discriminator(config)})


def _networks(module: nn.Module) -> tuple[StyleGenerator, Discriminator]:
    inner = unwrapped(module)
    if isinstance(inner, nn.ModuleDict):
        generator, discriminator = inner.eval()[GENERATOR], inner[DISCRIMINATOR]
        if isinstance(generator, StyleGenerator) and isinstance(discriminator, Discriminator):
            return generator, discriminator
    raise TypeError(f"module is a {type(inner).__name__}, expected the two networks of image_stylegan")


def _writes(config: ImageStyleGANConfig) -> tuple[Column, ...]:
    del config
    text = (
        "Logit of the discriminator of the StyleGAN, amid a typical batch: high where the image looks like "
    )
    return (Column("discriminator_logit", "float32", text + "the training set; not calibrated"),)


def _fit(
    config: ImageStyleGANConfig, module: nn.Module, reference: Iterable[Batch], held_out: Iterable[Batch]
) -> dict[str, np.ndarray]:
    """Conditions to draw from, and the deviation of batches, so that a logit does not depend on the batch.

    Both of the first `MAX_CONDITIONS` training images.
    """
    del held_out
    trunk, device = _networks(module)[1].trunk, next(module.parameters()).device
    deviations, told, rows = list[Tensor](), list[Batch](), 0
    with torch.inference_mode():
        for batch in reference:
            seen = training_rows(config, batch, device)
            deviations += [batch_deviation(trunk.inner(x)) for x, _ in row_parts(seen, config.batch_rows)]
            told.append({name: batch[name] for name in config.conditions})
            rows += len(seen.images)
            if rows >= MAX_CONDITIONS:
                break
    if not rows:
        raise ValueError("no training image: the deviation of batches needs at least 1")
    mean = torch.stack(deviations).mean()[None].cpu().numpy()
    return {DEVIATION: mean} | fit_conditions(config, told)


def _predictor(
    config: ImageStyleGANConfig, module: nn.Module, fitted: Mapping[str, np.ndarray], device: torch.device
) -> Predict:
    discriminator = _networks(module.to(device))[1]
    if DEVIATION not in fitted:
        raise ValueError(f"fitted has no {DEVIATION}: fit the generator again (`ModelSpec.fit`)")
    if config.conditions:
        kept_conditions(fitted)
    deviation = torch.tensor(fitted[DEVIATION][0], device=device)

    def predict(batch: Batch) -> dict[str, np.ndarray]:
        seen = predicted_rows(config, batch, device)
        with torch.inference_mode():
            parts = row_parts(seen, config.batch_rows)
            logits = torch.cat([discriminator.judge(*part, deviation) for part in parts])
        logits = torch.where(seen.usable, logits, torch.nan)
        return {"discriminator_logit": logits.cpu().numpy(), "flags": not_scored(seen.usable)}

    return predict


def _sampler(config: ImageStyleGANConfig, module: nn.Module, device: torch.device) -> ImageSampler:
    """Sample images whose latent is w, the same for all convolutions, without truncation."""
    generator = _networks(module.to(device))[0]
    family = Family(
        num_latent=config.num_latent,
        num_noise=config.num_noise,
        mapped=generator.mapping,
        decode=lambda latent, noise, _: generator.decode(latent, noise),
        encode=None,
    )
    return ImageSampler(config, family, device)


SPEC = ModelSpec(
    name="image_stylegan",
    version=1,
    config=ImageStyleGANConfig,
    build=_build,
    task=ImageStyleGANTask,
    reads=columns_read,
    writes=_writes,
    fit=_fit,
    predictor=_predictor,
    exported=exported,
    sampler=_sampler,
    judged_rows=MIN_ROWS,
    presets=PRESETS,
    measured=STRETCH,
    measure=stretch_settings,
    surveyed=attrgetter("conditions"),
    survey_gives=RANGE,
    survey=survey,
)
