"""Does mixing generated images into the training of the disk classifier help it? One small case, with labels known.

    python -m benchmarks.mixed_classifier [--num-real 64] [--seeds 5] [--generator image_vae] [--json FILE] [--folder DIR]
    python -m benchmarks.mixed_classifier --generator truth

Disks are Sersic profiles with an index below 2.5, spheroids the others; they differ in nothing else. A generator that
is told the index learns from the few real images, is asked for indices over the whole range, and so labels its own
samples. Classifiers learn from batches that are generated with probability alpha and real otherwise
(`engine.train.mixing`, as `[mix]` of `python -m jobs train`), each alpha with the same seeds, steps and noise. Printed:
accuracy and AUROC on real images that neither has seen, as in training and under shifts (noise, pixels twice as large), and what
alpha changes, paired by seed, with the 95 % interval of Student's t. Under shifts classifiers may answer one class for nearly
all, an accuracy of the share of that class that says nothing: AUROC tells whether they still know which is which. `--generator truth`
takes new galaxies of the recipe: the control, what a perfect generator could do. Classifiers keep their last weights: nothing is held out to choose among them. The generator's
checkpoint, its samples and all measures are kept in `--folder`, by the settings that change them: a rerun goes on.
"""

import argparse
import json
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from benchmarks.keeping import content_of, kept_arrays, kept_checkpoint, kept_numbers
from benchmarks.mixing import mixed, options, parsed, told
from benchmarks.sersic_generators import CHECK_ROWS, batches_of, preset, sampler_of, settings_for, trained
from catalogs.sample_robustness import mean_of
from engine.checkpoint import Checkpoint
from engine.images.bands import BANDS
from engine.schema import list_array
from engine.synthetic.sersic_render import RANGES
from engine.synthetic.sersic_torch import draw_parameters, render_batch
from models.disk_classifier import DiskClassifierTask
from models.disk_classifier_config import DiskClassifierConfig

CPU = torch.device("cpu")
INDEX = list(RANGES).index("sersic_n")
BOUNDARY = 2.5
UNIT = 1000.0
"""Counts of the set that count as 1 here."""
REAL_SEED, TEST_SEED, MORE_SEED = 41, 42, 43
SHIFTS: dict[str, tuple[int, float]] = {
    "none": (1, 1.0), "noise x2": (1, 2.0), "noise x5": (1, 5.0), "pixels x2": (2, 1.0),
}  # fmt: skip
"""Pixels a side that become one, and the factor on the noise."""

MEASURES = ("accuracy", "auroc")
Measured = dict[str, dict[str, float]]
"""By measure and shift."""

Set = tuple[np.ndarray, np.ndarray]
"""Images [N, S * S] and their Sersic indices [N]."""
NAMES = ("image", "index")
"""Of both, where they are kept."""


def main() -> None:
    args = parsed(arguments())
    found = experiment(args)
    print("\n".join(line for measure in MEASURES for line in [*table(found, measure), ""]))
    if args.json:
        Path(args.json).write_text(json.dumps({"found": found, "options": told(args)}, indent=1) + "\n")


def arguments() -> argparse.ArgumentParser:
    """Return the parser of the options."""
    return options(
        __doc__, size=32, num_real=64, num_generated=1024, num_test=512, alphas=[0.0, 0.5, 1.0], steps=200,
        batch_rows=32, noise_sigma=2.0, generator="image_vae", generator_core_s=120.0,
        folder=Path("build/mixed_classifier"),
    )  # fmt: skip


def experiment(args: argparse.Namespace) -> dict[float, list[Measured]]:
    """Measure all classifiers, seed by seed for each alpha; those that are kept from an earlier run among them."""
    real, test = (
        centred(num, args.size, seed)
        for num, seed in ((args.num_real, REAL_SEED), (args.num_test, TEST_SEED))
    )
    made = generated(args, real)
    return {
        alpha: [kept_measures(args, alpha, seed, real, made, test) for seed in range(args.seeds)]
        for alpha in args.alphas
    }


def centred(num: int, size: int, seed: int) -> Set:
    """Draw galaxies of the Sersic set, all in the middle."""
    parameters = draw_parameters(num, torch.Generator().manual_seed(seed))
    parameters[:, :2] = 0
    return render_batch(parameters, size).flatten(1).numpy(), parameters[:, INDEX].numpy()


def generated(args: argparse.Namespace, real: Set) -> Set:
    """Images of a generator that was told the index and has seen the real ones alone."""
    settings = told(args, "generator", "num_generated", "size") | {"seed": MORE_SEED}
    if args.generator == "truth":
        draw = partial(centred, args.num_generated, args.size, MORE_SEED)
        kept = kept_arrays(args.folder, "truth", settings, lambda: dict(zip(NAMES, draw(), strict=True)))
        return kept["image"], kept["index"]
    names = ("generator", "generator_preset", "generator_core_s", "size", "num_real")
    learns = told(args, *names) | {"preset": preset(args.generator, args.generator_preset)}
    checkpoint = kept_checkpoint(args.folder, args.generator, learns, partial(learned, args, real))
    settings |= {"trained": checkpoint.id}
    kept = kept_arrays(args.folder, "samples", settings, partial(sampled, args, checkpoint))
    return kept["image"], kept["index"]


def learned(args: argparse.Namespace, real: Set) -> Checkpoint:
    """Train a generator that is told the index."""
    began, (low, high) = time.perf_counter(), RANGES["sersic_n"]
    conditions = {"conditions": ("sersic_n",), "condition_low": (low,), "condition_high": (high,)}
    images, index = real
    held_out = CHECK_ROWS // 4
    model = trained(
        args.generator, preset(args.generator, args.generator_preset) | settings_for(args.size, **conditions),
        batches_of(images[held_out:], 32, sersic_n=index[held_out:]),
        {"image": images[:held_out], "sersic_n": index[:held_out]}, CPU, core_s=args.generator_core_s,
    )  # fmt: skip
    print(f"{args.generator}: {model.steps} steps, {time.perf_counter() - began:.0f} s", flush=True)
    return model.checkpoint


def sampled(args: argparse.Namespace, checkpoint: Checkpoint) -> dict[str, np.ndarray]:
    """Draw images for indices over the whole range."""
    wanted = np.random.default_rng(MORE_SEED).uniform(*RANGES["sersic_n"], args.num_generated)
    made = sampler_of(checkpoint, CPU).sample(np.arange(args.num_generated), wanted[:, None])["image"]
    return {"image": np.maximum(made, 0), "index": wanted}


def kept_measures(
    args: argparse.Namespace, alpha: float, seed: int, real: Set, made: Set, test: Set
) -> Measured:
    """Measures of one classifier, from an earlier run with the same settings if there was one."""
    names = ("steps", "batch_rows", "num_real", "num_test", "size", "noise_sigma")
    settings = told(args, *names) | {
        "alpha": alpha, "seed": seed, "made": [content_of(one) for one in made if alpha], "shifts": SHIFTS,
        "classifier": asdict(classifier_config(args)), "measures": MEASURES,
    }  # fmt: skip
    make = partial(trained_and_measured, args, alpha, seed, real, made, test)
    return kept_numbers(args.folder, f"measures-{alpha:g}-{seed}", settings, make)


def trained_and_measured(
    args: argparse.Namespace, alpha: float, seed: int, real: Set, made: Set, test: Set
) -> Measured:
    """Train a classifier, and measure it under each shift."""
    config, began = classifier_config(args), time.perf_counter()
    task = DiskClassifierTask(config, seed)
    task.start(CPU, args.steps)
    for step, batch in enumerate(mixed(args, alpha, seed, labelled(*real), labelled(*made))):
        task.step(observed(args, batch["image"], batch["label"], [seed, step]), step)
    label = (test[1] < BOUNDARY).astype(np.int8)
    judged = {
        name: task.evaluate(observed(args, test[0], label, [TEST_SEED, n], *shift))
        for n, (name, shift) in enumerate(SHIFTS.items())
    }
    found = {measure: {name: one[measure] for name, one in judged.items()} for measure in MEASURES}
    shown = "  ".join(f"{name} {value:.3f}" for name, value in found["auroc"].items())
    print(f"alpha {alpha:g} seed {seed}: AUROC {shown}  ({time.perf_counter() - began:.0f} s)", flush=True)
    return found


def classifier_config(args: argparse.Namespace) -> DiskClassifierConfig:
    """Plain network for small images."""
    return DiskClassifierConfig(
        size=args.size,
        network_pixels=17,
        fields=(2, 3, 4),
        halvings=(1, 2),
        architecture="plain",
        dropout=0.0,
    )


def labelled(images: np.ndarray, index: np.ndarray) -> pa.Table:
    """Images with their class, as they are staged."""
    return pa.table({"image": list_array(images), "label": (index < BOUNDARY).astype(np.int8)})


def observed(
    args: argparse.Namespace,
    images: np.ndarray,
    label: np.ndarray,
    seed: list[int],
    binned: int = 1,
    factor: float = 1.0,
) -> dict[str, np.ndarray]:
    """Cutouts as the classifier takes them: the same galaxy in all bands, each with noise of its own."""
    rows, sigma = len(images), factor * args.noise_sigma
    images = coarser(images.reshape(rows, args.size, args.size), binned).reshape(rows, 1, -1)
    noise = np.random.default_rng(seed).normal(0, sigma, (rows, len(BANDS), images.shape[2]))
    science = (images / UNIT + noise).astype(np.float32).reshape(rows, -1)
    place = np.full(rows, -0.5, np.float32)  # between the four pixels of the middle
    scale = np.full(rows, binned * 10.24 / args.size, np.float32)
    return {
        "science": science, "error": np.full_like(science, sigma), "mask": np.zeros_like(science, bool),
        "dx": place, "dy": place, "pixel_scale": scale, "label": label,
    }  # fmt: skip


def coarser(images: np.ndarray, binned: int) -> np.ndarray:
    """Make pixels of [N, S, S] `binned` times as large, in the middle of as many; beyond the field nothing is."""
    rows, size, _ = images.shape
    small = images.reshape(rows, size // binned, binned, size // binned, binned).mean((2, 4))
    edge = (size - size // binned) // 2
    return np.pad(small, ((0, 0), (edge, edge), (edge, edge)))


def table(found: dict[float, list[Measured]], measure: str) -> list[str]:
    """Format a measure at alpha = 0, and differences of the others from it."""
    others = [alpha for alpha in found if alpha]
    lines = [f"{measure:12}{'alpha 0':>10}" + "".join(f"{f'alpha {alpha:g}':>20}" for alpha in others)]
    for name in SHIFTS:
        base, *rest = (np.array([one[measure][name] for one in found[alpha]]) for alpha in [0.0, *others])
        gains = [mean_of(values - base) for values in rest]
        cells = (f"{gain.mean:+.3f} +- {gain.half:.3f}" for gain in gains)
        lines.append(f"{name:12}{base.mean():10.3f}" + "".join(f"{cell:>20}" for cell in cells))
    return lines


if __name__ == "__main__":
    main()
