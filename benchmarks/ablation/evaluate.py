"""Scores of the test spectra under a trained method, all methods scored in the same way."""

from collections.abc import Iterator

import numpy as np
import torch

from benchmarks.ablation.methods import Trained
from benchmarks.ablation.metrics import Values, deviations, measure
from benchmarks.ablation.reduction import Reduction, chi2_per_pixel
from benchmarks.ablation.sample import Batch, Sample
from models.scoring import spectral
from models.spec import Predict

RANKED = ("anomaly_score", "off_manifold_score", "on_manifold_score")
REFERENCE_ROWS = 6_144
"""Training spectra that neighbours and densities are learned from: enough for ten latents, and fast."""
P_VALUE = "_p_value"
PLAIN = ("chi2", "distance")
"""Scores as they come, without calibration: reduced chi2 of the noise alone, distance to the nearest in latent space."""


def score(trained: Trained, frame: str, reference: Sample, held_out: Sample, test: Sample) -> Batch:
    """Scores [N] of the test spectra, high = anomalous: ours (`RANKED`), and `PLAIN`.

    `models.scoring` knows nothing of the method but how it encodes and decodes: it fits neighbours on the reference
    and calibrates on the held-out normal spectra, the same for all.
    """
    config, reduction = trained.config, trained.reduction
    scorer = spectral.Scorer(config, reduction, torch.device("cpu"))
    samples = (told(reduction, sample, frame) for sample in (reference.first(REFERENCE_ROWS), held_out))
    predict = spectral.predictor(config, scorer, spectral.fit(config, scorer, *samples, 1), 1)
    parts = [scored(lambda b: predict(reduction.tell(b)), reduction, batch) for batch in test.batches(frame)]
    return stacked(parts)


def scored(predict: Predict, reduction: Reduction, batch: Batch) -> Batch:
    """`RANKED` and `PLAIN` of a batch, and -log10 of the p-value of each single score by its name."""
    out = predict(batch)
    plain = {"distance": out["latent_distance"], "chi2": chi2_per_pixel(reduction, batch)}
    single = {
        name.removesuffix(P_VALUE): -np.log10(np.maximum(value, 1e-30))
        for name, value in out.items()
        if name.endswith(P_VALUE)
    }
    return {name: out[name] for name in RANKED} | plain | single


def stacked(parts: list[Batch]) -> Batch:
    """Concatenate batches."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def told(reduction: Reduction, sample: Sample, frame: str) -> Iterator[Batch]:
    """Batches, each announced before it is used."""
    return (reduction.tell(batch) for batch in sample.batches(frame))


def spread(scores: Batch, truth: Batch, num_resamples: int, seed: int = 0) -> dict[str, Values]:
    """Compute the standard deviation of each metric of `results` over bootstrap samples of the test spectra.

    For a checkpoint that is trained once: what another test set would change. Kinds are drawn with the rest, so that a
    bin that has too few objects in half of the samples has none.

    References
    ----------
    Efron (1979), Ann. Statist. 7, 1: the bootstrap.
    """
    rng, num = np.random.default_rng(seed), len(truth["anomaly"])
    draws = [rng.integers(num, size=num) for _ in range(num_resamples)]
    return {
        name: deviations([_measured(scores[name], truth, rows) for rows in draws])
        for name in (*RANKED, *PLAIN)
    }


def _measured(score: np.ndarray, truth: Batch, rows: np.ndarray) -> Values:
    return measure(score[rows], {name: truth[name][rows] for name in ("anomaly", "target", "snr")})


def results(scores: Batch, truth: Batch) -> dict[str, Values | dict[str, float]]:
    """All metrics by score, and how well normal spectra are reconstructed."""
    chi2 = scores["chi2"][truth["anomaly"] == ""]
    usable = chi2[np.isfinite(chi2)]
    fit = {
        "median": float(np.median(usable)),
        "mean": float(np.mean(usable)),
        "90 %": float(np.quantile(usable, 0.9)),
    }
    return {"chi2 of normals": fit, **{name: measure(scores[name], truth) for name in (*RANKED, *PLAIN)}}
