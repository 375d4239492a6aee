"""Train a small spectral VAE with one, two and four workers, and with two of which a node is killed.

    python -m benchmarks.train_scale [--workers 1 2 4] [--epochs 14]

Workers are spread over two Ray nodes on this machine (gloo, CPU). All runs have the same global batch; prints the
training loss of each epoch. Workers get other rows in other order, so the curves agree statistically: how far is
measured beforehand by a bare loop that is shown the same rows in six orders. While the latents wake up, which is an
epoch earlier or later, chance is large, so the last third of the epochs is compared. That the arithmetic is the same is
`tests/numerics/test_vae_workers.py`. In the last run a node is killed by SIGKILL in the epoch after the first one that
was stored, and another takes its place; epochs must follow each other without one lost or doubled. Exit code 1 if a
curve is further from the mean of the bare loops than `MAX_SIGMA` of their standard deviations, or epochs are lost.
"""

import argparse
import random
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
import torch

from benchmarks.faults.nodes import Nodes
from engine.commit import parquet
from engine.schema import list_array
from engine.storage import Storage
from engine.train.loop import train
from engine.train.plan import TrainConfig, TrainData, TrainResult
from engine.train.state import stored_epochs
from engine.units import FileRef
from models import spectral_vae
from models.spectral_vae_config import SpectralVAEConfig

MODEL = SpectralVAEConfig(
    num_pixels=200, num_latent=2, hidden=(32, 16), wave_max_angstrom=3759.2, precision="float32"
)
FILES, ROWS_A_FILE = 12, 200
GLOBAL_BATCH_ROWS = 48
VALIDATION_FRACTION = 0.1
ORDERS = 6
MAX_SIGMA = 5.0


def main(argv: Sequence[str] | None = None) -> int:
    line = argparse.ArgumentParser("python -m benchmarks.train_scale", description=__doc__)
    line.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    line.add_argument("--epochs", type=int, default=14)
    arguments = line.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="trawl-train-") as name, Nodes(2, num_cpus=3) as nodes:
        ray.init(address=nodes.address, log_to_driver=False, logging_level="ERROR")
        data = write_spectra(Path(name))
        chance = by_chance(Path(name), arguments.epochs)
        runs = {
            f"{num} workers": run(data, Path(name) / f"runs-{num}", num, arguments.epochs)
            for num in arguments.workers
        }
        runs["2 workers, node killed"] = with_killed_node(
            data, Path(name) / "runs-killed", arguments.epochs, nodes
        )
        ray.shutdown()
    return report(runs, chance)


def write_spectra(folder: Path) -> TrainData:
    """Write staged spectra: continua of random slope with a line and noise."""
    rng, files = np.random.default_rng(6), []
    x = np.linspace(-1, 1, MODEL.num_pixels)
    for index in range(FILES):
        slope, height, centre = rng.normal(0, 0.3, (3, ROWS_A_FILE, 1))
        flux = 1 + slope * x + np.abs(height) * np.exp(-(((x - centre) / 0.05) ** 2))
        flux = flux + rng.normal(0, 0.1, flux.shape)
        columns = {
            "flux": flux.astype("f4"),
            "ivar": np.full(flux.shape, 100, "f4"),
            "split_hash": rng.random(len(flux)),
        }
        table = pa.table({n: list_array(v) if v.ndim == 2 else pa.array(v) for n, v in columns.items()})
        content = parquet.to_bytes(table, row_group_rows=50)
        path = folder / f"part-{index}.parquet"
        path.write_bytes(content)
        files.append(FileRef(str(path), len(content), f"f{index}"))
    return TrainData(tuple(files), FILES * ROWS_A_FILE, ("flux", "ivar"))


def by_chance(folder: Path, epochs: int) -> np.ndarray:
    """Mean losses of epochs, [ORDERS, epochs], of a bare loop that is shown the rows in other orders."""
    table = pa.concat_tables(pq.read_table(path) for path in sorted(folder.glob("part-*.parquet")))
    trains = table["split_hash"].to_numpy() >= VALIDATION_FRACTION
    batch = {name: np.stack(table[name].to_numpy())[trains] for name in ("flux", "ivar")}
    steps = int(trains.sum()) // GLOBAL_BATCH_ROWS
    curves = np.zeros((ORDERS, epochs))
    for order in range(ORDERS):
        rng, task = np.random.default_rng(order), spectral_vae.SPEC.task(MODEL, 0)
        task.start(torch.device("cpu"), steps * epochs)
        for epoch in range(epochs):
            parts = rng.permutation(int(trains.sum()))[: steps * GLOBAL_BATCH_ROWS].reshape(steps, -1)
            losses = [
                task.step({name: values[rows] for name, values in batch.items()}, epoch * steps + step)[
                    "loss"
                ]
                for step, rows in enumerate(parts)
            ]
            curves[order, epoch] = np.mean(losses)
    return curves


def run(data: TrainData, runs: Path, workers: int, epochs: int) -> TrainResult:
    """Train with so many workers."""
    config = TrainConfig(
        epochs=epochs, global_batch_rows=GLOBAL_BATCH_ROWS, num_workers=workers, threads_per_worker=1, validation_fraction=VALIDATION_FRACTION,
        shuffle_buffer_rows=400, max_failures=3,
    )  # fmt: skip
    began = time.monotonic()
    result = train(
        partial(spectral_vae.SPEC.task, MODEL, 0), data, config, str(runs), Storage(), {"model": "vae"}
    )
    print(f"{workers} workers: {time.monotonic() - began:.0f} s", flush=True)
    return result


def with_killed_node(data: TrainData, runs: Path, epochs: int, nodes: Nodes) -> TrainResult:
    """Train with two workers; kill a node when an epoch has been stored, and start another."""
    results: list[TrainResult] = []
    thread = threading.Thread(target=lambda: results.append(run(data, runs, 2, epochs)))
    thread.start()
    while thread.is_alive() and not stored(runs):
        time.sleep(0.05)
    before, killed = stored(runs), time.monotonic()
    nodes.replace_one(random.Random(1))
    while thread.is_alive() and stored(runs) == before:
        time.sleep(0.1)
    print(
        f"killed after epoch {before}; the next was stored {time.monotonic() - killed:.0f} s later",
        flush=True,
    )
    thread.join()
    if not results:
        raise SystemExit("training did not survive the loss of a node")
    return results[0]


def stored(runs: Path) -> int:
    """Return the last epoch whose state is stored, 0 if there is none."""
    found = [epoch for path in runs.glob("*") for epoch in stored_epochs(str(path), Storage())]
    return max(found, default=0)


def report(runs: dict[str, TrainResult], chance: np.ndarray) -> int:
    """Print the curves; return the exit code."""
    epochs = chance.shape[1]
    last, mean = slice(-max(epochs // 3, 1), None), chance.mean(0)
    sigma = float(chance[:, last].std(0, ddof=1).max())
    print(
        "\n| run | training loss by epoch | largest difference, last third | in sigma of chance |\n|---|---|---|---|"
    )
    print(f"| bare loop, mean of {ORDERS} orders | {_shown(mean)} | sigma {sigma:.4f} | |")
    code = 0
    for name, result in runs.items():
        losses = np.array([epoch["train_loss"] for epoch in result.history])
        in_order = [epoch["epoch"] for epoch in result.history] == list(range(1, epochs + 1))
        off = float(np.abs(losses - mean)[last].max()) if in_order else float("nan")
        print(f"| {name} | {_shown(losses)} | {off:.4f} | {off / sigma:.1f} |")
        code = code or int(not off <= MAX_SIGMA * sigma)
    return code


def _shown(losses: np.ndarray) -> str:
    return ", ".join(f"{loss:.3f}" for loss in losses)


if __name__ == "__main__":
    sys.exit(main())
