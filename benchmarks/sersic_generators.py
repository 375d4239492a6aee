"""What benchmarks of generators share: Sersic images, a family trained on them within a budget, samples of it."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from engine.checkpoint import Checkpoint
from engine.infer import open_model
from engine.synthetic.sersic_torch import draw_parameters, render_batch
from engine.train.epochs import module_weights
from models import MODELS
from models.generators import alae, flow_config, stylegan, vae
from models.generators.images import measured_stretch
from models.spec import Batch, Sampler, TrainTask
from models.training import unwrapped

SOFTENING = 100.0
"""Of asinh: a fifth of the faintest tenth of the pixels lies below it."""
TRIAL_STEPS = 9
"""Steps that say how many fit: what is regularised every 4th or 8th step is among them."""
CHECK_ROWS = 64
"""Images that choose the weights, at least: a distance of few is mostly chance."""
NUM_CHECKS = 8
"""Times in a training that a generator is judged; the best weights are kept, as `python -m jobs train` does."""
PRESETS: dict[str, Mapping[str, Any]] = {
    "image_vae": vae.PRESETS, "image_alae": alae.PRESETS, "image_stylegan": stylegan.PRESETS,
    "image_flow": flow_config.PRESETS,
}  # fmt: skip
"""Settings of each family by name."""
STRETCH_SEED, TRAINING_SEED = 11, 1000
"""Real sets that are measured have other seeds, up to 9."""

Images = Callable[[int], Batch]
"""Step to a batch to learn from."""


@dataclass(frozen=True)
class Trained:
    """A generator, and how it came about.

    Parameters
    ----------
    checkpoint
        The best weights; `metrics` hold the steps of the training, `history` the steps at which it was judged with the
        distance of its samples from held-out images then: the least is kept.
    losses
        Of its training.
    """

    checkpoint: Checkpoint
    losses: list[float]

    @property
    def steps(self) -> int:
        """That it was trained."""
        return self.checkpoint.metrics["steps"]

    def sampler(self, device: torch.device) -> Sampler:
        """Draw from the weights that were kept."""
        return sampler_of(self.checkpoint, device)


def sersic_images(num: int, size: int, seed: int, device: torch.device | str = "cpu") -> np.ndarray:
    """Draw images float32 [num, S * S] of the Sersic set."""
    parameters = draw_parameters(num, torch.Generator(device).manual_seed(seed))
    return render_batch(parameters, size).flatten(1).cpu().numpy()


def batches_of(images: np.ndarray, rows: int, **conditions: np.ndarray) -> Images:
    """Give each step some images of a set [N, S * S], drawn anew, with their conditions [N]."""
    columns = {"image": images} | conditions

    def batch(step: int) -> dict[str, np.ndarray]:
        chosen = np.random.default_rng([TRAINING_SEED, step]).integers(len(images), size=rows)
        return {name: values[chosen] for name, values in columns.items()}

    return batch


def drawn_anew(rows: int, size: int, device: torch.device) -> Images:
    """Give each step images that no other has, drawn on the device."""
    return lambda step: {"image": sersic_images(rows, size, TRAINING_SEED + step, device)}


def preset(family: str, name: str) -> dict[str, Any]:
    """Return settings of a family by name, those for the Sersic set where there are such."""
    known = PRESETS[family]
    return asdict(known.get(f"{name}_sersic", known[name]))


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
    held_out: Batch,
    device: torch.device,
    steps: int = 0,
    core_s: float = 0.0,
) -> Trained:
    """Train a family; keep the weights whose samples are nearest to held-out images.

    Parameters
    ----------
    name, settings
        Of the family.
    images
        Batches to learn from.
    held_out
        Rows that are not learned from.
    device
        Where.
    steps
        That many; 0: as many as a few trial steps say that `core_s` seconds of all CPU cores are enough for.
    core_s
        Of this process; waiting for others on a busy machine does not count.
    """
    spec = MODELS[name]
    config = spec.config(**settings)
    steps = steps or _steps_within(name, config, images, device, core_s)
    task = spec.task(config, 1)
    task.start(device, steps)
    marks = {round(steps * n / NUM_CHECKS) for n in range(1, NUM_CHECKS + 1)}
    losses, history = list[float](), list[dict[str, float]]()
    best, best_step, least = _weights(task), 0, math.inf
    for step in range(steps):
        losses.append(task.step(images(step), step)["loss"])
        if step + 1 in marks:
            found = _distance(task, held_out)
            history.append({"step": step + 1, "distance": found})
            if found < least:  # never of a network that has diverged
                best, best_step, least = _weights(task), step + 1, found
    weights = spec.to_build(config, {key: value.numpy() for key, value in best.items()})
    metrics = {"steps": steps, "best_step": best_step, "distance": least if best_step else math.nan}
    prepare = {"channels": 1, "size": config.size}
    kept = Checkpoint(name, spec.version, settings, prepare, weights, metrics=metrics, history=history)
    return Trained(kept, losses)


def sampler_of(checkpoint: Checkpoint, device: torch.device) -> Sampler:
    """Draw from a generator that was kept."""
    spec = MODELS[checkpoint.model]
    config, module = open_model(spec, checkpoint, "the trained generator")
    assert spec.sampler is not None
    return spec.sampler(config, module, device)


def _weights(task: TrainTask) -> dict[str, torch.Tensor]:
    return module_weights({key: unwrapped(module) for key, module in task.modules.items()})


def _distance(task: TrainTask, held_out: Batch) -> float:
    """Distance of samples from all held-out images at once, by which `engine.train` chooses the epoch too."""
    return task.evaluate(held_out)["loss"]


def _steps_within(name: str, config: Any, images: Images, device: torch.device, core_s: float) -> int:
    """Count the steps that fit: the first, which sets things up, is not counted."""
    task = MODELS[name].task(config, 1)
    task.start(device, 1000)
    began = 0.0
    for step in range(TRIAL_STEPS):
        began = core_seconds(device) if step == 1 else began
        task.step(images(step), step)
    return max(1, int(core_s * (TRIAL_STEPS - 1) / (core_seconds(device) - began)))


def core_seconds(device: torch.device) -> float:
    """Seconds of CPU cores that this process has had; of the clock where a GPU computes."""
    return time.process_time() if device.type == "cpu" else time.perf_counter()


def pieces(images: np.ndarray, size: int, rows: int = 8) -> Iterator[tuple[list[int], np.ndarray]]:
    """Cut a set [N, S * S] as `benchmarks.generator_metrics` measures it."""
    for start in range(0, len(images), rows):
        part = images[start : start + rows].reshape(-1, 1, size, size)
        yield list(range(start, start + len(part))), part
