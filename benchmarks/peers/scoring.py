"""The same model and the same scores for every system that is compared."""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import torch

from benchmarks.peers.plain_scoring import PlainScorer
from engine.checkpoint import load
from engine.infer import open_model
from engine.schema import list_array
from engine.spectra.prepare import SpectrumPrep
from engine.storage import Storage
from models import MODELS
from models.scoring import spectral
from models.spec import Predict


def load_predictor(checkpoint: str, plain: bool = False) -> tuple[Predict, SpectrumPrep]:
    """Return the predictor of a checkpoint on the CPU and the preparation it wants.

    `plain` takes the scores as their formulas stand, in place of our scorer.
    """
    saved = load(checkpoint, Storage())
    spec = MODELS[saved.model]
    config, module = open_model(spec, saved, checkpoint)
    if plain:
        scorer, threads = PlainScorer(config, module), torch.get_num_threads()
        predict = spectral.predictor(config, scorer, saved.fitted, threads)
    else:
        predict = spec.predictor(config, module, saved.fitted, torch.device("cpu"))
    return predict, SpectrumPrep.model_validate(saved.prepare)


def scores_table(columns: Mapping[str, np.ndarray], scores: Mapping[str, np.ndarray]) -> pa.Table:
    """Keys and scores as an Arrow table."""
    keep = {name: columns[name] for name in ("targetid", "ra", "dec", "z", "spectype")} | dict(scores)
    return pa.table({k: list_array(v) if v.ndim == 2 else pa.array(v) for k, v in keep.items()})
