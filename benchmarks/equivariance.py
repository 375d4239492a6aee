"""The exported disk classifier against the escnn network that it was trained as: equality, CPU speed, symmetry.

    OMP_NUM_THREADS=1 python -m benchmarks.equivariance [--images 256]

One row a group and a number of images that are asked for at once, in images a second, the best of some turns over
the same images. escnn: in training mode, in which it expands its filters in every pass, and in evaluation mode,
in which it keeps them, given all the images at once; then in evaluation mode in the mini-batches that the predictor
cuts (`DiskClassifierConfig.batch_rows`), to tell what they bring. exported: the network that predicts, as the predictor
runs it, in float32 and in bfloat16 (`infer.precision`), and the largest difference of a logit from escnn's. `--keep-memory` lets the process keep freed memory as the engine's workers do: large batches then cost less,
escnn's most. Then by how much the features change when smooth objects are turned, in units of their spread among
objects and as the median of some networks with random weights: with filters of 3 and of 5 pixels, and of the plain
network of as many parameters. Then, whether averaging over the symmetries of the square (test-time augmentation)
changes a probability. Last, the shipped classifier on galaxies without noise that are drawn anew at other position
angles (`benchmarks.turned_galaxies`): rms and largest change of the log odds and of the probability, and of the probability
by averaging over all elements of its group.
"""

import argparse
import copy
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from scipy import ndimage
from torch import nn

from benchmarks.turned_galaxies import changes, in_parts, usable
from engine.allocator import keep_freed_memory
from engine.checkpoint import load
from engine.infer import open_model
from engine.storage import Storage
from models.disk_classifier import SPEC, exported, trainable
from models.disk_classifier_config import DiskClassifierConfig
from models.disk_networks import DiskNetwork
from models.disk_packed import packed
from models.scoring.cutouts import Cutouts
from models.symmetry import NUM_SYMMETRIES, turned

ANGLES = (22.5, 45.0, 90.0)
ROWS = (1, 8, 32, 256)
PRODUCTS = {"exported": torch.float32, "bfloat16": torch.bfloat16}


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


def images_per_second(runs: dict[str, Callable[[], object]], num: int, passes: int) -> dict[str, float]:
    """Speed of each of `runs` over `num` images, taking turns, so that a busy moment hits all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    with torch.inference_mode():
        for _ in range(passes + 1):  # the first warms up
            for name, run in runs.items():
                start = time.perf_counter()
                run()
                seconds[name].append(time.perf_counter() - start)
    return {name: num / min(values[1:]) for name, values in seconds.items()}


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
    expanding, kept = network(config).train(), network(config)
    built = export(config, kept)
    laid_out = {name: partial(in_products, built, products) for name, products in PRODUCTS.items()}
    with torch.inference_mode():
        wanted = kept(images)
        differences = [
            float((wanted - make(config.batch_rows)(images)).abs().max()) for make in laid_out.values()
        ]
    for rows in ROWS:
        some = Cutouts(*(part[:rows] for part in images))
        part = min(rows, config.batch_rows)
        runs = {
            "training": lambda some=some: expanding(some),
            "eval": lambda some=some: kept(some),
            "parts": lambda some=some, part=part: in_parts(kept, some, part),
        } | {name: partial(in_parts, make(part), some, part) for name, make in laid_out.items()}
        speed = images_per_second(runs, len(some.science), passes)
        print(f"{2 * rotations:8d} {len(some.science):7d}" + "".join(f"{v:10.1f}" for v in speed.values()))
        for name, difference in zip(laid_out, differences, strict=True):
            gains = (speed[name] / speed[escnn] for escnn in ("training", "eval", "parts"))
            cells = "".join(f"{gain:10.2f}" for gain in gains)
            print(f"{name:>16} over escnn's{cells}   difference {difference:.1e}", flush=True)


def in_products(built: nn.Module, products: torch.dtype, rows: int) -> nn.Module:
    """Return the network as the predictor lays it out."""
    network = copy.copy(built)
    network.products = products
    return packed(network, rows)


def print_changes(images: Cutouts, seeds: int) -> None:
    kinds = {
        "3 x 3 filters": {}, "5 x 5 filters": {"kernel_pixels": 5}, "plain": {"architecture": "plain"},
    }  # fmt: skip
    print("change under " + "".join(f"{angle:8g} deg" for angle in ANGLES))
    for name, settings in kinds.items():
        networks = [network(DiskClassifierConfig(**settings), seed) for seed in range(seeds)]
        changes = np.median([[change(module, images, angle) for angle in ANGLES] for module in networks], 0)
        print(f"{name:13}" + "".join(f"{value:12.5f}" for value in changes), flush=True)


def print_averages(images: Cutouts) -> None:
    """Largest change of a probability by averaging over the eight symmetries of the square."""
    print("largest change of a probability by averaging over turns and flips")
    for name, settings in {"16 elements": {}, "plain": {"architecture": "plain"}}.items():
        module = network(DiskClassifierConfig(**settings))
        with torch.inference_mode():
            turns = [module(Cutouts(*(turned(part, n) for part in images))) for n in range(NUM_SYMMETRIES)]
        found = [logits.double().softmax(1)[:, 1] for logits in turns]
        print(f"{name:13}{float((torch.stack(found).mean(0) - found[0]).abs().max()):12.1e}", flush=True)


def print_shipped(uri: str, num: int) -> None:
    """Print by how much the verdict of a trained network changes at other position angles."""
    checkpoint = load(uri, Storage(), SPEC.name, SPEC.version)
    config, module = open_model(SPEC, checkpoint, uri)
    found = changes(module, config, num, 0, float(checkpoint.fitted["temperature"][0]))
    print(f"{uri}, {num} galaxies: rms and largest change of log odds, of probability")
    for name, values in found.items():
        told = f"{name} deg" if name[0].isdigit() else name
        cells = (f"{np.sqrt(np.mean(v**2)):12.1e}{np.abs(v).max():12.1e}" for v in np.atleast_2d(values))
        print(f"{told:13}" + " " * 24 * (values.ndim == 1) + "".join(cells), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=256, help="at most, at once")
    parser.add_argument("--passes", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--classifier", default="checkpoints/disk_classifier_nircam")
    parser.add_argument("--galaxies", type=int, default=96, help="that the classifier sees at other angles")
    parser.add_argument("--keep-memory", action="store_true")
    arguments = parser.parse_args()
    if arguments.keep_memory:
        keep_freed_memory()
    images = galaxies(arguments.images, DiskClassifierConfig().network_pixels, 1)
    print(f"elements  images  training      eval  in parts{''.join(f'{name:>10}' for name in PRODUCTS)}")
    for rotations in (8, 16):
        print_speeds(rotations, images, arguments.passes)
    some = Cutouts(*(part[:64] for part in images))
    print_changes(some, arguments.seeds)
    print_averages(some)
    print_shipped(arguments.classifier, arguments.galaxies)


if __name__ == "__main__":
    main()
