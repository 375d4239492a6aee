"""The disk classifier's exported network against the escnn network that it was trained as: equality and speed on a CPU.

    OMP_NUM_THREADS=1 python -m benchmarks.equivariance --images 64

One row a group and a way to run it, in images a second, the best of some passes over the same images: escnn in
training mode, in which it expands its filters in every pass; escnn in evaluation mode, in which it keeps them; the
exported network. Last, by how much the exported network's features change when smooth objects are turned, in units of
their spread among objects, with filters of 3 and of 5 pixels, beside the plain network of as many parameters.
"""

import argparse
import time

import numpy as np
import torch
from scipy import ndimage
from torch import nn

from models.disk_classifier import exported, trainable
from models.disk_classifier_config import DiskClassifierConfig
from models.disk_networks import DiskNetwork
from models.scoring.cutouts import Cutouts

ANGLES = (22.5, 45.0, 90.0)


def galaxies(rows: int, pixels: int, seed: int) -> Cutouts:
    """Smooth ellipses with a companion of another colour: well sampled, without a symmetry of their own."""
    rng = np.random.default_rng(seed)
    at = np.arange(pixels) - pixels // 2
    y, x = np.meshgrid(at, at, indexing="ij")
    flux = np.empty((rows, 3, pixels, pixels), np.float32)
    for row in flux:
        ratio, sigma = rng.uniform(0.3, 0.9), rng.uniform(0.08, 0.14) * pixels
        dx, dy = rng.uniform(-0.15, 0.15, 2) * pixels
        ellipse = np.exp(-0.5 * ((x / sigma) ** 2 + (y / (ratio * sigma)) ** 2))
        companion = np.exp(-0.5 * ((x - dx) ** 2 + (y - dy) ** 2) / (0.05 * pixels) ** 2)
        row[:] = [100 * (a * ellipse + b * companion) for a, b in rng.uniform(0.3, 1, (3, 2))]
    return usable(flux)


def usable(flux: np.ndarray) -> Cutouts:
    science = torch.tensor(flux)
    return Cutouts(science, torch.ones_like(science), torch.ones_like(science, dtype=torch.bool))


def network(config: DiskClassifierConfig) -> nn.Module:
    """Random weights; normalisation as after training on galaxies."""
    torch.manual_seed(0)
    module = trainable(config)
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d | nn.BatchNorm3d):
            norm.momentum = None
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.uniform_(norm.bias, -0.2, 0.2)
    with torch.no_grad():
        module(galaxies(16, config.network_pixels, 99))
    return module.eval()


def export(config: DiskClassifierConfig, module: nn.Module) -> nn.Module:
    weights = exported(config, {name: value.numpy() for name, value in module.state_dict().items()})
    built = DiskNetwork(config).eval()
    built.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
    return built


def images_per_second(module: nn.Module, images: Cutouts, passes: int) -> float:
    seconds = []
    with torch.inference_mode():
        for _ in range(passes + 1):  # the first warms up
            start = time.perf_counter()
            module(images)
            seconds.append(time.perf_counter() - start)
    return len(images.science) / min(seconds[1:])


def change(module: nn.Module, images: Cutouts, degrees: float) -> float:
    """Rms change of the features under a rotation, in units of their spread among objects."""
    rotated = ndimage.rotate(images.science.numpy(), degrees, axes=(2, 3), reshape=False, order=3)
    found: list[np.ndarray] = []
    hook = module.head.linear.register_forward_pre_hook(lambda _, given: found.append(given[0].numpy()))
    with torch.inference_mode():
        module(images), module(usable(rotated))
    hook.remove()
    spread = found[0].std(0)
    used = spread > 0.02 * spread.max()
    return float(np.sqrt(np.mean(((found[1] - found[0]) / spread)[:, used] ** 2)))


def speed_row(config: DiskClassifierConfig, images: Cutouts, passes: int) -> str:
    trained = network(config)
    built = export(config, trained)
    with torch.inference_mode():
        difference = float((trained(images) - built(images)).abs().max())
    kept, plain = (images_per_second(module, images, passes) for module in (trained, built))
    expanding = images_per_second(trained.train(), images, passes)
    return f"{2 * config.rotations:8d} {expanding:14.1f} {kept:14.1f} {plain:10.1f} {plain / kept:8.2f} {difference:12.1e}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--passes", type=int, default=5)
    arguments = parser.parse_args()
    images = galaxies(arguments.images, DiskClassifierConfig().network_pixels, 1)
    print(
        f"elements {'escnn training':>14} {'escnn eval':>14} {'exported':>10} {'x eval':>8} {'difference':>12}"
    )
    for rotations in (8, 16):
        print(speed_row(DiskClassifierConfig(rotations=rotations), images, arguments.passes), flush=True)
    print("change under" + "".join(f"{angle:8g} deg" for angle in ANGLES))
    kinds = {
        "3 x 3 filters": {}, "5 x 5 filters": {"kernel_pixels": 5}, "plain": {"architecture": "plain"},
    }  # fmt: skip
    for name, settings in kinds.items():
        config = DiskClassifierConfig(**settings)
        module = export(config, network(config))
        print(
            f"{name:12}" + "".join(f"{change(module, images, angle):12.5f}" for angle in ANGLES), flush=True
        )


if __name__ == "__main__":
    main()
