"""Go on training a denoiser on the staged clean images of a configuration, without Ray, from a checkpoint.

    python -m benchmarks.tune_denoiser CONFIG --start-from checkpoints/unet_vae_nircam --output NEW [-o NAME=VALUE ...]

CONFIG has `[staged]` (after `python -m jobs ingest`) and `[contaminate]`; `-o` changes it as for `python -m jobs`. Each pass takes
realisations that no other has. The settings of the network are the checkpoint's but for the rate. Rows of the validation
share are not learned from; the same realisations of them are judged before and after.
"""

import argparse
import itertools
import logging
import shlex
import sys
from collections import deque
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pyarrow as pa
import torch

from benchmarks.training_state import take_networks
from engine.checkpoint import Checkpoint, load, save
from engine.commit import read_manifest
from engine.config import load as load_config
from engine.storage import Storage
from engine.train.batches import SPLIT_COLUMN, Splitter, read_tables, sequential_batches, shuffled_batches
from engine.train.plan import Realisations, TrainData, ordered_files
from jobs.config import JobConfig
from jobs.train import training_data
from models.spec import Batch
from models.unet_vae import SPEC, UNetVAETask

log = logging.getLogger("tune_denoiser")
STEPS_PER_LINE = 50


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config")
    parser.add_argument("--start-from", required=True)
    parser.add_argument("--output", required=True)
    parser.add_argument("--steps", type=int, default=900)
    parser.add_argument("--learning-rate", type=float, default=5e-4)
    parser.add_argument("--num-threads", type=int, default=1)
    parser.add_argument("-o", action="append", default=[], metavar="NAME=VALUE")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stdout)
    torch.set_num_threads(args.num_threads)
    job, start = load_config(JobConfig, args.config, args.o), load(args.start_from, Storage(), SPEC.name)
    assert job.staged is not None
    data = training_data(job, read_manifest(job.staged.uri, Storage()), None)
    task, before = started(args, start), validation(job, data)
    history = [{"step": 0} | judged(task, before)]
    log.info("%s", history[-1])
    for step, batch in enumerate(itertools.islice(training(job, data), args.steps)):
        metrics = task.step(batch, step)
        if (step + 1) % STEPS_PER_LINE == 0:
            log.info("step %d  %s", step + 1, "  ".join(f"{k} {v:.4g}" for k, v in metrics.items()))
    history.append({"step": args.steps} | judged(task, before))
    log.info("%s", history[-1])
    saved = save(checkpoint(args, start, task, history), args.output, Storage(), "float16")
    log.info("checkpoint %s: %s", saved.id, args.output)


def started(args: argparse.Namespace, start: Checkpoint) -> UNetVAETask:
    """Return the task with the weights to begin with."""
    config = replace(SPEC.config(**start.config), learning_rate=args.learning_rate)
    task = UNetVAETask(config, 1)
    take_networks(SPEC, task.modules, start)
    task.start(torch.device("cpu"), args.steps)
    return task


def training(job: JobConfig, data: TrainData) -> Iterator[Batch]:
    """Yield batches of all rows but those of the validation share, pass after pass."""
    config, realise = job.train, realisations(data)
    for number in itertools.count():
        rows = splitter(job).training_rows(staged(job, data, number))
        made = (realise(table, number) for table in rows)
        yield from shuffled_batches(
            made, data.columns, config.global_batch_rows, config.shuffle_buffer_rows, config.seed, number
        )


def validation(job: JobConfig, data: TrainData) -> list[Batch]:
    """Batches of the validation share."""
    split, realise = splitter(job), realisations(data)
    deque(split.training_rows(staged(job, data, 0)), maxlen=0)
    made = (realise(table, 0) for table in split.monitored)
    return list(sequential_batches(made, data.columns, job.train.global_batch_rows))


def splitter(job: JobConfig) -> Splitter:
    return Splitter(job.train.validation_fraction, job.train.validation_fraction)


def realisations(data: TrainData) -> Realisations:
    assert data.realisations is not None, "the configuration has no [contaminate]"
    return data.realisations


def staged(job: JobConfig, data: TrainData, number: int) -> Iterator[pa.Table]:
    """Tables of all clean rows, files in the order of the pass."""
    columns = [*realisations(data).reads(data.columns), SPLIT_COLUMN]
    for file in ordered_files(data, job.train.seed + number):
        yield from read_tables([file.uri], columns, Storage())


def judged(task: UNetVAETask, batches: list[Batch]) -> dict[str, float]:
    """Mean metrics of validation batches."""
    found = [task.evaluate(batch) for batch in batches]
    return {f"val_{name}": float(np.mean([one[name] for one in found])) for name in found[0]}


def checkpoint(
    args: argparse.Namespace, start: Checkpoint, task: UNetVAETask, history: list[dict[str, float]]
) -> Checkpoint:
    """Return the checkpoint that it has become."""
    weights = {name: value.numpy() for name, value in task.modules["unet_vae"].state_dict().items()}
    told = {
        "command": shlex.join(["python", "-m", "benchmarks.tune_denoiser", *sys.argv[1:]]),
        "started_from": start.id,
        "before": start.provenance,
    }
    settings = start.config | {"learning_rate": args.learning_rate}
    built = SPEC.to_build(SPEC.config(**settings), weights)
    return replace(
        start,
        config=settings,
        weights=built,
        metrics=history[-1],
        history=start.history + history,
        provenance=told,
    )


if __name__ == "__main__":
    main()
