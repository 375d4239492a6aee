"""From synthetic galaxies to real ones, step by step: what each does for the disk classifier on CEERS.

    python -m benchmarks.domain_shift STAMPS [--seeds 3] [--json FILE]

STAMPS as for `benchmarks.ceers_morphology`. Each step trains the network anew from each seed on the same synthetic galaxies
(contaminated, S/N 3 to 100, as measured and as cleaned) and keeps what the steps before it brought in:

    as it was     colours of the bands, turned and flipped
    shapes        each band in units of its own brightness: a class cannot be read off a colour
    augmented     colours, sizes, PSF and noise of training images are scattered
    adapted       and its features brought to those of the real galaxies, whose classes it is not told (SIDDA)
    last layer    and its last layer fitted to real galaxies of the other folds, stratified and repeated
    all layers    and all of it trained on them instead, as an ordinary network: its symmetry is not kept

The first four are at the temperature of the synthetic test galaxies, the last two at 1: tuning sets their scale.
Settings were fixed before the first run; the classes of real galaxies are used by the last two alone, in other folds. The
mean probability over seeds (and repeats) of each real galaxy is judged: AUROC of cleaned and of measured images, balanced
accuracy and Brier score of cleaned ones, with the 95 % interval of bootstrapped galaxies, and how much the AUROC differs from
the first step on the same bootstrap samples. Beside it the AUROC on synthetic galaxies of another seed, which must
not be paid for it.
"""

import argparse
import copy
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.ceers_morphology import NUM_BOOTSTRAP, balanced, bootstrapped, read, stratified_folds
from benchmarks.last_layer import fit_last_layer
from benchmarks.morphology import (
    SEED_TEST,
    SIZE,
    contaminated,
    denoiser,
    joined,
    predicting,
    single_galaxies,
)
from engine.checkpoint import load
from engine.storage import Storage
from models.disk_classifier import NETWORK, SPEC, DiskClassifierTask
from models.disk_classifier_config import DiskClassifierConfig
from models.disk_images import DISK, NO_DISK, UNKNOWN, views
from models.disk_packed import packed
from models.scoring.cutouts import Cutouts
from models.scoring.probabilities import auroc, brier_score, fit_temperature, sigmoid

Batch = dict[str, np.ndarray]

CPU = torch.device("cpu")
SEED_TRAINING = 3001
KINDS = ("denoised", "raw")
BASE = DiskClassifierConfig(
    size=SIZE, network_pixels=33, fields=(4, 6, 8, 12), halvings=(1, 2, 3), use_denoised=True, batch_rows=32
)
"""The network of `jobs/configs/morphology.toml`."""
SHAPES = replace(BASE, stretch="band")
AUGMENTED = replace(SHAPES, colour_jitter=0.3, size_jitter=0.5, blur_jitter_pixels=1.0, noise_jitter=0.5)
ADAPTED = replace(AUGMENTED, adaptation_weight=1.0)
STEPS = {"as it was": BASE, "shapes": SHAPES, "augmented": AUGMENTED, "adapted": ADAPTED}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stamps")
    parser.add_argument("--fields", type=int, default=4, help="of 1,024 galaxies to train on")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--batch-rows", type=int, default=32)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--tuning-steps", type=int, default=40)
    parser.add_argument("--tuning-rate", type=float, default=2e-4)
    parser.add_argument("--penalty", type=float, default=1.0, help="on changes of the last layer")
    parser.add_argument("--denoiser", default="checkpoints/unet_vae_nircam")
    parser.add_argument("--classifier", default="checkpoints/disk_classifier_nircam", help="for its cutouts")
    parser.add_argument("--num-threads", type=int, default=2)
    parser.add_argument("--json", default="")
    args = parser.parse_args()
    torch.set_num_threads(args.num_threads)
    real = read(args.stamps, args.denoiser, load(args.classifier, Storage(), SPEC.name, SPEC.version))
    training, test = synthetic(args)
    told = real["label"][real["label"] != UNKNOWN]
    print(f"{len(training['label'])} synthetic galaxies to train on, {len(test['label'])} to test; {len(real['label'])} "
          f"real ones, {np.sum(told == DISK)} disks and {np.sum(told == NO_DISK)} others by eye", flush=True)  # fmt: skip
    rows = run(args, training, test, real)
    report(rows, real["label"])
    if args.json:
        Path(args.json).write_text(json.dumps(told_as_json(rows, real["label"]), indent=1) + "\n")


def synthetic(args: argparse.Namespace) -> tuple[Batch, Batch]:
    """Galaxies to train on and to test, with what the denoiser makes of them."""
    clean = denoiser(args.denoiser)
    galaxies = joined([single_galaxies(SEED_TRAINING, index) for index in range(args.fields)])
    training = contaminated(galaxies, SEED_TRAINING, (3.0, 100.0))
    test = contaminated(single_galaxies(SEED_TEST, 0), SEED_TEST, (3.0, 100.0))
    return training | {"denoised": clean(training)}, test | {"denoised": clean(test)}


def run(
    args: argparse.Namespace, training: Batch, test: Batch, real: Batch
) -> dict[str, dict[str, np.ndarray]]:
    """Log odds by step: of real galaxies `denoised` and `raw` [seeds, N], AUROC on `synthetic` ones [seeds]."""
    found: dict[str, list[dict[str, np.ndarray]]] = {name: [] for name in (*STEPS, *TUNED)}
    for seed in range(args.seeds):
        module = torch.nn.Module()
        for name, config in STEPS.items():
            began = time.perf_counter()
            module = train(args, config, training, real, seed)
            found[name].append(judged(config, module, real, test))
            print(f"seed {seed}, {name}: {time.perf_counter() - began:.0f} s, "
                  f"synthetic AUROC {found[name][-1]['synthetic']:.3f}", flush=True)  # fmt: skip
        for name, tune in TUNED.items():
            found[name].append(in_folds(args, module, real, test, tune, seed))
    return {
        name: {key: np.stack([one[key] for one in runs]) for key in runs[0]} for name, runs in found.items()
    }


def train(
    args: argparse.Namespace, config: DiskClassifierConfig, training: Batch, real: Batch, seed: int
) -> torch.nn.Module:
    """Train from one seed; where domains are compared, half as many real galaxies join each batch, without class."""
    task, rng = DiskClassifierTask(config, seed), np.random.default_rng(seed)
    task.start(CPU, args.steps)
    unknown = real | {"label": np.full(len(real["label"]), UNKNOWN, np.int8)}
    for step in range(args.steps):
        chosen = rng.choice(len(training["label"]), args.batch_rows, replace=False)
        batch = {key: training[key][chosen] for key in training}
        if config.adaptation_weight:
            others = rng.choice(len(unknown["label"]), args.batch_rows // 2, replace=False)
            batch = {key: np.concatenate([batch[key], unknown[key][others]]) for key in batch}
        task.step(batch, step)
    return predicting(config, task)


def judged(
    config: DiskClassifierConfig, module: torch.nn.Module, real: Batch, test: Batch
) -> dict[str, np.ndarray]:
    """Log odds of real galaxies at the temperature of synthetic ones, and the AUROC of those."""
    logits, outcome = of_known_class(config, module, test)
    temperature = fit_temperature(logits, outcome)
    of_real = {kind: log_odds(config, module, real, kind) / temperature for kind in KINDS}
    return of_real | {"synthetic": np.array(auroc(logits, outcome))}


def of_known_class(
    config: DiskClassifierConfig, module: torch.nn.Module, batch: Batch
) -> tuple[np.ndarray, np.ndarray]:
    """Log odds of cleaned images and classes of the objects that have both."""
    logits, outcome = log_odds(config, module, batch, "denoised"), batch["label"]
    usable = np.isfinite(logits) & (outcome != UNKNOWN)
    return logits[usable], outcome[usable]


def log_odds(config: DiskClassifierConfig, module: torch.nn.Module, batch: Batch, kind: str) -> np.ndarray:
    """Log odds [N] of images as measured ("raw") or cleaned, NaN where not observed."""
    with torch.inference_mode():
        seen = views(replace(config, use_denoised=kind == "denoised"), batch, CPU)
        network, found = packed(module.eval(), config.batch_rows), []
        for start in range(0, len(seen.snr), config.batch_rows):
            logits = network(Cutouts(*(part[start : start + config.batch_rows] for part in seen.judged)))
            found.append((logits[:, DISK] - logits[:, NO_DISK]).double().numpy())
    return np.where(seen.is_observed.numpy(), np.concatenate(found), np.nan)


def in_folds(
    args: argparse.Namespace, module: torch.nn.Module, real: Batch, test: Batch, tune: "Tune", seed: int
) -> dict[str, np.ndarray]:
    """Log odds of each real galaxy with a class by networks tuned on those of the other folds, mean over repeats.

    Tuning lowers the cross-entropy of real galaxies, which sets the scale of the log odds. A temperature of synthetic
    ones on top, another in each fold, would put the folds on different scales.
    """
    known = np.flatnonzero(real["label"] != UNKNOWN)
    total = {kind: np.zeros(len(real["label"])) for kind in KINDS}
    some, areas = {key: values[:256] for key, values in test.items()}, []
    for repeat in range(args.repeats):
        rng = np.random.default_rng((7, seed, repeat))
        fold = stratified_folds(real["label"][known], args.folds, rng)
        for number in range(args.folds):
            mine = copy.deepcopy(module)
            tune(args, mine, {key: values[known[fold != number]] for key, values in real.items()}, rng)
            out = known[fold == number]
            areas.append(auroc(*of_known_class(ADAPTED, mine, some)))
            left_out = {key: values[out] for key, values in real.items()}
            for kind, values in total.items():
                values[out] += log_odds(ADAPTED, mine, left_out, kind) / args.repeats
    return total | {"synthetic": np.mean(areas)}


def fit_head(
    args: argparse.Namespace,
    module: torch.nn.Module,
    galaxies: Batch,
    rng: np.random.Generator,  # noqa: ARG001 - as `train_on`
) -> None:
    """Change the last layer alone."""
    fit_last_layer(ADAPTED, module, galaxies, args.penalty)


def train_on(
    args: argparse.Namespace, module: torch.nn.Module, galaxies: Batch, rng: np.random.Generator
) -> None:
    """Train all layers, both classes equally often.

    What is trained is the exported network, whose filters are free: 24 times as many numbers as the group network has, and
    no symmetry that lasts. `fit_head` keeps it.
    """
    config = replace(ADAPTED, learning_rate=args.tuning_rate, adaptation_weight=0.0)
    task = DiskClassifierTask(replace(config, architecture="plain"), 0)
    task.modules[NETWORK] = module.train()
    task.optimizers[NETWORK] = torch.optim.AdamW(module.parameters(), config.learning_rate)
    task.start(CPU, args.tuning_steps)
    by_class = [np.flatnonzero(galaxies["label"] == value) for value in (DISK, NO_DISK)]
    for step in range(args.tuning_steps):
        chosen = np.concatenate([rng.choice(each, 8) for each in by_class])
        task.step({key: values[chosen] for key, values in galaxies.items()}, step)


Tune = Callable[[argparse.Namespace, torch.nn.Module, Batch, np.random.Generator], None]
TUNED: dict[str, Tune] = {"last layer": fit_head, "all layers": train_on}


def report(rows: dict[str, dict[str, np.ndarray]], label: np.ndarray) -> None:
    """Print the table of steps."""
    chosen = label != UNKNOWN
    outcome, first = label[chosen], rows["as it was"]["denoised"].mean(0)[chosen]
    columns = ("AUROC cleaned", "AUROC measured", "bal. accuracy", "Brier")
    print(f"\n{'step':12}" + "".join(f"{name:>22}" for name in columns)
          + f"{'AUROC less first':>26}{'synthetic':>12}")  # fmt: skip
    for name, found in rows.items():
        cleaned, measured = (found[kind].mean(0)[chosen] for kind in ("denoised", "raw"))
        probability = sigmoid(cleaned)
        cells = [
            with_interval(auroc, cleaned, outcome), with_interval(auroc, measured, outcome),
            with_interval(balanced, probability, outcome), with_interval(brier_score, probability, outcome),
        ]  # fmt: skip
        low, high = paired(cleaned, first, outcome)
        gain = f"{auroc(cleaned, outcome) - auroc(first, outcome):+.2f} ({low:+.2f} to {high:+.2f})"
        print(f"{name:12}" + "".join(f"{cell:>22}" for cell in cells)
              + f"{gain:>26}{found['synthetic'].mean():12.3f}")  # fmt: skip
    print("\nAUROC of cleaned images, each seed: " + "; ".join(
        f"{name} " + ", ".join(f"{auroc(one[chosen], outcome):.2f}" for one in found["denoised"])
        for name, found in rows.items()))  # fmt: skip


def with_interval(
    measure: Callable[[np.ndarray, np.ndarray], float], values: np.ndarray, outcome: np.ndarray
) -> str:
    low, high = bootstrapped(measure, values, outcome)
    return f"{measure(values, outcome):.2f} ({low:.2f} to {high:.2f})"


def paired(values: np.ndarray, first: np.ndarray, outcome: np.ndarray) -> tuple[float, float]:
    """95 % interval of the difference of the AUROC on the same samples of galaxies."""
    rng, found = np.random.default_rng(0), []
    for _ in range(NUM_BOOTSTRAP):
        rows = rng.integers(len(outcome), size=len(outcome))
        if 0 < np.sum(outcome[rows] == DISK) < len(rows):
            found.append(auroc(values[rows], outcome[rows]) - auroc(first[rows], outcome[rows]))
    low, high = np.quantile(found, [0.025, 0.975])
    return float(low), float(high)


def told_as_json(rows: dict[str, dict[str, np.ndarray]], label: np.ndarray) -> dict[str, dict[str, object]]:
    """Measures of each seed."""
    chosen = label != UNKNOWN
    return {
        name: {kind: [auroc(one[chosen], label[chosen]) for one in found[kind]] for kind in KINDS}
        | {"synthetic": found["synthetic"].tolist()}
        for name, found in rows.items()
    }


if __name__ == "__main__":
    main()
