"""Which score of its latents serves a model of images? All detectors of `models.scoring` on those of the band GAN.

    python -m benchmarks.latent_detectors [--checkpoint URI] [--num-cutouts 1024]

Distance to neighbours, local outlier factor, isolation forest, and density by a flow learn from the reference sample
that the checkpoint keeps; normal objects of one seed calibrate them in classes of signal to noise, anomalies are those
of another. For each: area under the ROC curve and recall at 1 % by kind, as `benchmarks.band_gan_evaluation` has
them, alone and together with `off_manifold_score`, as the rank has it.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from benchmarks.band_gan_evaluation import (
    COLOUR_SEED,
    TEST_SEED,
    detection,
    joined,
    measured,
    open_all,
    test_batches,
)
from benchmarks.training_cutouts import Batch
from engine.checkpoint import load
from engine.storage import Storage
from models.scoring.band_columns import BandScoringConfig
from models.scoring.calibration import fit_calibration
from models.scoring.density import fit_density
from models.scoring.isolation import Neighbours
from models.scoring.isolation_forest import fit_isolation_forest
from models.scoring.local_outlier import fit_local_outlier_factor
from models.spec import Predict

NUM_NEIGHBOURS, LOF_NEIGHBOURS, NUM_TREES, SEED = 10, 50, 100, 0
OFF = "off_manifold_score"
Detector = Callable[[np.ndarray], np.ndarray]
"""Latents [B, D] to a score [B], high = anomalous."""


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", default="checkpoints/band_gan_nircam")
    parser.add_argument("--num-cutouts", type=int, default=1024, help="of each seed")
    parser.add_argument("--anomaly-fraction", type=float, default=0.4)
    parser.add_argument("--faintest-mag", type=float, default=28.0)
    parser.add_argument("--pool", type=Path, default=Path("build/cutouts"))
    parser.add_argument("--num-workers", type=int, default=2)
    args = parser.parse_args(words)
    torch.set_num_threads(args.num_workers)
    size, predictors = open_all({"band_gan": args.checkpoint})
    known, test = (scored(args, seed, size, predictors["band_gan"]) for seed in (COLOUR_SEED, TEST_SEED))
    reference = load(args.checkpoint, Storage()).fitted["latent_reference"]
    held_out = {name: values[known["anomaly"] == ""] for name, values in known.items()}
    print(f"{len(reference)} normal objects to learn from, {len(held_out['anomaly'])} to calibrate")
    alone = calibrated(fitted(reference), held_out, test)
    report(
        test, alone, {OFF: test[OFF]} | {f"{name}, {OFF}": np.fmax(p, test[OFF]) for name, p in alone.items()}
    )


def scored(args: argparse.Namespace, seed: int, size: int, predict: Predict) -> Batch:
    """Scores of the objects of a seed, and what they are."""
    pairs = list(test_batches(args, seed, size))
    return joined([predict(batch) | measured(batch, light, size) for batch, light in pairs])


def fitted(latents: np.ndarray) -> dict[str, Detector]:
    """All detectors, of the latents [N, D] of normal objects."""
    neighbours = Neighbours(latents, LOF_NEIGHBOURS)
    lof = fit_local_outlier_factor(neighbours, latents, LOF_NEIGHBOURS)
    forest = fit_isolation_forest(latents, NUM_TREES, SEED)
    density = fit_density(latents, no_condition(latents), SEED)
    return {
        "distance": lambda x: neighbours.search(x, NUM_NEIGHBOURS).mean_distance(NUM_NEIGHBOURS),
        "lof": lambda x: lof(neighbours.search(x, LOF_NEIGHBOURS)),
        "forest": forest,
        "density": lambda x: -density(x, no_condition(x)),
    }


def no_condition(latents: np.ndarray) -> np.ndarray:
    """Give the flow one condition that is always the same."""
    return np.zeros((len(latents), 1), np.float32)


def calibrated(detectors: dict[str, Detector], held_out: Batch, test: Batch) -> Batch:
    """-log10 of the tail probability among normal objects of like signal to noise, [B] by detector."""
    scoring = BandScoringConfig()
    labels, asked = (
        np.array(scoring.classes[:-1], object)[np.searchsorted(scoring.snr_edges, part["input_snr"])]
        for part in (held_out, test)
    )
    known, found = (
        {name: detect(part["latent_mean"]) for name, detect in detectors.items()} for part in (held_out, test)
    )
    calibration = fit_calibration(known, labels, scoring.min_class_rows, scoring.classes)
    classes, _ = calibration.usable_classes(asked)
    return {name: calibration.judge(name, values, classes).log10_p for name, values in found.items()}


def report(test: Batch, *tables: Batch) -> None:
    """Kinds down, scores across."""
    scores = {name: {"anomaly_score": values} for table in tables for name, values in table.items()}
    for metric, rows in detection(test, scores, test["anomaly"] == "").items():
        print(f"\n| {metric} | " + " | ".join(scores) + " |\n|" + " --- |" * (len(scores) + 1))
        for kind, values in rows.items():
            print(f"| {kind} | " + " | ".join(f"{value:.2f}" for value in values.values()) + " |")


if __name__ == "__main__":
    main()
