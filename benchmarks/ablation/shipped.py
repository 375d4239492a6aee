"""The shipped checkpoint on the same test spectra: all 7781 pixels, its own latent size and training."""

from collections.abc import Callable

import torch

from benchmarks.ablation.evaluate import scored, stacked
from benchmarks.ablation.reduction import Told
from benchmarks.ablation.sample import Batch, sample_chunks
from engine.checkpoint import load
from engine.infer import open_model
from engine.storage import Storage
from engine.synthetic.population import SimulateConfig
from models.spectral_vae import SPEC


def open_shipped(uri: str) -> Callable[[Batch], Batch]:
    """Return the function from a batch of whole spectra to scores as `evaluate.score` gives them."""
    checkpoint = load(uri, Storage(), SPEC.name, SPEC.version)
    config, module = open_model(SPEC, checkpoint, uri)
    predict = SPEC.predictor(config, module, checkpoint.fitted, torch.device("cpu"))
    return lambda batch: scored(predict, Told(module), batch)


def score_shipped(uri: str, num: int, seed: int, mix: SimulateConfig, bases_uri: str) -> tuple[Batch, Batch]:
    """Scores and truth [N]; spectra are made anew, as the whole grid fills memory."""
    judge = open_shipped(uri)
    scores, truth = [], []
    for chunk in sample_chunks(num, seed, mix, bases_uri, ("full",)):
        scores.append(judge(chunk.batch("full")))
        truth.append(chunk.columns)
    return stacked(scores), stacked(truth)
