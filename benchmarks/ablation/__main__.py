"""Compare reductions of spectra by the injected anomalies that they find.

    python -m benchmarks.ablation [--bases TEMPLATES] [--seeds 1 2 3] [--methods pca vae_rest ...] [--cache FOLDER]

Every method gets the same number of latents and, for each seed, the same fresh training spectra; all are judged on one
test set of a seed that nothing was tuned on, with ten kinds of injected anomalies, and all are scored by
`models.scoring` in the same way (`anomaly_score`, calibrated on the same held-out normal spectra), and without it (plain chi2,
plain distance to the nearest in latent space). The shipped checkpoints have rows of their own: more pixels, latents
and spectra. Results are kept as one JSON for each method and seed, so that an interrupted run goes on; with
--table-only the tables are printed from what is there. With the defaults about a quarter of an hour of one core; seeds can run beside each other with one cache.
"""

import argparse
import json
import logging
import math
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.ablation import table
from benchmarks.ablation.evaluate import PLAIN, results, score
from benchmarks.ablation.methods import METHODS, Settings
from benchmarks.ablation.sample import Sample, drawn
from benchmarks.ablation.shipped import score_shipped
from engine.synthetic.population import SimulateConfig

log = logging.getLogger("ablation")

SHIPPED = {"shipped": "checkpoints/spectral_vae_desi", "shipped_rest": "checkpoints/spectral_vae_rest"}
DEFAULT = [*(name for name in METHODS if name != "spender"), *SHIPPED]
"""spender takes as long as all others together even where it is trained for two minutes: ask for it by name."""
TEST_SEED, HELD_OUT_SEED = 90_211, 70_000
"""The test seed is used for these tables and for nothing else."""


def parse(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--num-train", type=int, default=12_288)
    parser.add_argument("--num-held-out", type=int, default=4_096, help="normal spectra that calibrate")
    parser.add_argument("--num-test", type=int, default=12_288)
    parser.add_argument("--anomaly-fraction", type=float, default=0.25)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--methods", nargs="+", choices=[*METHODS, *SHIPPED], default=DEFAULT)
    parser.add_argument("--num-latent", type=int, default=Settings.num_latent)
    parser.add_argument("--passes", type=int, default=Settings.passes)
    parser.add_argument("--bases", default="", help="folder with rrtemplate-*.fits")
    parser.add_argument("--bases-fraction", type=float, default=0.4)
    parser.add_argument("--cache", type=Path, default=Path("build/ablation"))
    parser.add_argument(
        "--samples", type=Path, help="keep simulated spectra here (0.6 GB a seed) for other runs"
    )
    parser.add_argument("--table-only", action="store_true")
    parser.add_argument("--page", type=Path, help="put the tables below the mark of this page too")
    return parser.parse_args(words)


def main(words: list[str] | None = None) -> None:
    args = parse(words)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    if not args.table_only:
        compute(args)
    text = report(collected(args), args)
    print(text)
    if args.page:
        table.write_below(args.page, text)


def asked(args: argparse.Namespace, method: str) -> dict[str, Any]:
    """All that a cached result depends on, beside method and seed."""
    settings = Settings(num_latent=args.num_latent, passes=args.passes)
    shared = {"num_test": args.num_test, "anomaly_fraction": args.anomaly_fraction, "test_seed": TEST_SEED,
              "bases_fraction": args.bases_fraction if args.bases else 0.0}  # fmt: skip
    if method in SHIPPED:
        return shared | {"checkpoint": SHIPPED[method]}
    return json.loads(json.dumps(
        shared | {"num_train": args.num_train, "num_held_out": args.num_held_out, "settings": asdict(settings)}
    ))  # fmt: skip


def cached(args: argparse.Namespace, method: str, seed: int) -> dict[str, Any] | None:
    """Read the result of a method and seed, if it is there and was made with the same settings."""
    path = args.cache / f"{method}-{seed}.json"
    if not path.exists():
        return None
    found = json.loads(path.read_text())
    return found if found["asked"] == asked(args, method) else None


def seeds_of(args: argparse.Namespace, method: str) -> list[int]:
    """Seeds of a method: a shipped checkpoint is one, others are trained once a seed."""
    return [0] if method in SHIPPED else args.seeds


def compute(args: argparse.Namespace) -> None:
    """Train and score what is not there yet, all methods of a seed on one sample."""
    mix = SimulateConfig(bases_fraction=args.bases_fraction if args.bases else 0.0)
    spoiled = SimulateConfig(bases_fraction=mix.bases_fraction, anomaly_fraction=args.anomaly_fraction)
    args.cache.mkdir(parents=True, exist_ok=True)
    for name in SHIPPED:
        if name in args.methods and cached(args, name, 0) is None:
            began = time.process_time()
            scores, truth = score_shipped(SHIPPED[name], args.num_test, TEST_SEED, spoiled, args.bases)
            keep(args, name, 0, {**results(scores, truth), "score_cpu_s": time.process_time() - began})
    test: Sample | None = None
    for seed in args.seeds:
        missing = [m for m in args.methods if m not in SHIPPED and cached(args, m, seed) is None]
        if not missing:
            continue
        frames = tuple({METHODS[name].frame: None for name in missing})
        if test is None or not set(frames) <= set(test.frames):
            test = drawn(args.num_test, TEST_SEED, spoiled, args.bases, frames, args.samples)
        train, held_out = (
            drawn(num, number, mix, args.bases, frames, args.samples)
            for num, number in ((args.num_train, seed), (args.num_held_out, HELD_OUT_SEED + seed))
        )
        for name in missing:
            keep(args, name, seed, run(name, seed, args, (train, held_out, test)))


def run(
    name: str, seed: int, args: argparse.Namespace, samples: tuple[Sample, Sample, Sample]
) -> dict[str, Any]:
    """Train one method, score the test set with it; with the CPU time of each."""
    train, held_out, test = samples
    method = METHODS[name]
    began = time.process_time()
    trained = method.train(train, Settings(num_latent=args.num_latent, passes=args.passes), seed)
    middle = time.process_time()
    found = results(score(trained, method.frame, train, held_out, test), test.columns)
    return {**found, "train_cpu_s": middle - began, "score_cpu_s": time.process_time() - middle}


def keep(args: argparse.Namespace, method: str, seed: int, found: dict[str, Any]) -> None:
    """Write a result."""
    text = json.dumps(_with_null({"asked": asked(args, method), **found}), indent=1, allow_nan=False)
    (args.cache / f"{method}-{seed}.json").write_text(text + "\n")
    recall = found["anomaly_score"][table.HEADLINE]["mean"]["all"]
    cpu = sum(value for key, value in found.items() if key.endswith("_cpu_s"))
    log.info("%s, seed %d: %s %.3f, %.0f s of CPU", method, seed, table.HEADLINE, recall, cpu)


def _with_null(value: Any) -> Any:
    """Replace what is not a number by null: JSON knows no NaN."""
    if isinstance(value, dict):
        return {key: _with_null(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def collected(args: argparse.Namespace) -> dict[str, dict[int, dict[str, Any]]]:
    """Results that are there, of those asked for."""
    found = {
        method: {s: kept for s in seeds_of(args, method) if (kept := cached(args, method, s)) is not None}
        for method in args.methods
    }
    return {method: by_seed for method, by_seed in found.items() if by_seed}


def report(found: dict[str, dict[int, dict[str, Any]]], args: argparse.Namespace) -> str:
    """All tables."""
    titles = {name: method.title for name, method in METHODS.items()} | {
        "shipped": "shipped, observed frame (more pixels, latents, spectra)",
        "shipped_rest": "shipped, rest frame (more spectra)",
    }
    ours = "anomaly_score"
    parts = [
        f"{args.num_train} training spectra, {args.num_latent} latents, {args.passes} passes of networks; "
        f"{args.num_test} test spectra, {args.anomaly_fraction:.0%} anomalous; "
        f"average precision at a prevalence of 1 %; mean over kinds ± 95 % interval over seeds.",
        f"## Ranked by `{ours}`\n\n{table.overview(found, titles, ours)}",
        *(f"## Ranked by plain {name}\n\n{table.overview(found, titles, name)}" for name in PLAIN),
        f"## {table.HEADLINE} by kind, `{ours}`\n\n{table.by_kind(found, ours, table.HEADLINE)}",
        f"## recall at 0.1 % by kind, `{ours}`\n\n{table.by_kind(found, ours, 'recall at 0.1 %')}",
        f"## AUROC by kind, `{ours}`\n\n{table.by_kind(found, ours, 'AUROC')}",
        f"## Who sees a wrong redshift? AUROC by score\n\n{table.one_kind(found, 'wrong_redshift', 'AUROC')}",
        f"## {table.HEADLINE} by S/N, `{ours}`\n\n{table.by_snr(found, ours, table.HEADLINE)}",
    ]
    parts += [
        f"### {name}: {table.HEADLINE} by kind and S/N\n\n"
        f"{table.by_kind_and_snr(by_seed, ours, table.HEADLINE)}"
        for name, by_seed in found.items()
    ]
    simple = [name for name, method in METHODS.items() if method.is_simple and name in found]
    if simple:
        name, plain, values = table.best_simple(found, simple, PLAIN)
        parts.append(
            f"## Goal\n\nBest simple baseline: {titles[name]} by plain {plain}, "
            f"{table.HEADLINE} {table.cell(values)}. `{ours}` of each method against it:\n\n"
            f"{table.ratios(found, values, ours)}"
        )
    cost = {name: np.mean([kept.get("train_cpu_s", 0.0) for kept in s.values()]) for name, s in found.items()}
    parts.append(
        "CPU seconds of training: " + ", ".join(f"{name} {value:.0f}" for name, value in cost.items())
    )
    return "\n\n".join(parts)


if __name__ == "__main__":
    main()
