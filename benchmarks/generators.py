"""Every family of generators, trained for the same time on Sersic images drawn on the fly: their distances in one table.

    python -m benchmarks.generators [--seconds 900] [--size 64] [--num 1000] [--families image_flow image_vae ...] [--json FILE]

Training draws new galaxies in every step, so nothing can be memorised. Distances are those of `models.evaluation`
between `--num` samples and as many real images that were not trained on, x 0.01 as published; the floor is between two real
sets of the same size, and no generator can be told from the real set below it. Morphology takes about 0.3 s an image
of 64 pixels and process: 1,000 images of six sets half an hour on 2 cores.
"""

import argparse
import json
import os
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks.generator_metrics import measures_of
from benchmarks.sersic_generators import fresh_images, pieces, sersic_images, settings_for, trained
from engine.images.morphology import PUBLISHED
from models.evaluation.table import SetMeasures, TableConfig, compare

FAMILIES = ("image_vae", "image_alae", "image_stylegan", "image_flow")
REAL_SEED, FLOOR_SEED = 1, 2


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=900.0, help="of training, for each family")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch-rows", type=int, default=32)
    parser.add_argument("--num", type=int, default=1000, help="images of each set that is measured")
    parser.add_argument("--families", nargs="+", default=list(FAMILIES), choices=FAMILIES)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes that measure")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", default="", help="write the numbers here too")
    args = parser.parse_args()
    samples = {"floor": sersic_images(args.num, args.size, FLOOR_SEED)}
    samples |= {family: sampled(args, family) for family in args.families}
    real = measured(args, "real", sersic_images(args.num, args.size, REAL_SEED))
    config = TableConfig(size=args.size)
    rows = {name: distances(real, measured(args, name, images), config) for name, images in samples.items()}
    print("\n".join(table(rows)))
    if args.json:
        Path(args.json).write_text(json.dumps(rows, indent=1) + "\n")


def sampled(args: argparse.Namespace, family: str) -> np.ndarray:
    """Train a family, and draw from it; say how fast both are."""
    device, began = torch.device(args.device), time.perf_counter()
    settings = settings_for(args.size)
    made = trained(
        family, settings, fresh_images(args.batch_rows, args.size, device), device, budget_s=args.seconds
    )
    seconds, began = time.perf_counter() - began, time.perf_counter()
    images = made.sampler.sample(np.arange(args.num))["image"]
    rate = args.num / (time.perf_counter() - began)
    last = np.mean(made.losses[-20:])
    print(
        f"{family:16}{made.steps:7d} steps in {seconds:.0f} s, loss {last:.4g}, {rate:.1f} samples a second",
        flush=True,
    )
    return images


def measured(args: argparse.Namespace, name: str, images: np.ndarray) -> SetMeasures:
    """Morphology and power spectra of a set."""
    settings = PUBLISHED["sersic"]
    return measures_of(pieces(images, args.size), settings, args.workers, name, args.size)


def distances(real: SetMeasures, generated: SetMeasures, config: TableConfig) -> dict[str, float]:
    """Distances, or nothing where too few samples can be measured: they are no galaxies."""
    try:
        return compare(real, generated, config)
    except ValueError as error:
        print(f"no distances: {error}")
        return {}


def table(rows: dict[str, dict[str, float]]) -> list[str]:
    """Format distances by family, in hundredths."""
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    head = f"{'x 0.01':24}" + "".join(f"{name.removeprefix('image_'):>12}" for name in rows)
    body = [
        f"{name:24}"
        + "".join(f"{100 * row[name]:12.2f}" if name in row else f"{'-':>12}" for row in rows.values())
        for name in names
    ]
    return [head, *body]


if __name__ == "__main__":
    main()
