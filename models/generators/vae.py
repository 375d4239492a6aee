"""Variational autoencoder of galaxy images: Gaussian latents with a learned prior, a likelihood with its own scatter.

Kingma & Welling (2014, arXiv:1312.6114). Of the VAE of Holzschuh et al. (2022, arXiv:2203.11956) layers are not
published: those here are ours, of the size of their other networks.
"""

# B images, C channels, S pixels a side, D latents, K conditions

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from engine.column import Column
from models.generators.average import Averaged, average_of
from models.generators.config import GeneratorConfig
from models.generators.encoding import encoder_columns, encoder_spec
from models.generators.images import Seen, bright_weights
from models.generators.latent_prior import LatentPrior, prior_loss
from models.generators.networks import Decoder, EqualLinear, Trunk
from models.generators.sampling import Family
from models.generators.task import GeneratorTask, fresh
from models.settings import check
from models.spec import Batch
from models.training import to_floats, unwrapped, warmup_cosine
from models.unet_vae_losses import ACTIVE_NAT, latent_kl, with_free_bits
from models.unet_vae_networks import Output

NETWORK, PRIOR = "vae", "prior"


@dataclass(frozen=True, kw_only=True)
class ImageVAEConfig(GeneratorConfig):
    """Network, losses and optimiser of the VAE."""

    num_latent: int = 32
    """Latent dimensions."""
    prior: Literal["flow", "normal"] = "flow"
    """What samples are drawn from. flow: where encoded images are (`models.generators.latent_prior`). normal: N(0, 1),
    as in the VAE of Kingma & Welling (2014); then `least_scatter` must be about 0.3, or samples are no galaxies."""
    prior_width: int = 128
    """Of the layers of the flow."""
    prior_layers: int = 3
    """Residual layers of the flow."""
    least_scatter: float = 0.05
    """Least standard deviation of pixels around the decoded image [of stretched training pixels]. Images without
    noise give the likelihood no bound, and it counts neighbours as independent: the latent would say ever more."""
    peak_weight: float = 0.5
    """Exponent of the weights of errors where images are decoded bright (`models.generators.images.bright_weights`);
    with 0 the likelihood is that of one scatter."""
    beta: float = 1.0
    """Weight of the KL term (Higgins et al. 2017); 1 is the ELBO."""
    beta_warmup_fraction: float = 0.1
    """Part of training over which beta grows from 0."""
    free_bits: float = 0.0
    """KL [nat] of each latent, mean over a batch, below which it costs the same."""
    learning_rate_warmup_fraction: float = 0.02
    """Part of training over which the learning rate grows; a cosine to 1 % of the peak follows."""
    grad_clip_norm: float = 10.0
    """Largest norm of the gradient; the likelihood of images without noise has steep walls."""

    def __post_init__(self) -> None:
        """Check ranges; all messages name the field, the value and the range."""
        super().__post_init__()
        kinds = ("flow", "normal")
        check(self.prior in kinds, "prior", self.prior, " or ".join(kinds))
        for name in ("num_latent", "prior_width", "prior_layers"):
            check(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        check(self.least_scatter > 0, "least_scatter", self.least_scatter, "positive")
        for name in ("beta", "free_bits", "peak_weight"):
            check(getattr(self, name) >= 0, name, getattr(self, name), "0 or positive")
        for name in ("beta_warmup_fraction", "learning_rate_warmup_fraction"):
            check(0 <= getattr(self, name) < 1, name, getattr(self, name), "in [0, 1)")


_PUBLISHED = ImageVAEConfig(size=256, width=32, max_width=512, num_latent=512, precision="auto")

PRESETS: Mapping[str, ImageVAEConfig] = {
    "tiny": ImageVAEConfig(size=16, width=8, max_width=16, num_latent=8),
    "cpu64": ImageVAEConfig(),
    "published256": _PUBLISHED,
    "published256_sersic": replace(_PUBLISHED, num_latent=32),
}
"""Configurations by name. `published256`: image and latent of Holzschuh et al. (2022) for COSMOS and SKIRT,
`published256_sersic` for their Sersic set; widths are ours."""


class ImageVAE(nn.Module):
    """Encoder and decoder."""

    def __init__(self, config: ImageVAEConfig) -> None:
        super().__init__()
        features, self._least_variance = config.widths[-1], config.least_scatter**2
        self._peak_weight = config.peak_weight
        self.trunk = Trunk(config, features)
        self.head = EqualLinear(features + len(config.conditions), 2 * config.num_latent)
        self.decoder = Decoder(config, config.num_latent)

    def encode(self, images: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance [B, D] of the latent."""
        features = torch.cat([self.trunk(images), condition], 1)
        mean, logvar = self.head(features).float().chunk(2, 1)
        return mean, logvar

    def forward(self, images: Tensor, condition: Tensor, noise: Tensor) -> Output:
        """Decode latent mean + sigma noise; noise [B, D].

        The log variance of the output, of each channel around the decoded images, is that of this batch.
        """
        mean, logvar = self.encode(images, condition)
        recon = self.decoder(mean + (0.5 * logvar).exp() * noise, condition).float()
        squares = (images - recon).square() * bright_weights(recon, self._peak_weight)
        variance = squares.mean((0, 2, 3)).clamp(min=self._least_variance)
        return Output(recon, variance.log().view(-1, 1, 1), mean, logvar)


class ImageVAETask(GeneratorTask):
    """Networks, optimisers and step of the VAE; see `models.generators.task.GeneratorTask`."""

    def __init__(self, config: ImageVAEConfig, seed: int) -> None:
        with fresh(seed):
            networks = {name: Averaged(network) for name, network in _networks(config).items()}
        super().__init__(config, networks, seed)
        self._config = config

    def step(self, batch: Batch, step: int) -> dict[str, float]:
        """One step of Adam on the negative ELBO, and one of the prior on the latents that it drew.

        Gives the metrics of `evaluate` that are no distances, at the beta of the step; `loss` is the negative ELBO.
        """
        seen, config = self._seen(batch, step), self._config
        warmup = max(config.beta_warmup_fraction * self._total_steps, 1.0)
        with self._seeded(step):
            metrics, latent = self._metrics(seen, config.beta * min(1.0, (step + 1) / warmup))
            if config.prior == "flow":
                metrics["prior"] = prior_loss(self.modules[PRIOR], latent.detach(), seen.condition)
        rate = warmup_cosine(step, self._total_steps, config.learning_rate_warmup_fraction)
        self._update(NETWORK, metrics["loss"], step, rate)
        if config.prior == "flow":
            self._update(PRIOR, metrics["prior"], step, rate)
        return to_floats(metrics)

    def evaluate(self, batch: Batch) -> dict[str, float]:
        """Metrics without augmentation, with full beta, latents drawn from a seed of the batch.

        `loss` is the distance of samples (`models.generators.distances`). `negative_elbo` and `reconstruction`, its
        likelihood term, are in nats a value and for the stretched image; `kl` is in nats an image, to N(0, 1);
        `active_latents` counts those above 0.01 nat.
        """
        return self._evaluated(batch, self._judged)

    def _judged(self, seen: Seen) -> tuple[Tensor, dict[str, Tensor]]:
        metrics, latent = self._metrics(seen, self._config.beta)
        metrics["negative_elbo"] = metrics.pop("loss")
        draws = torch.randn_like(latent)
        if PRIOR in self.modules:
            draws = average_of(self.modules[PRIOR], LatentPrior).drawn(draws, seen.condition)
        return average_of(self.modules[NETWORK], ImageVAE).decoder(draws, seen.condition), metrics

    def _metrics(self, seen: Seen, beta: float) -> tuple[dict[str, Tensor], Tensor]:
        """Metrics, and the latents [B, D] that were drawn."""
        noise = torch.randn(len(seen.images), self._config.num_latent, device=self._device)
        with self._precision():
            output: Output = self.modules[NETWORK](seen.images, seen.condition, noise)
        config = self._config
        reconstruction, kl = shared_variance_nll(output, seen.images, config.peak_weight), latent_kl(output)
        cost = with_free_bits(kl, config.free_bits) / config.num_pixels
        metrics = {
            "loss": reconstruction + beta * cost,
            "reconstruction": reconstruction,
            "kl": kl.sum(1).mean(),
            "active_latents": (kl.mean(0) > ACTIVE_NAT).sum(),
        }
        return metrics, output.latent_mean + (0.5 * output.latent_logvar).exp() * noise


def shared_variance_nll(output: Output, images: Tensor, peak_weight: float = 0.0) -> Tensor:
    """Negative log likelihood of images [B, C, S, S] [nat], mean over values.

    N(image; mean, exp(log_variance)) with one variance a channel, the most likely one above a least value:
    it decides how much the latent has to say, and need not be chosen (Rybkin et al. 2021, arXiv:2006.13202, Eq. 6).
    Ours differs by weights of the errors, `peak_weight` of the configuration.
    """
    errors = (images - output.mean).square() * bright_weights(output.mean, peak_weight)
    squares = errors * (-output.log_variance).exp()
    return 0.5 * (squares + output.log_variance + math.log(2 * math.pi)).mean()


def _networks(config: ImageVAEConfig) -> dict[str, nn.Module]:
    """Fresh networks by name."""
    networks: dict[str, nn.Module] = {NETWORK: ImageVAE(config)}
    if config.prior == "flow":
        shape = (config.num_latent, len(config.conditions), config.prior_width, config.prior_layers)
        networks[PRIOR] = LatentPrior(*shape)
    return networks


def _build(config: ImageVAEConfig) -> nn.Module:
    """Both networks under their names, as checkpoints name the weights; the VAE alone if it has no other."""
    networks = _networks(config)
    return nn.ModuleDict(networks) if len(networks) > 1 else networks[NETWORK]


def _built(module: nn.Module) -> tuple[ImageVAE, LatentPrior | None]:
    inner, prior = unwrapped(module).eval(), None
    if isinstance(inner, nn.ModuleDict) and {NETWORK, PRIOR} <= inner.keys():
        inner, prior = inner[NETWORK], inner[PRIOR]
    if isinstance(inner, ImageVAE) and (prior is None or isinstance(prior, LatentPrior)):
        return inner, prior
    raise TypeError(f"module is a {type(inner).__name__}, expected the networks of image_vae")


def _family(config: ImageVAEConfig, module: nn.Module) -> Family:
    network, prior = _built(module)
    return Family(
        num_latent=config.num_latent,
        num_noise=0,
        mapped=prior.drawn if prior else None,
        decode=lambda latent, _, condition: network.decoder(latent, condition),
        encode=lambda images, condition: network.encode(images, condition)[0],
    )


def _writes(config: ImageVAEConfig) -> tuple[Column, ...]:
    return encoder_columns(config.num_latent, "Mean of the posterior of the latent", "what the latent loses")


SPEC = encoder_spec("image_vae", ImageVAEConfig, _build, ImageVAETask, _writes, _family, PRESETS, version=2)
