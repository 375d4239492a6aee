"""Scores of spectra under an autoencoder with a Gaussian decoder: columns, fitting, and the predictor.

Puts together reconstruction, isolation, calibration and ranking. The network is seen only through `encode` and
`decode`; everything is done in mini-batches small enough for the cache of one core.
"""

# B spectra, L pixels, D latents, K windows, S scores

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor

from engine.column import Column
from engine.flags import BEYOND_CALIBRATION, CLASS_FALLBACK, LOW_COVERAGE
from models.scoring.calibration import Calibration, calibration_from_arrays, fit_calibration
from models.scoring.isolation import Neighbours, random_rows
from models.scoring.ranking import rank
from models.scoring.reconstruction import (
    DrawScorer,
    Scatter,
    antithetic_normal,
    worst_window,
)
from models.spec import Batch, Predict

RAW = (
    Column("weighted_mse", "float32", "Squared residual, mean weighted with ivar, over draws", "", ucd="stat.fit.residual"),
    Column("log_wrp", "float32",
           "Weighted reconstruction probability: ivar-weighted mean of log N(flux; mean, scatter) over draws"),
    Column("log_likelihood", "float32",
           "Log likelihood per usable pixel with scatter and noise, mean over draws", ucd="stat.likelihood"),
    Column("reduced_chi2", "float32",
           "Squared residual over scatter and noise variance, mean over usable pixels", ucd="stat.fit.chi2"),
    Column("worst_window_sigma", "float32",
           "Excess chi2 of the worst wavelength window, in standard deviations of chi2"),
    Column("latent_distance", "float32", "Mean distance to the nearest reference objects in latent space"),
)  # fmt: skip
"""Scores before calibration."""

SCORES = tuple(column.name for column in RAW)
LOW_MEANS_ANOMALOUS = ("log_wrp", "log_likelihood")


@dataclass(frozen=True, kw_only=True)
class ScoringConfig:
    """How spectra are scored."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    num_draws: int = 2
    """Latent draws of the Monte Carlo averages; even, because they come in antithetic pairs."""
    num_neighbours: int = 10
    """Neighbours whose mean distance is the isolation."""
    num_reference: int = 5_000
    """Latents kept for the neighbour search, a random sample of the reference. Exact search costs 8 us a
    spectrum and thousand on one core: with 5,000 a quarter of the encoder."""
    min_class_rows: int = 500
    """Calibration rows that a class needs for percentiles of its own; else those of all classes."""
    on_manifold: tuple[str, ...] = ("latent_distance",)
    """Scores that make `on_manifold_score`."""
    off_manifold: tuple[str, ...] = ("reduced_chi2", "worst_window_sigma")
    """Scores that make `off_manifold_score`. Unlike `log_likelihood` these do not rank by noise level."""
    batch_rows: int = 128
    """Spectra per mini-batch inside the predictor: enough for fast matrix products, few enough for the cache."""
    seed: int = 0
    """Of the draws and of the reference sample."""

    def __post_init__(self) -> None:
        """Check ranges."""
        antithetic_normal(self.num_draws, 1, 0)
        for name in ("num_neighbours", "num_reference", "min_class_rows", "batch_rows"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, must be at least 1")
        if self.num_reference <= self.num_neighbours:
            raise ValueError(f"num_reference {self.num_reference} must exceed num_neighbours")
        for name in ("on_manifold", "off_manifold"):
            unknown = set(getattr(self, name)) - set(SCORES)
            if unknown or not getattr(self, name):
                raise ValueError(f"{name} {getattr(self, name)} must be some of {', '.join(SCORES)}")


class SpectralConfig(Protocol):
    """What scoring needs to know of a model's configuration."""

    @property
    def num_latent(self) -> int: ...  # noqa: D102
    @property
    def window_pixels(self) -> int: ...  # noqa: D102
    @property
    def scoring(self) -> ScoringConfig: ...  # noqa: D102
    @property
    def wave_edges(self) -> np.ndarray: ...  # noqa: D102


class Autoencoder(Protocol):
    """What scoring needs of a network."""

    def encode(self, flux: Tensor, ivar: Tensor) -> tuple[Tensor, Tensor]:
        """Latent mean and log variance, [B, D] each."""
        ...

    def decode(self, latent: Tensor) -> tuple[Tensor, Scatter]:
        """Mean of each pixel, [B, L], a tensor of its own, and the intrinsic variance."""
        ...


def columns(num_latent: int) -> tuple[Column, ...]:
    """All columns that `predictor` gives, beside bits for `flags`."""
    percentiles = (
        Column(f"{c.name}_percentile", "float32",
               f"Percentile of {c.name} among normal objects of the class; 100 = most anomalous", "%")
        for c in RAW
    )  # fmt: skip
    return (
        Column("latent_mean", "float32", "Mean of the latent posterior", length=num_latent),
        *RAW,
        *percentiles,
        Column("on_manifold_score", "float32", "-log10 tail probability of the latent position"),
        Column("off_manifold_score", "float32", "-log10 tail probability of the reconstruction"),
        Column("anomaly_score", "float32", "Larger of on_manifold_score and off_manifold_score"),
        Column("worst_wave_min", "float32", "Start of the window with the most excess chi2, in the model's frame",
               "Angstrom", ucd="em.wl;stat.min"),
        Column("worst_wave_max", "float32", "End of the window with the most excess chi2, in the model's frame",
               "Angstrom", ucd="em.wl;stat.max"),
    )  # fmt: skip


class Scorer:
    """Raw scores of spectra under one network; holds the draws, so that every call uses the same.

    Parameters
    ----------
    config
        The model's configuration.
    module
        The network in eval mode, on `device`.
    device
        Where to compute.
    """

    def __init__(self, config: SpectralConfig, module: Autoencoder, device: torch.device) -> None:
        scoring = config.scoring
        self._config, self._module, self._device = config, module, device
        self._draws = antithetic_normal(scoring.num_draws, config.num_latent, scoring.seed).to(device)

    def __call__(self, flux: np.ndarray, ivar: np.ndarray) -> dict[str, np.ndarray]:
        """Score [B, L] prepared spectra: `RAW` but the distance, `latent_mean`, `window`, `good_fraction`."""
        return self._in_batches(self._score, flux, ivar)

    def latent_mean(self, flux: np.ndarray, ivar: np.ndarray) -> np.ndarray:
        """Encode [B, L] prepared spectra to [B, D], without scoring them."""
        return self._in_batches(self._encode, flux, ivar)["latent_mean"]

    def _in_batches(
        self, function: Callable[[Tensor, Tensor], dict[str, Tensor]], flux: np.ndarray, ivar: np.ndarray
    ) -> dict[str, np.ndarray]:
        rows, parts = self._config.scoring.batch_rows, []
        with torch.inference_mode():
            for start in range(0, max(len(flux), 1), rows):
                chosen = slice(start, start + rows)
                # A copy: the arrays are read-only views of Arrow memory, which torch may not share.
                x, w = (
                    torch.tensor(a[chosen], dtype=torch.float32, device=self._device) for a in (flux, ivar)
                )
                parts.append(function(x, w))
        return {key: torch.cat([part[key] for part in parts]).cpu().numpy() for key in parts[0]}

    def _encode(self, x: Tensor, w: Tensor) -> dict[str, Tensor]:
        return {"latent_mean": self._module.encode(x, w)[0]}

    def _score(self, x: Tensor, w: Tensor) -> dict[str, Tensor]:
        latent_mean, latent_logvar = self._module.encode(x, w)
        sigma = (0.5 * latent_logvar).exp()
        score = DrawScorer(x, w, self._config.window_pixels)
        draws = [score(*self._module.decode(torch.addcmul(latent_mean, sigma, e))) for e in self._draws]
        mse, wrp, likelihood, windows = (torch.stack(parts).mean(0) for parts in zip(*draws, strict=True))
        worst = worst_window(windows, score.window_good)
        return {
            "latent_mean": latent_mean,
            "weighted_mse": mse,
            "log_wrp": wrp,
            "log_likelihood": likelihood,
            "reduced_chi2": windows.sum(1) / score.num_good,
            "worst_window_sigma": worst.sigma,
            "window": worst.index,
            "good_fraction": score.num_good / x.shape[1],
        }


def fit(
    config: SpectralConfig,
    scorer: Scorer,
    reference: Iterable[Batch],
    held_out: Iterable[Batch],
    num_threads: int,
) -> dict[str, np.ndarray]:
    """Learn what is normal: a sample of latents, and the distribution of each score.

    Parameters
    ----------
    config
        The model's configuration.
    scorer
        Of the trained network.
    reference
        Batches of training spectra, for the neighbour search.
    held_out
        Batches of spectra that were not trained on, for percentiles; with `spectype`.
    num_threads
        Threads of the neighbour search.

    Raises
    ------
    ValueError
        If there are too few rows for either.
    """
    scoring = config.scoring
    latents = random_rows(
        (scorer.latent_mean(b["flux"], b["ivar"]) for b in reference), scoring.num_reference, scoring.seed
    )
    if len(latents) <= scoring.num_neighbours:
        raise ValueError(
            f"reference has {len(latents)} rows, need more than num_neighbours = {scoring.num_neighbours}"
        )
    neighbours = Neighbours(latents, scoring.num_neighbours, num_threads)
    oriented: list[dict[str, np.ndarray]] = []
    spectype: list[np.ndarray] = []
    for batch in held_out:
        raw = scorer(batch["flux"], batch["ivar"])
        raw["latent_distance"] = neighbours.mean_distance(raw["latent_mean"])
        oriented.append(_oriented(raw))
        spectype.append(np.asarray(batch["spectype"], object))
    if not oriented:
        raise ValueError("held_out has no rows: percentiles need some that were not trained on")
    scores = {name: np.concatenate([part[name] for part in oriented]) for name in SCORES}
    calibration = fit_calibration(scores, np.concatenate(spectype), scoring.min_class_rows)
    return {"latent_reference": latents, **calibration.arrays()}


def _oriented(raw: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Scores with high meaning anomalous."""
    return {name: -raw[name] if name in LOW_MEANS_ANOMALOUS else raw[name] for name in SCORES}


def predictor(
    config: SpectralConfig, scorer: Scorer, fitted: Mapping[str, np.ndarray], num_threads: int
) -> Predict:
    """Make the function from prepared spectra to all columns of `columns`.

    Raises
    ------
    ValueError
        If `fitted` is not what `fit` returned for this configuration.
    """
    reference = fitted.get("latent_reference")
    if reference is None or reference.ndim != 2 or reference.shape[1] != config.num_latent:
        got = "nothing" if reference is None else str(reference.shape)
        raise ValueError(
            f"latent_reference: got {got}, expected [N, {config.num_latent}]; fit the scores anew"
        )
    neighbours = Neighbours(reference, config.scoring.num_neighbours, num_threads)
    calibration = calibration_from_arrays(SCORES, fitted)

    def predict(batch: Batch) -> dict[str, np.ndarray]:
        raw = scorer(batch["flux"], batch["ivar"])
        raw["latent_distance"] = neighbours.mean_distance(raw["latent_mean"])
        return _publish(config, calibration, raw, np.asarray(batch["spectype"], object))

    return predict


def _publish(
    config: SpectralConfig, calibration: Calibration, raw: dict[str, np.ndarray], spectype: np.ndarray
) -> dict[str, np.ndarray]:
    """Calibrate, rank, and give each value the declared name and type."""
    classes, fallback = calibration.usable_classes(spectype)
    oriented = _oriented(raw)
    judged = {name: calibration.judge(name, oriented[name], classes) for name in SCORES}
    scoring = config.scoring
    # A latent position is always finite, but says nothing where there was nothing to encode.
    log10_p = {n: np.where(raw["good_fraction"] > 0, j.log10_p, np.nan) for n, j in judged.items()}
    out: dict[str, Any] = {f"{name}_percentile": j.percentile for name, j in judged.items()}
    out |= rank(log10_p, scoring.on_manifold, scoring.off_manifold)
    edges = config.wave_edges
    out["worst_wave_min"], out["worst_wave_max"] = edges[raw["window"]], edges[raw["window"] + 1]
    out |= {name: raw[name] for name in ("latent_mean", *SCORES)}
    flags = _flags(raw["good_fraction"], fallback, np.any([j.beyond for j in judged.values()], axis=0))
    return {k: v.astype(np.float32, copy=False) for k, v in out.items()} | {"flags": flags}


def _flags(good_fraction: np.ndarray, fallback: np.ndarray, beyond: np.ndarray) -> np.ndarray:
    flags = (good_fraction < 0.5) * LOW_COVERAGE.value
    flags |= fallback * CLASS_FALLBACK.value
    flags |= beyond * BEYOND_CALIBRATION.value
    return flags.astype(np.int32)
