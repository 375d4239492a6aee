"""The scores of spectra as their formulas stand, in plain torch: what one writes without our scorer.

The same numbers (the benchmark compares them); whole batches, one distribution after the other, no fused passes.
"""

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Normal

from engine.spectra.normalise import signal_to_noise
from models.scoring.reconstruction import antithetic_normal
from models.scoring.spectral import Autoencoder, Scorer, SpectralConfig


class PlainScorer(Scorer):
    """`Scorer` with the same signature and result, written the obvious way."""

    def __init__(self, config: SpectralConfig, module: Autoencoder) -> None:
        super().__init__(config, module, torch.device("cpu"))
        self._window = config.window_pixels
        self._noise = antithetic_normal(config.scoring.num_draws, config.num_latent, config.scoring.seed)

    @torch.no_grad()
    def __call__(self, flux: np.ndarray, ivar: np.ndarray) -> dict[str, np.ndarray]:
        """Score [B, L] prepared spectra."""
        x, w = torch.tensor(flux), torch.tensor(ivar)
        posterior = Normal(*self._posterior(x, w))
        draws = [self._draw(x, w, posterior.mean + posterior.stddev * noise) for noise in self._noise]
        scores = {name: torch.stack([draw[name] for draw in draws]).mean(0) for name in draws[0]}
        good = self._windows((w > 0).float())
        chi2, residual = scores.pop("window_chi2"), scores.pop("window_residual")
        significance = torch.where(good > 0, (chi2 - good) / torch.sqrt(2 * good), -torch.inf)
        coherent = residual / torch.sqrt(torch.clamp(good, min=1))
        scores["reduced_chi2"] = chi2.sum(1) / good.sum(1)
        scores["worst_window_sigma"], scores["window"] = significance.max(1)
        scores["coherent_sigma"] = coherent.abs().amax(1)
        scores |= {"latent_mean": posterior.mean, "good_fraction": (w > 0).float().mean(1)}
        scores |= {"significance": significance, "coherent": coherent}
        arrays = {name: values.numpy() for name, values in scores.items()}
        return arrays | {"snr": signal_to_noise(flux, ivar)}

    def _posterior(self, x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        mean, logvar = self._module.encode(x, w)
        return mean, torch.exp(0.5 * logvar)

    def _draw(self, x: Tensor, w: Tensor, latent: Tensor) -> dict[str, Tensor]:
        mean, scatter = self._module.decode(latent)
        variance = torch.exp(scatter.expand(self._window))
        usable = w > 0
        noise = torch.where(usable, 1 / w, 1.0)
        density = Normal(mean, torch.sqrt(variance), validate_args=False).log_prob(x)
        likelihood = Normal(mean, torch.sqrt(variance + noise), validate_args=False).log_prob(x)
        residual = torch.where(usable, (x - mean) / torch.sqrt(variance + noise), 0.0)
        return {
            "weighted_mse": (w * (x - mean) ** 2).sum(1) / w.sum(1),
            "log_wrp": (w * density).sum(1) / w.sum(1),
            "log_likelihood": torch.where(usable, likelihood, 0.0).sum(1) / usable.sum(1),
            "window_chi2": self._windows(residual**2),
            "window_residual": self._windows(residual),
        }

    def _windows(self, values: Tensor) -> Tensor:
        padded = torch.nn.functional.pad(values, (0, -values.shape[1] % self._window))
        return padded.reshape(len(values), -1, self._window).sum(2)
