"""Which scores make the best rank? A table over candidates, on validation seeds: what the default was chosen by.

    python -m benchmarks.rank_choice [--checkpoint URI] [--bases TEMPLATES] [--seeds 2] [--json FILE]

A candidate is the union (the smallest p-value) of some scores, each calibrated on held-out normal spectra within class
and S/N, or within class alone. For each: AUROC and recall at 1 % false positives as `benchmarks.injected_anomalies`
counts them, averaged over the kinds of anomalies, with the 95 % interval over seeds; and the kinds themselves. Then the
fraction of normal spectra above the 99th percentile by S/N, and what the optional scores cost. The first validation
seed is 4; the test seed of the other benchmark is never used here.

`--draws 64` asks another question and nothing else: by how much do percentiles of the checkpoint as it is move when the
Monte Carlo averages are over so many draws?
"""

import argparse
import itertools
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.injected_anomalies import compare, interval, joined
from benchmarks.training_spectra import Augment, Batch, Recipe, chunks
from engine.checkpoint import Checkpoint, load
from engine.infer import open_model
from engine.spectra.prepare import SpectrumPrep
from engine.storage import Storage
from engine.synthetic.population import SimulateConfig
from models.scoring import spectral
from models.scoring.isolation import Neighbours
from models.scoring.isolation_forest import fit_isolation_forest
from models.scoring.local_outlier import fit_local_outlier_factor
from models.scoring.normal import Normal, normal_from_arrays
from models.scoring.snr_calibration import SnrCalibration, fit_snr_calibration
from models.scoring.spectral_config import OPTIONAL, ScoringConfig
from models.spectral_vae import SPEC

FIRST_SEED, CALIBRATION_SEED, CHUNK_ROWS = 4, 5, 512
LOW = ("-coherent_sigma", "-worst_window_sigma", "-reduced_chi2")
"""Scores that are tried for being too low."""

CANDIDATES: Mapping[str, tuple[str, ...]] = {
    "distance + chi2 + worst window (before)": ("latent_distance", "reduced_chi2", "worst_window_sigma"),
    "chi2": ("reduced_chi2",),
    "chi2 + too smooth": ("reduced_chi2", "-coherent_sigma"),
    "chi2 + worst window": ("reduced_chi2", "worst_window_sigma"),
    "chi2 + worst window + too smooth": ("reduced_chi2", "worst_window_sigma", "-coherent_sigma"),
    "density + chi2 + worst window (rest)": ("latent_log_density", "reduced_chi2", "worst_window_sigma"),
    "distance + chi2": ("latent_distance", "reduced_chi2"),
    "LOF + chi2": ("latent_lof", "reduced_chi2"),
    "forest + chi2": ("latent_forest", "reduced_chi2"),
    "density + chi2": ("latent_log_density", "reduced_chi2"),
    "density + log_wrp": ("latent_log_density", "log_wrp"),
    "density + log_likelihood": ("latent_log_density", "log_likelihood"),
    "density + residuals": ("latent_log_density", "residual_log_density"),
    "density + chi2 + residuals": ("latent_log_density", "reduced_chi2", "residual_log_density"),
    "same + too smooth (observed frame)": (
        "latent_log_density", "reduced_chi2", "residual_log_density", "-coherent_sigma",
    ),
    "same + worst window": (
        "latent_log_density", "reduced_chi2", "residual_log_density", "-coherent_sigma", "worst_window_sigma",
    ),
    "same + distance": (
        "latent_log_density", "reduced_chi2", "residual_log_density", "-coherent_sigma", "latent_distance",
    ),
}  # fmt: skip


def parse(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", default="checkpoints/spectral_vae_desi")
    parser.add_argument("--num-spectra", type=int, default=10_240, help="of each seed")
    parser.add_argument("--num-calibration", type=int, default=24_576)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--bases", default="", help="folder with rrtemplate-*.fits")
    parser.add_argument("--bases-fraction", type=float, default=0.4)
    parser.add_argument("--num-workers", type=int, default=1)
    parser.add_argument("--json", default="", help="write the numbers here too")
    parser.add_argument(
        "--draws", type=int, default=0, help="compare percentiles with those of so many draws"
    )
    return parser.parse_args(words)


def main(words: list[str] | None = None) -> None:
    args = parse(words)
    torch.set_num_threads(1)
    checkpoint = load(args.checkpoint, Storage(), SPEC.name, SPEC.version)
    if args.draws:
        print_moves(*with_draws(args, checkpoint))
        return
    scorer, normal, scoring = opened(checkpoint, args.checkpoint)
    prepare = SpectrumPrep.model_validate(checkpoint.prepare)
    names = (*scoring.scores, *LOW)
    held_out = scored(
        scorer, normal, names, batches(args, prepare, CALIBRATION_SEED, args.num_calibration, 0.0)
    )
    calibrations = {
        kind: fit_snr_calibration(
            {name: held_out[name] for name in names}, held_out["spectype"], held_out["snr"], num_bins,
            scoring.min_class_rows,
        )
        for kind, num_bins in (("class and S/N", scoring.num_snr_bins), ("class", 1))
    }  # fmt: skip
    seeds = range(FIRST_SEED, FIRST_SEED + 10 * args.seeds, 10)
    samples = [
        scored(scorer, normal, names, batches(args, prepare, seed, args.num_spectra, 0.2)) for seed in seeds
    ]
    found = {kind: [judged(one, names, sample) for sample in samples] for kind, one in calibrations.items()}
    table = {kind: summary(judgements, samples) for kind, judgements in found.items()}
    for kind, rows in table.items():
        print_summary(f"calibrated within {kind}", rows)
    print_uniformity(found, samples, names)
    costs = measured_costs(normal, scoring, samples[0])
    print("\nmicroseconds of one core a spectrum\n" + "\n".join(f"{k:24}{v:8.1f}" for k, v in costs.items()))
    if args.json:
        Path(args.json).write_text(json.dumps({"candidates": table, "cost_us": costs}, indent=1) + "\n")


def with_draws(args: argparse.Namespace, checkpoint: Checkpoint) -> tuple[Batch, Batch]:
    """Score the first validation seed as the checkpoint does, and with `args.draws` draws."""
    config, module = open_model(SPEC, checkpoint, args.checkpoint)
    prepare = SpectrumPrep.model_validate(checkpoint.prepare)
    predictors = [
        SPEC.predictor(replace(config, scoring=scoring), module, checkpoint.fitted, torch.device("cpu"))
        for scoring in (config.scoring, replace(config.scoring, num_draws=args.draws))
    ]
    pairs = [
        [predict(batch) for predict in predictors]
        for batch in batches(args, prepare, FIRST_SEED, args.num_spectra, 0.2)
    ]
    few, many = (joined(list(parts)) for parts in zip(*pairs, strict=True))
    return few, many


def print_moves(few: Batch, many: Batch) -> None:
    """Print how far each percentile moves, and who stays among the first hundredth of the rank."""
    print(f"{'moved by':32}{'median':>10}{'90 %':>10}{'99 %':>10}{'most':>10}")
    for name in (*(name for name in few if name.endswith("_percentile")), "anomaly_score"):
        moves = np.abs(many[name] - few[name])
        cells = np.nanquantile(moves, [0.5, 0.9, 0.99, 1.0]) if np.isfinite(moves).any() else [np.nan] * 4
        print(f"{name:32}" + "".join(f"{cell:10.3f}" for cell in cells))
    first = [set(np.argsort(-out["anomaly_score"])[: -(-len(few["flags"]) // 100)]) for out in (few, many)]
    print(f"of the first hundredth by anomaly_score {len(first[0] & first[1])} of {len(first[0])} stay")


def opened(checkpoint: Checkpoint, uri: str) -> tuple[spectral.Scorer, Normal, ScoringConfig]:
    """Open a checkpoint with every score on; what it does not hold is learned from its reference sample."""
    config, module = open_model(SPEC, checkpoint, uri)
    scoring = replace(config.scoring, optional_scores=OPTIONAL)
    reference = checkpoint.fitted["latent_reference"]
    neighbours = Neighbours(reference, scoring.lof_neighbours)
    arrays = dict(checkpoint.fitted)
    arrays |= fit_local_outlier_factor(neighbours, reference, scoring.lof_neighbours).arrays()
    arrays |= fit_isolation_forest(reference, scoring.num_trees, scoring.seed).arrays()
    normal = normal_from_arrays(scoring, arrays, config.num_latent, len(config.wave_edges) - 1, 1)
    return spectral.Scorer(config, module, torch.device("cpu")), normal, scoring


def batches(
    args: argparse.Namespace, prepare: SpectrumPrep, seed: int, num: int, anomaly_fraction: float
) -> Iterator[Batch]:
    """Spectra as in training, with anomalies among them."""
    share = args.bases_fraction if args.bases else 0.0
    mix = SimulateConfig(bases_fraction=share, anomaly_fraction=anomaly_fraction)
    recipe = Recipe(CHUNK_ROWS, mix, prepare, Augment(), args.bases)
    return chunks(recipe, seed, 0, -(-num // CHUNK_ROWS), args.num_workers)


def scored(scorer: spectral.Scorer, normal: Normal, names: tuple[str, ...], stream: Iterator[Batch]) -> Batch:
    """Scores, high = anomalous, with S/N, what densities are asked for, and truth."""
    parts = []
    for batch in stream:
        raw, objects, _ = spectral.score(scorer, normal, batch)
        kept = {name: batch[name] for name in ("anomaly", "target", "rmag", "spectype")}
        kept |= {f"objects.{name}": values for name, values in objects._asdict().items()}
        parts.append(spectral.orient(raw, names) | kept | {"snr": objects.snr})
    return joined(parts)


def judged(calibration: SnrCalibration, names: tuple[str, ...], sample: Batch) -> Batch:
    """-log10 p of each score."""
    group = calibration.place(sample["spectype"], sample["snr"]).group
    return {name: calibration.tables.judge(name, sample[name], group).log10_p for name in names}


def summary(judgements: list[Batch], samples: list[Batch]) -> dict[str, dict[str, dict[str, list[float]]]]:
    """Metric, candidate, kind -> value of each seed; "mean" is over kinds."""
    rows: dict[str, dict[str, dict[str, list[float]]]] = {}
    for log10_p, sample in zip(judgements, samples, strict=True):
        unions = {label: np.max([log10_p[n] for n in names], axis=0) for label, names in CANDIDATES.items()}
        for metric, kinds in compare(unions, sample).items():
            kinds.pop("all")
            for label in unions:
                values = {kind: row[label] for kind, row in kinds.items()}
                values["mean"] = float(np.mean(list(values.values())))
                for kind, value in values.items():
                    rows.setdefault(metric, {}).setdefault(label, {}).setdefault(kind, []).append(value)
    return rows


def print_summary(title: str, rows: dict[str, dict[str, dict[str, list[float]]]]) -> None:
    """Print candidates down: mean over kinds of both metrics, then recall of each kind."""
    kinds = [kind for kind in next(iter(rows["recall"].values())) if kind != "mean"]
    print(f"\n{title}\n{'union of':42}{'AUROC':>17}{'recall':>17}  " + " ".join(f"{k[:9]:>9}" for k in kinds))
    for label, row in rows["recall"].items():
        each = " ".join(f"{np.mean(row[kind]):9.2f}" for kind in kinds)
        auroc = interval(rows["auroc"][label]["mean"])
        print(f"{label:42}{auroc:>17}{interval(row['mean']):>17}  {each}")
    best = {label: {kind: np.mean(v) for kind, v in row.items()} for label, row in rows["auroc"].items()}
    print("AUROC by kind")
    for label, row in best.items():
        print(f"{label:76}  " + " ".join(f"{row[kind]:9.2f}" for kind in kinds))


def print_uniformity(found: Mapping[str, list[Batch]], samples: list[Batch], names: tuple[str, ...]) -> None:
    """Fraction of normal spectra above the 99th percentile, by S/N, mean over scores; and of the worst score."""
    snr = np.concatenate([sample["snr"][sample["anomaly"] == ""] for sample in samples])
    edges = np.quantile(snr, np.linspace(0, 1, 9))
    print("\nnormal spectra above the 99th percentile [%]: mean of the scores, and the highest")
    print(f"{'S/N':24}" + "".join(f"{low:6.2f}-{high:<6.2f}" for low, high in itertools.pairwise(edges)))
    place = np.clip(np.searchsorted(edges, snr, side="right") - 1, 0, 7)
    for kind, judgements in found.items():
        above = np.stack([
            np.concatenate([j[name][s["anomaly"] == ""] for j, s in zip(judgements, samples, strict=True)]) > 2
            for name in names
        ])  # fmt: skip
        rates = np.array([100 * above[:, place == k].mean(1) for k in range(8)])
        print(f"{kind:24}" + "".join(f"{r.mean():6.2f} {r.max():<6.2f}" for r in rates))
    print(f"binomial error of one score: {100 * np.sqrt(0.01 * 0.99 * 8 / len(snr)):.2f}")


def measured_costs(normal: Normal, scoring: ScoringConfig, sample: Batch) -> dict[str, float]:
    """Processor time that each optional score adds to those of the latent distance."""
    objects = spectral.Objects(*(sample[f"objects.{name}"][:2048] for name in spectral.Objects._fields))
    parts = {"latent_lof": "lof", "latent_forest": "forest", "latent_log_density": "latent_density",
             "residual_log_density": "residual_density"}  # fmt: skip
    none = replace(normal, **dict.fromkeys(parts.values()))
    base = _seconds(replace(none, scoring=replace(scoring, optional_scores=("latent_log_density",
                    "residual_log_density"))), objects)  # fmt: skip
    costs = {"latent_distance": base}
    for name, part in parts.items():
        settings = scoring if part == "lof" else replace(scoring, optional_scores=("latent_log_density",
                                                         "residual_log_density"))  # fmt: skip
        alone = replace(none, **{part: getattr(normal, part)}, scoring=settings)
        costs[name] = _seconds(alone, objects) - base
    return {name: 1e6 * seconds / len(objects.snr) for name, seconds in costs.items()}


def _seconds(normal: Normal, objects: spectral.Objects) -> float:
    """Least processor time of five calls."""
    times = []
    for _ in range(5):
        start = time.process_time()
        normal.scores(objects)
        times.append(time.process_time() - start)
    return min(times)


if __name__ == "__main__":
    main()
