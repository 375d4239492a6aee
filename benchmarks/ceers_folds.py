"""The band GAN on real galaxies: CEERS cutouts that it was not trained on, before and after training on the others.

    python -m benchmarks.ceers_folds STAMPS [--checkpoint URI] [--picture PNG]

STAMPS is a folder of cutouts with `index.csv` as `source = "stamps"` reads it (Ferreira et al. 2023: 74 galaxies, six
bands, MJy/sr). k-fold: the shipped network goes on training on the galaxies of the other folds for some steps, and
predicts those of its own. The table compares predicted with measured aperture fluxes; the picture shows the worst.

A last table asks whether missing pixels make an object strange: the masks of the galaxies that lack some (at a border
of the mosaic), each laid on all that are whole, and what becomes of their scores.
"""

import argparse
import base64
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.training_cutouts import Batch
from benchmarks.training_state import take_networks
from catalogs.cutout_picture import cutout_png
from catalogs.gallery import GalleryItem
from engine.checkpoint import Checkpoint, load
from engine.flags import MISSING_BAND, PARTIAL_BAND
from engine.images.prepare import CutoutPrep
from engine.infer import model_config, open_model
from engine.schema import to_arrays
from engine.sources.stamps import StampsConfig, StampsSource
from engine.storage import Storage
from models.band_gan import SPEC, BandGANTask
from models.scoring.cutouts import LW_BANDS

COLUMNS = ("object_id", "flags")
CPU = torch.device("cpu")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stamps")
    parser.add_argument("--checkpoint", default="checkpoints/band_gan_nircam")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=100, help="of training on real galaxies, in each fold")
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--picture", default="", help="where to write the worst ten as PNG")
    args = parser.parse_args()
    checkpoint = load(args.checkpoint, Storage(), SPEC.name, SPEC.version)
    galaxies, partial = read(args.stamps, checkpoint)
    before = predicted(checkpoint, galaxies)
    after = folds(args, checkpoint, galaxies)
    print(
        f"{len(galaxies['object_id'])} galaxies with all bands, {args.folds} folds, {args.steps} steps in each"
    )
    report("synthetic only", before)
    report("k-fold", after)
    worst = np.argsort(-np.nan_to_num(np.abs(of_bands(after, "flux_residual_sigma"))).max(1))[:10]
    print("worst ten, by the largest |flux residual| in standard deviations:", *galaxies["object_id"][worst])
    report_masks(checkpoint, galaxies, partial)
    if args.picture:
        draw(Path(args.picture), checkpoint, galaxies, after, worst)


def read(stamps: str, checkpoint: Checkpoint) -> tuple[Batch, Batch]:
    """Galaxies whose six bands are whole, and those that lack pixels."""
    size = CutoutPrep.model_validate(checkpoint.prepare).size
    source = StampsSource(stamps, config=StampsConfig(size=size, unit="MJy/sr"))
    settings = model_config(SPEC, checkpoint.config, "checkpoint")
    names = [*(column.name for column in SPEC.reads(settings)), *COLUMNS]
    tables = [to_arrays(source.read(unit).rows, names) for unit in source.plan()]
    rows = {name: np.concatenate([table[name] for table in tables]) for name in names}
    whole = (rows["flags"] & (MISSING_BAND.value | PARTIAL_BAND.value)) == 0
    return take(rows, whole), take(rows, ~whole)


def predicted(checkpoint: Checkpoint, galaxies: Batch) -> Batch:
    """Columns of the catalogue for these galaxies, and pictures of the predictions."""
    config, module = open_model(SPEC, checkpoint, "checkpoint")
    assert SPEC.reconstruct is not None
    pictures = SPEC.reconstruct(config, module, galaxies)
    return SPEC.predictor(config, module, checkpoint.fitted, CPU)(galaxies) | pictures


def folds(args: argparse.Namespace, checkpoint: Checkpoint, galaxies: Batch) -> Batch:
    """Predict each galaxy with a network that went on training without it."""
    rng = np.random.default_rng(args.seed)
    fold = rng.permutation(len(galaxies["object_id"])) % args.folds
    out: Batch = {}
    for number in range(args.folds):
        tuned = trained_on(args, checkpoint, take(galaxies, fold != number), number)
        for name, values in predicted(tuned, take(galaxies, fold == number)).items():
            out.setdefault(name, np.empty((len(fold), *values.shape[1:]), values.dtype))[fold == number] = (
                values
            )
    return out


def take(batch: Batch, rows: np.ndarray) -> Batch:
    return {name: values[rows] for name, values in batch.items()}


def trained_on(args: argparse.Namespace, checkpoint: Checkpoint, galaxies: Batch, fold: int) -> Checkpoint:
    """Return the checkpoint with weights that went on training; what is fitted for scores stays."""
    settings = {**checkpoint.config, "learning_rate": args.learning_rate, "schedule": "cosine"}
    config = model_config(SPEC, settings, "checkpoint")
    task = BandGANTask(config, args.seed + fold)
    take_networks(SPEC, task.modules, checkpoint)
    task.start(CPU, args.steps)
    rng = np.random.default_rng([args.seed, fold])
    for step in range(args.steps):
        task.step(take(galaxies, rng.choice(len(galaxies["dx"]), 16, replace=False)), step)
    modules = dict(task.modules) if len(task.modules) > 1 else {"": task.modules["generator"]}
    weights = {f"{name}.{key}".lstrip("."): value.numpy()
               for name, part in modules.items() for key, value in part.state_dict().items()}  # fmt: skip
    return replace(checkpoint, weights=weights)


def of_bands(out: Batch, name: str) -> np.ndarray:
    """Return a score of each LW band, [B, 3]."""
    return np.stack([out[f"{name}_{band}"] for band in LW_BANDS], 1)


def report(name: str, out: Batch) -> None:
    """Print bias and scatter of the magnitudes, and the median significance."""
    residual, significance = of_bands(out, "mag_residual"), of_bands(out, "flux_residual_sigma")
    print(f"\n{name}: measured minus predicted magnitude")
    for index, band in enumerate(LW_BANDS):
        values = residual[:, index][np.isfinite(residual[:, index])]
        bias = np.median(values)
        scatter = 1.4826 * np.median(np.abs(values - bias))
        sigma = np.median(np.abs(significance[:, index]))
        outliers = np.mean(np.abs(values) > 0.5)
        print(f"{band}  n {len(values)}  median {bias:+.3f}  scatter {scatter:.3f}  beyond 0.5 mag {outliers:.0%}"
              f"  median significance {sigma:.2f}")  # fmt: skip


def masked(galaxies: Batch, mask: np.ndarray) -> Batch:
    """Return the same galaxies without the pixels of a mask, [6 S S]."""
    bad = galaxies["mask"] | mask
    pixels = {name: np.where(bad, 0, galaxies[name]) for name in ("science", "error")}
    return galaxies | pixels | {"mask": bad}


def report_masks(checkpoint: Checkpoint, galaxies: Batch, partial: Batch) -> None:
    """Print how the scores of whole galaxies change under each mask."""
    config, module = open_model(SPEC, checkpoint, "checkpoint")
    predict = SPEC.predictor(config, module, checkpoint.fitted, CPU)
    scores = predict(galaxies)["anomaly_score"]
    high = np.quantile(scores, 0.9)
    print(
        f"\nanomaly_score of the whole galaxies under the mask of another, 10 % are above {high:.2f} without one"
    )
    for name, mask in zip(partial["object_id"], partial["mask"], strict=True):
        found = predict(masked(galaxies, mask))["anomaly_score"]
        if not np.isfinite(found).any():
            print(f"{name:8d}  none has a score")
            continue
        change = found - scores
        print(f"{name:8d}  masked {mask.mean():4.0%}  change: median {np.nanmedian(change):+.2f}"
              f"  largest {np.nanmax(change):+.2f}  above {high:.2f}: {np.mean(found > high):.0%}")  # fmt: skip


def draw(path: Path, checkpoint: Checkpoint, galaxies: Batch, out: Batch, rows: np.ndarray) -> None:
    """Write the pictures of some galaxies, one PNG each, numbered from the worst."""
    path.parent.mkdir(parents=True, exist_ok=True)
    prepare = CutoutPrep.model_validate(checkpoint.prepare).model_dump()
    for rank, row in enumerate(rows):
        inputs = {name: galaxies[name][row] for name in ("science", "error", "mask")}
        outputs = {name: out[name][row] for name in ("recon", "sigma")}
        item = GalleryItem((int(galaxies["object_id"][row]),), inputs, outputs, prepare)
        uri = cutout_png(item, {name: values[row] for name, values in out.items()})
        name = path.with_stem(f"{path.stem}-{rank + 1:02d}-{galaxies['object_id'][row]}")
        name.write_bytes(base64.b64decode(uri.partition(",")[2]))


if __name__ == "__main__":
    main()
