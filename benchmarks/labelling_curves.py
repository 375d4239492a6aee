"""How many real anomalies a person finds by labelling, by the order in which objects are shown.

    python -m benchmarks.labelling_curves [--num-spectra 8192] [--repeats 5] [--figure docs/labelling_curves.svg]
    python -m benchmarks.labelling_curves --checkpoint checkpoints/spectral_vae_rest --wanted wrong_redshift

Simulated spectra with injected anomalies are scored with a shipped checkpoint. A person who looks for physical
oddities labels them 5, an artefact 1, an ordinary object 0; one who looks for a single kind (`--wanted`) labels that 5 and
all others 0. `--batch` objects are shown at a time, the best ones of the present order that have no label yet. Orders: at random; by the raw score; Astronomaly's and Protege's, learned
anew after each batch (the first one is by the raw score). Found are the objects labelled 5 among what was shown. Each
repeat takes another random half of the spectra; means and standard deviations are over repeats. `alpha` of the
second Astronomaly was chosen with seed 90210.

A wrong redshift is left out where the model is not told redshifts: nothing of it can be seen then.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes

from benchmarks.injected_anomalies import test_batches
from catalogs.figures import BLUE, GREEN, GREY, SKY, VERMILION, new_figure, style, to_svg
from engine.checkpoint import load
from engine.infer import open_model
from engine.spectra.prepare import SpectrumPrep
from engine.storage import Storage
from engine.synthetic.anomalies import KINDS
from jobs.catalogue import RerankConfig
from jobs.rerank import learned
from models import MODELS
from models.reranking.labelled import Labelled

UNSEEN = "wrong_redshift"
NEAR = 0.2
"""Smaller alpha: labels are believed further away, as distances in many dimensions are all about the same."""
NEAR_NAME = f"astronomaly, alpha {NEAR}"
COLOURS = {
    "best possible": "#333333", NEAR_NAME: BLUE, "astronomaly": SKY, "protege": GREEN, "raw score": VERMILION,
    "random": GREY,
}  # fmt: skip
Order = Callable[[np.ndarray, np.ndarray], np.ndarray]


def parse(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", default="checkpoints/spectral_vae_desi")
    parser.add_argument("--num-spectra", type=int, default=8192)
    parser.add_argument("--anomaly-fraction", type=float, default=0.05)
    parser.add_argument("--labels", type=int, default=200, help="that the person gives")
    parser.add_argument("--batch", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seed", type=int, default=20_261)
    parser.add_argument("--bases", default="")
    parser.add_argument("--bases-fraction", type=float, default=0.4)
    parser.add_argument("--num-workers", type=int, default=1)
    parser.add_argument("--wanted", choices=list(KINDS), default="", help="the one kind that is looked for")
    parser.add_argument("--figure", default="", help="SVG of the curves")
    parser.add_argument("--json", default="", help="write the numbers here too")
    return parser.parse_args(words)


def main(words: list[str] | None = None) -> None:
    args = parse(words)
    latent, score, kind = scored(args)
    curves = label_repeatedly(args, latent, score, kind)
    show(args, curves)
    if args.figure:
        Path(args.figure).write_text(draw(args, curves))
    if args.json:
        lines = {name: curve.tolist() for name, curve in curves.items()}
        Path(args.json).write_text(json.dumps(lines) + "\n")


def scored(args: argparse.Namespace) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Latents [N, D], raw scores [N] and kinds of anomaly [N] of simulated spectra.

    Raises
    ------
    SystemExit
        If what is wanted cannot be seen by this model.
    """
    checkpoint = load(args.checkpoint, Storage())
    spec = MODELS[checkpoint.model]
    config, module = open_model(spec, checkpoint, args.checkpoint)
    predict = spec.predictor(config, module, checkpoint.fitted, torch.device("cpu"))
    prepare = SpectrumPrep.model_validate(checkpoint.prepare)
    if args.wanted == UNSEEN and not prepare.uses_redshift:
        raise SystemExit(f"--wanted {UNSEEN}: {args.checkpoint} is not told redshifts and cannot see it")
    share = args.bases_fraction if args.bases else 0.0
    parts = []
    for batch in test_batches(args, prepare, share):
        out = predict(batch)
        parts.append((out["latent_mean"], out["anomaly_score"], batch["anomaly"]))
    latent, score, kind = (np.concatenate(part) for part in zip(*parts, strict=True))
    seen = (kind != UNSEEN) | prepare.uses_redshift
    return latent[seen], score[seen], kind[seen]


def label_repeatedly(
    args: argparse.Namespace, latent: np.ndarray, score: np.ndarray, kind: np.ndarray
) -> dict[str, np.ndarray]:
    """How many objects labelled 5 are found after each label, [repeats, labels], by order."""
    curves: dict[str, list[np.ndarray]] = {name: [] for name in COLOURS}
    for repeat in range(args.repeats):
        rng = np.random.default_rng([args.seed, repeat])
        half = rng.permutation(len(kind))[: len(kind) // 2]
        judged = labels_of(kind[half], args.wanted)
        for name, order in orders(latent[half], score[half], rng).items():
            shown = label(order, judged, args.labels, args.batch)
            curves[name].append(np.cumsum(judged[shown] == 5.0))
        curves["best possible"].append(np.minimum(np.arange(args.labels) + 1, (judged == 5.0).sum()))
    return {name: np.array(curve) for name, curve in curves.items()}


def labels_of(kind: np.ndarray, wanted: str = "") -> np.ndarray:
    """Return what the person says: 5 of physical oddities, 1 of artefacts, 0 of the rest; or 5 of what is wanted alone."""
    if wanted:
        return np.where(kind == wanted, 5.0, 0.0)
    family = np.array([KINDS[name].family if name else "" for name in kind])
    return np.where(family == "physical", 5.0, np.where(family == "artefact", 1.0, 0.0))


def sought(args: argparse.Namespace) -> str:
    """Return what is counted."""
    return args.wanted.replace("_", " ") if args.wanted else "physical anomalies"


def orders(latent: np.ndarray, score: np.ndarray, rng: np.random.Generator) -> dict[str, Order]:
    """Functions from what has been shown and its labels to a value of each row, highest first."""
    chance = rng.random(len(score))

    def by_labels(**config: Any) -> Order:
        def order(shown: np.ndarray, labels: np.ndarray) -> np.ndarray:
            if not len(shown):
                return score
            reranker = learned(Labelled(latent[shown], labels), RerankConfig(**config))
            return reranker.apply(latent, score, reranker.totals(latent, score))["rerank_score"]

        return order

    return {
        "astronomaly": by_labels(), NEAR_NAME: by_labels(alpha=NEAR), "protege": by_labels(method="protege"),
        "raw score": lambda *_: score, "random": lambda *_: chance,
    }  # fmt: skip


def label(order: Order, judged: np.ndarray, num_labels: int, batch: int) -> np.ndarray:
    """Rows in the order in which the person saw them."""
    shown = np.empty(0, np.int64)
    while len(shown) < num_labels:
        value = order(shown, judged[shown]).astype(np.float64)
        value[shown] = -np.inf
        shown = np.concatenate([shown, np.argsort(-value, kind="stable")[:batch]])
    return shown[:num_labels]


def show(args: argparse.Namespace, curves: dict[str, np.ndarray]) -> None:
    """Print anomalies found after some numbers of labels."""
    steps = [n for n in (10, 20, 50, 100, 150, 200, 400) if n <= args.labels]
    print(f"{f'{sought(args)} found after':32}" + "".join(f"{f'{n} labels':>16}" for n in steps))
    for name, curve in curves.items():
        cells = (f"{curve[:, n - 1].mean():.1f} +- {curve[:, n - 1].std():.1f}" for n in steps)
        print(f"{name:32}" + "".join(f"{cell:>16}" for cell in cells))


def draw(args: argparse.Namespace, curves: dict[str, np.ndarray]) -> str:
    """Draw the curves as SVG."""
    with style():
        figure = new_figure(7.4, 3.6)
        axes = figure.subplots()
        for name, curve in curves.items():
            _draw_curve(axes, name, curve)
        axes.set_xlabel("labels given")
        axes.set_ylabel(f"{sought(args)} found")
        axes.set_xlim(0, args.labels)
        highest = max(curve.mean(0).max() for name, curve in curves.items() if name != "best possible")
        axes.set_ylim(0, 1.25 * highest)
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
        return to_svg(figure)


def _draw_curve(axes: Axes, name: str, curve: np.ndarray) -> None:
    labels, mean, spread = np.arange(curve.shape[1]) + 1, curve.mean(0), curve.std(0)
    axes.plot(
        labels, mean, color=COLOURS[name], lw=1.4, ls=":" if name == "best possible" else "-", label=name
    )
    axes.fill_between(labels, mean - spread, mean + spread, color=COLOURS[name], alpha=0.15, lw=0)


if __name__ == "__main__":
    main()
