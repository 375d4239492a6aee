"""Disk or not: four networks, on images as measured and as denoised, at several S/N.

    python -m benchmarks.morphology [--seeds 3] [--steps 400] [--denoiser CHECKPOINT] [--folder DIR] [--json FILE]

Synthetic galaxies (disks and spheroids uniform in 0.5 < z < 7, mergers at 0.4 to 5, few of them beyond 3), with contaminants and noise of
S/N 3 to 100 train each network anew from each seed, once on images as measured and once on the same images denoised, and on no others: what differs between
the two is denoising alone. Test galaxies are others. A table in markdown for each measure: accuracy, balanced accuracy,
AUROC (beyond z = 3 too) and expected calibration error (after a temperature fitted to held-out galaxies), mean over seeds
with the 95 % interval of the mean (Student's t), on test galaxies that are clean (but for the noise of their mosaic), and
contaminated at S/N 10, 5, 3. ConvNeXt, which has no symmetry to learn from, gets three times the steps. A network on
"denoised" judges the denoised image. Last: what denoising gains, seed by seed; Mirzoyan (2025, arXiv:2506.19434) finds that
it helps every network. Nothing was tuned on the test seed. Each training is kept in `--folder`: a rerun goes on.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats

from benchmarks.keeping import kept_numbers
from benchmarks.peers.convnext import fresh, num_parameters
from benchmarks.training_cutouts import CLASSIFIED
from engine.checkpoint import load
from engine.images.bands import BANDS
from engine.infer import open_model
from engine.storage import Storage
from engine.synthetic.contaminate.config import ContaminateConfig
from engine.synthetic.contaminate.optics import nircam_optics
from engine.synthetic.contaminate.simulate import Contaminator
from engine.synthetic.field.config import PIXEL_ARCSEC, FieldConfig
from engine.synthetic.nircam import field_truth, simulate_field
from models.disk_classifier import NETWORK, SPEC, DiskClassifierTask
from models.disk_classifier_config import PRESETS, DiskClassifierConfig
from models.disk_images import DISK, NO_DISK, classes, views
from models.scoring.probabilities import auroc, calibration_error, fit_temperature, reliability, sigmoid
from models.unet_vae import SPEC as DENOISER

SIZE, FIELD_PX = 64, 2048
Z_RANGE, FAR = (CLASSIFIED["z_min"], CLASSIFIED["z_max"]), 3.0
CLEAN = {
    "min_sources": 0,
    "max_sources": 0,
    "trail_probability": 0.0,
    "hits_per_channel": 0.0,
    "edge_probability": 0.0,
}
"""Of `ContaminateConfig`: noise alone."""
CONVNEXT, CONVNEXT_STEPS, CONVNEXT_RATE = "ConvNeXt", 3, 1e-3
SEED_TRAINING, SEED_TEST = 3001, 93_017
CONDITIONS: dict[str, tuple[float, ...]] = {"clean": (), "S/N 10": (10.0,), "S/N 5": (5.0,), "S/N 3": (3.0,)}
CPU = torch.device("cpu")
VALUES = {"disk": DISK, "spheroid": NO_DISK, "irregular": NO_DISK}
KINDS = RAW, DENOISED = "raw", "denoised"
"""Images that a network is trained and tested on."""
MEASURES = {
    "accuracy": "Accuracy",
    "balanced": "Balanced accuracy",
    "auroc": "AUROC",
    "far": f"AUROC beyond z = {FAR:g}",
    "ece": "Expected calibration error",
}

Batch = dict[str, np.ndarray]
Samples = tuple[Batch, Batch, dict[str, Batch]]
Results = dict[str, dict[str, Any]]
"""Network to its number of parameters, and by kind of images and condition the measures of each seed."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--fields", type=int, default=4, help="fields of 1,024 galaxies to train on")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--batch-rows", type=int, default=32)
    parser.add_argument("--denoiser", default="checkpoints/unet_vae_nircam")
    parser.add_argument("--networks", nargs="*", default=[], choices=[*configs(False)])
    parser.add_argument("--num-threads", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=Path("build/morphology"), help="what is kept")
    parser.add_argument("--json", default="", help="write the numbers here too")
    args = parser.parse_args()
    torch.set_num_threads(args.num_threads)
    args.folder.mkdir(parents=True, exist_ok=True)
    results = run(args, cache(partial(samples, args)), load(args.denoiser, Storage()).id)
    print("\n" + "\n".join(report(results)))
    if args.json:
        Path(args.json).write_text(json.dumps(results, indent=1) + "\n")


def run(args: argparse.Namespace, drawn: Callable[[], Samples], denoiser_id: str) -> Results:
    """Train and measure all networks, or read what earlier runs have kept; galaxies are drawn if one is missing."""
    results: Results = {}
    for name in args.networks or configs(False):
        for kind in KINDS:
            found = []
            for seed in range(args.seeds):
                settings = settings_of(args, name, kind, seed, denoiser_id)
                stem = f"{name}-{kind}-{seed}".lower().replace(" ", "-").replace("=", "")
                one = partial(trained_and_measured, args, name, kind, seed, drawn)
                found.append(kept_numbers(args.folder, stem, settings, one))
                told = (f"{c} {m['balanced']:.3f}" for c, m in found[-1]["tests"].items())
                print(f"{name} {kind} seed {seed}: {', '.join(told)}", flush=True)
            tests = {c: [one["tests"][c] for one in found] for c in CONDITIONS}
            results.setdefault(name, {"parameters": found[0]["parameters"]})[kind] = tests
    return results


def settings_of(
    args: argparse.Namespace, name: str, kind: str, seed: int, denoiser_id: str
) -> dict[str, Any]:
    """All that changes the numbers of one training."""
    told = {"network": name, "seed": seed, "denoiser": denoiser_id, "conditions": CONDITIONS, "z": Z_RANGE}
    told |= {"convnext": [CONVNEXT_STEPS, CONVNEXT_RATE]} if name == CONVNEXT else {}
    config = asdict(configs(kind == DENOISED)[name])
    return told | {"config": config} | {key: getattr(args, key) for key in ("fields", "steps", "batch_rows")}


def trained_and_measured(
    args: argparse.Namespace, name: str, kind: str, seed: int, drawn: Callable[[], Samples]
) -> dict[str, Any]:
    """Parameters of a network, and measures by condition after training it from one seed."""
    training, held_out, tests = drawn()
    config, began = configs(kind == DENOISED)[name], time.perf_counter()
    task = train(args, name, config, training, seed)
    found = evaluated(config, task, held_out, tests)
    print(f"{name} {kind} seed {seed}: trained in {time.perf_counter() - began:.0f} s", flush=True)
    return {"parameters": num_parameters(task.modules[NETWORK]), "tests": found}


def configs(denoised: bool) -> dict[str, DiskClassifierConfig]:
    """Return settings of the networks by name; the ConvNeXt takes those of its images only."""
    small = replace(PRESETS["small"], size=SIZE, use_denoised=denoised, denoised_share=1.0)
    return {
        "plain CNN": replace(small, architecture="plain"),
        CONVNEXT: replace(small, learning_rate=CONVNEXT_RATE),
        "GCNN N=8": small,
        "GCNN N=16": replace(small, rotations=16),
    }


def samples(args: argparse.Namespace) -> Samples:
    """Training and held-out galaxies with contaminants and random S/N, and test galaxies in all conditions."""
    began, denoise = time.perf_counter(), denoiser(args.denoiser)
    galaxies = joined([single_galaxies(SEED_TRAINING, index) for index in range(args.fields + 1)])
    seen = contaminated(galaxies, SEED_TRAINING, (3.0, 100.0))
    seen["denoised"] = denoise(seen)
    is_held_out = np.arange(len(seen["label"])) >= len(seen["label"]) * args.fields // (args.fields + 1)
    training, held_out = ({k: v[chosen] for k, v in seen.items()} for chosen in (~is_held_out, is_held_out))
    others, tests = single_galaxies(SEED_TEST, 0), {}
    for name, snr in CONDITIONS.items():
        tests[name] = contaminated(others, SEED_TEST, snr, **({} if snr else CLEAN))
        tests[name]["denoised"] = denoise(tests[name])
    numbers = ", ".join(
        f"{len(one['label'])} {what}"
        for what, one in (("training", training), ("held-out", held_out), ("test", others))
    )
    print(f"{numbers} galaxies in {time.perf_counter() - began:.0f} s", flush=True)
    return training, held_out, tests


def single_galaxies(seed: int, index: int) -> Batch:
    """Galaxies of known class of one field, in squares, without noise: columns of cutouts, `label` and `z`."""
    config = FieldConfig(
        width_px=FIELD_PX, height_px=FIELD_PX, spacing_px=SIZE, noise=False, faintest_mag=26.0, num_fields=64,
        seed=seed, **CLASSIFIED,
    )  # fmt: skip
    truth = field_truth(config, index)
    planes = simulate_field(config, index)
    x, y = (truth[name].to_numpy() for name in ("x", "y"))
    column, row = ((values + 0.5).astype(int) // SIZE for values in (x, y))
    labels = [VALUES.get(name) for name in truth["morphology"].to_pylist()]
    known = np.array([label is not None for label in labels])
    squares = {}
    for name, plane in (("science", "noiseless"), ("error", "error")):
        tiles = np.stack([getattr(planes[band], plane) for band in BANDS])
        tiles = tiles.reshape(len(BANDS), FIELD_PX // SIZE, SIZE, FIELD_PX // SIZE, SIZE)
        squares[name] = tiles.transpose(1, 3, 0, 2, 4)[row, column][known].reshape(known.sum(), -1)
    middle = SIZE // 2
    return squares | {
        "mask": np.zeros(squares["science"].shape, bool),
        "dx": (x - column * SIZE - middle)[known].astype(np.float32),
        "dy": (y - row * SIZE - middle)[known].astype(np.float32),
        "pixel_scale": np.full(known.sum(), PIXEL_ARCSEC["stsci"][0], np.float32),
        "label": np.array([label for label in labels if label is not None], np.int8),
        "z": truth["z"].to_numpy()[known],
    }


def joined(parts: list[Batch]) -> Batch:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def contaminated(galaxies: Batch, seed: int, snr: tuple[float, ...], **settings: Any) -> Batch:
    """Add contaminants and noise, on two processes; `settings` of `ContaminateConfig`."""
    num = len(galaxies["label"])
    slices = [slice(start, start + 128) for start in range(0, num, 128)]
    parts = [{k: v[cut] for k, v in galaxies.items()} | {"key": np.arange(num)[cut]} for cut in slices]
    with get_context("spawn").Pool(2) as pool:
        return joined(
            pool.map(partial(_contaminated, ContaminateConfig(seed=seed, snr=snr, **settings)), parts)
        )


def _contaminated(config: ContaminateConfig, galaxies: Batch) -> Batch:
    shape = (-1, len(BANDS), SIZE, SIZE)
    clean, error = (galaxies[name].reshape(shape) for name in ("science", "error"))
    place = None, galaxies["dx"], galaxies["dy"]
    seen = Contaminator(config, nircam_optics())(clean, error, galaxies.pop("key"), 0, *place)
    return galaxies | {n: getattr(seen, n).reshape(len(clean), -1) for n in ("science", "error", "mask")}


def denoiser(uri: str):
    """Return what cleans a batch: [B, 6 * S * S]."""
    checkpoint = load(uri, Storage())
    config, module = open_model(DENOISER, checkpoint, uri)
    predict = DENOISER.predictor(config, module, checkpoint.fitted, CPU)
    return lambda batch: predict(batch)["denoised"]


def train(
    args: argparse.Namespace, name: str, config: DiskClassifierConfig, training: Batch, seed: int
) -> DiskClassifierTask:
    """Train a network from one seed."""
    task, steps = DiskClassifierTask(config, seed), args.steps
    if name == CONVNEXT:
        steps *= CONVNEXT_STEPS
        module = fresh(config, seed)
        task.modules[NETWORK] = module
        task.optimizers[NETWORK] = torch.optim.AdamW(
            module.parameters(), config.learning_rate, weight_decay=0.05
        )
    task.start(CPU, steps)
    rng = np.random.default_rng(seed)
    for step in range(steps):
        chosen = rng.choice(len(training["label"]), args.batch_rows, replace=False)
        task.step({key: values[chosen] for key, values in training.items()}, step)
    task.modules[NETWORK].eval()
    return task


def predicting(config: DiskClassifierConfig, task: DiskClassifierTask) -> torch.nn.Module:
    """Return the network that predicts, with the weights of the one that was trained."""
    module = SPEC.build(config).eval()
    trained = {name: value.numpy() for name, value in task.modules[NETWORK].state_dict().items()}
    weights = SPEC.to_build(config, trained)
    module.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
    return module


def log_odds(config: DiskClassifierConfig, task: DiskClassifierTask, batch: Batch) -> Iterator[np.ndarray]:
    with torch.inference_mode():
        for start in range(0, len(batch["label"]), 128):
            part = {key: values[start : start + 128] for key, values in batch.items()}
            seen = views(config, part, CPU)
            logits = task.modules[NETWORK](seen.judged).double()
            label = classes(part, seen)
            yield np.stack([(logits[:, DISK] - logits[:, NO_DISK]).numpy(), label.numpy()])


def evaluated(
    config: DiskClassifierConfig, task: DiskClassifierTask, held_out: Batch, tests: dict[str, Batch]
) -> dict[str, dict[str, float]]:
    """Measures by condition; probabilities are calibrated on held-out galaxies."""
    logits, outcome = np.concatenate(list(log_odds(config, task, held_out)), 1)
    temperature = fit_temperature(logits[outcome >= 0], outcome[outcome >= 0])
    return {name: measures(config, task, batch, temperature) for name, batch in tests.items()}


def measures(
    config: DiskClassifierConfig, task: DiskClassifierTask, batch: Batch, temperature: float
) -> dict[str, float]:
    logits, outcome = np.concatenate(list(log_odds(config, task, batch)), 1)
    known = outcome >= 0
    logits, outcome, is_far = logits[known], outcome[known], batch["z"][known] > FAR
    right = (logits > 0) == (outcome == DISK)
    probability = sigmoid(logits / temperature)
    return {
        "balanced": float(np.mean([right[outcome == c].mean() for c in (NO_DISK, DISK)])),
        "accuracy": float(right.mean()),
        "auroc": auroc(logits, outcome),
        "far": auroc(logits[is_far], outcome[is_far]),
        "ece": calibration_error(reliability(probability, outcome)),
    }


def report(results: Results) -> list[str]:
    """Format a table for each measure, and one of what denoising gains in each."""
    lines = list[str]()
    for measure, title in MEASURES.items():
        rows = [
            [
                name,
                f"{found['parameters']:,}",
                kind,
                *(shown(of(found[kind][c], measure)) for c in CONDITIONS),
            ]
            for name, found in results.items()
            for kind in KINDS
        ]
        lines += [*table(title, ["network", "parameters", "images", *CONDITIONS], rows), ""]
    for measure, title in MEASURES.items():
        rows = [
            [name, *(shown(gain(found, condition, measure), "+") for condition in CONDITIONS)]
            for name, found in results.items()
        ]
        lines += [*table(f"{title}, denoised minus raw", ["network", *CONDITIONS], rows), ""]
    return lines


def of(runs: list[dict[str, float]], measure: str) -> np.ndarray:
    return np.array([run[measure] for run in runs])


def gain(found: dict[str, Any], condition: str, measure: str) -> np.ndarray:
    """Return what denoising adds to a measure, by seed."""
    raw, denoised = (of(found[kind][condition], measure) for kind in KINDS)
    return denoised - raw


def shown(values: np.ndarray, sign: str = "") -> str:
    """Format the mean over seeds with its interval."""
    mean, half = interval(values)
    return f"{mean:{sign}.3f} ± {half:.3f}" if np.isfinite(half) else f"{mean:{sign}.3f}"


def table(title: str, head: list[str], rows: list[list[str]]) -> list[str]:
    """Format a markdown table."""
    lines = [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]
    return [f"{title}:", "", *lines]


def interval(values: list[float] | np.ndarray) -> tuple[float, float]:
    """Mean, and half the width of its 95 % interval; NaN from one value."""
    mean, num = float(np.mean(values)), len(values)
    if num < 2:
        return mean, float("nan")
    return mean, float(stats.t.ppf(0.975, num - 1) * np.std(values, ddof=1) / num**0.5)


if __name__ == "__main__":
    main()
