"""Does a generator draw what it is asked for? Half-light radius and Sersic index, asked against measured.

    python -m benchmarks.conditions [--core-s 240] [--num 100] [--generator image_flow] [--json FILE] [--folder DIR]

A generator learns Sersic images of 32 pixels with both parameters as its conditions, and is asked for values drawn evenly
from their ranges. Its images are measured by statmorph (`rhalf_circ`, `sersic_n`), and so are real ones with the very
same parameters: what measuring itself loses is in the row `real`, and what the generator loses is the difference. Printed
for each: correlation of measured with asked with its interval of 95 % (Fisher's z), median of measured - asked (bias) with
its standard error, scatter about it, and how many images could be measured. All is seeded. A minute of a core measures
about a hundred images; checkpoint, samples and measures are kept in `--folder`, by the settings that change them. Without
training (`--core-s 0` is one step) correlations are those of chance.
"""

import argparse
import json
import time
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from scipy.stats import median_abs_deviation, pearsonr

from benchmarks.keeping import Arrays, content_of, kept_arrays, kept_checkpoint
from benchmarks.measuring import MEASURED_AS
from benchmarks.sersic_generators import CHECK_ROWS, batches_of, preset, sampler_of, settings_for, trained
from engine.checkpoint import Checkpoint
from engine.images.morphology import PUBLISHED, measure
from engine.synthetic.sersic_render import RANGES, pixel_arcsec
from engine.synthetic.sersic_torch import draw_parameters, render_batch

CPU = torch.device("cpu")
ASKED = ("half_light_radius_arcsec", "sersic_n")
COLUMNS = [list(RANGES).index(name) for name in ASKED]
MEASURED = ("rhalf_circ", "sersic_n")
TRAIN_SEED, ASKED_SEED = 51, 52
HELD_OUT = 2 * CHECK_ROWS


class Agreement(NamedTuple):
    """How measured values follow those that were asked for."""

    correlation: float
    low: float
    high: float
    bias: float
    bias_error: float
    scatter: float
    num: int


def main() -> None:
    args = arguments().parse_args()
    torch.set_num_threads(args.num_threads)
    args.folder.mkdir(parents=True, exist_ok=True)
    found = experiment(args)
    print("\n".join(table(found)))
    if args.json:
        rows = {name: {key: one._asdict() for key, one in row.items()} for name, row in found.items()}
        Path(args.json).write_text(json.dumps(rows, indent=1) + "\n")


def arguments() -> argparse.ArgumentParser:
    """Return the parser of the options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--num-train", type=int, default=4096, help="images that there are to learn from")
    parser.add_argument("--num", type=int, default=100, help="images that are asked for and measured")
    parser.add_argument("--core-s", type=float, default=240.0, help="of training, seconds of CPU cores")
    parser.add_argument("--generator", default="image_flow")
    parser.add_argument("--generator-preset", default="cpu64", help="settings of the family")
    parser.add_argument("--num-threads", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=Path("build/conditions"))
    parser.add_argument("--json", default="", help="write the numbers here too")
    return parser


def experiment(args: argparse.Namespace) -> dict[str, dict[str, Agreement]]:
    """Agreement of each condition, of real images and of those of the generator."""
    images, parameters = drawn(args.num, args.size, ASKED_SEED)
    names = ("generator", "generator_preset", "core_s", "size", "num_train")
    settings = {name: getattr(args, name) for name in names} | {"seed": TRAIN_SEED}
    checkpoint = kept_checkpoint(args.folder, args.generator, settings, partial(learned, args))
    sets = {"real": images, args.generator: sampled(args, checkpoint, parameters)}
    return {name: agreements(args, name, made, parameters) for name, made in sets.items()}


def drawn(num: int, size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw images [N, S * S] of the Sersic set, and of their parameters those of `ASKED` [N, 2]."""
    parameters = draw_parameters(num, torch.Generator().manual_seed(seed))
    return render_batch(parameters, size).flatten(1).numpy(), parameters[:, COLUMNS].numpy()


def learned(args: argparse.Namespace) -> Checkpoint:
    """Train a generator that is told both parameters."""
    began, (low, high) = time.perf_counter(), zip(*(RANGES[name] for name in ASKED), strict=True)
    told = {"conditions": ASKED, "condition_low": low, "condition_high": high}
    images, asked = drawn(args.num_train + HELD_OUT, args.size, TRAIN_SEED)
    columns = dict(zip(ASKED, asked.T, strict=True))
    model = trained(
        args.generator, preset(args.generator, args.generator_preset) | settings_for(args.size, **told),
        batches_of(images[HELD_OUT:], 32, **{name: values[HELD_OUT:] for name, values in columns.items()}),
        {"image": images[:HELD_OUT]} | {name: values[:HELD_OUT] for name, values in columns.items()},
        CPU, core_s=args.core_s,
    )  # fmt: skip
    print(f"{args.generator}: {model.steps} steps, {time.perf_counter() - began:.0f} s", flush=True)
    return model.checkpoint


def sampled(args: argparse.Namespace, checkpoint: Checkpoint, asked: np.ndarray) -> np.ndarray:
    """Images of the generator that was asked for these parameters."""
    return sampler_of(checkpoint, CPU).sample(np.arange(args.num), asked)["image"]


def agreements(
    args: argparse.Namespace, name: str, images: np.ndarray, asked: np.ndarray
) -> dict[str, Agreement]:
    """Compare what is measured of images with what was asked for; measures are kept by what the images are."""
    square, published = images.reshape(-1, args.size, args.size), PUBLISHED["sersic"]

    def make() -> Arrays:
        found = measure(square, range(len(square)), published)
        return {key: found[key] for key in MEASURED}

    settings = MEASURED_AS | published.model_dump() | {"images": content_of(images), "size": args.size}
    found = kept_arrays(args.folder, f"measured-{name}", settings, make)
    units = (pixel_arcsec(args.size), 1.0)
    return {ASKED[n]: agreement(asked[:, n], found[MEASURED[n]] * unit) for n, unit in enumerate(units)}


def agreement(asked: np.ndarray, measured: np.ndarray) -> Agreement:
    """Correlation, bias and scatter of measured values [N]; those that are not finite are left out."""
    good = np.isfinite(measured)
    asked, measured = asked[good], measured[good]
    num, nothing = len(asked), float("nan")
    if num < 4 or measured.std() == 0:
        return Agreement(nothing, nothing, nothing, nothing, nothing, nothing, num)
    found, error = pearsonr(asked, measured), measured - asked
    low, high = found.confidence_interval(0.95)
    scatter = float(median_abs_deviation(error, scale="normal"))
    bias_error = 1.2533 * scatter / np.sqrt(num)
    return Agreement(
        float(found.statistic), float(low), float(high), float(np.median(error)), bias_error, scatter, num
    )


def table(found: dict[str, dict[str, Agreement]]) -> list[str]:
    """Format one line for each set and condition."""
    lines = [f"{'set':16}{'condition':26}{'correlation':>24}{'bias':>20}{'scatter':>10}{'images':>8}"]
    for name, row in found.items():
        for condition, one in row.items():
            correlation = f"{one.correlation:.3f} [{one.low:.3f}, {one.high:.3f}]"
            bias = f"{one.bias:+.3f} +- {one.bias_error:.3f}"
            lines.append(
                f"{name:16}{condition:26}{correlation:>24}{bias:>20}{one.scatter:>10.3f}{one.num:>8}"
            )
    return lines


if __name__ == "__main__":
    main()
