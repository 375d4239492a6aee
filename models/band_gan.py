"""Conditional GAN that predicts the long-wavelength NIRCam bands of an object from its short-wavelength ones.

After Pearce-Casey et al. (2023, arXiv:2310.09073), who train pix2pix (Isola et al. 2017, arXiv:1611.07004)
on CEERS and call anomalous what it predicts badly. Ours differs by default: native size, asinh stretch and
linear output, a variance for each pixel, and a discriminator that judges the prediction with noise. Not here:
scores (`models.scoring`).
"""

import contextlib
import logging
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from engine.column import Column
from models.band_gan_config import PRESETS, BandGANConfig
from models.band_gan_losses import (
    absolute_difference,
    discriminator_loss,
    drizzled_noise,
    gaussian_nll,
    generator_loss,
)
from models.band_gan_networks import Discriminator, Generator, Output
from models.scoring import band_columns, band_scores
from models.scoring.band_sums import Prediction, Scorer, magnitude_residuals
from models.scoring.cutouts import LW, LW_BANDS, SW, Cutouts, cutout_input, cutouts
from models.spec import Batch, ModelSpec, Predict
from models.symmetry import NUM_SYMMETRIES, turned
from models.training import (
    choose_bfloat16,
    evaluating,
    optimizer_tensors,
    restore_optimizer,
    seeded,
    to_floats,
    unwrapped,
    warmup_cosine,
)

log = logging.getLogger(__name__)

GENERATOR, DISCRIMINATOR = "generator", "discriminator"


class BandGANTask:
    """Modules, optimisers and step of the band GAN; see `models.spec.TrainTask`.

    A step trains the discriminator on the prediction as it is, then the generator against it. Each wrapped
    module is called once, so that each backward pass synchronises the gradients of one network; where the
    generator is judged, it is by the discriminator without its wrapping and without gradients of its weights.

    What is random in step n depends on (seed, n) alone, so a resumed run repeats an uninterrupted one.
    """

    def __init__(self, config: BandGANConfig, seed: int) -> None:
        self._config, self._seed = config, seed
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.modules: dict[str, nn.Module] = dict(_networks(config))
        self.optimizers: dict[str, torch.optim.Optimizer] = {
            name: torch.optim.Adam(module.parameters(), self._rate(name), (config.beta1, 0.999))
            for name, module in self.modules.items()
        }
        self._device, self._total_steps = torch.device("cpu"), 1
        self._autocast = False

    def start(self, device: torch.device, total_steps: int) -> None:
        """Move to the device, choose the precision; on a GPU compile, with channels innermost in memory."""
        self._device, self._total_steps = device, max(total_steps, 1)
        self._autocast, reason = choose_bfloat16(self._config.precision, device)
        log.info("training in %s: %s", "bfloat16" if self._autocast else "float32", reason)
        for module in self.modules.values():
            module.to(device)
            if device.type == "cuda":
                module.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
                module.compile()

    def step(self, batch: Batch, step: int) -> dict[str, float]:
        """One step of Adam for each network; `loss` is the generator's, all terms weighted."""
        for name, optimizer in self.optimizers.items():
            for group in optimizer.param_groups:
                group["lr"] = self._rate(name) * self._schedule(step)
        images = self._images(batch, step)
        inputs, target = images.bands(SW), images.bands(LW)
        with seeded(self._device, self._seed, step):
            with self._precision():
                output = self.modules[GENERATOR](inputs)
            parts = self._parts(output, target)
            if self._config.adversarial_weight:
                fake = self._as_observed(output, target)
                parts["discriminator"] = self._train_discriminator(inputs, target, fake.detach())
                parts["adversarial"] = self._judged(inputs, target, fake)
                parts["loss"] = parts["loss"] + self._config.adversarial_weight * parts["adversarial"]
        self._update(GENERATOR, parts["loss"])
        return to_floats(parts)

    def evaluate(self, batch: Batch) -> dict[str, float]:
        """Metrics without augmentation, noise and dropout.

        `loss` has no adversarial term: that depends on how good the discriminator is, and does not say which
        epoch is best. `l1_*` are in stretched units; `mag_bias_*` and `mag_scatter_*`, median and 1.4826 times
        the median absolute deviation of measured minus predicted aperture magnitudes, are left out where no
        object has the band.
        """
        with torch.no_grad(), evaluating(self.modules):
            images = cutouts(batch, self._config.size, self._device)
            inputs, target = images.bands(SW), images.bands(LW)
            with self._precision():
                output = self.modules[GENERATOR](inputs)
            parts = self._parts(output, target)
            if self._config.adversarial_weight:
                flux = _generator(self.modules[GENERATOR]).flux(output) * target.usable
                with self._precision():
                    logits = self.modules[DISCRIMINATOR](inputs, target.usable, target.science, flux)
                parts["discriminator"] = discriminator_loss(*logits)
        return to_floats(parts) | self._magnitudes(batch, images, output)

    def state_dict(self) -> dict[str, Any]:
        """Weights and moments of both networks, tensors in nested dicts; schedules follow from the step."""
        weights = {name: unwrapped(module).state_dict() for name, module in self.modules.items()}
        return weights | {f"adam_{name}": optimizer_tensors(o) for name, o in self.optimizers.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        for name, module in self.modules.items():
            unwrapped(module).load_state_dict(state[name])
            restore_optimizer(self.optimizers[name], state[f"adam_{name}"])

    def _rate(self, name: str) -> float:
        factor = self._config.discriminator_rate_factor if name == DISCRIMINATOR else 1.0
        return self._config.learning_rate * factor

    def _schedule(self, step: int) -> float:
        if self._config.schedule == "constant":
            return 1.0
        return warmup_cosine(step, self._total_steps, self._config.learning_rate_warmup_fraction)

    def _images(self, batch: Batch, step: int) -> Cutouts:
        """Cutouts of a batch, all under one symmetry of the square that depends on the step."""
        images = cutouts(batch, self._config.size, self._device)
        if not self._config.augment:
            return images
        element = int(np.random.default_rng([self._seed, step]).integers(NUM_SYMMETRIES))
        return Cutouts(*(turned(part, element).contiguous() for part in images))

    def _precision(self) -> contextlib.AbstractContextManager[Any]:
        return torch.autocast(self._device.type, torch.bfloat16, enabled=self._autocast)

    def _parts(self, output: Output, target: Cutouts) -> dict[str, Tensor]:
        """Terms of the loss that need no discriminator, and their weighted sum."""
        stretch = _generator(self.modules[GENERATOR]).stretch_out
        l1 = absolute_difference(output, stretch, target)
        parts = {"loss": self._config.l1_weight * l1.mean()}
        if self._config.nll_weight:
            parts["nll"] = gaussian_nll(output, stretch, target)
            parts["loss"] = parts["loss"] + self._config.nll_weight * parts["nll"]
        return parts | {f"l1_{band}": value for band, value in zip(LW_BANDS, l1, strict=True)}

    def _as_observed(self, output: Output, target: Cutouts) -> Tensor:
        """Predicted flux where the target is usable, with its noise if that is asked for."""
        flux = _generator(self.modules[GENERATOR]).flux(output)
        if self._config.adversarial_noise:
            flux = flux + drizzled_noise(flux, self._config.noise_correlation) * target.error
        return flux * target.usable

    def _train_discriminator(self, inputs: Cutouts, target: Cutouts, fake: Tensor) -> Tensor:
        with self._precision():
            logits = self.modules[DISCRIMINATOR](inputs, target.usable, target.science, fake)
        loss = discriminator_loss(*logits)
        self._update(DISCRIMINATOR, loss)
        return loss

    def _judged(self, inputs: Cutouts, target: Cutouts, fake: Tensor) -> Tensor:
        """Adversarial term of the generator; the graph holds no weight of the discriminator."""
        judge = unwrapped(self.modules[DISCRIMINATOR])
        judge.requires_grad_(False)
        try:
            with self._precision():
                (logits,) = judge(inputs, target.usable, fake)
        finally:
            judge.requires_grad_(True)
        return generator_loss(logits)

    def _update(self, name: str, loss: Tensor) -> None:
        self.optimizers[name].zero_grad(set_to_none=True)
        loss.backward()
        if self._config.grad_clip_norm:
            nn.utils.clip_grad_norm_(self.modules[name].parameters(), self._config.grad_clip_norm)
        self.optimizers[name].step()

    def _magnitudes(self, batch: Batch, images: Cutouts, output: Output) -> dict[str, float]:
        flux = _generator(self.modules[GENERATOR]).flux(output)
        residual = magnitude_residuals(self._config.scoring, batch, images, flux)
        metrics: dict[str, float] = {}
        for band, values in zip(LW_BANDS, residual.T, strict=True):
            values = values[np.isfinite(values)]
            if len(values):
                bias = float(np.median(values))
                metrics[f"mag_bias_{band}"] = bias
                metrics[f"mag_scatter_{band}"] = 1.4826 * float(np.median(np.abs(values - bias)))
        return metrics


def _networks(config: BandGANConfig) -> Iterator[tuple[str, nn.Module]]:
    yield GENERATOR, Generator(config)
    if config.adversarial_weight:
        yield DISCRIMINATOR, Discriminator(config)


def _build(config: BandGANConfig) -> nn.Module:
    """Both networks under their names, or the generator alone: as checkpoints name the weights."""
    networks = dict(_networks(config))
    return nn.ModuleDict(networks) if len(networks) > 1 else networks[GENERATOR]


def _generator(module: nn.Module) -> Generator:
    inner = unwrapped(module)
    if isinstance(inner, nn.ModuleDict):
        inner = inner[GENERATOR]
    if not isinstance(inner, Generator):
        raise TypeError(f"module is a {type(inner).__name__}, expected Generator")
    return inner


def _reads(config: BandGANConfig) -> tuple[Column, ...]:
    return cutout_input(config.size)


def _writes(config: BandGANConfig) -> tuple[Column, ...]:
    return band_columns.columns(config.scoring, config.size)


def _scorer(config: BandGANConfig, module: nn.Module, device: torch.device) -> Scorer:
    generator = _generator(module).eval()

    def predict(inputs: Cutouts) -> Prediction:
        output = generator(inputs)
        return Prediction(generator.flux(output), generator.sigma(output), output.features)

    return Scorer(config.scoring, config.size, predict, device)


def _fit(
    config: BandGANConfig, module: nn.Module, reference: Iterable[Batch], held_out: Iterable[Batch]
) -> dict[str, np.ndarray]:
    scorer = _scorer(config, module, next(module.parameters()).device)
    return band_scores.fit(scorer, reference, held_out, torch.get_num_threads())


def _predictor(
    config: BandGANConfig, module: nn.Module, fitted: Mapping[str, np.ndarray], device: torch.device
) -> Predict:
    return band_scores.predictor(_scorer(config, module.to(device), device), fitted, torch.get_num_threads())


def _reconstruct(config: BandGANConfig, module: nn.Module, batch: Batch) -> dict[str, np.ndarray]:
    """Give the predicted LW bands and their scatter beside noise [nJy], [B, 3 * S * S] each."""
    generator = _generator(module).eval()
    with torch.inference_mode():
        images = cutouts(batch, config.size, next(module.parameters()).device)
        output = generator(images.bands(SW))
        flux, sigma = generator.flux(output).flatten(1), generator.sigma(output).flatten(1)
        return {"recon": flux.cpu().numpy(), "sigma": sigma.cpu().numpy()}


SPEC = ModelSpec(
    name="band_gan",
    version=1,
    config=BandGANConfig,
    presets=PRESETS,
    build=_build,
    task=BandGANTask,
    reads=_reads,
    writes=_writes,
    fit=_fit,
    predictor=_predictor,
    reconstruct=_reconstruct,
)
