"""Every generator, as small as it can be: for tests that hold for all of them."""

import dataclasses

import numpy as np
import pytest
import torch

from models import MODELS
from models.generators import alae, stylegan, vae
from models.generators import flow_config as flow
from models.generators.config import GeneratorConfig
from models.spec import Sampler
from tests.blobs import CONDITIONS, make_blobs

CPU = torch.device("cpu")
TOLD = {
    "conditions": tuple(CONDITIONS),
    "condition_low": tuple(low for low, _ in CONDITIONS.values()),
    "condition_high": tuple(high for _, high in CONDITIONS.values()),
}
PRESETS = {
    "image_vae": vae.PRESETS,
    "image_alae": alae.PRESETS,
    "image_stylegan": stylegan.PRESETS,
    "image_flow": flow.PRESETS,
}
ENCODERS = [name for name in PRESETS if name != "image_stylegan"]
families = pytest.mark.parametrize("name", list(PRESETS))
encoders = pytest.mark.parametrize("name", ENCODERS)


def tiny(name: str, **settings):
    base = dataclasses.replace(
        PRESETS[name]["tiny"], stretched_mean=(1.0,), stretched_std=(1.2,), ema_decay=0.9, batch_rows=8
    )
    if name == "image_flow":
        settings = {"steps": 4} | settings
    return dataclasses.replace(base, **settings)


def told(name: str, **settings):
    return tiny(name, **TOLD, **settings)


def blobs(config: GeneratorConfig, rows: int, seed: int = 0) -> dict[str, np.ndarray]:
    return make_blobs(rows, config.size, seed, config.conditions, config.num_channels)


def started(name: str, config, steps: int = 20, seed: int = 0):
    task = MODELS[name].task(config, seed)
    task.start(CPU, steps)
    return task


def built(name: str, config, seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    return MODELS[name].build(config)


def sampler(name: str, config, seed: int = 0) -> Sampler:
    make = MODELS[name].sampler
    assert make is not None
    return make(config, built(name, config, seed), CPU)


def conditions(rows: int, seed: int = 0) -> np.ndarray:
    low, high = np.array(list(CONDITIONS.values())).T
    return np.random.default_rng(seed).uniform(low, high, (rows, 2)).astype(np.float32)
