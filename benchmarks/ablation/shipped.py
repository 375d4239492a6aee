"""The shipped checkpoint on the same test spectra: all 7781 pixels, its own latent size and training."""

import numpy as np
import torch

from benchmarks.ablation.evaluate import PLAIN, RANKED
from benchmarks.ablation.reduction import Told, chi2_per_pixel
from benchmarks.ablation.sample import Batch, sample_chunks
from engine.checkpoint import load
from engine.infer import open_model
from engine.storage import Storage
from engine.synthetic.population import SimulateConfig
from models.spectral_vae import SPEC


def score_shipped(uri: str, num: int, seed: int, mix: SimulateConfig, bases_uri: str) -> tuple[Batch, Batch]:
    """Scores and truth [N] as `evaluate.score` gives them; spectra are made anew, as the whole grid fills memory."""
    checkpoint = load(uri, Storage(), SPEC.name, SPEC.version)
    config, module = open_model(SPEC, checkpoint, uri)
    predict = SPEC.predictor(config, module, checkpoint.fitted, torch.device("cpu"))
    scores, truth = [], []
    for chunk in sample_chunks(num, seed, mix, bases_uri, ("full",)):
        batch = chunk.batch("full")
        out = predict(batch)
        found = {name: out[name] for name in RANKED} | {"distance": out["latent_distance"]}
        scores.append(found | {"chi2": chi2_per_pixel(Told(module), batch)})
        truth.append(chunk.columns)
    return _joined(scores, (*RANKED, *PLAIN)), _joined(truth, tuple(truth[0]))


def _joined(parts: list[Batch], names: tuple[str, ...]) -> Batch:
    return {name: np.concatenate([part[name] for part in parts]) for name in names}
