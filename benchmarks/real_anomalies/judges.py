"""Who judges the real spectra: models that learned from synthetic ones, and components of the real ones themselves."""

# N real spectra and oddities

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from benchmarks.ablation.evaluate import score
from benchmarks.ablation.linear import fit_weighted_pca, pixel_weights
from benchmarks.ablation.methods import METHODS, Settings
from benchmarks.ablation.sample import Sample, joined, sample_chunks
from benchmarks.ablation.shipped import open_shipped, score_shipped
from engine.synthetic.population import SimulateConfig

SCORE = "anomaly_score"
LEVEL = 0.99
TRAIN_SEED, HELD_OUT_SEED, LIMIT_SEED = 501, 502, 503
NUM_FOLDS, NUM_COMPONENTS = 5, 5
ITERATIONS = 10


@dataclass(frozen=True)
class Verdicts:
    """Scores [N] of real spectra, and what 99 % of synthetic normal spectra stay below; NaN if none were scored."""

    score: np.ndarray
    limit: float


Judge = Callable[[Sample], Verdicts]


@dataclass(frozen=True)
class Training:
    """Synthetic spectra that a model learns from."""

    bases_uri: str
    bases_fraction: float
    num_train: int
    num_held_out: int
    passes: int

    def sample(self, num: int, seed: int, frame: str) -> Sample:
        """Draw normal spectra."""
        mix = SimulateConfig(bases_fraction=self.bases_fraction)
        return joined(list(sample_chunks(num, seed, mix, self.bases_uri, (frame,))))


def trained_on(method: str, training: Training) -> Judge:
    """Train a method of the ablation on synthetic spectra; the verdict is its `anomaly_score`."""

    def judge(real: Sample) -> Verdicts:
        how = METHODS[method]
        train = training.sample(training.num_train, TRAIN_SEED, how.frame)
        held_out = training.sample(training.num_held_out, HELD_OUT_SEED, how.frame)
        normal = training.sample(training.num_held_out, LIMIT_SEED, how.frame)
        trained = how.train(train, Settings(passes=training.passes), TRAIN_SEED)
        found, others = (score(trained, how.frame, train, held_out, test)[SCORE] for test in (real, normal))
        return Verdicts(found, float(np.nanquantile(others, LEVEL)))

    return judge


def shipped(uri: str, training: Training) -> Judge:
    """Score with the shipped checkpoint."""

    def judge(real: Sample) -> Verdicts:
        mix = SimulateConfig(bases_fraction=training.bases_fraction)
        others, _ = score_shipped(uri, training.num_held_out, LIMIT_SEED, mix, training.bases_uri)
        found = open_shipped(uri)(real.batch("full"))[SCORE]
        return Verdicts(found, float(np.nanquantile(others[SCORE], LEVEL)))

    return judge


def real_components(real: Sample) -> Verdicts:
    """Score by chi2 against weighted principal components of the other real spectra.

    Sources, with all that is made of them, are in one of `NUM_FOLDS` folds and judged by components of the others.
    """
    batch = real.batch("observed")
    flux, ivar = (torch.tensor(batch[name]) for name in ("flux", "ivar"))
    names = np.unique(batch["name"])
    fold = np.random.default_rng(0).permutation(len(names)) % NUM_FOLDS
    fold_of = fold[np.searchsorted(names, batch["name"])]
    chi2 = np.empty(len(flux))
    for index in range(NUM_FOLDS):
        learn, here = (
            torch.tensor(rows) for rows in ((fold_of != index) & (batch["anomaly"] == ""), fold_of == index)
        )
        model = fit_weighted_pca(flux[learn], ivar[learn], NUM_COMPONENTS, ITERATIONS, 0)
        residual = flux[here] - model.decode(model.encode(flux[here], ivar[here]))
        # 10 % of the continuum beside the noise, as in the fit: else brightness alone would rank.
        weight = pixel_weights(ivar[here])
        chi2[fold_of == index] = (residual.square() * weight).sum(1) / (ivar[here] > 0).sum(1)
    return Verdicts(chi2, float("nan"))
