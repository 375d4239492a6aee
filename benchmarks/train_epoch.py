"""An epoch of Ray Train against a bare torch loop: same files, same batches, same model, one run.

    python -m benchmarks.train_epoch [--spectra 20000] [--batch 256] [--epochs 3]
    python -m benchmarks.train_epoch --config jobs/configs/demo_morphology.toml

The second line takes the model of a configuration, its settings of training and what it has staged (after `jobs demo`).
The bare loop reads the Parquet with pyarrow in the process that trains, with a thread of torch for each core; Ray
reads it in other processes. Both take every step on equal batches. Epochs of the two alternate in time: bare, Ray,
bare, the last with as many threads as Ray's worker has: its losses are compared, as sums depend on the number of
threads, and the faster of the two is the loop that Ray is compared with. Start-up of Ray (workers, first blocks) is apart.
"""

import os

# Both wait without spinning; with spinning threads the bare loop is several times slower on a machine
# that does anything else. It must be set before torch loads its threads.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa
import ray
import torch

from engine.commit import parquet, read_manifest
from engine.config import load
from engine.schema import list_array
from engine.storage import Storage
from engine.train.batches import SPLIT_COLUMN, Splitter, shuffled_batches
from engine.train.loop import TrainConfig, TrainData, TrainResult, train
from engine.train.plan import epoch_plan, expected_steps
from engine.train.stream import staged
from engine.train.worker import num_threads
from engine.units import FileRef
from jobs.config import JobConfig, model_of
from jobs.train import measured, training_data
from models.spec import TrainTask
from models.spectral_vae import SPEC
from models.spectral_vae_config import SpectralVAEConfig

TARGET_RATIO = 0.9
Factory = Callable[[], TrainTask]
ROWS_PER_FILE = 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--spectra", type=int, default=20_000)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--pixels", type=int, default=7781)
    parser.add_argument("--config", default="", help="model and staged objects of this configuration instead")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        factory, config, data = configured(args) if args.config else made(args, Path(folder))
        size = sum(file.size for file in data.files)
        print(f"{data.num_rows} rows, {size / 2**30:.2f} GiB of Parquet")
        cores = os.cpu_count() or 1
        threads = num_threads(config, config.num_workers, data.realisations is not None)
        bare, _ = bare_rates(factory, data, config, cores)
        result, seconds = ray_run(factory, data, config, folder)
        again, losses = bare_rates(factory, data, config, threads)
    report({f"bare torch, {cores}": bare, f"bare torch, {threads} again": again}, result, losses, seconds)


def made(args: argparse.Namespace, folder: Path) -> tuple[Factory, TrainConfig, TrainData]:
    """Return the spectral VAE, and spectra of noise."""
    model = SpectralVAEConfig(num_pixels=args.pixels, num_latent=args.pixels // 101)
    config = TrainConfig(epochs=args.epochs, global_batch_rows=args.batch, shuffle_buffer_rows=2048)
    return partial(SPEC.task, model, 0), config, make_files(folder, args.spectra, args.pixels)


def configured(args: argparse.Namespace) -> tuple[Factory, TrainConfig, TrainData]:
    """Return the model of a configuration, and what it has staged."""
    job = load(JobConfig, args.config, ())
    assert job.staged is not None
    data = training_data(job, read_manifest(job.staged.uri, Storage()), None)
    spec, settings = model_of(measured(job, data))
    config = job.train.model_copy(update={"epochs": args.epochs, "early_stop_patience": 0})
    return partial(spec.task, settings, 0), config, data


def make_files(folder: Path, num: int, num_pixels: int) -> TrainData:
    rng = np.random.default_rng(0)
    files = []
    for index, start in enumerate(range(0, num, ROWS_PER_FILE)):
        rows = min(ROWS_PER_FILE, num - start)
        flux = rng.normal(1, 0.2, (rows, num_pixels)).astype(np.float32)
        ivar = rng.uniform(10, 40, (rows, num_pixels)).astype(np.float32)
        columns = {"flux": list_array(flux), "ivar": list_array(ivar), SPLIT_COLUMN: rng.random(rows)}
        path = folder / f"part-{index:05d}.parquet"
        path.write_bytes(parquet.to_bytes(pa.table(columns), row_group_rows=1024))
        files.append(FileRef(str(path), path.stat().st_size, "f"))
    return TrainData(tuple(files), num, ("flux", "ivar"))


def bare_rates(
    factory: Factory, data: TrainData, config: TrainConfig, num_threads: int
) -> tuple[list[float], list[float]]:
    """Train without Ray; rows/s of each epoch, and the losses."""
    torch.set_num_threads(num_threads)
    task, plan = factory(), epoch_plan(data, config)
    task.start(torch.device("cpu"), expected_steps(data.num_rows, config))
    rates, losses = list[float](), list[float]()
    for epoch in range(config.epochs):
        started, before = time.monotonic(), len(losses)
        splitter = Splitter(plan.validation_fraction, plan.monitored_fraction)
        reads = staged(data, config, Storage()).get_read_tasks(1)
        rows = splitter.training_rows(chain.from_iterable(read() for read in reads))
        for batch in shuffled_batches(
            rows, data.columns, plan.batch_rows, plan.buffer_rows, plan.seed, epoch
        ):
            losses.append(task.step(batch, len(losses))["loss"])
        rates.append((len(losses) - before) * plan.batch_rows / (time.monotonic() - started))
    return rates, losses


def ray_run(factory: Factory, data: TrainData, config: TrainConfig, folder: str) -> tuple[TrainResult, float]:
    ray.init(
        include_dashboard=False, num_cpus=max(2, os.cpu_count() or 1), object_store_memory=1 << 30,
        log_to_driver=False, logging_level="ERROR",
    )  # fmt: skip
    started = time.monotonic()
    result = train(factory, data, config, f"{folder}/runs", Storage(), {"model": "benchmark"})
    seconds = time.monotonic() - started
    ray.shutdown()
    return result, seconds


def report(bare: dict[str, list[float]], result: TrainResult, losses: list[float], seconds: float) -> None:
    rates = [epoch["rows_per_s"] for epoch in result.history]
    ratio = statistics.median(rates[1:] or rates) / max(map(statistics.median, bare.values()))
    print(f"{'threads':22}{'rows/s of each epoch'}")
    for name, values in (bare | {"Ray Train": rates}).items():
        print(f"{name:22}{'  '.join(f'{rate:8.0f}' for rate in values)}")
    worst = float(np.max(np.abs(np.array(losses) / np.array(result.step_losses) - 1)))
    print(f"largest relative difference of a loss: {worst:.1e} over {len(losses)} steps")
    print(f"call of train in all: {seconds:.1f} s, {len(rates)} epochs included")
    print(f"ratio (medians, first Ray epoch apart): {ratio:.2f}")
    print(f"target: >= {TARGET_RATIO}: {'reached' if ratio >= TARGET_RATIO else 'MISSED'}")


if __name__ == "__main__":
    main()
