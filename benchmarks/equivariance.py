"""The exported disk classifier against the escnn network that it was trained as: equality, CPU speed, symmetry.

    OMP_NUM_THREADS=1 python -m benchmarks.equivariance --images 64

One row a group and a size of mini-batch, in images a second, the best of some passes over the same images:
escnn in training mode, in which it expands its filters in every pass; escnn in evaluation mode, in which it
keeps them; the exported network. Last, by how much the features change when smooth objects are turned, in
units of their spread among objects and as the median of some networks with random weights: with filters of 3
and of 5 pixels, and of the plain network of as many parameters.
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
ROWS = (8, 64)


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


def network(config: DiskClassifierConfig, seed: int = 0) -> nn.Module:
    """Random weights; normalisation as after training on galaxies."""
    torch.manual_seed(seed)
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
    return built.to(memory_format=torch.channels_last)


def images_per_second(module: nn.Module, images: Cutouts, rows: int, passes: int) -> float:
    """Speed in mini-batches of `rows` images."""
    seconds = []
    starts = range(0, len(images.science), rows)
    batches = [Cutouts(*(part[start : start + rows] for part in images)) for start in starts]
    with torch.inference_mode():
        for _ in range(passes + 1):  # the first warms up
            start = time.perf_counter()
            for batch in batches:
                module(batch)
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


def print_speeds(rotations: int, images: Cutouts, passes: int) -> None:
    config = DiskClassifierConfig(rotations=rotations)
    trained = network(config)
    built = export(config, trained)
    with torch.inference_mode():
        difference = float((trained(images) - built(images)).abs().max())
    for rows in ROWS:
        kept, plain = (images_per_second(module, images, rows, passes) for module in (trained.eval(), built))
        expanding = images_per_second(trained.train(), images, rows, passes)
        print(
            f"{2 * rotations:8d} {rows:5d} {expanding:15.1f} {kept:11.1f} {plain:9.1f} "
            f"{plain / expanding:12.2f} {plain / kept:7.2f} {difference:11.1e}",
            flush=True,
        )


def print_changes(images: Cutouts, seeds: int) -> None:
    kinds = {
        "3 x 3 filters": {}, "5 x 5 filters": {"kernel_pixels": 5}, "plain": {"architecture": "plain"},
    }  # fmt: skip
    print("change under " + "".join(f"{angle:8g} deg" for angle in ANGLES))
    for name, settings in kinds.items():
        networks = [network(DiskClassifierConfig(**settings), seed) for seed in range(seeds)]
        changes = np.median([[change(module, images, angle) for angle in ANGLES] for module in networks], 0)
        print(f"{name:13}" + "".join(f"{value:12.5f}" for value in changes), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--passes", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    images = galaxies(arguments.images, DiskClassifierConfig().network_pixels, 1)
    print("elements  rows escnn, training escnn, eval  exported  x training  x eval  difference")
    for rotations in (8, 16):
        print_speeds(rotations, images, arguments.passes)
    print_changes(images, arguments.seeds)


if __name__ == "__main__":
    main()
