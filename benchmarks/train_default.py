"""Train the shipped spectral VAEs on synthetic spectra made on the fly, without Ray and without files.

    python -m benchmarks.train_default --bases TEMPLATES
    python -m benchmarks.train_default --bases TEMPLATES --frame rest --num-spectra 60000 --passes 5
    python -m benchmarks.train_default --bases TEMPLATES --refit checkpoints/spectral_vae_desi

TEMPLATES is a clone of desihub/redrock-templates; without it all spectra are of the parametric kind. Run it again
after an interruption: it goes on from its last state. Takes about 25 minutes on two cores for 1.2 million
spectra. In the rest frame making a spectrum costs several times what learning from it does: with `--passes` each is
used so often, among the few thousand before it. Writes the checkpoint with float16 weights and with scores
calibrated on the rounded weights.
`--refit` keeps the weights of a checkpoint, and fits anew what scoring knows of normal spectra and of anomalies.
"""

import argparse
import logging
import shlex
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import TypeAdapter

from benchmarks.training_spectra import REST_MODEL, WIDE_REST, Augment, Batch, Recipe, chunks
from benchmarks.training_state import load_rounded, restore, store
from engine.checkpoint import Checkpoint, load, save
from engine.infer import open_model
from engine.spectra.prepare import SpectrumPrep
from engine.storage import Storage
from engine.synthetic.anomalies import KINDS
from engine.synthetic.population import SimulateConfig
from engine.train.kinds import confusion
from models.scoring import spectral
from models.spectral_vae import SPEC, SpectralVAE, SpectralVAETask
from models.spectral_vae_config import SpectralVAEConfig

log = logging.getLogger("train_default")

CHUNK_ROWS = 1024
SEED_VALIDATION, SEED_REFERENCE, SEED_CALIBRATION, SEED_ANOMALIES, SEED_CONFUSION = 1, 2, 3, 6, 7
"""Streams of spectra; training has the seed of the command line, which is none of these nor a test seed."""
STATE_EVERY = 20
POOL_CHUNKS = 8
"""Chunks that further passes draw from."""


@dataclass(frozen=True)
class Shipped:
    """A checkpoint that comes with the project."""

    config: SpectralVAEConfig
    prepare: SpectrumPrep
    uri: str


SHIPPED = {
    "observed": Shipped(SpectralVAEConfig(), SpectrumPrep(), "checkpoints/spectral_vae_desi"),
    "rest": Shipped(REST_MODEL, WIDE_REST, "checkpoints/spectral_vae_rest"),
}
"""By frame."""


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--frame", choices=list(SHIPPED), default="observed")
    parser.add_argument("--num-spectra", type=int, default=1_200_000)
    parser.add_argument("--passes", type=int, default=1, help="times that each spectrum is used")
    parser.add_argument("--batch-rows", type=int, default=128)
    parser.add_argument("--bases", default="", help="folder with rrtemplate-*.fits")
    parser.add_argument("--bases-fraction", type=float, default=0.4)
    parser.add_argument("--seed", type=int, default=1001)
    parser.add_argument("--num-reference", type=int, default=24_576)
    parser.add_argument("--num-calibration", type=int, default=40_960)
    parser.add_argument("--num-anomalies", type=int, default=8_192, help="that teach what an artefact is")
    parser.add_argument(
        "--refit", default="", metavar="CHECKPOINT", help="keep these weights; fit the scores only"
    )
    parser.add_argument("--num-workers", type=int, default=1, help="processes that make spectra")
    parser.add_argument("--num-threads", type=int, default=1, help="threads that train")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output", help="default: where the checkpoint of the frame is")
    parser.add_argument("--state", help="folder to resume from; default build/train_default/FRAME")
    args = parser.parse_args()
    args.output = args.output or SHIPPED[args.frame].uri
    args.state = args.state or f"build/train_default/{args.frame}"
    return args


def main() -> None:
    args = parse()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stdout)
    torch.set_num_threads(args.num_threads)
    recipe = Recipe(
        CHUNK_ROWS,
        SimulateConfig(bases_fraction=args.bases_fraction if args.bases else 0.0),
        SHIPPED[args.frame].prepare,
        Augment(),
        args.bases,
    )
    trained = reopened(args) if args.refit else newly_trained(args, recipe)
    config, module = open_model(SPEC, trained, args.refit or args.output)
    fitted, table = fit_scores(args, config, module, recipe)
    metrics = {**trained.metrics, "artefact_confusion": table}
    log.info("metrics: %s", metrics)
    saved = save(
        replace(trained, fitted=fitted, metrics=metrics), args.output, Storage(), weights_dtype="float16"
    )
    log.info("checkpoint %s: %s", saved.id, args.output)


def newly_trained(args: argparse.Namespace, recipe: Recipe) -> Checkpoint:
    """Train, and return the checkpoint without what scoring fits."""
    config = SHIPPED[args.frame].config
    task, history = train(args, config, recipe)
    module, weights = rounded(config, task.modules["vae"])
    metrics = evaluate(config, module, args, recipe)
    return Checkpoint(
        SPEC.name, SPEC.version, as_json(config), recipe.prepare.model_dump(mode="json"), weights, {}, metrics,
        history, provenance(args),
    )  # fmt: skip


def reopened(args: argparse.Namespace) -> Checkpoint:
    """Return the checkpoint to refit, with the default settings of scoring."""
    old = load(args.refit, Storage(), SPEC.name, SPEC.version)
    config = old.config | {"scoring": as_json(SHIPPED[args.frame].config)["scoring"]}
    told = {key: value for key, value in provenance(args).items() if key in ("command", "git_commit")}
    return replace(old, config=config, provenance=old.provenance | {"fitted_by": told})


def as_json(config: SpectralVAEConfig) -> dict[str, Any]:
    """Return settings as a checkpoint keeps them."""
    return TypeAdapter(SpectralVAEConfig).dump_python(config, mode="json")


def fit_scores(
    args: argparse.Namespace, config: SpectralVAEConfig, module: torch.nn.Module, recipe: Recipe
) -> tuple[dict[str, np.ndarray], dict[str, dict[str, int]]]:
    """Fit the scores and the guess of an anomaly's kind; return also how often that is right."""
    fitted = SPEC.fit(config, module, *calibration_batches(args, recipe))
    scorer = spectral.Scorer(config, module, torch.device("cpu"))
    injected = anomalies(args, recipe, SEED_ANOMALIES, args.num_anomalies)
    fitted |= spectral.fit_kind(config, scorer, fitted, injected, args.num_threads)
    predict = SPEC.predictor(config, module, fitted, torch.device("cpu"))
    return fitted, confusion(predict, anomalies(args, recipe, SEED_CONFUSION, args.num_anomalies // 3))


def anomalies(args: argparse.Namespace, recipe: Recipe, seed: int, num: int) -> Iterator[Batch]:
    """Spectra that all carry an anomaly, and whether the instrument made it."""
    mix = replace(recipe, simulate=replace(recipe.simulate, anomaly_fraction=1.0))
    for batch in chunks(mix, seed, 0, -(-num // CHUNK_ROWS), args.num_workers):
        family = np.array([KINDS[kind].family for kind in batch["anomaly"]])
        yield batch | {"is_artefact": family == "artefact"}


def train(
    args: argparse.Namespace, config: SpectralVAEConfig, recipe: Recipe
) -> tuple[SpectralVAETask, list[dict[str, Any]]]:
    """Train from the last state, or from scratch."""
    num_chunks = -(-args.num_spectra // CHUNK_ROWS)
    steps_per_chunk = args.passes * (CHUNK_ROWS // args.batch_rows)
    task = SpectralVAETask(config, args.seed)
    task.start(torch.device(args.device), num_chunks * steps_per_chunk)
    first, history = restore(Path(args.state), task)
    validation = list(chunks(recipe, SEED_VALIDATION, 0, 2, 0)) if first < num_chunks else []
    began = time.perf_counter()
    for index, batches in mixed(args, recipe, first, num_chunks):
        steps = enumerate(batches, index * steps_per_chunk)
        metrics = [task.step(batch, step) for step, batch in steps]
        if (index + 1) % STATE_EVERY == 0 or index + 1 == num_chunks:
            entry = summary(index + 1, metrics, [task.evaluate(batch) for batch in validation])
            history.append(entry)
            store(Path(args.state), task, index + 1, history)
            rate = (index + 1 - first) * CHUNK_ROWS / (time.perf_counter() - began)
            text = "  ".join(f"{key} {value:.5g}" for key, value in entry.items())
            log.info(
                "%s  %.0f spectra/s  %d min to go",
                text,
                rate,
                (num_chunks - index - 1) * CHUNK_ROWS / rate / 60,
            )
    return task, history


def mixed(
    args: argparse.Namespace, recipe: Recipe, first: int, last: int
) -> Iterator[tuple[int, Iterator[Batch]]]:
    """Chunks number `first` to `last` - 1 as mini-batches: the same ones wherever training goes on."""
    pool: deque[Batch] = deque(maxlen=POOL_CHUNKS)
    begin = max(first + 1 - POOL_CHUNKS, 0) if args.passes > 1 else first
    for index, chunk in enumerate(chunks(recipe, args.seed, begin, last, args.num_workers), begin):
        pool.append(chunk)
        if index >= first:
            rng = np.random.default_rng((args.seed, index))
            yield index, mini_batches(pool, args.passes, args.batch_rows, rng)


def mini_batches(pool: Sequence[Batch], passes: int, rows: int, rng: np.random.Generator) -> Iterator[Batch]:
    """Cut the newest chunk, and `passes` - 1 drawn from the pool, in random order; what is left over is dropped."""
    others = [pool[int(rng.integers(len(pool)))] for _ in range(passes - 1)]
    for chunk in (pool[-1], *others):
        order = rng.permutation(CHUNK_ROWS)
        for start in range(0, CHUNK_ROWS - rows + 1, rows):
            yield {key: values[order[start : start + rows]] for key, values in chunk.items()}


def summary(num_chunks: int, train_metrics: list[dict], val_metrics: list[dict]) -> dict[str, float]:
    """Means of the last chunk and of the validation batches."""
    return {
        "spectra": num_chunks * CHUNK_ROWS,
        **{key: float(np.mean([m[key] for m in train_metrics])) for key in train_metrics[0]},
        **{f"val_{key}": float(np.mean([m[key] for m in val_metrics])) for key in val_metrics[0]},
    }


def rounded(config: SpectralVAEConfig, trained: torch.nn.Module) -> tuple[SpectralVAE, dict[str, np.ndarray]]:
    """Return the network with weights as float16 keeps them: scores are calibrated on what will be loaded."""
    module = SpectralVAE(config)
    return module, load_rounded(module, trained)


def evaluate(
    config: SpectralVAEConfig, module: SpectralVAE, args: argparse.Namespace, recipe: Recipe
) -> dict[str, float]:
    """Return validation metrics of the final weights in float32."""
    task = SpectralVAETask(replace(config, precision="float32"), 0)
    task.modules["vae"].load_state_dict(module.state_dict())
    task.start(torch.device("cpu"), 1)
    found = [task.evaluate(batch) for batch in chunks(recipe, SEED_VALIDATION, 0, 4, args.num_workers)]
    return {f"val_{key}": float(np.mean([m[key] for m in found])) for key in found[0]}


def calibration_batches(args: argparse.Namespace, recipe: Recipe) -> tuple[Iterator[Batch], Iterator[Batch]]:
    """Fresh spectra that show what is normal, and others for percentiles."""
    sizes = ((SEED_REFERENCE, args.num_reference), (SEED_CALIBRATION, args.num_calibration))
    reference, held_out = (
        chunks(recipe, seed, 0, -(-num // CHUNK_ROWS), args.num_workers) for seed, num in sizes
    )
    return reference, held_out


def provenance(args: argparse.Namespace) -> dict[str, Any]:
    """How the checkpoint was made; the templates by their public name."""
    given = [word if word != args.bases else "redrock-templates" for word in sys.argv[1:]]
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return {
        "command": shlex.join(["python", "-m", "benchmarks.train_default", *given]),
        "seed": args.seed,
        "num_spectra": -(-args.num_spectra // CHUNK_ROWS) * CHUNK_ROWS,
        "passes": args.passes,
        "git_commit": commit.stdout.strip(),
        "torch": torch.__version__,
        "device": args.device,
    }


if __name__ == "__main__":
    main()
