"""A generator that has learned for some seconds obeys its condition: the brighter it is told, the brighter it draws."""

import dataclasses

import numpy as np
import pytest
import torch

from engine.train.epochs import module_weights
from models import MODELS
from models.generators.config import GeneratorConfig
from models.generators.images import measured_stretch
from models.spec import Sampler
from models.training import unwrapped
from tests.blobs import make_blobs
from tests.tinygenerators import CPU, families, started, tiny

STEPS, ROWS = 100, 16
TOLD = {"conditions": ("dex",), "condition_low": (0.0,), "condition_high": (2.0,)}


def galaxies(rows: int, seed: int) -> dict[str, np.ndarray]:
    """Blobs of 8 pixels whose brightness is told, over two decades."""
    dex = np.random.default_rng([seed, 1]).uniform(0, 2, rows)
    image = make_blobs(rows, 8, seed)["image"] / 20 * 10 ** dex[:, None]
    return {"image": image.astype(np.float32), "dex": dex}


def configured(name: str) -> GeneratorConfig:
    config = tiny(name, size=8, learning_rate=5e-3, **TOLD)
    mean, std = measured_stretch(config, galaxies(200, 999)["image"])
    return dataclasses.replace(config, stretched_mean=mean, stretched_std=std)


def learned(name: str, steps: int) -> Sampler:
    """Sampler after so many steps, of the weights that a checkpoint would keep."""
    spec, config = MODELS[name], configured(name)
    task = started(name, config, STEPS)
    for step in range(steps):
        task.step(galaxies(ROWS, step), step)
    weights = module_weights({key: unwrapped(module) for key, module in task.modules.items()})
    built = spec.to_build(config, {key: value.numpy() for key, value in weights.items()})
    module = spec.build(config)
    module.load_state_dict({key: torch.from_numpy(value) for key, value in built.items()})
    assert spec.sampler is not None
    return spec.sampler(config, module.eval(), CPU)


def brightness(sampler: Sampler, dex: float) -> float:
    """Median of the sums of samples that are told a brightness."""
    images = sampler.sample(np.arange(32), np.full((32, 1), dex))["image"]
    return float(np.median(np.maximum(images, 0).sum(1)))


@families
def test_samples_are_as_bright_as_they_are_told(name: str) -> None:
    torch.set_num_threads(1)
    sampler = learned(name, STEPS)
    faint, middle, bright = (brightness(sampler, dex) for dex in (0.2, 1.0, 1.8))
    assert faint < middle < bright
    assert bright > 3 * faint, "40 times, where learned to the end"


@pytest.mark.parametrize("name", ["image_vae", "image_flow"])
def test_before_it_has_learned_it_does_not(name: str) -> None:
    sampler = learned(name, 0)
    assert brightness(sampler, 1.8) == pytest.approx(brightness(sampler, 0.2), rel=1.0)
