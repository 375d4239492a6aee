"""A spectral VAE that was trained for a moment: for tests, and for benchmarks of anything but its scores."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from engine.checkpoint import Checkpoint, save
from engine.infer import model_config
from engine.spectra.prepare import SpectrumPrep, prepare
from engine.storage import Storage
from engine.synthetic.population import SimulateConfig
from engine.synthetic.simulate import simulate
from models import MODELS

SETTINGS = {"hidden": [24, 16], "num_latent": 6}


def make_checkpoint(
    folder: Path,
    seed: int = 3,
    settings: Mapping[str, Any] = SETTINGS,
    prep: SpectrumPrep | None = None,
    steps: int = 30,
) -> Path:
    """Train a small spectral VAE for a moment and save it with its calibration."""
    spec = MODELS["spectral_vae"]
    config, prep = model_config(spec, settings, "settings"), prep or SpectrumPrep()
    sample = simulate(768, seed, SimulateConfig())
    spectra = prepare(sample.flux, sample.ivar, sample.z, prep).spectra
    batch = {
        "flux": spectra.flux, "ivar": spectra.ivar, "spectype": sample.spectype.astype(object), "z": sample.z,
    }  # fmt: skip
    task = spec.task(config, seed)
    task.start(torch.device("cpu"), steps)
    history = [{"epoch": 0, "train_loss": 0.0}]
    for step in range(steps):
        rows = np.arange(step * 128, (step + 1) * 128) % 512
        history[0]["train_loss"] = task.step({k: v[rows] for k, v in batch.items()}, step)["loss"]
    module = next(iter(task.modules.values())).eval()
    halves = [{k: v[part] for k, v in batch.items()} for part in (slice(0, 512), slice(512, None))]
    fitted = spec.fit(config, module, halves[:1], halves[1:])
    weights = {name: value.detach().numpy() for name, value in module.state_dict().items()}
    checkpoint = Checkpoint(
        model=spec.name,
        model_version=spec.version,
        config=dict(settings),
        prepare=prep.model_dump(),
        weights=weights,
        fitted=fitted,
        metrics={},
        history=history,
        provenance={"made_by": "benchmarks.small_model"},
    )
    save(checkpoint, str(folder), Storage())
    return folder
