"""Does a restorer that trains on generated galaxies as well stand changes of the images better? The published experiment.

    python -m benchmarks.augmentation [--size 64] [--steps 3000] [--seeds 5] [--generator-core-s 1800] [--json FILE] [--svg FILE]
        [--folder DIR]

A generator learns from few real Sersic images; restorers learn from batches that are generated with probability alpha and
real otherwise (`engine.train.mixing`), each alpha with the same seeds. A quarter of the real images, at least 64, train
neither: they choose the weights of the generator, and, as published, those of each restorer: the validation error is taken
every 50 steps, the best weights are kept, and training ends before `--steps` after 500 looks without gain. Tests are on real
images that none has seen: as trained (none), with pixels twice as large (blurred before they are binned, as published), with
noise 5 times (as the released code) and 4 times (as its README says) as strong, and with large pixels and 5 times the noise.
Improvement is 1 - MSE(alpha) / MSE(0), the mean over seeds, each paired with its own alpha = 0, with the 95 % interval of
Student's t. Seeds are those of restorers: the interval leaves out what other real images, another training of the generator and
other test images would change. `--generator truth` takes new galaxies of the recipe for generated ones: what a perfect generator could do.

The generator's checkpoint, its samples and the errors of each alpha and seed are kept in `--folder`, by all settings that
change them: a rerun goes on where one has ended. `--checkpoint` takes a generator that is trained already, such as one of
`benchmarks.generators`; it has learned from other real images, and more of them, than the restorers.

References
----------
Holzschuh et al. (2022), MNRAS 515, 652, and its released code: 11 % for the pixels and 45 % for the noise.
"""

import argparse
import copy
import math
import time
from collections.abc import Iterable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.keeping import content_of, kept_arrays, kept_checkpoint, kept_numbers
from benchmarks.mixing import mixed, options, parsed, told
from benchmarks.sersic_generators import (
    CHECK_ROWS,
    batches_of,
    preset,
    sampler_of,
    sersic_images,
    settings_for,
    trained,
)
from catalogs.sample_robustness import Robustness, robustness_chart, robustness_rows
from engine.checkpoint import Checkpoint, load
from engine.schema import list_array
from engine.storage import Storage
from models.restorer import IMAGE, NETWORK, RestorerTask, blurred, observed
from models.restorer_config import PRESETS, RestorerConfig
from models.spec import Batch

CPU = torch.device("cpu")
UNIT = 1000.0
"""Counts of the set that count as 1 here: half the median pixel, so that noise of 4 hides the outskirts."""
REAL_SEED, TEST_SEED, MORE_SEED = 21, 22, 23
SHIFTS: dict[str, tuple[int, float]] = {
    "none": (1, 1.0), "pixels x2": (2, 1.0), "noise x5": (1, 5.0), "noise x4": (1, 4.0), "both": (2, 5.0),
}  # fmt: skip
"""Pixels a side that become one, and the factor on the noise."""
PASSES = 4
"""Evaluations with other noise, as published."""
STEPS_PER_LOOK, PATIENCE = 50, 500
"""Steps between looks at the validation error, and looks without gain that end a training, as published."""
LEAST_ROWS = 8
"""Fewest real images to learn from."""
NUM_VALIDATED = 256
"""Held-out images at most that a restorer's weights are chosen by."""


def main() -> None:
    args = parsed(arguments())
    found = experiment(args)
    print("\n".join(table(found)))
    if args.json:
        Path(args.json).write_text(found.model_dump_json(indent=1) + "\n")
    if args.svg:
        Path(args.svg).write_text(robustness_chart(found.errors, found.shifts))


def arguments() -> argparse.ArgumentParser:
    """Return the parser of the options."""
    parser = options(
        __doc__, size=64, num_real=256, num_generated=2048, num_test=256, alphas=[0.0, 0.25, 0.5, 0.75, 1.0],
        steps=3000, batch_rows=16, noise_sigma=4.0, generator="image_flow", generator_core_s=1800.0,
        folder=Path("build/augmentation"),
    )  # fmt: skip
    parser.add_argument("--preset", default="small", choices=list(PRESETS))
    parser.add_argument(
        "--generator-steps", type=int, default=0, help="0: as many as --generator-core-s allow"
    )
    parser.add_argument("--checkpoint", default="", help="a generator that is trained already")
    parser.add_argument("--svg", default="", help="draw the improvements over alpha here")
    return parser


def experiment(args: argparse.Namespace) -> Robustness:
    """Errors of all restorers, those that are kept from an earlier run among them."""
    least = CHECK_ROWS + LEAST_ROWS
    if args.num_real < least:
        raise SystemExit(
            f"--num-real {args.num_real}: at least {least}, {CHECK_ROWS} of which choose the weights"
        )
    real = sersic_images(args.num_real, args.size, REAL_SEED)
    made = generated(args, real)
    errors = {
        alpha: [kept_errors(args, alpha, seed, real, made) for seed in range(args.seeds)]
        for alpha in args.alphas
    }
    return Robustness(errors=errors, options=told(args))


def num_held_out(args: argparse.Namespace) -> int:
    """Count the real images that train nothing: 20 of the 80 % that are not tested on, as published."""
    return max(CHECK_ROWS, args.num_real // 4)


def generated(args: argparse.Namespace, real: np.ndarray) -> np.ndarray:
    """Images of the generator, clipped at 0 as published."""
    if args.generator == "truth":
        settings = told(args, "generator", "num_generated", "size") | {"seed": MORE_SEED}
        draw = partial(sersic_images, args.num_generated, args.size, MORE_SEED)
        return kept_arrays(args.folder, "truth", settings, lambda: {IMAGE: draw()})[IMAGE]
    settings = _generator_settings(args)
    checkpoint = (
        load(args.checkpoint, Storage())
        if args.checkpoint
        else kept_checkpoint(args.folder, args.generator, settings, partial(learned, args, real))
    )
    shape = tuple(checkpoint.config.get(name) for name in ("size", "num_channels"))
    if args.checkpoint and shape != (args.size, 1):
        raise SystemExit(
            f"--checkpoint makes images of (size, channels) {shape}, the experiment needs {(args.size, 1)}"
        )
    settings = settings | told(args, "num_generated") | {"trained": checkpoint.id}
    return kept_arrays(args.folder, "samples", settings, partial(sampled, args, checkpoint))[IMAGE]


def _generator_settings(args: argparse.Namespace) -> dict[str, Any]:
    """All that changes what the generator learns; of one that is trained already, where it is."""
    if args.checkpoint:
        return told(args, "checkpoint")
    names = ("generator", "generator_preset", "generator_steps", "generator_core_s", "size", "num_real")
    settings = told(args, *names) | {"judged_at_once": num_held_out(args)}
    return settings | {"preset": preset(args.generator, args.generator_preset)}


def learned(args: argparse.Namespace, real: np.ndarray) -> Checkpoint:
    """Train a generator that sees the real images alone."""
    began, held_out = time.perf_counter(), num_held_out(args)
    settings = preset(args.generator, args.generator_preset) | settings_for(args.size)
    model = trained(
        args.generator,
        settings,
        batches_of(real[held_out:], min(32, len(real) - held_out)),
        {IMAGE: real[:held_out]},
        CPU,
        args.generator_steps,
        args.generator_core_s,
    )
    print(f"{args.generator}: {model.steps} steps in {time.perf_counter() - began:.0f} s", flush=True)
    return model.checkpoint


def sampled(args: argparse.Namespace, checkpoint: Checkpoint) -> dict[str, np.ndarray]:
    """Draw the images that are mixed in."""
    image = sampler_of(checkpoint, CPU).sample(np.arange(args.num_generated))[IMAGE]
    return {IMAGE: np.maximum(image, 0)}


def kept_errors(
    args: argparse.Namespace, alpha: float, seed: int, real: np.ndarray, made: np.ndarray
) -> dict[str, float]:
    """Errors of one restorer, from an earlier run with the same settings if there was one."""
    settings = told(args, "steps", "batch_rows", "num_real", "num_test", "size") | {
        "alpha": alpha, "seed": seed, "made": content_of(made) if alpha else "", "restorer": asdict(restorer_config(args)),
        "held_out": num_held_out(args), "shifts": SHIFTS, "look": [STEPS_PER_LOOK, PATIENCE],
    }  # fmt: skip
    make = partial(errors_of, args, alpha, seed, real / UNIT, made / UNIT)
    return kept_numbers(args.folder, f"errors-{alpha:g}-{seed}", settings, make)


def errors_of(
    args: argparse.Namespace, alpha: float, seed: int, real: np.ndarray, made: np.ndarray
) -> dict[str, float]:
    """Train a restorer, and give its mean squared errors under each shift."""
    config, held_out = restorer_config(args), num_held_out(args)
    task, began = RestorerTask(config, seed), time.perf_counter()
    task.start(CPU, args.steps)
    sets = (pa.table({IMAGE: list_array(images.astype(np.float32))}) for images in (real[held_out:], made))
    validation = {IMAGE: real[:held_out][:NUM_VALIDATED]}
    best, steps = fitted(task, mixed(args, alpha, seed, *sets), validation, args.steps)
    test = torch.from_numpy(sersic_images(args.num_test, args.size, TEST_SEED) / UNIT)
    found = {name: error(config, task, test, *shift) for name, shift in SHIFTS.items()}
    shown = "  ".join(f"{name} {value:.4g}" for name, value in found.items())
    seconds = time.perf_counter() - began
    print(f"alpha {alpha:g} seed {seed}: MSE {shown}  (best of {steps}: {best}; {seconds:.0f} s)", flush=True)
    return found


def fitted(task: RestorerTask, batches: Iterable[Batch], validation: Batch, steps: int) -> tuple[int, int]:
    """Train until validation images gain nothing for long; leave the best weights.

    Parameters
    ----------
    task
        Started; the noise on validation images is the same at each look.
    batches
        As many as `steps`.
    validation
        Images that it does not learn from.
    steps
        At most.

    Returns
    -------
    tuple of int
        Step after which the weights were best, and the steps that were made.
    """
    network, least, best, looks, step = task.modules[NETWORK], math.inf, 0, 0, 0
    weights = copy.deepcopy(network.state_dict())
    for step, batch in enumerate(batches, 1):
        task.step(batch, step - 1)
        if step % STEPS_PER_LOOK and step != steps:
            continue
        loss, looks = task.evaluate(validation)["loss"], looks + 1
        if loss < least:
            least, best, weights, looks = loss, step, copy.deepcopy(network.state_dict()), 0
        if looks == PATIENCE:
            break
    network.load_state_dict(weights)
    return best, step


def restorer_config(args: argparse.Namespace) -> RestorerConfig:
    """Network for one band; its steps of the learning rate are spread over the training."""
    return replace(
        PRESETS[args.preset], size=args.size, num_channels=1, noise_sigma=args.noise_sigma,
        scale=4 * args.noise_sigma, learning_rate_steps=max(1, args.steps // 12),
    )  # fmt: skip


def error(config: RestorerConfig, task: RestorerTask, test: Tensor, binned: int, noise: float) -> float:
    """Mean squared error over test images whose pixels and noise are changed.

    The blur is that of the pixels as trained; larger pixels then average it, and noise is added to them.
    """
    images = test.view(-1, 1, config.size, config.size)
    seen = blurred(images, config.psf_sigma_px, config.psf_size_px)
    pairs = list(zip(*(functional.avg_pool2d(one, binned).split(32) for one in (images, seen)), strict=True))
    noisy = replace(config, noise_sigma=noise * config.noise_sigma, psf_sigma_px=0.0)
    with torch.inference_mode():
        parts = [
            (task.modules[NETWORK](observed(noisy, blurry, 100 * number + index)) - truth)
            .square()
            .mean((1, 2, 3))
            for number in range(PASSES)
            for index, (truth, blurry) in enumerate(pairs)
        ]
    return float(torch.cat(parts).mean())


def table(found: Robustness) -> list[str]:
    """Format MSE at alpha = 0, and improvements with their intervals, by shift."""
    others = sorted(alpha for alpha in found.errors if alpha)
    lines = [f"{'shift':12}{'MSE(0)':>12}" + "".join(f"{f'alpha {alpha:g}':>20}" for alpha in others)]
    for shift, base, gains in robustness_rows(found):
        cells = (f"{100 * gain.mean:+.1f} % +- {100 * gain.half:.1f}" for gain in gains)
        lines.append(f"{shift:12}{base:12.4g}" + "".join(f"{cell:>20}" for cell in cells))
    return lines


if __name__ == "__main__":
    main()
