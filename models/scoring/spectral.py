"""Scores of spectra under an autoencoder with a Gaussian decoder: fitting, and the predictor.

Puts together reconstruction, place in latent space, calibration and ranking. The network is seen only through
`encode` and `decode`; everything is done in mini-batches small enough for the cache of one core.
"""

# B spectra, L pixels, D latents, K windows, S scores

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from engine.flags import BEYOND_CALIBRATION, CLASS_FALLBACK, LOW_COVERAGE, NOT_SCORED, SNR_FALLBACK
from engine.spectra.grid import WAVE_OBS
from engine.spectra.normalise import signal_to_noise
from models.scoring.explanation import explain_windows
from models.scoring.isolation import Found
from models.scoring.kind import fit_kind_guess, kind_guess_from_arrays
from models.scoring.normal import Normal, fit_normal, normal_from_arrays
from models.scoring.objects import NO_CLASS, Objects, class_index
from models.scoring.ranking import rank
from models.scoring.reconstruction import (
    DrawScorer,
    Scatter,
    antithetic_normal,
    window_significance,
)
from models.scoring.sample import random_rows
from models.scoring.snr_calibration import (
    SnrCalibration,
    fit_snr_calibration,
    snr_calibration_from_arrays,
)
from models.scoring.spectral_columns import LOW_MEANS_ANOMALOUS, RAW, columns
from models.scoring.spectral_config import TOO_LOW, ScoringConfig
from models.spec import Batch, Predict

__all__ = [
    "LOW_MEANS_ANOMALOUS", "RAW", "SCORES", "Autoencoder", "Scorer", "ScoringConfig", "SpectralConfig", "columns",
    "fit", "fit_kind", "orient", "predictor", "score",
]  # fmt: skip

SCORES = ScoringConfig().scores
"""Scores of the default configuration."""


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
        """Score [B, L] prepared spectra.

        Returns
        -------
        dict
            The scores of reconstruction of `RAW`, [B]; `latent_mean` [B, D]; `snr`, `good_fraction`, and the `window`
            that is worst, [B]; of each window [B, K] the `significance` of its excess chi2 and the `coherent` residual,
            in standard deviations.
        """
        return self._in_batches(self._score, flux, ivar) | {"snr": signal_to_noise(flux, ivar)}

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
        means = (torch.stack(parts).mean(0) for parts in zip(*draws, strict=True))
        mse, wrp, likelihood, windows, sums = means
        significance = window_significance(windows, score.window_good)
        coherent = sums * score.window_good.clamp(min=1).rsqrt()
        worst, index = significance.max(1)
        return {
            "latent_mean": latent_mean,
            "weighted_mse": mse,
            "log_wrp": wrp,
            "log_likelihood": likelihood,
            "reduced_chi2": windows.sum(1) / score.num_good,
            "worst_window_sigma": torch.where(torch.isfinite(worst), worst, torch.nan),
            "coherent_sigma": torch.where(torch.isfinite(worst), coherent.abs().max(1).values, torch.nan),
            "window": index,
            "significance": significance,
            "coherent": coherent,
            "good_fraction": score.num_good / x.shape[1],
        }


def fit(
    config: SpectralConfig,
    scorer: Scorer,
    reference: Iterable[Batch],
    held_out: Iterable[Batch],
    num_threads: int,
) -> dict[str, np.ndarray]:
    """Learn what is normal: a sample of latents, their density, and the distribution of each score.

    Parameters
    ----------
    config
        The model's configuration.
    scorer
        Of the trained network.
    reference
        Batches of training spectra, for the scores of the latent position; `spectype`, `z` and `targetid` are
        used where a batch has them.
    held_out
        Batches of spectra that were not trained on, for percentiles; with `spectype`, and `z` where known.
    num_threads
        Threads of the neighbour search.

    Raises
    ------
    ValueError
        If there are too few rows for either, or latents that are not finite.
    """
    scoring = config.scoring
    num_sample = max(scoring.num_reference, scoring.num_density)
    sample = random_rows(_reference_objects(scorer, reference), num_sample, scoring.seed)
    if not sample:
        raise ValueError("reference has 0 rows: what is normal is learned from normal objects")
    normal = fit_normal(scoring, Objects(*sample), num_threads)
    oriented: list[dict[str, np.ndarray]] = []
    labels: list[np.ndarray] = []
    snr: list[np.ndarray] = []
    for batch in held_out:
        raw, objects, _ = score(scorer, normal, batch)
        oriented.append(orient(raw, scoring.calibrated))
        labels.append(_labels(batch))
        snr.append(objects.snr)
    if not oriented:
        raise ValueError("held_out has no rows: percentiles need some that were not trained on")
    scores = {name: np.concatenate([part[name] for part in oriented]) for name in scoring.calibrated}
    calibration = fit_snr_calibration(
        scores, np.concatenate(labels), np.concatenate(snr), scoring.num_snr_bins, scoring.min_class_rows
    )
    return normal.arrays() | calibration.arrays()


def _labels(batch: Batch) -> np.ndarray:
    return np.asarray(batch["spectype"], object)


def _reference_objects(scorer: Scorer, batches: Iterable[Batch]) -> Iterable[Objects]:
    """Objects of batches; one without a TARGETID is named by its number in the stream."""
    seen = 0
    for batch in batches:
        numbers = np.arange(seen, seen + len(batch["flux"]))
        seen += len(numbers)
        objects = _objects(batch, scorer(batch["flux"], batch["ivar"]))
        yield objects._replace(id=np.asarray(batch.get("targetid", numbers), np.int64))


def _objects(batch: Batch, raw: Mapping[str, np.ndarray]) -> Objects:
    unknown = np.full(len(raw["snr"]), np.nan)
    redshift = np.asarray(batch.get("z", unknown), np.float64)
    spectype = class_index(batch.get("spectype", np.full(len(unknown), None)))
    return Objects(raw["latent_mean"], np.arcsinh(raw["coherent"]), unknown, spectype, redshift, raw["snr"])


def score(scorer: Scorer, normal: Normal, batch: Batch) -> tuple[dict[str, np.ndarray], Objects, Found]:
    """Return scores before calibration, what is known of the objects, and their neighbours."""
    raw = scorer(batch["flux"], batch["ivar"])
    objects = _objects(batch, raw)
    scores, found = normal.scores(objects)
    return raw | scores, objects, found


def orient(raw: Mapping[str, np.ndarray], names: Iterable[str]) -> dict[str, np.ndarray]:
    """Turn scores so that high means anomalous; NaN where there was nothing to encode.

    A latent position is finite without a single usable pixel, but says nothing.

    Parameters
    ----------
    raw
        What `score` gave.
    names
        Of scores, with `TOO_LOW` before those that are odd where they are lower than normal.
    """
    is_seen = raw["good_fraction"] > 0
    return {name: np.where(is_seen, _signed(raw, name), np.nan) for name in names}


def _signed(raw: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    score = name.removeprefix(TOO_LOW)
    return -raw[score] if (score in LOW_MEANS_ANOMALOUS) != (score != name) else raw[score]


def predictor(
    config: SpectralConfig, scorer: Scorer, fitted: Mapping[str, np.ndarray], num_threads: int
) -> Predict:
    """Make the function from prepared spectra to all columns of `columns`.

    Raises
    ------
    ValueError
        If `fitted` is not what `fit` returned for this configuration.
    """
    scoring = config.scoring
    normal, calibration = _opened(config, fitted, num_threads)
    guess = kind_guess_from_arrays(fitted, num_features(config))
    coverable = largest_coverage(config.wave_edges)

    def predict(batch: Batch) -> dict[str, np.ndarray]:
        raw, objects, found = score(scorer, normal, batch)
        out, log10_p, flags = _calibrated(scoring, calibration, raw, _labels(batch))
        flags |= (raw["good_fraction"] < 0.5 * coverable) * LOW_COVERAGE.value
        out |= {name: raw[name] for name in ("latent_mean", *scoring.scores)}
        out |= normal.explain(objects, found)
        out |= explain_windows(raw["significance"], config.wave_edges, scoring.num_explained)
        evidence = _features(raw, objects, log10_p)
        out["artefact_probability"] = guess(evidence) if guess else np.full(len(evidence), np.nan)
        typed = {
            k: v.astype(np.int64 if k == "neighbour_id" else np.float32, copy=False) for k, v in out.items()
        }
        return typed | {"flags": flags}

    return predict


def largest_coverage(wave_edges: np.ndarray) -> float:
    """Part of a model's range [Angstrom] that one spectrum of the spectrograph can cover, in ln(wavelength)."""
    span = np.log(WAVE_OBS[-1] / WAVE_OBS[0])
    return min(1.0, float(span / np.log(wave_edges[-1] / wave_edges[0])))


def _opened(
    config: SpectralConfig, fitted: Mapping[str, np.ndarray], num_threads: int
) -> tuple[Normal, SnrCalibration]:
    scoring = config.scoring
    num_windows = len(config.wave_edges) - 1
    return (
        normal_from_arrays(scoring, fitted, config.num_latent, num_windows, num_threads),
        snr_calibration_from_arrays(scoring.calibrated, fitted, scoring.num_snr_bins),
    )


def _calibrated(
    scoring: ScoringConfig, calibration: SnrCalibration, raw: Mapping[str, np.ndarray], labels: np.ndarray
) -> tuple[dict[str, Any], dict[str, np.ndarray], np.ndarray]:
    """Percentiles, p-values and ranks by column name; -log10 p by score; flags."""
    place = calibration.place(labels, raw["snr"])
    oriented = orient(raw, scoring.calibrated)
    judged = {
        name: calibration.tables.judge(name, oriented[name], place.group) for name in scoring.calibrated
    }
    log10_p = {name: judgement.log10_p for name, judgement in judged.items()}
    out: dict[str, Any] = {f"{name}_percentile": judged[name].percentile for name in scoring.scores}
    out |= {f"{name}_p_value": 10.0 ** -log10_p[name] for name in scoring.scores}
    out |= rank(log10_p, scoring.on_manifold, scoring.off_manifold)
    flags = place.is_other_class * CLASS_FALLBACK.value
    flags |= place.is_other_snr * SNR_FALLBACK.value
    flags |= np.any([judgement.beyond for judgement in judged.values()], axis=0) * BEYOND_CALIBRATION.value
    flags |= ~np.isfinite(out["anomaly_score"]) * NOT_SCORED.value
    return out, log10_p, flags.astype(np.int32)


def fit_kind(
    config: SpectralConfig,
    scorer: Scorer,
    fitted: Mapping[str, np.ndarray],
    anomalies: Iterable[Batch],
    num_threads: int,
) -> dict[str, np.ndarray]:
    """Learn to tell artefacts from physical anomalies; the arrays go to those of `fit`.

    Parameters
    ----------
    fitted
        What `fit` returned.
    anomalies
        Batches of spectra that all carry an anomaly, with `is_artefact` beside what `predictor` takes.

    Raises
    ------
    ValueError
        If there are too few of either.
    """
    normal, calibration = _opened(config, fitted, num_threads)
    evidence: list[np.ndarray] = []
    is_artefact: list[np.ndarray] = []
    for batch in anomalies:
        raw, objects, _ = score(scorer, normal, batch)
        _, log10_p, _ = _calibrated(config.scoring, calibration, raw, _labels(batch))
        evidence.append(_features(raw, objects, log10_p))
        is_artefact.append(batch["is_artefact"])
    return fit_kind_guess(np.concatenate(evidence), np.concatenate(is_artefact), config.scoring.seed).arrays()


def _features(
    raw: Mapping[str, np.ndarray], objects: Objects, log10_p: Mapping[str, np.ndarray]
) -> np.ndarray:
    """Return what the kind of an anomaly is guessed from, [B, `num_features`]: how odd, where, and in what."""
    significance = np.arcsinh(np.where(np.isfinite(raw["significance"]), raw["significance"], 0))
    odd = np.stack(list(log10_p.values()), 1)
    classes = objects.class_index[:, None] == np.arange(NO_CLASS)
    log_snr = np.log(np.clip(objects.snr, 0.05, 300.0))[:, None]
    return np.concatenate([odd, significance, objects.profile, objects.latent, classes, log_snr], axis=1)


def num_features(config: SpectralConfig) -> int:
    """Features of the guess of a kind."""
    return (
        len(config.scoring.calibrated) + 2 * (len(config.wave_edges) - 1) + config.num_latent + NO_CLASS + 1
    )
