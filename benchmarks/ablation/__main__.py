"""Compare reductions of spectra by the injected anomalies that they find.

    python -m benchmarks.ablation [--bases TEMPLATES] [--seeds 1 2 3] [--methods pca vae_rest ...] [--cache FOLDER]

Every method gets the same number of latents and, for each seed, the same fresh training spectra; all are judged on one
test set of a seed that nothing was tuned on, with ten kinds of injected anomalies, and all are scored by
`models.scoring` in the same way (`anomaly_score`, calibrated on the same held-out normal spectra), and without it (plain chi2,
plain distance to the nearest in latent space). The shipped checkpoints have rows of their own: more pixels, latents
and spectra; as each is trained once, their intervals are those over test spectra (bootstrap). Results are kept as one JSON for each method and seed, so that an interrupted run goes on; with
--table-only the tables are printed from what is there, and what is there of other settings is named. With the defaults about a quarter of an hour of one core; seeds can run beside each other with one cache.
"""

import argparse
import json
import logging
import math
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.ablation import pages, table
from benchmarks.ablation.evaluate import results, score, spread
from benchmarks.ablation.methods import METHODS, Settings
from benchmarks.ablation.sample import Sample, drawn
from benchmarks.ablation.shipped import score_shipped
from engine.checkpoint import read_header
from engine.storage import Storage
from engine.synthetic.population import SimulateConfig

log = logging.getLogger("ablation")

SHIPPED = {"shipped": "checkpoints/spectral_vae_desi", "shipped_rest": "checkpoints/spectral_vae_rest"}
DEFAULT = [*(name for name in METHODS if name != "spender"), *SHIPPED]
"""spender takes as long as all others together even where it is trained for two minutes: ask for it by name."""
NUM_RESAMPLES = 60
"""Bootstrap samples of the test spectra that the interval of a shipped checkpoint is of."""
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
    parser.add_argument(
        "--snr-page", type=Path, help="the same for the tables by kind and S/N, which are long"
    )
    return parser.parse_args(words)


def main(words: list[str] | None = None) -> None:
    args = parse(words)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    if not args.table_only:
        compute(args)
    found = collected(args)
    texts = ((args.page, pages.report(found, args)), (args.snr_page, pages.report_by_snr(found)))
    for page, text in texts:
        print(text)
        if page:
            table.write_below(page, text)


def asked(args: argparse.Namespace, method: str) -> dict[str, Any]:
    """All that a cached result depends on, beside method, seed and the templates (`bases_names`).

    A shipped checkpoint is known by its id, as another one may stand at its path after the next training.
    """
    settings = Settings(num_latent=args.num_latent, passes=args.passes)
    shared = {"num_test": args.num_test, "anomaly_fraction": args.anomaly_fraction, "test_seed": TEST_SEED,
              "bases_fraction": args.bases_fraction if args.bases else 0.0}  # fmt: skip
    if method in SHIPPED:
        id_ = read_header(SHIPPED[method], Storage()).id
        return shared | {"checkpoint": id_, "resamples": NUM_RESAMPLES}
    return json.loads(json.dumps(
        shared | {"num_train": args.num_train, "num_held_out": args.num_held_out, "settings": asdict(settings)}
    ))  # fmt: skip


def bases_names(args: argparse.Namespace) -> list[str]:
    """Names of the template files that spectra are drawn from; their folder says nothing of what they are."""
    if not args.bases:
        return []
    names = (Path(file.uri).name for file in Storage().list(args.bases, ".fits"))
    return [name for name in names if name.startswith("rrtemplate-")]


def cached(args: argparse.Namespace, method: str, seed: int) -> dict[str, Any] | None:
    """Read the result of a method and seed, if it is there and was made with the same settings.

    A result that does not say which templates it was made with is taken: those before this was written down.
    """
    path = args.cache / f"{method}-{seed}.json"
    if not path.exists():
        return None
    found = json.loads(path.read_text())
    is_same = found["asked"] == asked(args, method) and found.get("bases") in (None, bases_names(args))
    return found if is_same else None


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
            cpu = time.process_time() - began
            found = {**results(scores, truth), table.SPREAD: spread(scores, truth, NUM_RESAMPLES)}
            keep(args, name, 0, {**found, "score_cpu_s": cpu})
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
    told = {"asked": asked(args, method), "bases": bases_names(args)}
    text = json.dumps(_with_null({**told, **found}), indent=1, allow_nan=False)
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
    """Results that are there, of those asked for; what is of other settings is named in the log and left out."""
    found: dict[str, dict[int, dict[str, Any]]] = {}
    for method, seed in ((m, s) for m in args.methods for s in seeds_of(args, m)):
        kept = cached(args, method, seed)
        if kept is not None:
            found.setdefault(method, {})[seed] = kept
        elif (args.cache / f"{method}-{seed}.json").exists():
            log.warning("%s, seed %d: kept of other settings or templates, left out", method, seed)
    return found


if __name__ == "__main__":
    main()
