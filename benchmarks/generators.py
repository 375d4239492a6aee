"""Every family of generators, trained for the same time on one Sersic set: distances, coverage and speed in one table.

    python -m benchmarks.generators [--core-s 7200] [--size 64] [--num 1000] [--families image_flow ...] [--folder DIR]

A family learns from `--num-train` images for `--core-s` seconds of CPU cores (7,200: an hour of 2 cores); the weights are
kept whose samples are nearest to held-out images by `models.generators.distances`, not those that look best. Distances
are those of `models.evaluation` between `--num` samples and as many real images that were not trained on, x 0.01 as
published, with intervals of 95 % by bootstrap; the floor is between two real sets of the same size, and no generator can
be told from the real set below it. `nearer` is the probability that a sample is nearer to a training image than a real
held-out image is (0.5: no copies); without `--num-train` there is nothing to copy. Samples that are not finite or
constant are left out of all of it and counted (`unusable`); `kept` is the share of all images that distances of
morphology are of, without those that have no measure or are outside of the published cuts. Morphology takes about 0.3 s
of a core an image of 64 pixels: 1,000 images of six sets a quarter of an hour on 2 cores. What is found is kept in
`--folder`, by all settings that change it: a rerun goes on, and one with other settings trains and measures anew. Give `--device` too where samples of a GPU are measured on another machine.

On a GPU at the published size, with training images drawn there:

    python -m benchmarks.generators --size 256 --preset published256 --num-train 0 --device cuda --families image_flow

How few steps of the solver do, of the flow that an earlier line of the same settings has left in `--folder`:

    python -m benchmarks.generators --families image_flow --solver-steps 2 4 8 16
"""

import argparse
import json
import os
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.keeping import Arrays, content_of, kept_arrays, kept_checkpoint
from benchmarks.measuring import MEASURED_AS, Mapper, mapper, measured_of, measures_of, or_none, tell
from benchmarks.sersic_generators import (
    SOFTENING,
    batches_of,
    core_seconds,
    drawn_anew,
    pieces,
    preset,
    sampler_of,
    sersic_images,
    settings_for,
    trained,
)
from engine.checkpoint import Checkpoint
from engine.images.measures import usable
from engine.images.morphology import PUBLISHED
from engine.images.nearest import NearestConfig, features, nearest
from models.evaluation.table import SetMeasures, TableConfig
from models.evaluation.verdict import (
    KEPT,
    NEARER,
    UNITS,
    UNUSABLE,
    Value,
    label,
    nearness,
    shown,
    takers,
    verdict,
)

FLOW = "image_flow"
FAMILIES = ("image_vae", "image_alae", "image_stylegan", FLOW)
REAL_SEED, FLOOR_SEED, TRAIN_SEED, CHECK_SEED = 1, 2, 3, 4
NUM_CHECKED = 128
"""Held-out images that the best weights are chosen by."""
POOLED = NearestConfig(softening=SOFTENING)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--core-s", type=float, default=7200.0, help="of training, for each family")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch-rows", type=int, default=32)
    parser.add_argument(
        "--num-train",
        type=int,
        default=8192,
        help="images that a family learns from; 0: new ones in each step",
    )
    parser.add_argument("--preset", default="cpu64", choices=("tiny", "cpu64", "published256"))
    parser.add_argument("--num", type=int, default=1000, help="images of each set that is measured")
    parser.add_argument("--families", nargs="+", default=list(FAMILIES), choices=FAMILIES)
    parser.add_argument(
        "--solver-steps", type=int, nargs="+", default=[], help="draw from the flow with each number, too"
    )
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes that measure")
    parser.add_argument("--pool", action="store_true", help="measure without Ray")
    parser.add_argument("--num-threads", type=int, default=0, help="of torch; 0: its own choice")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--train-only", action="store_true", help="and measure in a later run")
    parser.add_argument("--folder", type=Path, default=Path("build/generators"))
    parser.add_argument("--json", default="", help="write the numbers here too")
    args = parser.parse_args()
    torch.set_num_threads(args.num_threads or torch.get_num_threads())
    args.folder.mkdir(parents=True, exist_ok=True)
    made = {name: samples(args, name) for name in args.families}
    made |= {f"{FLOW}-{steps}": samples(args, FLOW, steps) for steps in args.solver_steps}
    if not args.train_only:
        rows = judged(args, made)
        print("\n".join(table(rows)))
        if args.json:
            Path(args.json).write_text(json.dumps(rows, indent=1) + "\n")


def settings_of(args: argparse.Namespace, family: str) -> dict[str, Any]:
    """All that changes what a family learns."""
    names = ("core_s", "size", "batch_rows", "num_train", "device")
    told = {"family": family, "preset": preset(family, args.preset), "judged_at_once": NUM_CHECKED}
    return told | {name: getattr(args, name) for name in names}


def training_set(args: argparse.Namespace) -> np.ndarray:
    """Images [N, S * S] that families learn from."""
    settings = {"num_train": args.num_train, "size": args.size, "seed": TRAIN_SEED}
    draw = partial(sersic_images, args.num_train, args.size, TRAIN_SEED)
    return kept_arrays(args.folder, "train", settings, lambda: {"image": draw()})["image"]


def samples(args: argparse.Namespace, family: str, steps: int = 0) -> Arrays:
    """Images of a trained family, and numbers on its training; `steps` of the flow's solver, 0: its own number."""
    settings = settings_of(args, family)
    checkpoint = kept_checkpoint(args.folder, family, settings, partial(learned, args, family))
    settings |= {"num": args.num}
    if steps:
        checkpoint = replace(checkpoint, config={**checkpoint.config, "steps": steps})
        settings |= {"steps": steps}
    return kept_arrays(args.folder, family, settings, partial(sampled, args, checkpoint))


def learned(args: argparse.Namespace, family: str) -> Checkpoint:
    """Train a family, and say how far it came."""
    device, began = torch.device(args.device), time.perf_counter()
    images = (
        batches_of(training_set(args), args.batch_rows)
        if args.num_train
        else drawn_anew(args.batch_rows, args.size, device)
    )
    settings = preset(family, args.preset) | settings_for(args.size)
    held_out = {"image": sersic_images(NUM_CHECKED, args.size, CHECK_SEED)}
    made = trained(family, settings, images, held_out, device, core_s=args.core_s)
    checkpoint, seconds = made.checkpoint, time.perf_counter() - began
    checks = "  ".join("{step}: {distance:.3f}".format_map(check) for check in checkpoint.history)
    print(f"{family}: {made.steps} steps in {seconds:.0f} s")
    print(f"  distance after steps {checks}; kept {checkpoint.metrics['best_step']}", flush=True)
    return checkpoint


def sampled(args: argparse.Namespace, checkpoint: Checkpoint) -> Arrays:
    """Draw from a trained family; say how fast that is."""
    device = torch.device(args.device)
    sampler, start = sampler_of(checkpoint, device), core_seconds(device)
    image = sampler.sample(np.arange(args.num))["image"]
    rate = args.num / (core_seconds(device) - start)
    print(f"{checkpoint.model}: {rate:.1f} samples a core and second", flush=True)
    facts = {name: np.array(checkpoint.metrics[name]) for name in ("steps", "best_step")}
    return {"image": image, "samples_per_core_s": np.array(rate)} | facts


def judged(args: argparse.Namespace, made: dict[str, Arrays]) -> dict[str, dict[str, Value]]:
    """Verdicts by family, and before them how much of the real set takes part, and the floor."""
    drawn = {"real": sersic_images(args.num, args.size, REAL_SEED)}
    drawn |= {"floor": sersic_images(args.num, args.size, FLOOR_SEED)}
    drawn |= {name: one["image"] for name, one in made.items()}
    sets = {name: images[usable(_square(images, args.size))] for name, images in drawn.items()}
    left_out = {name: len(images) - len(sets[name]) for name, images in drawn.items()}
    with mapper(args.workers, not args.pool) as mapped:
        measured = {
            name: measures(args, mapped, name, images, left_out[name]) for name, images in sets.items()
        }
    rows = {}
    for name in sets:
        rows[name] = takers(measured[name], args.size)
        if name != "real":
            rows[name] |= compared(args, measured, sets, name) | training_facts(made.get(name, {}))
    return rows


def compared(
    args: argparse.Namespace, measured: dict[str, SetMeasures], sets: dict[str, np.ndarray], name: str
) -> dict[str, Value]:
    """Distances of a set from the real one, and whether it has copies; what cannot be measured is left out and told."""
    pair = [_square(sets[one], args.size) for one in ("real", name)]
    ours, theirs = measured["real"], measured[name]

    def distances() -> dict[str, Value]:
        pooled = features(pair[0], POOLED), features(pair[1], POOLED)
        return measured_of(name, verdict(ours, theirs, pooled, TableConfig(size=args.size)))

    def copies() -> dict[str, Value]:
        return {NEARER: nearness(_nearest(args, sets[name]), _nearest(args, sets["real"]))}

    row = or_none(distances, f"distances of {name}")
    return row | (or_none(copies, f"look for copies by {name}") if args.num_train else {})


def training_facts(made: Arrays) -> dict[str, Value]:
    """Numbers on the training of a family; nothing of the floor."""
    names = ("steps", "best_step", "samples_per_core_s")
    return {name: Value(float(made[name])) for name in names if name in made}


def measures(
    args: argparse.Namespace, mapped: Mapper, name: str, images: np.ndarray, num_unusable: int = 0
) -> SetMeasures:
    """Morphology and spectra of usable images, kept in the folder by what they are; failures are told each time."""

    def make() -> Arrays:
        found = measures_of(pieces(images, args.size), PUBLISHED["sersic"], mapped, name)
        return {"spectra": found.spectra} | dict(found.morphology)

    settings = MEASURED_AS | {"images": content_of(images), "size": args.size}
    settings |= PUBLISHED["sersic"].model_dump()
    arrays = (
        kept_arrays(args.folder, f"measured-{name}", settings, make) if len(images) else {"spectra": images}
    )
    found = SetMeasures(
        {key: arrays[key] for key in arrays if key != "spectra"}, arrays["spectra"], num_unusable
    )
    tell(name, found, args.size)
    return found


def _nearest(args: argparse.Namespace, images: np.ndarray) -> np.ndarray:
    reference = features(_square(training_set(args), args.size), POOLED)
    return nearest(_square(images, args.size), reference, POOLED)[0]


def _square(images: np.ndarray, size: int) -> np.ndarray:
    return images.reshape(-1, 1, size, size)


def table(rows: dict[str, dict[str, Value]]) -> list[str]:
    """Format distances by family in hundredths, the average with its interval; the rest as it is."""
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    plain = (*UNITS, NEARER, KEPT, UNUSABLE, "steps", "best_step", "samples_per_core_s")
    head = f"{'x 0.01':30}" + "".join(f"{name.removeprefix('image_'):>26}" for name in rows)
    lines = [head]
    for name in names:
        cells = (
            shown(row[name], 1.0 if name in plain else 100.0) if name in row else "-" for row in rows.values()
        )
        lines.append(f"{label(name):30}" + "".join(f"{cell:>26}" for cell in cells))
    return lines


if __name__ == "__main__":
    main()
