"""Variational autoencoder of DESI spectra with an inverse-variance Gaussian likelihood.

After Nicolaou et al. (2025, arXiv:2506.17376), who give no layers; the layout follows the SDSS VAE of Portillo
et al. (2020, AJ 160, 45): a perceptron of two hidden layers each way. Ours differs in that the decoder also
gives an intrinsic scatter, so that a reconstruction probability is defined, and that the encoder sees each
pixel shrunk by its noise. Not here: preparation (`engine.spectra`), scores (`models.scoring`).
"""

# B spectra, L pixels, D latents, K windows of pixels that share a scatter, H hidden units

import itertools
import logging
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from engine.column import Column
from engine.spectra.columns import SPECTYPE, TARGETID, Z, model_input
from models.scoring import spectral
from models.scoring.reconstruction import Scatter, gaussian_terms, log_ivar_sum, log_likelihood, window_sum
from models.spec import Batch, ModelSpec, Predict
from models.spectral_vae_config import PRESETS, SpectralVAEConfig
from models.training import (
    choose_bfloat16,
    optimizer_tensors,
    restore_optimizer,
    to_floats,
    unwrapped,
    warmup_cosine,
    worker,
)

log = logging.getLogger(__name__)

LOG_SCATTER_START = 2 * math.log(0.1)
"""The decoder begins with an intrinsic scatter of 10 % of the continuum."""
LOG_SCATTER_RANGE = 8.0
LATENT_LOGVAR_RANGE = 12.0


class Output(NamedTuple):
    """What `SpectralVAE.forward` gives: [B, L] mean and log scatter, [B, D] latent draw, mean, log variance."""

    mean: Tensor
    log_scatter: Tensor
    latent: Tensor
    latent_mean: Tensor
    latent_logvar: Tensor


class SpectralVAE(nn.Module):
    """Encoder and decoder, each a perceptron with LeakyReLU."""

    def __init__(self, config: SpectralVAEConfig) -> None:
        super().__init__()
        self._num_pixels, self._window = config.num_pixels, config.window_pixels
        self._floor = config.encoder_floor
        first, *_ = config.hidden
        self.flux_in = nn.Linear(config.num_pixels, first)
        self.noise_in = nn.Linear(config.num_windows, first, bias=False)
        self.encoder = perceptron(config.hidden)
        self.latent_out = nn.Linear(config.hidden[-1], 2 * config.num_latent)
        self.decoder = perceptron((config.num_latent, *reversed(config.hidden)), activate_input=False)
        self.mean_out = nn.Linear(first, config.num_pixels)
        self.scatter_out = nn.Linear(first, config.num_windows)
        self.pixel_scatter = nn.Parameter(torch.full((config.num_pixels,), LOG_SCATTER_START))
        nn.init.ones_(self.mean_out.bias)  # prepared spectra have median 1

    def encode(self, flux: Tensor, ivar: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of the latent posterior.

        Each pixel is shrunk by ivar / (ivar + floor), so that noise does not drown the signal and unusable
        pixels are 0, and bright lines are compressed to a square root. The mean shrinkage of each window goes
        in as well: without it a missing camera could not be told from zero flux.

        Parameters
        ----------
        flux, ivar
            [B, L] prepared spectra; flux finite everywhere.

        Returns
        -------
        tuple
            [B, D] mean and log variance, the latter within +-12.
        """
        trust = (ivar + self._floor).reciprocal_().mul_(ivar)
        compressed = flux.abs().mul_(0.25).add_(1).rsqrt_().mul_(flux).mul_(trust)
        hidden = self.flux_in(compressed) + self.noise_in(window_sum(trust, self._window) / self._window)
        mean, logvar = self.latent_out(self.encoder(hidden)).float().chunk(2, dim=1)
        return mean, bounded(logvar, LATENT_LOGVAR_RANGE)

    def decode(self, latent: Tensor) -> tuple[Tensor, Scatter]:
        """Mean of each pixel, [B, L], and the intrinsic variance, for latents [B, D]."""
        hidden = self.decoder(latent)
        window = bounded(self.scatter_out(hidden).float(), LOG_SCATTER_RANGE)
        return self.mean_out(hidden).float(), Scatter(window, self.pixel_scatter)

    def forward(self, flux: Tensor, ivar: Tensor, noise: Tensor) -> Output:
        """Encode, draw with the standard normal `noise` [B, D], decode; one call a step, so that DDP sees it."""
        latent_mean, latent_logvar = self.encode(flux, ivar)
        latent = torch.addcmul(latent_mean, (0.5 * latent_logvar).exp(), noise)
        mean, scatter = self.decode(latent)
        return Output(mean, scatter.expand(self._window), latent, latent_mean, latent_logvar)


def perceptron(widths: tuple[int, ...], activate_input: bool = True) -> nn.Sequential:
    """Linear layers of these widths, each with a LeakyReLU after it."""
    layers: list[nn.Module] = [nn.LeakyReLU()] if activate_input else []
    for width_in, width_out in itertools.pairwise(widths):
        layers += [nn.Linear(width_in, width_out), nn.LeakyReLU()]
    return nn.Sequential(*layers)


def bounded(values: Tensor, limit: float) -> Tensor:
    """Identity near 0, never beyond +-limit, with a gradient everywhere."""
    return limit * torch.tanh(values / limit)


def kl_divergence(latent_mean: Tensor, latent_logvar: Tensor) -> Tensor:
    """KL(N(mean, exp(logvar)) || N(0, 1)) summed over latents, [B], in nats.

    Kingma & Welling (2014), arXiv:1312.6114, Appendix B.
    """
    return 0.5 * (latent_mean.square() + latent_logvar.exp() - 1 - latent_logvar).sum(1)


def mean_discrepancy(latent: Tensor, prior: Tensor) -> Tensor:
    """Squared maximum mean discrepancy of two samples [B, D], kernel exp(-|a - b|^2 / (2 D)).

    Gretton et al. (2012), JMLR 13, 723, Eq. 5 (the biased estimate, never negative).
    """

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (-torch.cdist(a, b).square() / (2 * a.shape[1])).exp().mean()

    return kernel(latent, latent) + kernel(prior, prior) - 2 * kernel(latent, prior)


def losses(output: Output, flux: Tensor, ivar: Tensor, beta: float) -> dict[str, Tensor]:
    """Terms of the negative ELBO, each a mean over spectra, in nats per pixel of the grid.

    The ELBO of a spectrum is the sum over usable pixels of log N(flux; mean, scatter + 1/ivar) minus beta KL. All
    terms are divided by L, the same for every spectrum, so that learning rates carry over between grids.
    """
    terms = gaussian_terms(flux, ivar, output.mean, output.log_scatter.exp())
    num_pixels = flux.shape[1]
    nll = -log_likelihood(terms, *log_ivar_sum(ivar)).mean() / num_pixels
    kl = kl_divergence(output.latent_mean, output.latent_logvar).mean() / num_pixels
    return {"loss": nll + beta * kl, "nll": nll, "kl": kl, "chi2": terms.chi2.mean()}


class SpectralVAETask:
    """Modules, optimiser and step of the spectral VAE; see `models.spec.TrainTask`.

    The noise of step n depends on (seed, n) alone, so a resumed run repeats an uninterrupted one, and workers that
    share a batch draw together what one draws for all of it.
    """

    network: ClassVar[Callable[[Any], nn.Module]] = SpectralVAE
    """What is trained; a network of other inputs overrides `_inputs` too."""

    def __init__(self, config: SpectralVAEConfig, seed: int) -> None:
        self._config, self._seed = config, seed
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.modules: dict[str, nn.Module] = {"vae": type(self).network(config)}
        parameters = list(self.modules["vae"].parameters())
        groups = [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        # Fused: one pass over the weights; with 6 million of them the plain loop costs a third of a step.
        optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, fused=True)
        self.optimizers: dict[str, torch.optim.Optimizer] = {"adamw": optimizer}
        self._device, self._total_steps = torch.device("cpu"), 1
        self._autocast = False

    def start(self, device: torch.device, total_steps: int) -> None:
        """Move to the device, choose the precision, compile where that pays."""
        self._device, self._total_steps = device, max(total_steps, 1)
        self.modules["vae"].to(device)
        self._autocast, reason = choose_bfloat16(self._config.precision, device)
        log.info("training in %s: %s", "bfloat16" if self._autocast else "float32", reason)
        if device.type == "cuda":
            self.modules["vae"].compile()

    def step(self, batch: Batch, step: int) -> dict[str, float]:
        """One step of AdamW on the negative ELBO (plus MMD); metrics in nats per pixel."""
        (optimizer,) = self.optimizers.values()
        learning_rate = self._config.learning_rate * warmup_cosine(
            step, self._total_steps, self._config.learning_rate_warmup_fraction
        )
        for group in optimizer.param_groups:
            group["lr"] = learning_rate
        parts = self._losses(batch, self._noise(len(batch["flux"]), step), self._beta(step))
        optimizer.zero_grad(set_to_none=True)
        parts["loss"].backward()
        parts["grad_norm"] = nn.utils.clip_grad_norm_(
            self.modules["vae"].parameters(), self._config.grad_clip_norm
        )
        optimizer.step()
        return to_floats(parts) | {"learning_rate": learning_rate}

    def evaluate(self, batch: Batch) -> dict[str, float]:
        """Loss with the latent mean in place of a draw and full beta."""
        with torch.no_grad():
            zeros = torch.zeros(len(batch["flux"]), self._config.num_latent, device=self._device)
            return to_floats(self._losses(batch, zeros, self._config.beta))

    def state_dict(self) -> dict[str, Any]:
        """Weights and moments, tensors in nested dicts; schedules follow from the step."""
        return {
            "vae": unwrapped(self.modules["vae"]).state_dict(),
            "adamw": optimizer_tensors(self.optimizers["adamw"]),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        unwrapped(self.modules["vae"]).load_state_dict(state["vae"])
        restore_optimizer(self.optimizers["adamw"], state["adamw"])

    def _losses(self, batch: Batch, noise: Tensor, beta: float) -> dict[str, Tensor]:
        flux, ivar, *told = self._inputs(batch)
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._autocast):
            output = self.modules["vae"](flux, ivar, *told, noise)
        parts = losses(output, flux, ivar, beta)
        if self._config.info_lambda:
            prior = self._noise(len(flux), -1)
            scale = self._config.info_lambda * self._config.num_latent / self._config.num_pixels
            parts["mmd"] = mean_discrepancy(output.latent, prior)
            parts["loss"] = parts["loss"] + scale * parts["mmd"]
        return parts

    def _inputs(self, batch: Batch) -> tuple[Tensor, ...]:
        """Flux and ivar [B, L], and what else the network is told."""
        return tuple(
            torch.tensor(batch[name], dtype=torch.float32, device=self._device) for name in ("flux", "ivar")
        )

    def _noise(self, rows: int, step: int) -> Tensor:
        """Draw for the rows of all workers and take those of this one: as many workers as one likes draw what one does."""
        rank, num_workers = worker()
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + step + 1)
        noise = torch.randn(num_workers * rows, self._config.num_latent, generator=generator)
        return noise[rank * rows : (rank + 1) * rows].to(self._device)

    def _beta(self, step: int) -> float:
        warmup = self._config.beta_warmup_fraction * self._total_steps
        return self._config.beta * min(1.0, (step + 1) / max(warmup, 1.0))


def _reads(config: SpectralVAEConfig) -> tuple[Column, ...]:
    return (*model_input(config.num_pixels), SPECTYPE, Z)


def _writes(config: SpectralVAEConfig) -> tuple[Column, ...]:
    return spectral.columns(config.num_latent, config.scoring)


def _fit(
    config: SpectralVAEConfig, module: nn.Module, reference: Iterable[Batch], held_out: Iterable[Batch]
) -> dict[str, np.ndarray]:
    scorer = spectral.Scorer(config, _evaluating(module), next(module.parameters()).device)
    return spectral.fit(config, scorer, reference, held_out, torch.get_num_threads())


def _fit_kinds(
    config: SpectralVAEConfig,
    module: nn.Module,
    fitted: Mapping[str, np.ndarray],
    anomalies: Iterable[Batch],
) -> dict[str, np.ndarray]:
    scorer = spectral.Scorer(config, _evaluating(module), next(module.parameters()).device)
    return spectral.fit_kind(config, scorer, fitted, anomalies, torch.get_num_threads())


def _predictor(
    config: SpectralVAEConfig, module: nn.Module, fitted: Mapping[str, np.ndarray], device: torch.device
) -> Predict:
    scorer = spectral.Scorer(config, _evaluating(module.to(device)), device)
    return spectral.predictor(config, scorer, fitted, torch.get_num_threads())


def _reconstruct(config: SpectralVAEConfig, module: nn.Module, batch: Batch) -> dict[str, np.ndarray]:
    vae = _evaluating(module)
    return reconstruction(vae, batch, config.window_pixels, next(vae.parameters()).device)


def reconstruction(
    network: spectral.Autoencoder, batch: Batch, window_pixels: int, device: torch.device
) -> dict[str, np.ndarray]:
    """Give the decoder's mean at the latent mean, and its intrinsic scatter as a standard deviation, [B, L]."""
    with torch.inference_mode():
        flux, ivar = (torch.tensor(batch[n], dtype=torch.float32, device=device) for n in ("flux", "ivar"))
        mean, scatter = network.decode(network.encode(flux, ivar)[0])
        sigma = (0.5 * scatter.expand(window_pixels)).exp()
        return {"recon": mean.cpu().numpy(), "sigma": sigma.cpu().numpy()}


def _decode(config: SpectralVAEConfig, module: nn.Module, latent: np.ndarray) -> np.ndarray:  # noqa: ARG001
    """Give the decoder's mean at latents [B, D], [B, L]."""
    vae = _evaluating(module)
    with torch.inference_mode():
        mean, _ = vae.decode(torch.tensor(latent, dtype=torch.float32, device=next(vae.parameters()).device))
        return mean.cpu().numpy()


def _evaluating(module: nn.Module) -> SpectralVAE:
    vae = unwrapped(module).eval()
    if not isinstance(vae, SpectralVAE):
        raise TypeError(f"module is a {type(vae).__name__}, expected SpectralVAE")
    return vae


SPEC = ModelSpec(
    name="spectral_vae",
    version=1,
    config=SpectralVAEConfig,
    presets=PRESETS,
    build=SpectralVAE,
    task=SpectralVAETask,
    reads=_reads,
    writes=_writes,
    fit=_fit,
    predictor=_predictor,
    reconstruct=_reconstruct,
    trains_on=lambda _: (TARGETID,),  # names the reference objects
    decode=_decode,
    fit_kinds=_fit_kinds,
)
