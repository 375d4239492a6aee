"""Disk or not: five networks, on images as measured and as denoised, at several S/N.

    python -m benchmarks.morphology [--seeds 3] [--steps 1000] [--denoiser CHECKPOINT] [--folder DIR] [--json FILE]

Synthetic galaxies (disks, spheroids and mergers uniform in 0.5 < z < 7), with contaminants and noise of S/N 3 to 100 train each
network anew from each seed, once on images as measured and once on the same images denoised, and on no others: what differs
between the two is denoising alone. Galaxies whose bulge has 0.4 to 0.6 of the light are neither class, and take no part in
training or test: measures are of the clear cases. Test galaxies are others. A table in markdown for each measure: accuracy,
balanced accuracy, AUROC (beyond z = 3 too) and expected calibration error (after a temperature fitted to held-out galaxies),
mean over seeds with a 95 % interval that covers test galaxies and seeds (`benchmarks.morphology_report`), on test galaxies
that are clean (but for the noise of their mosaic), and contaminated at S/N 10, 5, 3. ConvNeXt is a small network of its
blocks, ConvNeXt-nano has the sizes that timm gives that name; they get 1.2 and 0.8 times the steps, as steps of the second are
long. 400 steps do not train the group networks to the end on images as measured. A network on "denoised" judges the denoised
image. Last: what denoising gains, seed by seed; Mirzoyan (2025, arXiv:2506.19434) finds that it helps every network.
Nothing was tuned on the test seed. Each training is kept in `--folder`: a rerun goes on.
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

from benchmarks.keeping import kept_arrays
from benchmarks.morphology_report import DENOISED, KINDS, Network, Verdicts, per_seed, report
from benchmarks.peers import convnext
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
from models.scoring.probabilities import fit_temperature
from models.unet_vae import SPEC as DENOISER

SIZE, FIELD_PX = 64, 2048
FAR = 3.0
CLEAN = {
    "min_sources": 0,
    "max_sources": 0,
    "trail_probability": 0.0,
    "hits_per_channel": 0.0,
    "edge_probability": 0.0,
}
"""Of `ContaminateConfig`: noise alone."""
CONVNEXT, NANO = "ConvNeXt", "ConvNeXt-nano"
CONVNEXTS: dict[str, tuple[convnext.Size, float, float]] = {
    CONVNEXT: (convnext.SMALL, 1.2, 1e-3), NANO: (convnext.NANO, 0.8, 3e-4),
}  # fmt: skip
"""Their sizes, how many times the steps they get, and their learning rates."""
GROUP = "GCNN"
"""Beginning of the names of group networks."""
SEED_TRAINING, SEED_TEST = 3001, 93_017
CONDITIONS: dict[str, tuple[float, ...]] = {"clean": (), "S/N 10": (10.0,), "S/N 5": (5.0,), "S/N 3": (3.0,)}
CPU = torch.device("cpu")
VALUES = {"disk": DISK, "spheroid": NO_DISK, "irregular": NO_DISK}
Batch = dict[str, np.ndarray]
Samples = tuple[Batch, Batch, dict[str, Batch]]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--fields", type=int, default=4, help="fields of 1,024 galaxies to train on")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument(
        "--gcnn-rate", type=float, default=0.0, help="learning rate of group networks; 0: the preset's"
    )
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
    print("\n" + "\n".join(report(results, list(CONDITIONS), FAR)))
    if args.json:
        told = {
            name: {"parameters": found.parameters}
            | {kind: per_seed(verdicts, list(CONDITIONS)) for kind, verdicts in found.kinds.items()}
            for name, found in results.items()
        }
        Path(args.json).write_text(json.dumps(told, indent=1) + "\n")


def run(args: argparse.Namespace, drawn: Callable[[], Samples], denoiser_id: str) -> dict[str, Network]:
    """Train and test all networks, or read what earlier runs have kept; galaxies are drawn if one is missing."""
    results = {}
    for name in args.networks or configs(False):
        kinds, parameters = dict[str, Verdicts](), 0
        for kind in KINDS:
            found = []
            for seed in range(args.seeds):
                settings = settings_of(args, name, kind, seed, denoiser_id)
                stem = f"{name}-{kind}-{seed}".lower().replace(" ", "-").replace("=", "")
                one = partial(trained_and_judged, args, name, kind, seed, drawn)
                found.append(kept_arrays(args.folder, stem, settings, one))
            parameters = int(found[0]["parameters"])
            odds, temperature = (np.stack([one[key] for one in found]) for key in ("odds", "temperature"))
            kinds[kind] = Verdicts(odds, temperature, found[0]["label"], found[0]["is_far"])
            told = (f"{c} {np.mean([m['balanced'] for m in of_seeds]):.3f}"
                    for c, of_seeds in per_seed(kinds[kind], list(CONDITIONS)).items())  # fmt: skip
            print(f"{name} {kind}: balanced accuracy {', '.join(told)}", flush=True)
        results[name] = Network(parameters, kinds)
    return results


def settings_of(
    args: argparse.Namespace, name: str, kind: str, seed: int, denoiser_id: str
) -> dict[str, Any]:
    """All that changes the numbers of one training."""
    told = {"network": name, "seed": seed, "conditions": CONDITIONS, "population": CLASSIFIED}
    told |= {"denoiser": denoiser_id} if kind == DENOISED else {}
    config = asdict(configs(kind == DENOISED, args.gcnn_rate)[name])
    told |= {"config": config, "steps": steps_of(args, name)}
    return told | {key: getattr(args, key) for key in ("fields", "batch_rows")}


def steps_of(args: argparse.Namespace, name: str) -> int:
    """Tell for how many steps a network trains."""
    return round(CONVNEXTS[name][1] * args.steps) if name in CONVNEXTS else args.steps


def trained_and_judged(
    args: argparse.Namespace, name: str, kind: str, seed: int, drawn: Callable[[], Samples]
) -> Batch:
    """Train a network from one seed: its `parameters`, and what `Verdicts` says of that seed."""
    training, held_out, tests = drawn()
    config, began = configs(kind == DENOISED, args.gcnn_rate)[name], time.perf_counter()
    task = train(args, name, config, training, seed)
    found = verdicts(config, task, held_out, tests)
    print(f"{name} {kind} seed {seed}: trained in {time.perf_counter() - began:.0f} s", flush=True)
    return found | {"parameters": np.array(convnext.num_parameters(task.modules[NETWORK]))}


def configs(denoised: bool, gcnn_rate: float = 0.0) -> dict[str, DiskClassifierConfig]:
    """Return settings of the networks by name; of these a ConvNeXt takes its images and its rate."""
    small = replace(PRESETS["small"], size=SIZE, use_denoised=denoised, denoised_share=1.0)
    group = replace(small, learning_rate=gcnn_rate or small.learning_rate)
    return {
        "plain CNN": replace(small, architecture="plain"),
        **{name: replace(small, learning_rate=rate) for name, (_, _, rate) in CONVNEXTS.items()},
        f"{GROUP} N=8": group,
        f"{GROUP} N=16": replace(group, rotations=16),
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
    task, steps = DiskClassifierTask(config, seed), steps_of(args, name)
    if name in CONVNEXTS:
        module = convnext.fresh(config, CONVNEXTS[name][0], seed)
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


def verdicts(
    config: DiskClassifierConfig, task: DiskClassifierTask, held_out: Batch, tests: dict[str, Batch]
) -> Batch:
    """Log odds `odds` [C, N] of test galaxies, the `temperature` of held-out ones, `label` and `is_far` [N]."""
    logits, outcome = np.concatenate(list(log_odds(config, task, held_out)), 1)
    temperature = fit_temperature(logits[outcome >= 0], outcome[outcome >= 0])
    odds = []
    for batch in tests.values():
        logits, outcome = np.concatenate(list(log_odds(config, task, batch)), 1)
        odds.append(np.where(outcome >= 0, logits, np.nan))
    any_of_them = next(iter(tests.values()))  # the same galaxies
    label, is_far = any_of_them["label"], any_of_them["z"] > FAR
    return {
        "odds": np.stack(odds),
        "temperature": np.array(temperature),
        "label": label,
        "is_far": is_far,
    }


if __name__ == "__main__":
    main()
