"""What benchmarks of generators share: Sersic images drawn on the fly, a family trained on them, samples of it."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from engine.synthetic.sersic_torch import draw_parameters, render_batch
from engine.train.epochs import module_weights
from models import MODELS
from models.generators.images import measured_stretch
from models.spec import Sampler
from models.training import unwrapped

SOFTENING = 100.0
"""Of asinh: a fifth of the faintest tenth of the pixels lies below it."""
TRIAL_STEPS = 4
STRETCH_SEED, TRAINING_SEED = 11, 1000
"""Real sets that are measured have other seeds, up to 9."""

Images = Callable[[int], np.ndarray]
"""Step to images [B, S * S]."""


@dataclass(frozen=True)
class Trained:
    """A generator, the steps that it was trained, its last losses."""

    sampler: Sampler
    steps: int
    losses: list[float]


def sersic_images(num: int, size: int, seed: int, device: torch.device | str = "cpu") -> np.ndarray:
    """Draw images float32 [num, S * S] of the Sersic set."""
    parameters = draw_parameters(num, torch.Generator(device).manual_seed(seed))
    return render_batch(parameters, size).flatten(1).cpu().numpy()


def fresh_images(rows: int, size: int, device: torch.device) -> Images:
    """Give each step galaxies of its own."""
    return lambda step: sersic_images(rows, size, TRAINING_SEED + step, device)


def settings_for(size: int, **settings: Any) -> dict[str, Any]:
    """Return settings with the stretch measured on a set of its own."""
    base = {"size": size, "softening": SOFTENING} | settings
    config = MODELS["image_vae"].config(size=size, softening=SOFTENING)
    mean, std = measured_stretch(config, sersic_images(256, size, STRETCH_SEED))
    return base | {"stretched_mean": mean, "stretched_std": std}


def trained(
    name: str,
    settings: dict[str, Any],
    images: Images,
    device: torch.device,
    steps: int = 0,
    budget_s: float = 0.0,
) -> Trained:
    """Train a family for some steps, or for as many as a few trial steps say that the time is enough for."""
    spec = MODELS[name]
    config = spec.config(**settings)
    steps = steps or _steps_within(name, config, images, device, budget_s)
    task = spec.task(config, 1)
    task.start(device, steps)
    losses = [task.step({"image": images(step)}, step)["loss"] for step in range(steps)]
    weights = module_weights({key: unwrapped(module) for key, module in task.modules.items()})
    built = spec.to_build(config, {key: value.numpy() for key, value in weights.items()})
    module = spec.build(config)
    module.load_state_dict({key: torch.from_numpy(value) for key, value in built.items()})
    assert spec.sampler is not None
    return Trained(spec.sampler(config, module.eval(), device), steps, losses)


def _steps_within(name: str, config: Any, images: Images, device: torch.device, budget_s: float) -> int:
    """Count the steps that fit: the first, which sets things up, is not counted."""
    task = MODELS[name].task(config, 1)
    task.start(device, 1000)
    began = 0.0
    for step in range(TRIAL_STEPS):
        began = time.perf_counter() if step == 1 else began
        task.step({"image": images(step)}, step)
    return max(1, int(budget_s * (TRIAL_STEPS - 1) / (time.perf_counter() - began)))


def pieces(images: np.ndarray, size: int, rows: int = 8) -> Iterator[tuple[list[int], np.ndarray]]:
    """Cut a set [N, S * S] as `benchmarks.generator_metrics` measures it."""
    for start in range(0, len(images), rows):
        part = images[start : start + rows].reshape(-1, 1, size, size)
        yield list(range(start, start + len(part))), part
