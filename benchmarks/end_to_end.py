"""End to end on the same files: this engine, a PyTorch DataLoader loop, bare Ray Data. Ratios in one run.

    python -m benchmarks.end_to_end --folder .bench

Each system runs in a process of its own and does the same work: read coadds and redrock files, cut, merge the
arms, normalise, score with the same checkpoint, write Parquet. The peers are run twice: `plain` is written the
obvious way throughout, its scores as the formulas stand; `scorer` has been given our scorer, so that only the engine
differs. Its start-up (imports, Ray, model) is told apart.
The scores of all systems are compared. Memory is the peak of the proportional set size of all processes of a
system. Publishing, which only this engine does (partitions, statistics, manifest), is told apart as well. With
`--repeats` the systems take turns and the fastest run of each counts: on a shared machine one run may be off by a
fifth. The last rows bound the result: the model alone on arrays in memory, and our reader alone.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import duckdb
import numpy as np
import psutil

from engine.storage import Storage
from engine.synthetic.desi import SynthesizeConfig, task_count, write_task

CHECKPOINT = "checkpoints/spectral_vae_desi"
CONFIG = "jobs/configs/desi.toml"
PEERS = [(name, scores, *workers) for scores in ("plain", "scorer")
         for name, *workers in (("dataloader", "0"), ("dataloader", "2"), ("bare_ray",))]  # fmt: skip


@dataclass(frozen=True)
class Run:
    """What one system needed."""

    system: str
    rows: int
    startup_s: float
    work_s: float
    publish_s: float
    peak_gib: float
    driver_gib: float

    @property
    def rate(self) -> float:
        return self.rows / self.work_s


def make_release(folder: Path, num_spectra: int, spectra_per_file: int) -> Path:
    """Write the release unless it is there already."""
    config = SynthesizeConfig(num_spectra=num_spectra, spectra_per_file=spectra_per_file, seed=20_000)
    root = folder / f"release-{num_spectra}"
    if not (root / "complete").exists():
        write = partial(write_task, config, uri=str(root), storage=Storage())
        with get_context("spawn").Pool(2) as pool:
            list(pool.imap_unordered(write, range(task_count(config))))
        (root / "complete").touch()
    return root


def measure(system: str, command: list[str], rows_of: str) -> Run:
    """Run a command, follow its memory, and read the JSON on its last line."""
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=_environment())
    peak = _Peak(process.pid)
    output = process.communicate()[0]
    peak.stop()
    if process.returncode:
        raise SystemExit(f"{system} failed with code {process.returncode}")
    told = json.loads(output.strip().splitlines()[-1])
    total = time.perf_counter() - started
    work, publish = told["work_s"], told.get("publish_s", 0.0)
    start = total - work - publish
    return Run(system, told[rows_of], start, work, publish, peak.total / 2**30, peak.driver / 2**30)


def _environment() -> dict[str, str]:
    return os.environ | {"RAY_AUTH_MODE": "disabled", "RAY_DATA_DISABLE_PROGRESS_BARS": "1"}


class _Peak(threading.Thread):
    """Peak memory of a process and all its children (proportional set size), and of the process alone."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._root, self._going, self._wake = psutil.Process(pid), True, threading.Event()
        self.total = self.driver = 0
        self.start()

    def run(self) -> None:
        while self._going:
            began = time.perf_counter()
            try:
                family = [self._root, *self._root.children(recursive=True)]
                sizes = [_pss(process) for process in family]
                self.driver = max(self.driver, sizes[0])
                self.total = max(self.total, sum(sizes))
            except psutil.Error:
                pass
            # Walking the memory maps of Ray's twenty processes takes time of the cores that are measured.
            self._wake.wait(max(0.5, 50 * (time.perf_counter() - began)))

    def stop(self) -> None:
        self._going = False
        self._wake.set()
        self.join()


def _pss(process: psutil.Process) -> int:
    try:
        return process.memory_full_info().pss
    except psutil.Error:
        return 0


def compare(ours: str, theirs: str) -> float:
    """Return the largest relative difference of a score between two systems, joined by target."""
    difference = duckdb.sql(
        f"SELECT max(abs(a.weighted_mse - b.weighted_mse) / abs(b.weighted_mse)), count(*) "
        f"FROM read_parquet('{ours}') a JOIN read_parquet('{theirs}') b USING (targetid)"
    ).fetchall()[0]
    return float(difference[0]) if difference[1] else float("nan")


def model_only(checkpoint: str, num_rows: int = 4096) -> float:
    """Spectra a second of the predictor alone, on all cores, from arrays in memory."""
    import torch

    from benchmarks.peers.scoring import load_predictor
    from engine.spectra.prepare import prepare
    from engine.synthetic.simulate import simulate

    torch.set_num_threads(os.cpu_count() or 1)
    predict, prep = load_predictor(checkpoint)
    sample = simulate(num_rows, 5)
    spectra = prepare(sample.flux, sample.ivar, sample.z, prep).spectra
    batches = [
        {
            "flux": spectra.flux[i : i + 512],
            "ivar": spectra.ivar[i : i + 512],
            "spectype": sample.spectype[i : i + 512],
        }
        for i in range(0, num_rows, 512)
    ]
    predict(batches[0])
    started = time.perf_counter()
    for batch in batches:
        predict(batch)
    return num_rows / (time.perf_counter() - started)


def reader_only(release: Path) -> float:
    """Spectra a second of our reader and preparation in one process."""
    from engine.sources.desi import DesiSource
    from engine.spectra.prepare import PrepareSpectra

    source = DesiSource(str(release))
    units = list(source.plan())[:8]
    prepare = PrepareSpectra().open()
    prepare(source.read(units[0]))  # imports
    started = time.perf_counter()
    rows = sum(prepare(source.read(unit)).rows.num_rows for unit in units[1:])
    return rows / (time.perf_counter() - started)


def engine_command(release: Path, out: Path, checkpoint: str, *more: str) -> list[str]:
    """Return the line that runs the main job without its report."""
    settings = {
        "release.uri": release,
        "output.uri": out,
        "checkpoint.uri": checkpoint,
        "report.enabled": "false",
    }
    overrides = [part for key, value in settings.items() for part in ("-o", f"{key}={value}")]
    return [sys.executable, "-m", "jobs", "reprocess", CONFIG, "--json", *overrides, *more]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--spectra", type=int, default=40_000)
    parser.add_argument("--spectra-per-file", type=int, default=500)
    parser.add_argument("--folder", type=Path, default=Path(".bench"))
    parser.add_argument("--checkpoint", default=CHECKPOINT)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--only-engine", action="store_true", help="for the memory figure at 200,000 spectra")
    arguments = parser.parse_args()
    release = make_release(arguments.folder, arguments.spectra, arguments.spectra_per_file)
    for path in release.rglob("*.fits"):  # all systems find the files in the page cache
        path.read_bytes()
    turns = [_turn(arguments, release) for _ in range(arguments.repeats)]
    runs = [min(same, key=lambda run: run.work_s) for same in zip(*turns, strict=True)]
    _print(runs)
    if not arguments.only_engine:
        ours = f"{arguments.folder}/out-fused/data/*/dataset/*/*/*.parquet"
        theirs = {
            name: f"{arguments.folder}/out-{name}/*.parquet"
            for name in ("dataloader-plain-0", "dataloader-scorer-0", "bare_ray-plain")
        }
        theirs["bfloat16"] = ours.replace("out-fused", "out-bfloat16")
        for name, files in theirs.items():
            print(f"largest relative difference of weighted_mse to {name}: {compare(ours, files):.1e}")
        print(f"bound: model alone {model_only(arguments.checkpoint):.0f} spectra/s on all cores; "
              f"our reader and preparation alone {reader_only(release):.0f} spectra/s on one core")  # fmt: skip


def _turn(arguments: argparse.Namespace, release: Path) -> list[Run]:
    """Run each system once; the engine as it comes is the first."""
    runs = [_run_engine(arguments, release, "fused", "pipeline.placement=fused")]
    if not arguments.only_engine:
        runs.append(_run_engine(arguments, release, "split", "pipeline.placement=split"))
        runs.append(_run_engine(arguments, release, "bfloat16", "infer.precision=bfloat16"))
        runs += [_run_peer(arguments, release, *peer) for peer in PEERS]
    return runs


def _run_engine(arguments: argparse.Namespace, release: Path, name: str, override: str) -> Run:
    out = arguments.folder / f"out-{name}"
    shutil.rmtree(out, ignore_errors=True)
    command = engine_command(release, out, arguments.checkpoint, "-o", override)
    return measure(f"trawl ({name})", command, "rows")


def _run_peer(arguments: argparse.Namespace, release: Path, name: str, *extra: str) -> Run:
    label = "-".join((name, *extra))
    out = arguments.folder / f"out-{label}"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    module = f"benchmarks.peers.{name}"
    command = [sys.executable, "-m", module, str(release), arguments.checkpoint, str(out), *extra]
    return measure(label, command, "rows")


def _print(runs: list[Run]) -> None:
    print(f"{'system':18s} {'spectra':>8s} {'start s':>8s} {'work s':>8s} {'publish s':>9s} {'spectra/s':>10s} "
          f"{'trawl is':>9s} {'peak GiB':>9s} {'driver GiB':>10s}")  # fmt: skip
    for run in runs:
        ratio = runs[0].rate / run.rate
        print(f"{run.system:18s} {run.rows:8d} {run.startup_s:8.1f} {run.work_s:8.1f} {run.publish_s:9.1f} "
              f"{run.rate:10.0f} {ratio:8.2f}x {run.peak_gib:9.2f} {run.driver_gib:10.2f}")  # fmt: skip


if __name__ == "__main__":
    np.seterr(all="raise", under="ignore")
    main()
