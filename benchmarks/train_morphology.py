"""Train the disk classifier that comes with the project on synthetic galaxies, without Ray and without mosaics.

    python -m benchmarks.train_morphology [--output CHECKPOINT] [--only-calibrate]

Galaxies are drawn as in `benchmarks.morphology`: single ones, contaminated, at S/N 3 to 100, as measured and as the shipped
denoiser cleans them. The network is that of a step of `benchmarks.domain_shift`. Run it again after an interruption:
it goes on from its last state, with galaxies drawn anew. Writes weights, and temperatures found on galaxies of other
fields, on whose first half the metrics are measured (AUROC by redshift: on all of them). About 8 minutes of one core.
`--only-calibrate` draws those galaxies anew and finds the temperatures of a checkpoint that is there; weights and metrics
stay as they are.
"""

import argparse
import logging
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import TypeAdapter

from benchmarks.domain_shift import STEPS
from benchmarks.morphology import FAR, SIZE, contaminated, denoiser, joined, predicting, single_galaxies
from benchmarks.training_state import restore, store
from engine.checkpoint import Checkpoint, load, save
from engine.images.prepare import CutoutPrep
from engine.infer import open_model
from engine.storage import Storage
from models.disk_classifier import SPEC, DiskClassifierTask
from models.disk_classifier_config import DiskClassifierConfig
from models.disk_scores import MEASURED

log = logging.getLogger("train_morphology")

Batch = dict[str, np.ndarray]

SEED_TRAINING, SEED_HELD_OUT = 3001, 3002
SNR = (3.0, 100.0)
STATE_EVERY_STEPS = 100


def main() -> None:
    args = parse()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stdout)
    torch.set_num_threads(args.num_threads)
    clean = denoiser(args.denoiser)
    held_out = galaxies(SEED_HELD_OUT, args.held_out_fields, clean)
    if args.only_calibrate:
        checkpoint = calibrated(load(args.output, Storage(), SPEC.name, SPEC.version), held_out)
    else:
        checkpoint = trained(args, galaxies(SEED_TRAINING, args.fields, clean), held_out)
    saved = save(checkpoint, args.output, Storage())
    log.info("checkpoint %s: %s", saved.id, args.output)
    for kind in ("", MEASURED):
        numbers = [checkpoint.fitted[name + kind] for name in ("temperature", "calibration_error", "brier")]
        log.info("%s images: temperature %.3f, calibration error %.3f before and %.3f after, Brier score %.3f and %.3f",
                 "measured" if kind else "denoised", *np.concatenate(numbers))  # fmt: skip


def calibrated(checkpoint: Checkpoint, held_out: Batch) -> Checkpoint:
    """Return a checkpoint with temperatures and reliability found anew, and everything else as it was."""
    config, module = open_model(SPEC, checkpoint, "checkpoint")
    told = {f"calibration_{name}": value for name, value in provenance().items()}
    fitted = SPEC.fit(config, module, [], [held_out])
    return replace(checkpoint, fitted=fitted, provenance=dict(checkpoint.provenance) | told)


def trained(args: argparse.Namespace, training: Batch, held_out: Batch) -> Checkpoint:
    """Train, measure and calibrate."""
    config = STEPS[args.step]
    log.info("%d galaxies to train on, %d held out", len(training["label"]), len(held_out["label"]))
    task, history = train(args, config, training, held_out)
    metrics = history[-1] | by_redshift(task, held_out)
    log.info("  ".join(f"{name} {value:.4g}" for name, value in metrics.items()))
    module = predicting(config, task)
    weights = {name: value.numpy() for name, value in module.state_dict().items()}
    fitted = SPEC.fit(config, module, [], [held_out])
    return Checkpoint(
        SPEC.name, SPEC.version, TypeAdapter(DiskClassifierConfig).dump_python(config, mode="json"),
        CutoutPrep(size=SIZE).model_dump(mode="json"), weights, fitted, metrics, history, provenance(),
    )  # fmt: skip


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--step", choices=STEPS, default="augmented", help="of benchmarks.domain_shift")
    parser.add_argument("--fields", type=int, default=4, help="of 1,024 galaxies to train on")
    parser.add_argument("--held-out-fields", type=int, default=1)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--batch-rows", type=int, default=32)
    parser.add_argument("--denoiser", default="checkpoints/unet_vae_nircam")
    parser.add_argument("--output", default="checkpoints/disk_classifier_nircam")
    parser.add_argument("--state", type=Path, default=Path("build/train_morphology"), help="to resume from")
    parser.add_argument("--only-calibrate", action="store_true", help="the checkpoint at --output")
    parser.add_argument("--num-threads", type=int, default=2)
    return parser.parse_args()


def galaxies(seed: int, num_fields: int, clean: Any) -> Batch:
    """Contaminated galaxies of some fields, and what the denoiser makes of them."""
    fields = [single_galaxies(seed, index) for index in range(num_fields)]
    seen = contaminated(joined(fields), seed, SNR)
    return seen | {"denoised": clean(seen)}


def train(
    args: argparse.Namespace, config: DiskClassifierConfig, training: Batch, held_out: Batch
) -> tuple[DiskClassifierTask, list[dict[str, Any]]]:
    """Train from the last state, or from scratch."""
    task = DiskClassifierTask(config, SEED_TRAINING)
    task.start(torch.device("cpu"), args.steps)
    done, history = restore(args.state, task)
    judged = {name: values[: len(values) // 2] for name, values in held_out.items()}
    metrics: list[dict[str, float]] = []
    for step in range(done, args.steps):
        rng = np.random.default_rng((SEED_TRAINING, step))
        chosen = rng.choice(len(training["label"]), args.batch_rows, replace=False)
        metrics.append(task.step({name: values[chosen] for name, values in training.items()}, step))
        if (step + 1) % STATE_EVERY_STEPS == 0 or step + 1 == args.steps:
            history.append(summary(step + 1, metrics, task.evaluate(judged)))
            store(args.state, task, step + 1, history)
            log.info("  ".join(f"{name} {value:.4g}" for name, value in history[-1].items()))
            metrics = []
    return task, history


def by_redshift(task: DiskClassifierTask, held_out: Batch) -> dict[str, float]:
    """AUROC of held-out galaxies nearer and farther than `FAR`."""
    is_far = held_out["z"] > FAR
    return {
        f"val_auroc_{name}": task.evaluate({key: values[chosen] for key, values in held_out.items()})["auroc"]
        for name, chosen in ((f"z_below_{FAR:g}", ~is_far), (f"z_above_{FAR:g}", is_far))
    }


def summary(step: int, training: list[dict[str, float]], held_out: dict[str, float]) -> dict[str, float]:
    """Means since the last summary, and metrics of held-out galaxies."""
    means = {f"train_{name}": float(np.mean([m[name] for m in training])) for name in training[0]}
    return {"step": float(step)} | means | {f"val_{name}": value for name, value in held_out.items()}


def provenance() -> dict[str, Any]:
    """Tell how the checkpoint was made."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return {
        "command": shlex.join(["python", "-m", "benchmarks.train_morphology", *sys.argv[1:]]),
        "git_commit": commit.stdout.strip(),
        "torch": torch.__version__,
        "device": "cpu",
    }


if __name__ == "__main__":
    main()
