"""How well the band GAN predicts, and which injected anomalies it finds, on synthetic cutouts with truth.

    python -m benchmarks.band_gan_evaluation [--checkpoint URI] [--also NAME=URI ...] [--json FILE]

1. Normal galaxies and stars: predicted aperture flux against that of the light without noise, in magnitudes, median
   and scatter (1.4826 times the median absolute deviation) for each band and S/N. Once by the S/N of what is
   predicted, in the faintest of the LW bands, and once by that of what the prediction is made from, in the faintest
   of the SW bands: choosing objects that are faint in what is predicted makes any prediction too bright.
2. For each kind of anomaly: area under the ROC curve, and recall where 1 % of the normal objects are flagged. Normal
   objects are as bright as the anomalies, which are injected into bright ones.
3. The claim of Pearce-Casey et al. (2023): extremely red point sources are predicted, a merger is not.

Beside each checkpoint stands a fit of colours: each LW aperture flux as a linear mixture of the SW ones, learned from
the same number of objects as the table is made of. The test seed is used for these tables and for nothing else.
"""

import argparse
import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from benchmarks.training_cutouts import Batch, Pool
from engine.checkpoint import load
from engine.infer import open_model
from engine.storage import Storage
from engine.synthetic.field.config import FieldConfig
from engine.synthetic.field.cutouts import CHUNK
from models.band_gan import SPEC
from models.scoring.aperture import apertures, photometry
from models.scoring.band_columns import BandScoringConfig
from models.scoring.cutouts import LW, LW_BANDS, SW, cutouts
from models.spec import Predict

TEST_SEED, COLOUR_SEED = 90_210, 90_211
SNR_EDGES = (5, 10, 20, 50, 100, np.inf)
FALSE_POSITIVE_RATE = 0.01
RANKED = ("anomaly_score", "off_manifold_score", "on_manifold_score", "aperture_chi2", "m_residual")
CPU = torch.device("cpu")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", default="checkpoints/band_gan_nircam")
    parser.add_argument("--also", action="append", default=[], help="NAME=URI of another checkpoint")
    parser.add_argument("--num-cutouts", type=int, default=6144)
    parser.add_argument("--anomaly-fraction", type=float, default=0.4)
    parser.add_argument("--faintest-mag", type=float, default=28.0)
    parser.add_argument("--pool", type=Path, default=Path("build/cutouts"))
    parser.add_argument("--num-workers", type=int, default=2)
    parser.add_argument("--json", default="", help="write the numbers here too")
    args = parser.parse_args()
    torch.set_num_threads(args.num_workers)
    size, predictors = open_all(
        {"band_gan": args.checkpoint} | dict(pair.split("=", 1) for pair in args.also)
    )
    truth = joined([measured(batch, light, size) for batch, light in test_batches(args, TEST_SEED, size)])
    scores = {name: joined([predict(b) for b, _ in test_batches(args, TEST_SEED, size)])
              for name, predict in predictors.items()}  # fmt: skip
    scores["colours"] = colour_scores(args, size, truth)
    report(truth, scores, args.json)


def open_all(uris: dict[str, str]) -> tuple[int, dict[str, Predict]]:
    """Open the checkpoints; all must be of one cutout size."""
    sizes, predictors = set(), {}
    for name, uri in uris.items():
        checkpoint = load(uri, Storage(), SPEC.name, SPEC.version)
        config, module = open_model(SPEC, checkpoint, uri)
        predictors[name] = SPEC.predictor(config, module, checkpoint.fitted, CPU)
        sizes.add(config.size)
    (size,) = sizes
    return size, predictors


def test_batches(args: argparse.Namespace, seed: int, size: int) -> Iterator[tuple[Batch, np.ndarray]]:
    """Objects with anomalies among them, and their light without noise."""
    field = FieldConfig(seed=seed, anomaly_fraction=args.anomaly_fraction)
    folder = args.pool / f"seed{seed}-{size}-{args.faintest_mag:g}-{args.anomaly_fraction:g}"
    pool, num_chunks = Pool(folder, field, size, args.faintest_mag), -(-args.num_cutouts // CHUNK)
    pool.make(num_chunks, args.num_workers)
    return (pool.read(number) for number in range(num_chunks))


def joined(parts: list[Batch]) -> Batch:
    """Concatenate batches."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def measured(batch: Batch, light: np.ndarray, size: int) -> Batch:
    """Aperture fluxes as measured and without noise, [B, 6], errors, and what the objects are."""
    images = cutouts(batch, size, CPU)
    weights = apertures(BandScoringConfig().aperture_radius_arcsec, batch, images)
    noisy = photometry(images, weights)
    true = photometry(images._replace(science=torch.tensor(light).view(images.science.shape)), weights)
    return {
        "flux": noisy.flux.numpy(),
        "error": noisy.error.numpy(),
        "true": true.flux.numpy(),
        "kind": batch["kind"],
        "anomaly": batch["anomaly"],
    }


def colour_scores(args: argparse.Namespace, size: int, truth: Batch) -> Batch:
    """Fluxes and scores of the linear mixture of SW fluxes, fitted in relative flux on other objects."""
    known = joined([measured(batch, light, size) for batch, light in test_batches(args, COLOUR_SEED, size)])
    rows = (known["anomaly"] == "") & (known["flux"] > 3 * known["error"]).all(1)
    scale = known["flux"][rows].mean(1, keepdims=True)
    mixture = np.linalg.lstsq(known["flux"][rows, SW] / scale, known["flux"][rows, LW] / scale, rcond=None)[0]
    predicted = truth["flux"][:, SW] @ mixture
    residual = np.log(np.maximum(truth["flux"][:, LW], 1e-3) / np.maximum(predicted, 1e-3))
    columns = {f"flux_predicted_{band}": predicted[:, i] for i, band in enumerate(LW_BANDS)}
    return columns | {"anomaly_score": np.abs(residual).max(1)}


def report(truth: Batch, scores: dict[str, Batch], path: str) -> None:
    """Print the tables, and write them as JSON where that is asked for."""
    normal = truth["anomaly"] == ""
    print(f"{len(normal)} cutouts of seed {TEST_SEED}, {normal.sum()} of them normal")
    tables = {
        "photometry": {name: photometric(truth, out, normal, LW) for name, out in scores.items()},
        "photometry_by_input": {name: photometric(truth, out, normal, SW) for name, out in scores.items()},
        "anomalies": detection(truth, scores, normal),
        "claim": {name: claim(truth, out, normal) for name, out in scores.items()},
    }
    for table, label in (("photometry", "LW S/N"), ("photometry_by_input", "SW S/N")):
        for name, rows in tables[table].items():
            print(f"\n{name}: predicted minus true magnitude, median and scatter\n{label:>10}{'objects':>9}"
                  + "".join(f"{band:>18}" for band in LW_BANDS))  # fmt: skip
            for row in rows:
                print(f"{row['snr']:>10}{row['objects']:9d}"
                      + "".join(f"{row[b][0]:+10.3f}{row[b][1]:8.3f}" for b in LW_BANDS))  # fmt: skip
    for metric, rows in tables["anomalies"].items():
        methods = list(next(iter(rows.values())))
        print(f"\n{metric}\n{'':12}" + "".join(f"{method:>26}" for method in methods))
        for kind, values in rows.items():
            print(f"{kind:12}" + "".join(f"{values[method]:26.3f}" for method in methods))
    print(
        "\nmedian over objects of the largest |magnitude residual| of a band, and rank among normal ones (%)"
    )
    for name, values in tables["claim"].items():
        print(f"{name:12}" + "   ".join(f"{kind} {v[0]:.2f} mag, {v[1]:.0f}" for kind, v in values.items()))
    if path:
        Path(path).write_text(json.dumps({"seed": TEST_SEED, **tables}, indent=1) + "\n")


def magnitude_errors(truth: Batch, out: Batch) -> np.ndarray:
    """Predicted minus true magnitudes of the LW bands, [B, 3]."""
    predicted = np.stack([out[f"flux_predicted_{band}"] for band in LW_BANDS], 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return -2.5 * np.log10(predicted / truth["true"][:, LW])


def as_bright(truth: Batch, normal: np.ndarray) -> np.ndarray:
    """Choose the normal objects that are as bright as the anomalies."""
    brightness = truth["true"][:, SW].max(1)
    return normal & (brightness >= np.quantile(brightness[~normal], 0.05))


def photometric(truth: Batch, out: Batch, normal: np.ndarray, bands: slice) -> list[dict]:
    """Bias and scatter [mag] of normal objects in bins of S/N in the faintest of some bands."""
    snr = (truth["flux"] / truth["error"])[:, bands].min(1)
    residual = magnitude_errors(truth, out)
    rows = []
    for low, high in itertools.pairwise(SNR_EDGES):
        chosen = normal & (snr >= low) & (snr < high) & np.isfinite(residual).all(1)
        median = np.median(residual[chosen], axis=0)
        scatter = 1.4826 * np.median(np.abs(residual[chosen] - median), axis=0)
        pairs = {b: (float(median[i]), float(scatter[i])) for i, b in enumerate(LW_BANDS)}
        rows.append({"snr": f"{low:g}-{high:g}", "objects": int(chosen.sum()), **pairs})
    return rows


def detection(
    truth: Batch, scores: dict[str, Batch], normal: np.ndarray
) -> dict[str, dict[str, dict[str, float]]]:
    """AUROC and recall by kind of anomaly and score."""
    bright = as_bright(truth, normal)
    chosen = {f"{name} {score}": out[score] for name, out in scores.items() for score in RANKED
              if score in out and (name == "band_gan" or score == "anomaly_score")}  # fmt: skip
    table: dict[str, dict[str, dict[str, float]]] = {"AUROC": {}, "recall at 1 %": {}}
    for kind in (*sorted(set(truth["anomaly"][~normal])), "all"):
        odd = ~normal if kind == "all" else truth["anomaly"] == kind
        label = np.r_[np.zeros(bright.sum()), np.ones(odd.sum())]
        for name, values in chosen.items():
            values = np.nan_to_num(values, nan=-1.0)
            limit = np.quantile(values[bright], 1 - FALSE_POSITIVE_RATE)
            auroc = float(roc_auc_score(label, np.r_[values[bright], values[odd]]))
            table["AUROC"].setdefault(kind, {})[name] = auroc
            table["recall at 1 %"].setdefault(kind, {})[name] = float((values[odd] > limit).mean())
    return table


def claim(truth: Batch, out: Batch, normal: np.ndarray) -> dict[str, tuple[float, float]]:
    """Size of the magnitude residuals of red point sources, mergers and normal objects, and where they rank."""
    residual = np.nan_to_num(np.abs(magnitude_errors(truth, out)).max(1), nan=np.inf)
    bright = as_bright(truth, normal)
    groups = {"normal": bright} | {kind: truth["anomaly"] == kind for kind in ("ero", "merger")}
    reference = np.sort(out["anomaly_score"][bright])
    return {
        kind: (
            float(np.median(residual[rows])),
            float(100 * np.searchsorted(reference, np.median(out["anomaly_score"][rows])) / len(reference)),
        )
        for kind, rows in groups.items()
    }


if __name__ == "__main__":
    main()
