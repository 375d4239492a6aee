"""U-Net VAE that cleans images of galaxies: noise and contaminants in, the light of the target field out.

After Mirzoyan (2025, arXiv:2506.19434 and arXiv:2511.21207), who trains on images in [0, 1] with binary cross
entropy; layers are not published. Ours differs by default: fluxes keep their calibration, each pixel has a
variance, and the skips are limited, so that the latent is used (`models.unet_vae_networks`). Not here: what
contaminates images (`engine.synthetic.contaminate`), measures of how clean they are
(`models.scoring.denoising`).
"""

# B images, C bands, S pixels a side, D latents

import logging
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from engine.column import Column
from engine.flags import BLENDED, NOT_SCORED
from models.scoring.aperture import aperture_weights, apertures, places, usable_weights
from models.scoring.cutouts import Cutouts, cutout_input, cutouts, denoised_column
from models.scoring.denoising import psnr
from models.scoring.size import LIMIT
from models.spec import Batch, ModelSpec, Predict, nothing_fitted
from models.symmetry import NUM_SYMMETRIES, turned
from models.training import (
    choose_bfloat16,
    optimizer_tensors,
    restore_optimizer,
    to_floats,
    unwrapped,
    warmup_cosine,
)
from models.unet_vae_config import PRESETS, UNetVAEConfig
from models.unet_vae_losses import (
    ACTIVE_NAT,
    absolute_difference,
    cross_entropy,
    gaussian_nll,
    latent_kl,
    with_free_bits,
)
from models.unet_vae_networks import Output, UNetVAE

log = logging.getLogger(__name__)

NETWORK = "unet_vae"
BLEND_SIGMA = 5.0
"""Significance of the light that is removed where an object is flagged BLENDED."""


class Target(NamedTuple):
    """Clean images [B, C, S, S], and the pixels in which image and target can be used."""

    clean: Tensor
    usable: Tensor


class UNetVAETask:
    """Module, optimiser and step of the U-Net VAE; see `models.spec.TrainTask`.

    Batches have the columns of `reads` and `trains_on`. What is random in step n depends on (seed, n) alone,
    so a resumed run repeats an uninterrupted one.
    """

    def __init__(self, config: UNetVAEConfig, seed: int) -> None:
        self._config, self._seed = config, seed
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.modules: dict[str, nn.Module] = {NETWORK: UNetVAE(config)}
        self.optimizers: dict[str, torch.optim.Optimizer] = {
            "adam": torch.optim.Adam(self.modules[NETWORK].parameters(), config.learning_rate)
        }
        self._device, self._total_steps = torch.device("cpu"), 1
        self._autocast = False

    def start(self, device: torch.device, total_steps: int) -> None:
        """Move to the device, choose the precision; on a GPU compile, with channels innermost in memory."""
        self._device, self._total_steps = device, max(total_steps, 1)
        self._autocast, reason = choose_bfloat16(self._config.precision, device)
        log.info("training in %s: %s", "bfloat16" if self._autocast else "float32", reason)
        module = self.modules[NETWORK].to(device)
        if device.type == "cuda":
            module.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
            module.compile()

    def step(self, batch: Batch, step: int) -> dict[str, float]:
        """One step of Adam on the negative ELBO; the metrics of `evaluate`, at the beta of the step."""
        factor = warmup_cosine(step, self._total_steps, self._config.learning_rate_warmup_fraction)
        for group in self.optimizers["adam"].param_groups:
            group["lr"] = self._config.learning_rate * factor
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + step + 1)
        rows = len(batch["science"])
        noise = torch.randn(rows, self._config.num_latent, generator=generator).to(self._device)
        is_open = (
            (torch.rand(rows, generator=generator) >= self._config.skip_dropout).float().to(self._device)
        )
        images, target = self._turned(*self._tensors(batch), step)
        metrics = self._metrics(images, target, noise, is_open, self._beta(step))
        self.optimizers["adam"].zero_grad(set_to_none=True)
        metrics["loss"].backward()
        nn.utils.clip_grad_norm_(self.modules[NETWORK].parameters(), self._config.grad_clip_norm)
        self.optimizers["adam"].step()
        return _finite(metrics)

    def evaluate(self, batch: Batch) -> dict[str, float]:
        """Metrics at the latent mean with all skips open, without augmentation and with full beta.

        `loss` and `reconstruction` are in nats a pixel, `kl` is in nats an image, `psnr` in dB and left out
        where no image has light; `active_latents` counts those above 0.01 nat, and
        `kl_latent_min`, `_median` and `_max` say how it is shared among them.
        """
        images, target = self._tensors(batch)
        noise = torch.zeros(len(target.clean), self._config.num_latent, device=self._device)
        with torch.no_grad():
            return _finite(self._metrics(images, target, noise, None, self._config.beta))

    def state_dict(self) -> dict[str, Any]:
        """Weights and moments, tensors in nested dicts; schedules follow from the step."""
        weights = unwrapped(self.modules[NETWORK]).state_dict()
        return {NETWORK: weights, "adam": optimizer_tensors(self.optimizers["adam"])}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        unwrapped(self.modules[NETWORK]).load_state_dict(state[NETWORK])
        restore_optimizer(self.optimizers["adam"], state["adam"])

    def _tensors(self, batch: Batch) -> tuple[Cutouts, Target]:
        """Images as seen and their targets; usable where both are."""
        images = _images(self._config, batch, self._device)
        clean = torch.tensor(_clean(batch), device=self._device)
        if clean.shape != batch["science"].shape:
            raise ValueError(f"clean is {tuple(clean.shape)}, must be {batch['science'].shape} as science")
        clean = clean.view(images.science.shape)
        usable = images.usable & torch.isfinite(clean)
        if self._config.likelihood == "bernoulli":
            _check_range("clean", clean, usable)
        return images, Target(torch.where(usable, clean, 0), usable)

    def _turned(self, images: Cutouts, target: Target, step: int) -> tuple[Cutouts, Target]:
        """All under one symmetry of the square that depends on the step."""
        if not self._config.augment:
            return images, target
        element = int(np.random.default_rng([self._seed, step]).integers(NUM_SYMMETRIES))
        return (
            Cutouts(*(turned(part, element).contiguous() for part in images)),
            Target(*(turned(part, element).contiguous() for part in target)),
        )

    def _metrics(
        self, images: Cutouts, target: Target, noise: Tensor, is_open: Tensor | None, beta: float
    ) -> dict[str, Tensor]:
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._autocast):
            output: Output = self.modules[NETWORK](images, noise, is_open)
        network = _network(self.modules[NETWORK])
        reconstruction, kl = self._reconstruction(network, output, target), latent_kl(output)
        cost = with_free_bits(kl, self._config.free_bits) / target.clean[0].numel()
        with torch.no_grad():
            quality = psnr(network.flux(output), *target).nanmean()
        return {
            "loss": reconstruction + beta * cost,
            "reconstruction": reconstruction,
            "kl": kl.sum(1).mean(),
            "active_latents": (kl.mean(0) > ACTIVE_NAT).sum(),
            "psnr": quality,
        } | _spread(kl.mean(0))

    def _reconstruction(self, network: UNetVAE, output: Output, target: Target) -> Tensor:
        config = self._config
        if config.likelihood == "bernoulli":
            return cross_entropy(output, *target)
        loss = gaussian_nll(output, network.stretch, *target, floor=config.variance_floor)
        if config.l1_weight:
            loss = loss + config.l1_weight * absolute_difference(output, network.stretch, *target)
        return loss

    def _beta(self, step: int) -> float:
        warmup = self._config.beta_warmup_fraction * self._total_steps
        return self._config.beta * min(1.0, (step + 1) / max(warmup, 1.0))


def _clean(batch: Batch) -> np.ndarray:
    if "clean" not in batch:
        raise ValueError(
            "batch has no column clean: training needs the target (engine.synthetic.contaminate makes it)"
        )
    return np.asarray(batch["clean"], np.float32)


def _images(config: UNetVAEConfig, batch: Batch, device: torch.device) -> Cutouts:
    images = cutouts(batch, config.size, device, config.num_bands)
    if config.likelihood == "bernoulli":
        _check_range("science", images.science, images.usable)
    return images


def _check_range(name: str, images: Tensor, usable: Tensor) -> None:
    values = images[usable]
    if values.numel() and not (values.min() >= 0 and values.max() <= 1):
        low, high = float(values.min()), float(values.max())
        raise ValueError(
            f"{name} is between {low:.4g} and {high:.4g}, must be in [0, 1] for likelihood bernoulli; "
            "scale the images, or set likelihood = gaussian"
        )


def _finite(metrics: Mapping[str, Tensor]) -> dict[str, float]:
    """Scalars; `psnr` is left out where no image has light."""
    return {
        name: value for name, value in to_floats(metrics).items() if name != "psnr" or math.isfinite(value)
    }


def _spread(kl: Tensor) -> dict[str, Tensor]:
    """KL of the least, the median and the most telling latent [nat], of those [D] of all; nothing without a latent."""
    if not len(kl):
        return {}
    return {"kl_latent_min": kl.min(), "kl_latent_median": kl.median(), "kl_latent_max": kl.max()}


def _network(module: nn.Module) -> UNetVAE:
    inner = unwrapped(module)
    if not isinstance(inner, UNetVAE):
        raise TypeError(f"module is a {type(inner).__name__}, expected UNetVAE")
    return inner


def _reads(config: UNetVAEConfig) -> tuple[Column, ...]:
    return cutout_input(config.size, config.num_bands)


def _trains_on(config: UNetVAEConfig) -> tuple[Column, ...]:
    text = "Light of the target field without contaminants and noise, order band, y, x"
    return (Column("clean", "float32", text, "nJy", config.num_bands * config.size**2, packed=True),)


def _writes(config: UNetVAEConfig) -> tuple[Column, ...]:
    radius = f"{config.aperture_radius_arcsec:g} arcsec"
    return (
        denoised_column(config.size, config.num_bands),
        Column("denoised_fraction", "float32", f"Flux in {radius} in the reddest band, cleaned / measured; "
               "NaN where that is not positive"),
        Column("residual_chi2", "float32", "Mean over usable pixels of ((science - denoised) / error)^2"),
        Column("latent_kl", "float32", "KL of the latent from the prior, for the whole image", "nat"),
    )  # fmt: skip


def _predictor(
    config: UNetVAEConfig, module: nn.Module, fitted: Mapping[str, np.ndarray], device: torch.device
) -> Predict:
    del fitted
    network = _network(module.to(device)).eval()

    def predict(batch: Batch) -> dict[str, np.ndarray]:
        total, step = len(batch["science"]), config.predict_rows
        starts = range(0, max(total, 1), step)
        parts = [_clean_rows(config, network, {k: v[n : n + step] for k, v in batch.items()}) for n in starts]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    return predict


def _clean_rows(config: UNetVAEConfig, network: UNetVAE, batch: Batch) -> dict[str, np.ndarray]:
    """Columns of `_writes` and `flags`; NaN where no pixel is usable, or the aperture is not.

    A flux that noise makes negative has no `denoised_fraction`, but the image is scored.
    """
    with torch.inference_mode():
        images = _images(config, batch, next(network.parameters()).device)
        weights = apertures(config.aperture_radius_arcsec, batch, images)
        output, flux, _ = _cleaned(config, network, images, weights)
        after, before, fraction = _reddest_flux(weights, images, flux)
        is_seen = images.usable.any((1, 2, 3))
        is_scored = is_seen & (fraction >= config.min_aperture_fraction)
        chi2 = torch.where(images.usable, ((images.science - flux) / images.error).square(), 0).sum((1, 2, 3))
        columns = {
            "denoised": torch.where(is_seen[:, None], flux.flatten(1), torch.nan),
            "denoised_fraction": torch.where(is_scored & (before > 0), after / before, torch.nan),
            "residual_chi2": torch.where(is_seen, chi2 / images.usable.sum((1, 2, 3)), torch.nan),
            "latent_kl": torch.where(is_seen, latent_kl(output).sum(1), torch.nan),
            "flags": (
                torch.where(is_scored, 0, NOT_SCORED.value) | _blended(config, batch, images, weights, flux)
            ).int(),
        }
        return {name: values.cpu().numpy() for name, values in columns.items()}


def _cleaned(
    config: UNetVAEConfig, network: UNetVAE, images: Cutouts, weights: Tensor
) -> tuple[Output, Tensor, Tensor]:
    """Output at the latent mean, the clean image, and its standard deviation; `weights` of `apertures`."""
    factor = _dimming(config, images, weights)[:, None, None, None]
    dimmed = Cutouts(images.science * factor, images.error * factor, images.usable)
    noise = images.science.new_zeros(len(images.science), network.num_latent)
    output: Output = network(dimmed, noise)
    return output, network.flux(output) / factor, network.sigma(output) / factor


def _dimming(config: UNetVAEConfig, images: Cutouts, weights: Tensor) -> Tensor:
    """Factor on each image [B] that makes it as faint as `max_flux_njy` if it is brighter."""
    if config.likelihood == "bernoulli":
        return images.science.new_ones(len(images.science))
    brightest = (usable_weights(images.usable, weights) * images.science).sum((2, 3)).amax(1)
    return config.max_flux_njy / brightest.clamp(min=config.max_flux_njy)


def _reddest_flux(weights: Tensor, images: Cutouts, flux: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Aperture flux of the last band after and before, in the same pixels, and its usable part, [B] each."""
    good = usable_weights(images.usable, weights)[:, -1]
    after, before = ((good * image[:, -1]).sum((1, 2)) for image in (flux, images.science))
    return after, before, good.sum((1, 2)) / weights.sum((1, 2))


def _blended(config: UNetVAEConfig, batch: Batch, images: Cutouts, weights: Tensor, flux: Tensor) -> Tensor:
    """Flag of objects [B] around which much light was removed in the reddest band.

    What is removed within the aperture (`weights`) does not count: it may be the object's own. None is flagged
    where the aperture reaches `LIMIT` of the side.
    """
    dx, dy, _ = places(batch, flux.device)
    near = aperture_weights(config.size, dx, dy, torch.full_like(dx, LIMIT * config.size))
    good = usable_weights(images.usable, near)[:, -1]
    kept = (good * flux[:, -1]).sum((1, 2))
    around = usable_weights(images.usable, (near - weights).clamp(min=0))[:, -1]
    removed = (around * (images.science - flux)[:, -1]).sum((1, 2))
    noise = (around * images.error[:, -1].square()).sum((1, 2)).sqrt()
    is_blended = (removed > BLEND_SIGMA * noise) & (removed > config.blend_fraction * kept)
    return torch.where(is_blended, BLENDED.value, 0)


def _reconstruct(config: UNetVAEConfig, module: nn.Module, batch: Batch) -> dict[str, np.ndarray]:
    """Give the clean image and its standard deviation, [B, C * S * S] each, in the unit of the input."""
    network = _network(module).eval()
    with torch.inference_mode():
        images = _images(config, batch, next(network.parameters()).device)
        weights = apertures(config.aperture_radius_arcsec, batch, images)
        _, flux, sigma = _cleaned(config, network, images, weights)
        return {"recon": flux.flatten(1).cpu().numpy(), "sigma": sigma.flatten(1).cpu().numpy()}


SPEC = ModelSpec(
    name="unet_vae",
    version=1,
    config=UNetVAEConfig,
    presets=PRESETS,
    build=UNetVAE,
    task=UNetVAETask,
    reads=_reads,
    writes=_writes,
    fit=nothing_fitted,
    predictor=_predictor,
    reconstruct=_reconstruct,
    trains_on=_trains_on,
)
