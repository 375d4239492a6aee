"""Sanity task on real pictures: spirals or not, by the disk classifier's network and its plain twin.

    python -m benchmarks.galaxyzoo FOLDER [--sizes 100 400 1000] [--seeds 3]

FOLDER holds `spirals` and `non_spirals` with SDSS colour pictures (Galaxy Zoo 2). It is not the question of the catalogue:
disks seen edge-on are among those that are no spirals. It asks whether the network learns shapes of real galaxies, and
what its symmetry is worth when there are few: both networks have as many parameters, and the plain one is shown every
picture turned and flipped. Middles of 264 pixels are averaged to 33; blue, green and red take the places of the three
bands. Rows: pictures to train on (both classes equally often), then accuracy and AUROC on 400 others that are the same for
all, mean over seeds with the 95 % interval of the mean (Student's t), which leaves out that other test pictures
give other numbers.
"""

import argparse
import time
from dataclasses import replace

import numpy as np
import torch
from scipy import stats

from benchmarks.morphology import predicting
from engine.schema import matrix
from engine.sources.galaxy_colour import ColourConfig, ColourSource
from models.disk_classifier import DiskClassifierTask
from models.disk_classifier_config import PRESETS, DiskClassifierConfig
from models.disk_images import DISK, NO_DISK, views
from models.scoring.cutouts import BANDS
from models.scoring.probabilities import auroc

Batch = dict[str, np.ndarray]

CPU = torch.device("cpu")
CROP, SIZE = 264, 33
NUM_TEST = 400
SIGMAS = 300.0
"""White of a picture in units of the band's noise: far above it, so that the noise sets no scale."""
FOLDERS = {"spirals": DISK, "non_spirals": NO_DISK}
SMALL = replace(PRESETS["small"], size=SIZE)
NETWORKS = {"D16": SMALL, "plain CNN": replace(SMALL, architecture="plain")}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder")
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 400, 1000])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch-rows", type=int, default=32)
    parser.add_argument("--num-threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.num_threads)
    training, test = split(pictures(args.folder))
    print(f"{len(training['label'])} pictures to train on at most, {len(test['label'])} to test", flush=True)
    print(f"{'pictures':>8}  {'network':10}{'accuracy':>18}{'AUROC':>18}{'seconds':>9}")
    for num in args.sizes:
        for name, config in NETWORKS.items():
            began = time.perf_counter()
            runs = [measured(config, train(args, config, training, num, s), test) for s in range(args.seeds)]
            cells = (interval([run[column] for run in runs]) for column in (0, 1))
            print(f"{num:8d}  {name:10}" + "".join(f"{m:9.3f} +- {half:5.3f}" for m, half in cells)
                  + f"{time.perf_counter() - began:9.0f}", flush=True)  # fmt: skip


def pictures(folder: str) -> Batch:
    """Return columns of cutouts and `label` of all pictures."""
    parts, labels = [], []
    for name, label in FOLDERS.items():
        source = ColourSource(f"{folder.rstrip('/')}/{name}", config=ColourConfig(size=CROP))
        for unit in source.plan():
            images = matrix(source.read(unit).rows, "image").reshape(
                -1, 3, SIZE, CROP // SIZE, SIZE, CROP // SIZE
            )
            parts.append(images.mean((3, 5))[:, ::-1])
            labels.append(np.full(len(images), label, np.int8))
    return as_cutouts(np.concatenate(parts), np.concatenate(labels))


def as_cutouts(images: np.ndarray, label: np.ndarray) -> Batch:
    """Put blue, green and red [N, 3, S, S] in the places of the network's bands."""
    science = np.zeros((len(images), len(BANDS), SIZE, SIZE), np.float32)
    noise = np.array(SMALL.noise_njy, np.float32)[:, None, None]
    science[:, list(SMALL.band_indices)] = SIGMAS * noise * images
    flat, zero = science.reshape(len(images), -1), np.zeros(len(images), np.float32)
    return {
        "science": flat, "error": np.ones_like(flat), "mask": np.zeros(flat.shape, bool), "dx": zero, "dy": zero,
        "pixel_scale": zero + np.float32(0.03), "label": label,
    }  # fmt: skip


def split(batch: Batch) -> tuple[Batch, Batch]:
    """Divide into training and test pictures, both classes alike in number; always the same."""
    rng = np.random.default_rng(11)
    by_class = [rng.permutation(np.flatnonzero(batch["label"] == value)) for value in (DISK, NO_DISK)]
    half = NUM_TEST // 2
    test = np.concatenate([rows[:half] for rows in by_class])
    training = np.stack([rows[half : min(map(len, by_class))] for rows in by_class], 1).reshape(-1)
    train, held_out = ({name: v[rows] for name, v in batch.items()} for rows in (training, test))
    return train, held_out


def train(
    args: argparse.Namespace, config: DiskClassifierConfig, training: Batch, num: int, seed: int
) -> torch.nn.Module:
    """Train on the first `num` pictures, classes in turn."""
    task, rng = DiskClassifierTask(config, seed), np.random.default_rng(seed)
    task.start(CPU, args.steps)
    num = min(num, len(training["label"]))
    for step in range(args.steps):
        chosen = rng.choice(num, min(args.batch_rows, num), replace=False)
        task.step({name: values[chosen] for name, values in training.items()}, step)
    return predicting(config, task)


def measured(config: DiskClassifierConfig, module: torch.nn.Module, test: Batch) -> tuple[float, float]:
    """Accuracy and AUROC."""
    with torch.inference_mode():
        logits = module(views(config, test, CPU).science).double().numpy()
    score = logits[:, DISK] - logits[:, NO_DISK]
    return float(((score > 0) == (test["label"] == DISK)).mean()), auroc(score, test["label"])


def interval(values: list[float]) -> tuple[float, float]:
    """Mean, and half the width of its 95 % interval; NaN from one value."""
    mean, num = float(np.mean(values)), len(values)
    if num < 2:
        return mean, float("nan")
    return mean, float(stats.t.ppf(0.975, num - 1) * np.std(values, ddof=1) / num**0.5)


if __name__ == "__main__":
    main()
