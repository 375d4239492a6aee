"""How well injected anomalies are found: our ranking against PCA of the same size and isolation forest.

    python -m benchmarks.injected_anomalies [--checkpoint URI] [--bases TEMPLATES] [--json FILE]

For each kind of anomaly: the area under the ROC curve, against normal spectra of the classes that can have it and as
bright as those that do (the simulation injects into bright objects only, and a score that just grows with
brightness must not profit); and the recall where 1 % of all normal spectra are flagged. Normal spectra carry the mild calibration and background errors of `Augment`, as in
training, so that an artefact must stand out from those. The test seed is used for this table and for nothing
else; settings are chosen with `--seed 4`. A wrong redshift cannot be seen by a model that is given no redshift:
its rows tell what chance gives.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest
from sklearn.metrics import roc_auc_score

from benchmarks.training_spectra import Augment, Batch, Recipe, chunks
from engine.checkpoint import load
from engine.infer import open_model
from engine.spectra.prepare import SpectrumPrep
from engine.storage import Storage
from engine.synthetic.population import ANOMALY_FAINTEST, SimulateConfig
from models.scoring.spectral import LOW_MEANS_ANOMALOUS, SCORES
from models.spectral_vae import SPEC

TEST_SEED, PCA_SEED = 90_210, 5
CHUNK_ROWS = 512
RANKED = ("anomaly_score", "off_manifold_score", "on_manifold_score")
FALSE_POSITIVE_RATE = 0.01


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
    parser.add_argument("--seed", type=int, default=TEST_SEED)
    parser.add_argument("--num-workers", type=int, default=1)
    parser.add_argument("--json", default="", help="write the numbers here too")
    args = parser.parse_args()
    scores, truth = score_all(args)
    table = compare(scores, truth)
    kinds = truth["anomaly"]
    print(f"{args.num_spectra} spectra of seed {args.seed}, {int((kinds == '').sum())} of them normal")
    for metric in ("auroc", "recall"):
        print_table(metric, table[metric])
    if args.json:
        Path(args.json).write_text(json.dumps({"seed": args.seed, **table}, indent=1) + "\n")


def score_all(args: argparse.Namespace) -> tuple[dict[str, np.ndarray], Batch]:
    """Score the test spectra with every method, high = anomalous; return the truth as well."""
    checkpoint = load(args.checkpoint, Storage(), SPEC.name, SPEC.version)
    config, module = open_model(SPEC, checkpoint, args.checkpoint)
    predict = SPEC.predictor(config, module, checkpoint.fitted, torch.device("cpu"))
    share = args.bases_fraction if args.bases else 0.0
    prepare = SpectrumPrep.model_validate(checkpoint.prepare)
    pca, forest = fit_baselines(args, prepare, SimulateConfig(bases_fraction=share), config.num_latent)
    parts: list[dict[str, np.ndarray]] = []
    truth: list[Batch] = []
    for batch in test_batches(args, prepare, share):
        out = predict(batch)
        ours = {name: out[name] for name in RANKED}
        ours |= {name: -out[name] if name in LOW_MEANS_ANOMALOUS else out[name] for name in SCORES}
        parts.append(ours | baseline_scores(pca, forest, batch))
        truth.append({name: batch[name] for name in ("anomaly", "target", "rmag")})
    return joined(parts), joined(truth)


def joined(parts: list[Batch]) -> Batch:
    """Concatenate batches."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def test_batches(args: argparse.Namespace, prepare: SpectrumPrep, share: float) -> Iterator[Batch]:
    """Spectra with anomalies among them."""
    mix = SimulateConfig(bases_fraction=share, anomaly_fraction=args.anomaly_fraction)
    recipe = Recipe(CHUNK_ROWS, mix, prepare, Augment(), args.bases)
    return chunks(recipe, args.seed, 0, -(-args.num_spectra // CHUNK_ROWS), args.num_workers)


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


def compare(scores: Batch, truth: Batch) -> dict[str, dict[str, dict[str, float]]]:
    """AUROC and recall by kind of anomaly and method."""
    kinds = truth["anomaly"]
    normal = kinds == ""
    faintest = np.array([ANOMALY_FAINTEST[target] for target in truth["target"]])
    bright = normal & (truth["rmag"] <= faintest)
    limits = {name: np.quantile(s[normal], 1 - FALSE_POSITIVE_RATE) for name, s in scores.items()}
    table: dict[str, dict[str, dict[str, float]]] = {"auroc": {}, "recall": {}}
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


if __name__ == "__main__":
    main()
