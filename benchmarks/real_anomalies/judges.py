"""Who judges the real spectra: models that learned from synthetic ones, and components of the real ones themselves."""

# N real spectra and oddities

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from benchmarks.ablation.evaluate import PLAIN, score
from benchmarks.ablation.linear import fit_weighted_pca, pixel_weights
from benchmarks.ablation.methods import METHODS, Settings
from benchmarks.ablation.sample import Batch, Sample, joined, sample_chunks
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


Judge = Callable[[Sample], dict[str, Verdicts]]
"""Verdicts by what is added to the judge's name: "" for the rank, and names of the scores that it is made of."""


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


def _verdicts(found: Batch, synthetic: Batch, names: Sequence[str]) -> dict[str, Verdicts]:
    """Scores of the real spectra with their limit among synthetic ones; the rank has no name."""
    return {
        "" if name == SCORE else name: Verdicts(found[name], float(np.nanquantile(synthetic[name], LEVEL)))
        for name in names
    }


def trained_on(method: str, training: Training) -> Judge:
    """Train a method of the ablation on synthetic spectra; the verdict is its `anomaly_score`."""

    def judge(real: Sample) -> dict[str, Verdicts]:
        how = METHODS[method]
        train = training.sample(training.num_train, TRAIN_SEED, how.frame)
        held_out = training.sample(training.num_held_out, HELD_OUT_SEED, how.frame)
        normal = training.sample(training.num_held_out, LIMIT_SEED, how.frame)
        trained = how.train(train, Settings(passes=training.passes), TRAIN_SEED)
        return _verdicts(
            *(score(trained, how.frame, train, held_out, test) for test in (real, normal)), (SCORE,)
        )

    return judge


def shipped(uri: str, training: Training) -> Judge:
    """Score with the shipped checkpoint."""

    def judge(real: Sample) -> dict[str, Verdicts]:
        mix = SimulateConfig(bases_fraction=training.bases_fraction)
        others, _ = score_shipped(uri, training.num_held_out, LIMIT_SEED, mix, training.bases_uri)
        frame, score_batch = open_shipped(uri)
        found = score_batch(real.batch(frame))
        return _verdicts(found, others, (SCORE, *(name for name in found if name not in (SCORE, *PLAIN))))

    return judge


def real_components(real: Sample) -> dict[str, Verdicts]:
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
    return {"": Verdicts(chi2, float("nan"))}
