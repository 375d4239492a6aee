"""Denoise and classify through the engine, against a bare torch loop that does the same on the same mosaics.

    python -m benchmarks.morphology_rate [--folder .bench] [--fields 4] [--repeats 2]

Both read mosaics, cut out the galaxies of a catalogue, clean and classify them with the shipped checkpoints, and write
Parquet; the bare loop in as many processes as there are cores, each with one thread, its share of the strips and memory
that it keeps, as the engine's workers do. Start-up and publishing are told apart. Turns alternate; the fastest of each counts.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from engine.allocator import keep_freed_memory
from engine.checkpoint import load
from engine.images.prepare import CutoutPrep
from engine.infer import open_model
from engine.schema import to_arrays
from engine.sources.nircam import NircamSource
from engine.sources.nircam_config import CatalogueConfig, NircamConfig
from engine.storage import Storage
from engine.synthetic import nircam
from engine.synthetic.field.config import FieldConfig
from models import MODELS
from models.spec import Predict

CONFIG = "jobs/configs/morphology.toml"
CHECKPOINTS = ("checkpoints/unet_vae_nircam", "checkpoints/disk_classifier_nircam")
SIZE = 64


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=Path(".bench"))
    parser.add_argument("--fields", type=int, default=4, help="of 1,024 galaxies each")
    parser.add_argument("--repeats", type=int, default=2)
    args = parser.parse_args()
    release = make_release(args.folder / f"galaxies-{args.fields}", args.fields)
    for path in release.rglob("*.fits"):  # both find the files in the page cache
        path.read_bytes()
    turns = [(engine(args.folder, release), bare(args.folder, release)) for _ in range(args.repeats)]
    ours, theirs = (max(rates) for rates in zip(*turns, strict=True))
    print(f"engine {ours:.0f} galaxies/s, bare torch loop {theirs:.0f}: {ours / theirs:.2f} (goal 0.9)")
    for name, rates in zip(("engine", "bare"), zip(*turns, strict=True), strict=True):
        print(f"{name}: " + ", ".join(f"{rate:.0f}" for rate in rates))


def make_release(folder: Path, num_fields: int) -> Path:
    """Write the mosaics unless they are there."""
    config = FieldConfig(
        num_fields=num_fields, width_px=2048, height_px=2048, spacing_px=SIZE, anomaly_fraction=0.0,
        faintest_mag=26.0, seed=5,
    )  # fmt: skip
    if not (folder / "complete").exists():
        tasks = range(nircam.task_count(config))
        truth = [nircam.write_task(config, task, str(folder), Storage()) for task in tasks]
        nircam.write_truth(truth, str(folder), Storage())
        (folder / "complete").touch()
    return folder


def engine(folder: Path, release: Path) -> float:
    """Galaxies a second of `reprocess`, without start-up and publishing."""
    out = folder / "out-morphology"
    shutil.rmtree(out, ignore_errors=True)
    settings = {
        "release.source": "nircam", "release.uri": release, "output.uri": out, "report.enabled": "false",
        "release.settings": f'{{size = {SIZE}, catalogue = {{uri = "{release}/truth.parquet", id = "object_id", '
                            'field = "field"}}',
    }  # fmt: skip
    overrides = [part for key, value in settings.items() for part in ("-o", f"{key}={value}")]
    command = [sys.executable, "-m", "jobs", "reprocess", CONFIG, "--json", *overrides]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    told = json.loads(done.stdout.strip().splitlines()[-1])
    return told["rows"] / told["work_s"]


def bare(folder: Path, release: Path) -> float:
    """Galaxies a second of a loop over strips, in a process for each core."""
    num = os.cpu_count() or 1
    with get_context("spawn").Pool(num) as pool:
        found = pool.map(partial(bare_share, folder, release, num), range(num), chunksize=1)
    return sum(rows for rows, _ in found) / max(seconds for _, seconds in found)


def bare_share(folder: Path, release: Path, num: int, index: int) -> tuple[int, float]:
    """Rows and seconds of every `num`-th strip, once everything is loaded."""
    torch.set_num_threads(1)
    keep_freed_memory()
    catalogue = CatalogueConfig(uri=f"{release}/truth.parquet", id="object_id", field="field")
    source = NircamSource(str(release), config=NircamConfig(size=SIZE, catalogue=catalogue))
    prepare, (names, predictors) = CutoutPrep(size=SIZE).stage.open(), opened()
    started, rows = time.perf_counter(), 0
    for number, unit in enumerate(source.plan()):
        if number % num != index:
            continue
        table = prepare(source.read(unit)).rows
        batch = to_arrays(table, names)
        for predict in predictors:
            batch |= predict(batch)
        pq.write_table(small_columns(table, batch), folder / f"bare-{number}.parquet")
        rows += table.num_rows
    return rows, time.perf_counter() - started


def opened() -> tuple[list[str], list[Predict]]:
    """Columns that the denoiser reads, and what both models do."""
    names, predictors = list[str](), list[Predict]()
    for uri in CHECKPOINTS:
        checkpoint = load(uri, Storage())
        spec = MODELS[checkpoint.model]
        config, module = open_model(spec, checkpoint, uri)
        names = names or [column.name for column in spec.reads(config)]
        predictors.append(spec.predictor(config, module, checkpoint.fitted, torch.device("cpu")))
    return names, predictors


def small_columns(table: pa.Table, batch: dict[str, Any]) -> pa.Table:
    """Return the columns that a catalogue holds: no images."""
    for name, values in batch.items():
        if np.ndim(values) == 1:
            table = table.drop_columns([name]) if name in table.column_names else table
            table = table.append_column(name, [values])
    return table.select([name for name in table.column_names if name not in ("science", "error", "mask")])


if __name__ == "__main__":
    main()
