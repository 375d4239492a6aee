"""The disk classifier on real galaxies with visual classes, before and after it has seen some of them.

    python -m benchmarks.ceers_morphology STAMPS [--denoiser URI] [--classifier URI]

STAMPS is a folder of cutouts with `index.csv` as `source = "stamps"` reads it (Ferreira et al. 2023: 74 galaxies of
CEERS, of which a third has a class; few are confident). Rows, the steps from the synthetic to the real sky: raw, the
classifier as shipped on images as measured; raw at T, at the temperature that it has for them from synthetic ones; denoised,
on cleaned images; calibrated, those at a temperature found on real galaxies of the other folds; k-fold, with the last layer
fitted to the real galaxies of the other folds, whose cross-entropy sets the scale of the log odds: no temperature on top.
The last two are means over repeats. ECE: expected calibration error in 10 bins; 34 galaxies fill them badly. Measures have
the 95 % interval of 2,000 bootstrap samples of galaxies; nothing was chosen by them. Last: the fraction of disks by redshift
of galaxies that the catalogue's report trusts, and their mean probability. Its exact binomial intervals are of sampling
only, not of misclassification.
"""

import argparse
from itertools import pairwise

import numpy as np
import torch

from benchmarks.last_layer import fit_last_layer
from catalogs.binomial import binomial_interval
from catalogs.nircam_morphology import SPEC as CATALOG
from engine.checkpoint import Checkpoint, load
from engine.flags import MISSING_BAND
from engine.images.prepare import CutoutPrep
from engine.infer import open_model
from engine.schema import to_arrays
from engine.sources.nircam_config import LabelConfig
from engine.sources.stamps import StampsConfig, StampsSource
from engine.storage import Storage
from models.disk_classifier import SPEC
from models.disk_images import DISK, NO_DISK
from models.scoring.probabilities import (
    auroc,
    brier_score,
    calibration_error,
    fit_temperature,
    reliability,
    sigmoid,
)
from models.unet_vae import SPEC as DENOISER

CPU = torch.device("cpu")
NUM_BOOTSTRAP, NUM_BINS = 2000, 10
REDSHIFTS = (1.0, 1.5, 2.0, 2.5, 3.0, 5.5)

Batch = dict[str, np.ndarray]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stamps")
    parser.add_argument("--denoiser", default="checkpoints/unet_vae_nircam")
    parser.add_argument("--classifier", default="checkpoints/disk_classifier_nircam")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--penalty", type=float, default=1.0, help="on changes of the last layer")
    parser.add_argument("--seed", type=int, default=7)
    args = parser.parse_args()
    checkpoint = load(args.classifier, Storage(), SPEC.name, SPEC.version)
    galaxies = read(args.stamps, args.denoiser, checkpoint)
    before = predicted(checkpoint, galaxies)
    after = folds(args, checkpoint, galaxies)
    rows = {
        "raw": before["prob_disk_raw"],
        "raw at T": before["prob_disk_raw_calibrated"],
        "denoised": before["prob_disk"],
        "calibrated": calibrated(args, before["prob_disk"], galaxies["label"]),
        "k-fold": after,
    }
    for name, chosen in {
        "confident": galaxies["sure"],
        "all with a class": np.ones(len(before["prob_disk"]), bool),
    }.items():
        report(name, rows, galaxies["label"], chosen & (galaxies["label"] >= 0))
    flags = galaxies["flags"] | galaxies["denoiser_flags"] | before["flags"]
    fractions(galaxies["z"], before["disk_class"], before["prob_disk"], flags)


def read(stamps: str, denoiser: str, checkpoint: Checkpoint) -> Batch:
    """Galaxies with all bands: columns of the classifier, class (sure or not), and redshift."""
    size = CutoutPrep.model_validate(checkpoint.prepare).size
    rows: list[Batch] = []
    for where in ("", "confident"):
        label = LabelConfig(column="class", where=where)
        config = StampsConfig(size=size, unit="MJy/sr", z="redshift", label=label)
        source = StampsSource(stamps, config=config)
        names = ("science", "error", "mask", "dx", "dy", "pixel_scale", "label", "z", "flags", "object_id")
        tables = [to_arrays(source.read(unit).rows, names) for unit in source.plan()]
        rows.append({name: np.concatenate([table[name] for table in tables]) for name in names})
    found = rows[0] | {"sure": rows[1]["label"] >= 0}
    cleaned = load(denoiser, Storage())
    config, module = open_model(DENOISER, cleaned, denoiser)
    made = DENOISER.predictor(config, module, cleaned.fitted, CPU)(found)
    found |= {"denoised": made["denoised"], "denoiser_flags": made["flags"]}
    whole = (found["flags"] & MISSING_BAND.value) == 0
    return {name: values[whole] for name, values in found.items()}


def predicted(checkpoint: Checkpoint, galaxies: Batch) -> Batch:
    config, module = open_model(SPEC, checkpoint, "checkpoint")
    return SPEC.predictor(config, module, checkpoint.fitted, CPU)(galaxies)


def folds(args: argparse.Namespace, checkpoint: Checkpoint, galaxies: Batch) -> np.ndarray:
    """Probability of each galaxy by networks that have not seen it, mean over repeats; NaN without a class."""
    known = np.flatnonzero(galaxies["label"] >= 0)
    total = np.zeros(len(galaxies["label"]))
    for repeat in range(args.repeats):
        rng = np.random.default_rng((args.seed, repeat))
        fold = stratified_folds(galaxies["label"][known], args.folds, rng)
        for number in range(args.folds):
            module = tuned(args, checkpoint, galaxies, known[fold != number])
            out = known[fold == number]
            total[out] += probability(module, checkpoint, {k: v[out] for k, v in galaxies.items()})
    unknown = np.isin(np.arange(len(total)), known, invert=True)
    return np.where(unknown, np.nan, total / args.repeats)


def calibrated(args: argparse.Namespace, probability: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Probability of each galaxy at the temperature that suits those of the other folds; NaN without a class."""
    known = np.flatnonzero((label >= 0) & np.isfinite(probability))
    inside = np.clip(probability[known].astype(np.float64), 1e-6, 1 - 1e-6)
    logits, total = np.log(inside / (1 - inside)), np.full(len(label), np.nan)
    total[known] = 0
    for repeat in range(args.repeats):
        fold = stratified_folds(label[known], args.folds, np.random.default_rng((args.seed, repeat)))
        for number in range(args.folds):
            out = fold == number
            temperature = fit_temperature(logits[~out], label[known][~out])
            total[known[out]] += sigmoid(logits[out] / temperature) / args.repeats
    return total


def stratified_folds(label: np.ndarray, num_folds: int, rng: np.random.Generator) -> np.ndarray:
    """Fold of each object [N], classes in equal parts."""
    fold = np.empty(len(label), int)
    for value in (DISK, NO_DISK):
        mine = np.flatnonzero(label == value)
        fold[rng.permutation(mine)] = np.arange(len(mine)) % num_folds
    return fold


def tuned(
    args: argparse.Namespace, checkpoint: Checkpoint, galaxies: Batch, rows: np.ndarray
) -> torch.nn.Module:
    """Return the network with its last layer fitted to some real galaxies."""
    config, module = open_model(SPEC, checkpoint, "checkpoint")
    fit_last_layer(config, module, {key: values[rows] for key, values in galaxies.items()}, args.penalty)
    return module


def probability(module: torch.nn.Module, checkpoint: Checkpoint, galaxies: Batch) -> np.ndarray:
    """Probability by a network whose last layer was fitted: temperature 1, the shipped one belongs to the old layer."""
    config = SPEC.config(**checkpoint.config)
    fitted = checkpoint.fitted | {"temperature": np.ones(1, np.float32)}
    predict = SPEC.predictor(config, module, fitted, CPU)
    return predict(galaxies)["prob_disk"]


def report(title: str, rows: dict[str, np.ndarray], label: np.ndarray, chosen: np.ndarray) -> None:
    outcome = label[chosen]
    print(f"\n{title}: {np.sum(outcome == DISK)} disks, {np.sum(outcome == NO_DISK)} others")
    print(f"{'':10}{'AUROC':>22}{'balanced accuracy':>22}{'Brier':>22}{'ECE':>22}")
    for name, values in rows.items():
        cells = []
        for measure in (auroc, balanced, brier_score, expected_calibration_error):
            low, high = bootstrapped(measure, values[chosen], outcome)
            cells.append(f"{measure(values[chosen], outcome):8.2f} ({low:.2f} to {high:.2f})")
        print(f"{name:10}" + "".join(f"{cell:>22}" for cell in cells))


def balanced(probability: np.ndarray, outcome: np.ndarray) -> float:
    right = (probability >= 0.5) == (outcome == DISK)
    return float(np.mean([right[outcome == value].mean() for value in (DISK, NO_DISK)]))


def expected_calibration_error(probability: np.ndarray, outcome: np.ndarray) -> float:
    return calibration_error(reliability(probability, outcome, NUM_BINS))


def bootstrapped(measure, probability: np.ndarray, outcome: np.ndarray) -> tuple[float, float]:
    """95 % interval over samples of galaxies that have both classes."""
    rng = np.random.default_rng(0)
    samples = (rng.integers(len(outcome), size=len(outcome)) for _ in range(NUM_BOOTSTRAP))
    both = [rows for rows in samples if 0 < np.sum(outcome[rows] == DISK) < len(rows)]
    low, high = np.quantile([measure(probability[rows], outcome[rows]) for rows in both], [0.025, 0.975])
    return float(low), float(high)


def fractions(z: np.ndarray, predicted: np.ndarray, probability: np.ndarray, flags: np.ndarray) -> None:
    assert CATALOG.classes is not None
    trusted = (flags & CATALOG.classes.untrusted_bits) == 0
    names = ", ".join(flag.name for flag in CATALOG.classes.untrusted)
    print(f"\nfraction of disks by redshift, galaxies without {names}; intervals of sampling only")
    for low_z, high_z in pairwise(REDSHIFTS):
        known = (z >= low_z) & (z < high_z) & (predicted >= 0)
        mine = known & trusted
        hits, total = np.array([np.sum(predicted[mine] == DISK)]), np.array([mine.sum()])
        if total[0]:
            low, high = binomial_interval(hits, total)
            print(f"{low_z:.1f} to {high_z:.1f}: {hits[0]} of {total[0]} (with flags {known.sum()}), "
                  f"{hits[0] / total[0]:.2f} ({low[0]:.2f} to {high[0]:.2f}), "
                  f"mean probability {probability[mine].mean():.2f}")  # fmt: skip


if __name__ == "__main__":
    main()
