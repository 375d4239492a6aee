"""How well injected anomalies are found: our ranking against PCA of the same size and isolation forest.

    python -m benchmarks.injected_anomalies [--checkpoint URI] [--bases TEMPLATES] [--seeds 3] [--json FILE]

For each kind of anomaly: the area under the ROC curve, against normal spectra of the classes that can have it and as
bright as those that do (the simulation injects into bright objects only, and a score that just grows with
brightness must not profit); and the recall where 1 % of all normal spectra are flagged. Then the mean over kinds of
each seed, and its 95 % interval over seeds. Normal spectra carry the mild calibration and background errors of
`Augment`, as in training, so that an artefact must stand out from those. The test seeds are used for this table
and for nothing else; settings are chosen by `benchmarks.rank_choice` on others.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy import stats
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest
from sklearn.metrics import roc_auc_score

from benchmarks.training_spectra import Augment, Batch, Recipe, chunks
from engine.checkpoint import load
from engine.infer import open_model
from engine.spectra.prepare import SpectrumPrep
from engine.storage import Storage
from engine.synthetic.population import ANOMALY_FAINTEST, SimulateConfig
from models.scoring.spectral import LOW_MEANS_ANOMALOUS
from models.spec import Predict
from models.spectral_vae import SPEC

TEST_SEED, PCA_SEED = 90_210, 5
CHUNK_ROWS = 512
RANKED = ("anomaly_score", "off_manifold_score", "on_manifold_score")
BASELINES = ("pca_chi2", "isolation_forest")
FALSE_POSITIVE_RATE = 0.01

Table = dict[str, dict[str, dict[str, float]]]
"""Metric -> kind of anomaly -> method -> value."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", default="checkpoints/spectral_vae_desi")
    parser.add_argument("--num-spectra", type=int, default=20_480)
    parser.add_argument("--anomaly-fraction", type=float, default=0.2)
    parser.add_argument(
        "--num-pca", type=int, default=12_288, help="normal spectra that the baselines learn from"
    )
    parser.add_argument("--bases", default="", help="folder with rrtemplate-*.fits")
    parser.add_argument("--bases-fraction", type=float, default=0.4)
    parser.add_argument("--seed", type=int, default=TEST_SEED, help="the first")
    parser.add_argument("--seeds", type=int, default=3, help="how many, one after the other")
    parser.add_argument("--num-workers", type=int, default=1)
    parser.add_argument("--json", default="", help="write the numbers here too")
    args = parser.parse_args()
    tables: list[Table] = []
    methods = open_methods(args)
    for seed in range(args.seed, args.seed + args.seeds):
        scores, truth = score_all(args, methods, seed)
        tables.append(compare(scores, truth))
        print(
            f"seed {seed}: {args.num_spectra} spectra, {int((truth['anomaly'] == '').sum())} of them normal"
        )
    for metric in ("auroc", "recall"):
        print_table(metric, mean_table([table[metric] for table in tables]))
        print_means(metric, [table[metric] for table in tables])
    if args.json:
        Path(args.json).write_text(json.dumps({"seed": args.seed, "tables": tables}, indent=1) + "\n")


@dataclass(frozen=True)
class Methods:
    """What scores the spectra."""

    predict: Predict
    scores: tuple[str, ...]
    pca: PCA
    forest: IsolationForest
    prepare: SpectrumPrep
    share: float


def open_methods(args: argparse.Namespace) -> Methods:
    """Open the checkpoint, and fit the baselines to other normal spectra."""
    checkpoint = load(args.checkpoint, Storage(), SPEC.name, SPEC.version)
    config, module = open_model(SPEC, checkpoint, args.checkpoint)
    predict = SPEC.predictor(config, module, checkpoint.fitted, torch.device("cpu"))
    share = args.bases_fraction if args.bases else 0.0
    prepare = SpectrumPrep.model_validate(checkpoint.prepare)
    baselines = fit_baselines(args, prepare, SimulateConfig(bases_fraction=share), config.num_latent)
    return Methods(predict, config.scoring.scores, *baselines, prepare, share)


def score_all(args: argparse.Namespace, methods: Methods, seed: int) -> tuple[Batch, Batch]:
    """Score the spectra of a seed with every method, high = anomalous; return the truth as well."""
    parts: list[Batch] = []
    truth: list[Batch] = []
    for batch in test_batches(args, methods.prepare, methods.share, seed):
        out = methods.predict(batch)
        ours = {name: out[name] for name in RANKED}
        ours |= {name: -out[name] if name in LOW_MEANS_ANOMALOUS else out[name] for name in methods.scores}
        parts.append(ours | baseline_scores(methods.pca, methods.forest, batch))
        truth.append({name: batch[name] for name in ("anomaly", "target", "rmag")})
    return joined(parts), joined(truth)


def joined(parts: list[Batch]) -> Batch:
    """Concatenate batches."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def test_batches(
    args: argparse.Namespace,
    prepare: SpectrumPrep,
    share: float,
    seed: int | None = None,  # noqa: PT028
) -> Iterator[Batch]:
    """Spectra with anomalies among them, of the first seed if none is given."""
    mix = SimulateConfig(bases_fraction=share, anomaly_fraction=args.anomaly_fraction)
    recipe = Recipe(CHUNK_ROWS, mix, prepare, Augment(), args.bases)
    number = args.seed if seed is None else seed
    return chunks(recipe, number, 0, -(-args.num_spectra // CHUNK_ROWS), args.num_workers)


def fit_baselines(
    args: argparse.Namespace, prepare: SpectrumPrep, mix: SimulateConfig, num_components: int
) -> tuple[PCA, IsolationForest]:
    """PCA with as many components as the model has latents, and a forest on its coefficients."""
    recipe = Recipe(CHUNK_ROWS, mix, prepare, Augment(), args.bases)
    batches = chunks(recipe, PCA_SEED, 0, -(-args.num_pca // CHUNK_ROWS), args.num_workers)
    flux = np.concatenate([filled(batch) for batch in batches])
    pca = PCA(num_components, svd_solver="randomized", random_state=0).fit(flux)
    forest = IsolationForest(n_estimators=300, random_state=0).fit(pca.transform(flux))
    return pca, forest


def filled(batch: Batch) -> np.ndarray:
    """Flux with unusable pixels at 1, the level that every prepared spectrum is scaled to."""
    return np.where(batch["ivar"] > 0, batch["flux"], 1).astype(np.float32)


def baseline_scores(pca: PCA, forest: IsolationForest, batch: Batch) -> dict[str, np.ndarray]:
    """Reduced chi2 of the PCA reconstruction, and the forest's anomaly score."""
    flux = filled(batch)
    coefficients = pca.transform(flux)
    residual = flux - pca.inverse_transform(coefficients)
    usable = np.maximum((batch["ivar"] > 0).sum(1), 1)
    return {
        "pca_chi2": (residual**2 * batch["ivar"]).sum(1) / usable,
        "isolation_forest": -forest.score_samples(coefficients),
    }


def compare(scores: Batch, truth: Batch) -> Table:
    """AUROC and recall by kind of anomaly and method."""
    kinds = truth["anomaly"]
    normal = kinds == ""
    faintest = np.array([ANOMALY_FAINTEST[target] for target in truth["target"]])
    bright = normal & (truth["rmag"] <= faintest)
    limits = {name: np.quantile(s[normal], 1 - FALSE_POSITIVE_RATE) for name, s in scores.items()}
    table: Table = {"auroc": {}, "recall": {}}
    for kind in (*sorted(set(kinds[~normal])), "all"):
        chosen = ~normal if kind == "all" else kinds == kind
        matched = bright & np.isin(truth["target"], list(set(truth["target"][chosen])))
        label = np.r_[np.zeros(matched.sum()), np.ones(chosen.sum())]
        both = {name: np.r_[s[matched], s[chosen]] for name, s in scores.items()}
        table["auroc"][kind] = {name: float(roc_auc_score(label, s)) for name, s in both.items()}
        table["recall"][kind] = {name: float((s[chosen] > limits[name]).mean()) for name, s in scores.items()}
    return table


def print_table(metric: str, rows: dict[str, dict[str, float]]) -> None:
    """Print one metric: kinds down, methods across."""
    title = {"auroc": "AUROC", "recall": f"recall at {FALSE_POSITIVE_RATE:.0%} false positives"}[metric]
    names = list(next(iter(rows.values())))
    print(f"\n{title}\n{'':20}" + "".join(f"{name:>20}" for name in names))
    for kind, values in rows.items():
        print(f"{kind:20}" + "".join(f"{values[name]:20.3f}" for name in names))


def mean_table(tables: list[dict[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
    """Mean over seeds."""
    first = tables[0]
    return {
        kind: {name: float(np.mean([table[kind][name] for table in tables])) for name in first[kind]}
        for kind in first
    }


def means_over_kinds(tables: list[dict[str, dict[str, float]]]) -> dict[str, list[float]]:
    """Return method -> mean over kinds of each seed."""
    kinds = [kind for kind in tables[0] if kind != "all"]
    return {
        name: [float(np.mean([table[kind][name] for kind in kinds])) for table in tables]
        for name in tables[0]["all"]
    }


def interval(values: Sequence[float]) -> str:
    """Mean and half-width of the 95 % interval of the mean (Student's t)."""
    if len(values) < 2:
        return f"{values[0]:.3f}"
    half = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))
    return f"{np.mean(values):.3f} ± {half:.3f}"


def print_means(metric: str, tables: list[dict[str, dict[str, float]]]) -> None:
    """Print the mean over kinds of each method, and ours against the best baseline."""
    means = means_over_kinds(tables)
    for name, values in means.items():
        print(f"{'mean over kinds':20}{name:>24}  {interval(values)}")
    best = max(BASELINES, key=lambda name: float(np.mean(means[name])))
    ratio = np.mean(means["anomaly_score"]) / np.mean(means[best])
    print(f"{metric} of anomaly_score is {ratio:.1f} times that of the best baseline, {best}")


if __name__ == "__main__":
    main()
