"""A shipped checkpoint on the same test spectra: its own pixels, latent size and training."""

from collections.abc import Callable

import torch

from benchmarks.ablation.evaluate import scored, stacked
from benchmarks.ablation.reduction import Told
from benchmarks.ablation.sample import PREPARED, Batch, sample_chunks
from engine.checkpoint import load
from engine.infer import open_model
from engine.spectra.prepare import SpectrumPrep
from engine.storage import Storage
from engine.synthetic.population import SimulateConfig
from models.spectral_vae import SPEC


def open_shipped(uri: str) -> tuple[str, Callable[[Batch], Batch]]:
    """Return the frame that it reads, and the function from a batch to scores as `evaluate.score` gives them.

    Raises
    ------
    StopIteration
        If none of `PREPARED` is how it reads spectra.
    """
    checkpoint = load(uri, Storage(), SPEC.name, SPEC.version)
    config, module = open_model(SPEC, checkpoint, uri)
    predict = SPEC.predictor(config, module, checkpoint.fitted, torch.device("cpu"))
    read = SpectrumPrep.model_validate(checkpoint.prepare)
    frame = next(name for name, prep in PREPARED.items() if prep == read)
    return frame, lambda batch: scored(predict, Told(module), batch)


def score_shipped(uri: str, num: int, seed: int, mix: SimulateConfig, bases_uri: str) -> tuple[Batch, Batch]:
    """Scores and truth [N]; spectra are made anew, as the whole grid fills memory."""
    frame, judge = open_shipped(uri)
    scores, truth = [], []
    for chunk in sample_chunks(num, seed, mix, bases_uri, (frame,)):
        scores.append(judge(chunk.batch(frame)))
        truth.append(chunk.columns)
    return stacked(scores), stacked(truth)
