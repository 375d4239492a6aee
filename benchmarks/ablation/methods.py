"""The methods that are compared: each trains on the same sample and gives a reduction of the same latent size."""

# B spectra, L pixels

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from sklearn.decomposition import PCA

from benchmarks.ablation import sample as spectra
from benchmarks.ablation.linear import fit_weighted_nmf, fit_weighted_pca, pixel_weights
from benchmarks.ablation.reduction import BATCH_ROWS, Points, Reduction, Told, at_redshifts
from benchmarks.ablation.sample import Batch, Sample
from benchmarks.training_spectra import WIDE_REST
from models.redshift_vae import RedshiftVAETask
from models.redshift_vae_config import RedshiftVAEConfig
from models.scoring.spectral import ScoringConfig
from models.spectral_vae import SpectralVAE, SpectralVAETask
from models.spectral_vae_config import SpectralVAEConfig
from models.training import warmup_cosine


@dataclass(frozen=True)
class Settings:
    """What all methods share."""

    num_latent: int = 10
    passes: int = 10
    """Over the training spectra, of networks."""
    batch_rows: int = 64
    hidden: tuple[int, int] = (256, 128)
    iterations: int = 12
    """Of the weighted linear methods."""
    spender_steps: int = 120
    """Of 64 spectra: its convolutions cost fifty times what ours do."""


class Trained:
    """A reduction, and the configuration that describes its grid to the scoring."""

    def __init__(self, config: SpectralVAEConfig, reduction: Reduction) -> None:
        self.config, self.reduction = config, reduction


@dataclass(frozen=True)
class Method:
    """How to train, on which frame, and what it is in words."""

    frame: str
    train: Callable[[Sample, Settings, int], Trained]
    title: str
    is_simple: bool = False
    """Whether it counts as a simple baseline."""


def grid(frame: str, settings: Settings, kind: Any = SpectralVAEConfig, **more: Any) -> Any:
    """Configure a network on a frame's grid; windows of about 50 Angstrom."""
    observed = {"num_pixels": spectra.NUM_OBSERVED, "wave_min_angstrom": spectra.OBSERVED_MIN,
                "wave_max_angstrom": spectra.OBSERVED_MAX, "window_pixels": 13}  # fmt: skip
    rest = {"num_pixels": WIDE_REST.num_rest_pixels, "wave_min_angstrom": WIDE_REST.rest_wave_min_angstrom,
            "wave_max_angstrom": WIDE_REST.rest_wave_max_angstrom, "wave_spacing": "log",
            "window_pixels": 16}  # fmt: skip
    shared = {"num_latent": settings.num_latent, "hidden": settings.hidden, "precision": "float32",
              "scoring": ScoringConfig(min_class_rows=300)}  # fmt: skip
    return kind(**{**shared, **(observed if frame == "observed" else rest), **more})


def shuffled(sample: Sample, frame: str, settings: Settings, seed: int) -> Iterator[Batch]:
    """Mini-batches of all passes, in an order that the seed decides."""
    rng = np.random.default_rng((seed, 17))
    num, rows = len(sample.columns["z"]), settings.batch_rows
    for _ in range(settings.passes):
        order = rng.permutation(num)
        for start in range(0, max(num - rows, 0) + 1, rows):
            yield sample.batch(frame, order[start : start + rows])


def num_steps(sample: Sample, settings: Settings) -> int:
    """Mini-batches that `shuffled` gives."""
    return settings.passes * max(len(sample.columns["z"]) // settings.batch_rows, 1)


def _run(task: SpectralVAETask, sample: Sample, frame: str, settings: Settings, seed: int) -> Any:
    """Train to the end; the network in evaluation mode."""
    task.start(torch.device("cpu"), num_steps(sample, settings))
    for step, batch in enumerate(shuffled(sample, frame, settings, seed)):
        task.step(batch, step)
    return task.modules["vae"].eval()


def vae(frame: str, **more: Any) -> Callable[[Sample, Settings, int], Trained]:
    """Make the trainer of a spectral VAE with these settings."""

    def train(sample: Sample, settings: Settings, seed: int) -> Trained:
        config = grid(frame, settings, **more)
        return Trained(config, Told(_run(SpectralVAETask(config, seed), sample, frame, settings, seed)))

    return train


def train_redshift_vae(sample: Sample, settings: Settings, seed: int) -> Trained:
    """Train the convolutional encoder with the rest-frame decoder; narrow, or it costs ten times a perceptron."""
    config = grid("observed", settings, RedshiftVAEConfig, channels=(16, 32, 64), kernel_pixels=7)
    network = _run(RedshiftVAETask(config, seed), sample, "observed", settings, seed)
    return Trained(config, at_redshifts(network))


def train_autoencoder(sample: Sample, settings: Settings, seed: int) -> Trained:
    """Train the VAE's perceptrons without posterior, prior and scatter, on the weighted squared residual."""
    config = grid("observed", settings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = SpectralVAE(config)
    optimizer = torch.optim.AdamW(network.parameters(), config.learning_rate)
    total = num_steps(sample, settings)
    for step, batch in enumerate(shuffled(sample, "observed", settings, seed)):
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * warmup_cosine(step, total, 0.05)
        flux, ivar = (torch.tensor(batch[name]) for name in ("flux", "ivar"))
        mean = network.decode(network.encode(flux, ivar)[0])[0]
        loss = (pixel_weights(ivar) * (flux - mean).square()).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), config.grad_clip_norm)
        optimizer.step()
    network.eval()
    points = Points(lambda x, w: network.encode(x, w)[0], lambda latent: network.decode(latent)[0])
    return _settled(config, points, sample, "observed")


def _settled(config: SpectralVAEConfig, points: Points, sample: Sample, frame: str) -> Trained:
    return Trained(config, points.settle(config, list(sample.batches(frame, BATCH_ROWS))))


def train_pca(sample: Sample, settings: Settings, seed: int) -> Trained:
    """Fit principal components to spectra with unusable pixels at 1, as `benchmarks.injected_anomalies` does."""
    config = grid("observed", settings)
    flux, ivar = sample.frames["observed"]
    pca = PCA(settings.num_latent, svd_solver="randomized", random_state=seed)
    pca.fit(np.where(ivar > 0, flux, 1))
    components, mean = (torch.tensor(a, dtype=torch.float32) for a in (pca.components_, pca.mean_))
    points = Points(
        lambda x, w: (torch.where(w > 0, x, 1.0) - mean) @ components.T,
        lambda coefficient: mean + coefficient @ components,
    )
    return _settled(config, points, sample, "observed")


def linear(fit: Any, frame: str = "observed") -> Callable[[Sample, Settings, int], Trained]:
    """Make the trainer of a method of `linear`."""

    def train(sample: Sample, settings: Settings, seed: int) -> Trained:
        config = grid(frame, settings)
        flux, ivar = (torch.tensor(a) for a in sample.frames[frame])
        with torch.inference_mode():
            fitted = fit(flux, ivar, settings.num_latent, settings.iterations, seed)
        return _settled(config, Points(fitted.encode, fitted.decode), sample, frame)

    return train


def nmf(flux: Any, ivar: Any, num: int, iterations: int, seed: int) -> Any:
    """Multiplicative updates creep: five times as many as components need by least squares."""
    return fit_weighted_nmf(flux, ivar, num, 5 * iterations, seed)


def train_spender(sample: Sample, settings: Settings, seed: int) -> Trained:
    """Train spender's own encoder and decoder with its own loss, from fresh weights, as far as the CPU allows."""
    from benchmarks.ablation.peer import train  # only where spender is installed

    config = replace(grid("observed", settings), scoring=ScoringConfig(min_class_rows=300, batch_rows=32))
    return _settled(config, train(sample, config, settings, seed), sample, "observed")


METHODS: Mapping[str, Method] = {
    "pca": Method("observed", train_pca, "PCA", is_simple=True),
    "weighted_pca": Method("observed", linear(fit_weighted_pca), "PCA weighted with ivar", is_simple=True),
    "nmf": Method("observed", linear(nmf), "NMF weighted with ivar", is_simple=True),
    "autoencoder": Method("observed", train_autoencoder, "plain autoencoder"),
    "vae_observed": Method("observed", vae("observed"), "VAE, observed frame"),
    "vae_rest": Method("rest", vae("rest"), "VAE, rest frame"),
    "infovae": Method("observed", vae("observed", info_lambda=100.0), "InfoVAE, observed frame"),
    "redshift_vae": Method("observed", train_redshift_vae, "convolutions, rest-frame decoder"),
    "spender": Method("observed", train_spender, "spender, shortly trained"),
}
"""By name. The shipped checkpoints are not trained here: see `shipped`."""
