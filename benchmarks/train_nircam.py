"""Train the band GAN that comes with the project on synthetic NIRCam cutouts, without Ray and without mosaics.

    python -m benchmarks.train_nircam

Run it again after an interruption: it goes on from its last state. Cutouts are drawn once (--pool), each pass over
them sees other noise. The network trains on cutouts of --train-size pixels and is fitted, and used, at the size of
`nircam.toml`: it is convolutional. Writes the checkpoint with float16 weights and with scores calibrated on the
rounded weights. `--l1-only` makes the ablation without discriminator; `--ero-fraction 0.02` trains with extremely red
objects among the others, as a survey has them; `--start-from URI` goes on from the networks of a checkpoint.
"""

import argparse
import logging
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import TypeAdapter

from benchmarks.training_cutouts import Augment, Batch, Pool
from benchmarks.training_state import load_rounded, restore, store, take_networks
from engine.checkpoint import Checkpoint, load, save
from engine.images.prepare import CutoutPrep
from engine.storage import Storage
from engine.synthetic.field.config import FieldConfig
from engine.synthetic.field.cutouts import CHUNK
from models.band_gan import SPEC, BandGANTask
from models.band_gan_config import BandGANConfig, l1_only

log = logging.getLogger("train_nircam")

SEED_TRAINING, SEED_REFERENCE, SEED_CALIBRATION, SEED_VALIDATION = 1001, 1002, 1003, 1004
STATE_EVERY_CHUNKS = 20
FIT_SEED = 5


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--num-cutouts", type=int, default=16_000, help="distinct objects to train on")
    parser.add_argument("--passes", type=int, default=6)
    parser.add_argument("--batch-rows", type=int, default=16)
    parser.add_argument("--train-size", type=int, default=64)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--num-calibration", type=int, default=4096)
    parser.add_argument("--faintest-mag", type=float, default=28.0, help="of the objects, in F200W")
    parser.add_argument("--num-workers", type=int, default=2, help="processes that draw cutouts")
    parser.add_argument("--num-threads", type=int, default=2, help="threads that train")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--l1-only", action="store_true")
    parser.add_argument("--ero-fraction", type=float, default=0.0, help="of the objects trained on")
    parser.add_argument(
        "--start-from", default="", help="checkpoint of the same width whose networks go on learning"
    )
    parser.add_argument("--learning-rate", type=float, default=1e-3, help="peak of Adam's")
    parser.add_argument("--output", default="checkpoints/band_gan_nircam")
    parser.add_argument("--pool", type=Path, default=Path("build/cutouts"))
    parser.add_argument(
        "--state", type=Path, default=Path("build/train_nircam"), help="folder to resume from"
    )
    return parser.parse_args()


def settings(args: argparse.Namespace, size: int) -> BandGANConfig:
    """Return the settings of the network for cutouts of a size."""
    width = args.width
    config = BandGANConfig(
        size=size, width=width, discriminator_width=max(8, width // 2), learning_rate=args.learning_rate
    )
    return l1_only(config) if args.l1_only else config


def pool(args: argparse.Namespace, seed: int, size: int, num_cutouts: int) -> tuple[Pool, int]:
    """Open the objects of a seed, drawn where they are not there yet, and how many chunks they are."""
    field = FieldConfig(seed=seed, anomaly_fraction=args.ero_fraction, anomaly_kinds=("ero",))
    name = f"seed{seed}-{size}-{args.faintest_mag:g}-{args.ero_fraction:g}"
    made = Pool(args.pool / name, field, size, args.faintest_mag)
    num_chunks = -(-num_cutouts // CHUNK)
    made.make(num_chunks, args.num_workers)
    return made, num_chunks


def main() -> None:
    args = parse()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stdout)
    torch.set_num_threads(args.num_threads)
    task, history = train(args)
    config = settings(args, args.size)
    module = SPEC.build(config)
    trained = task.modules if len(task.modules) > 1 else task.modules["generator"]
    weights = load_rounded(
        module, trained if isinstance(trained, torch.nn.Module) else torch.nn.ModuleDict(trained)
    )
    fitted = SPEC.fit(config, module.eval(), *calibration_batches(args))
    metrics = {key: value for key, value in history[-1].items() if key.startswith("val_")}
    checkpoint = Checkpoint(
        SPEC.name, SPEC.version, TypeAdapter(BandGANConfig).dump_python(config, mode="json"),
        CutoutPrep(size=args.size).model_dump(mode="json"), weights, fitted, metrics, history, provenance(args),
    )  # fmt: skip
    saved = save(checkpoint, args.output, Storage(), weights_dtype="float16")
    log.info("checkpoint %s: %s", saved.id, args.output)


def train(args: argparse.Namespace) -> tuple[BandGANTask, list[dict[str, Any]]]:
    """Train from the last state, or from scratch."""
    training, num_chunks = pool(args, SEED_TRAINING, args.train_size, args.num_cutouts)
    validation = validation_batches(args)
    total = args.passes * num_chunks
    steps_per_chunk = CHUNK // args.batch_rows
    task = BandGANTask(replace(settings(args, args.train_size), precision="float32"), SEED_TRAINING)
    if args.start_from:
        take_networks(SPEC, task.modules, load(args.start_from, Storage(), SPEC.name, SPEC.version))
    task.start(torch.device(args.device), total * steps_per_chunk)
    done, history = restore(args.state, task)
    order = np.concatenate(
        [np.random.default_rng((SEED_TRAINING, n)).permutation(num_chunks) for n in range(args.passes)]
    )
    first, began = done, time.perf_counter()
    for number in range(first, total):
        batches = training.batches(order[number : number + 1], args.batch_rows, Augment(), number)
        metrics = [task.step(batch, number * steps_per_chunk + i) for i, batch in enumerate(batches)]
        if (number + 1) % STATE_EVERY_CHUNKS == 0 or number + 1 == total:
            history.append(summary(number + 1, metrics, [task.evaluate(batch) for batch in validation]))
            store(args.state, task, number + 1, history)
            rate = (number + 1 - first) / (time.perf_counter() - began)
            text = "  ".join(f"{key} {value:.4g}" for key, value in history[-1].items())
            log.info("%s  %.0f cutouts/s  %d min to go", text, rate * CHUNK, (total - number - 1) / rate / 60)
    return task, history


def validation_batches(args: argparse.Namespace) -> list[Batch]:
    """Objects that are not trained on, with the noise of CEERS."""
    made, num_chunks = pool(args, SEED_VALIDATION, args.train_size, 512)
    return list(made.batches(np.arange(num_chunks), CHUNK, None, 0))


def summary(num_chunks: int, training: list[dict], validation: list[dict]) -> dict[str, float]:
    """Means of the last chunk and of the validation batches."""
    return {
        "cutouts": num_chunks * CHUNK,
        **{key: float(np.mean([m[key] for m in training])) for key in training[0]},
        **{f"val_{key}": float(np.mean([m[key] for m in validation])) for key in validation[0]},
    }


def calibration_batches(args: argparse.Namespace) -> tuple[Iterator[Batch], Iterator[Batch]]:
    """Fresh objects for the neighbour sample, and others for percentiles, at the size of use."""
    made = [pool(args, seed, args.size, num) for seed, num in
            ((SEED_REFERENCE, args.num_calibration // 2), (SEED_CALIBRATION, args.num_calibration))]  # fmt: skip
    reference, held_out = (
        drawn.batches(np.arange(num_chunks), CHUNK, Augment(), FIT_SEED) for drawn, num_chunks in made
    )
    return reference, held_out


def provenance(args: argparse.Namespace) -> dict[str, Any]:
    """How the checkpoint was made."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return {
        "command": shlex.join(["python", "-m", "benchmarks.train_nircam", *sys.argv[1:]]),
        "num_cutouts": args.num_cutouts,
        "passes": args.passes,
        "started_from": load(args.start_from, Storage(), SPEC.name, SPEC.version).id
        if args.start_from
        else "",
        "git_commit": commit.stdout.strip(),
        "torch": torch.__version__,
        "device": args.device,
    }


if __name__ == "__main__":
    main()
