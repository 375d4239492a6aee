"""Does a restorer that trains on generated galaxies as well stand changes of the images better? The published experiment.

    python -m benchmarks.augmentation [--size 64] [--steps 3000] [--seeds 5] [--generator-core-s 1800] [--json FILE] [--svg FILE]

A generator learns from few real Sersic images; restorers learn from batches that are generated with probability alpha and
real otherwise (`engine.train.mixing`), each alpha with the same seeds. Tests are on real images that neither has seen: as
trained (none), with pixels twice as large, with noise 5 times (as the released code) and 4 times (as its README says) as
strong, and with large pixels and 5 times the noise. Improvement is 1 - MSE(alpha) / MSE(0), the mean over seeds, each
paired with its own alpha = 0, with the 95 % interval of Student's t. `--generator truth` takes new galaxies of the recipe
for generated ones: what a perfect generator could do.

References
----------
Holzschuh et al. (2022), MNRAS 515, 652, and its released code: 11 % for the pixels and 45 % for the noise.
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.mixing import mixed, options, parsed
from benchmarks.sersic_generators import CHECK_ROWS, batches_of, sersic_images, settings_for, trained
from catalogs.sample_robustness import Robustness, robustness_chart, robustness_rows
from engine.schema import list_array
from models.restorer import RestorerTask, observed
from models.restorer_config import PRESETS, RestorerConfig

CPU = torch.device("cpu")
UNIT = 1000.0
"""Counts of the set that count as 1 here: half the median pixel, so that noise of 4 hides the outskirts."""
REAL_SEED, TEST_SEED, MORE_SEED = 21, 22, 23
SHIFTS: dict[str, tuple[int, float]] = {
    "none": (1, 1.0), "pixels x2": (2, 1.0), "noise x5": (1, 5.0), "noise x4": (1, 4.0), "both": (2, 5.0),
}  # fmt: skip
"""Pixels that become one, and the factor on the noise."""
PASSES = 4
"""Evaluations with other noise, as published."""


def main() -> None:
    parser = options(
        __doc__, size=64, num_real=256, num_generated=2048, num_test=256, alphas=[0.0, 0.25, 0.5, 0.75, 1.0],
        steps=3000, batch_rows=16, noise_sigma=4.0, generator="image_flow", generator_core_s=1800.0,
    )  # fmt: skip
    parser.add_argument("--preset", default="small", choices=list(PRESETS))
    parser.add_argument(
        "--generator-steps", type=int, default=0, help="0: as many as --generator-core-s allow"
    )
    parser.add_argument("--svg", default="", help="draw the improvements over alpha here")
    args = parsed(parser)
    real = sersic_images(args.num_real, args.size, REAL_SEED)
    made = generated(args, real)
    test = torch.from_numpy(sersic_images(args.num_test, args.size, TEST_SEED) / UNIT)
    errors = {
        alpha: [errors_of(args, alpha, seed, real / UNIT, made / UNIT, test) for seed in range(args.seeds)]
        for alpha in args.alphas
    }
    found = Robustness(errors=errors, options=vars(args))
    print("\n".join(table(found)))
    if args.json:
        Path(args.json).write_text(found.model_dump_json(indent=1) + "\n")
    if args.svg:
        Path(args.svg).write_text(robustness_chart(found.errors, found.shifts))


def generated(args: argparse.Namespace, real: np.ndarray) -> np.ndarray:
    """Images of a generator that has seen the real ones alone, clipped at 0 as published."""
    if args.generator == "truth":
        return sersic_images(args.num_generated, args.size, MORE_SEED)
    began, held_out = time.perf_counter(), max(CHECK_ROWS, len(real) // 5)
    if len(real) < 2 * CHECK_ROWS:
        raise SystemExit(
            f"--num-real {len(real)}: at least {2 * CHECK_ROWS}, half of which choose the weights"
        )
    images = batches_of(real[held_out:], min(32, len(real) - held_out))
    settings = settings_for(args.size)
    model = trained(
        args.generator,
        settings,
        images,
        {"image": real[:held_out]},
        CPU,
        args.generator_steps,
        args.generator_core_s,
    )
    made = np.maximum(model.sampler(CPU).sample(np.arange(args.num_generated))["image"], 0)
    print(
        f"{args.generator}: {model.steps} steps and {len(made)} samples in {time.perf_counter() - began:.0f} s",
        flush=True,
    )
    return made


def errors_of(
    args: argparse.Namespace, alpha: float, seed: int, real: np.ndarray, made: np.ndarray, test: Tensor
) -> dict[str, float]:
    """Mean squared errors of a restorer under each shift."""
    config = restorer_config(args)
    task, began = RestorerTask(config, seed), time.perf_counter()
    task.start(CPU, args.steps)
    sets = (pa.table({"image": list_array(images.astype(np.float32))}) for images in (real, made))
    for step, batch in enumerate(mixed(args, alpha, seed, *sets)):
        task.step(batch, step)
    found = {name: error(config, task, test, *shift) for name, shift in SHIFTS.items()}
    shown = "  ".join(f"{name} {value:.4g}" for name, value in found.items())
    print(f"alpha {alpha:g} seed {seed}: MSE {shown}  ({time.perf_counter() - began:.0f} s)", flush=True)
    return found


def restorer_config(args: argparse.Namespace) -> RestorerConfig:
    """Network for one band; its steps of the learning rate are spread over the training."""
    return replace(
        PRESETS[args.preset], size=args.size, num_channels=1, noise_sigma=args.noise_sigma,
        scale=4 * args.noise_sigma, learning_rate_steps=max(1, args.steps // 12),
    )  # fmt: skip


def error(config: RestorerConfig, task: RestorerTask, test: Tensor, binned: int, noise: float) -> float:
    """Mean squared error over test images whose pixels and noise are changed."""
    images = functional.avg_pool2d(test.view(-1, 1, config.size, config.size), binned)
    shown = replace(config, noise_sigma=noise * config.noise_sigma)
    with torch.inference_mode():
        parts = [
            (task.modules["restorer"](observed(shown, part, 100 * number + index)) - part)
            .square()
            .mean((1, 2, 3))
            for number in range(PASSES)
            for index, part in enumerate(images.split(32))
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
