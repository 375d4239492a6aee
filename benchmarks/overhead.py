"""What the engine costs a unit of work, and a run that finds nothing changed: many tiny coadds.

    python -m benchmarks.overhead [--units 1000] [--folder .bench]

A unit is one coadd of two spectra, so that nearly all of the time is not the model's. Printed are wall time a unit from
the first to the last, what its stages (reading, preparing, the model) took of it, and the difference: passing units on,
writing fragment and ledger record. Beside it, what the process of the driver itself computes for a unit (on one core, while
workers wait or not): that bounds how many units a second one run hands out. Then the same line again, for which nothing is to be done.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks.small_model import make_checkpoint
from engine.commit.manifest import read_manifest
from engine.storage import Storage
from engine.synthetic.desi import SynthesizeConfig, task_count, write_task

SPECTRA = 2
CONFIG = """
[release]
uri = "{folder}/tiny-release"
[checkpoint]
uri = "{folder}/tiny-checkpoint"
[output]
uri = "{folder}/tiny-output-{pid}"
[report]
enabled = false
[pipeline]
workers = {workers}
[cluster]
address = "local"
object_store_memory_gib = 0.3
"""


@dataclass(frozen=True)
class Sample:
    """What the driver has computed [s of a core], and the records that there are."""

    cpu_s: float
    records: int


def make(folder: Path, num_units: int, workers: int) -> Path:
    """Write release, model and configuration; what is there from an earlier run is used again."""
    wanted = SynthesizeConfig(num_spectra=SPECTRA * num_units, spectra_per_file=SPECTRA, seed=5)
    done = folder / f"tiny-release-{num_units}"
    if not done.exists():
        for index in range(task_count(wanted)):
            write_task(wanted, index, str(folder / "tiny-release"), Storage())
        make_checkpoint(folder / "tiny-checkpoint")
        done.touch()
    config = folder / "tiny.toml"
    config.write_text(CONFIG.format(folder=folder, workers=workers, pid=os.getpid()))
    return config


def run(config: Path, ledger: Path) -> tuple[dict[str, Any], float, list[Sample]]:
    """Run the main job; its summary, the time of the whole process [s], and what its driver had computed meanwhile."""
    environment = os.environ | {"RAY_AUTH_MODE": "disabled", "RAY_DATA_DISABLE_PROGRESS_BARS": "1"}
    command = [sys.executable, "-m", "jobs", "reprocess", str(config), "--json"]
    started, samples = time.monotonic(), list[Sample]()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        watcher = threading.Thread(target=watch, args=(process.pid, ledger, samples), daemon=True)
        watcher.start()
        said, _ = process.communicate()
        watcher.join()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return json.loads(said.strip().splitlines()[-1]), time.monotonic() - started, samples


def watch(pid: int, ledger: Path, samples: list[Sample]) -> None:
    """Note again and again what a process has computed and how many records there are, until it ends."""
    with suppress(psutil.NoSuchProcess):
        driver = psutil.Process(pid)
        while driver.status() != psutil.STATUS_ZOMBIE:
            times = driver.cpu_times()  # its own threads, not those that it started
            samples.append(Sample(times.user + times.system, len(list(ledger.glob("*.json")))))
            time.sleep(0.2)


def driver_ms(samples: Sequence[Sample]) -> float:
    """CPU time of the driver a unit [ms], from the first record to the last; NaN where they came all at once."""
    units = max((sample.records for sample in samples), default=0)
    first = next((sample for sample in samples if sample.records), None)
    last = next((sample for sample in samples if sample.records == units), None)
    if first is None or last is None or first.records == last.records:
        return math.nan
    return 1e3 * (last.cpu_s - first.cpu_s) / (last.records - first.records)


def stage_seconds(root: str) -> dict[str, float]:
    """Seconds of all units in each stage."""
    stats = read_manifest(root, Storage()).stats
    return {
        name: value for name, value in stats.items() if name.endswith("_seconds") and name != "worker_seconds"
    }


def main(argv: Sequence[str] | None = None) -> None:
    line = argparse.ArgumentParser("python -m benchmarks.overhead", description=__doc__)
    line.add_argument("--units", type=int, default=1000)
    line.add_argument("--workers", type=int, default=2)
    line.add_argument("--folder", type=Path, default=Path(".bench"))
    arguments = line.parse_args(argv)
    folder = arguments.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    config = make(folder, arguments.units, arguments.workers)
    ledger = folder / f"tiny-output-{os.getpid()}" / "ledger"
    summary, first_s, samples = run(config, ledger)
    again, rerun_s, _ = run(config, ledger)
    assert (summary["state"], again["state"]) == ("new", "unchanged")
    units, workers = summary["units"], arguments.workers
    stages = stage_seconds(summary["catalogue"])
    wall_ms, model_ms = 1e3 * summary["work_s"] / units, 1e3 * sum(stages.values()) / units / workers
    print(f"{units} units on {workers} workers: {first_s:.0f} s in all, start and publication included")
    print(
        f"a unit: {wall_ms:.1f} ms of wall time, of which its stages {model_ms:.1f} ms, overhead {wall_ms - model_ms:.1f} ms"
    )
    print("stages: " + ", ".join(f"{name} {1e3 * value / units:.1f} ms" for name, value in stages.items()))
    print(f"driver: {driver_ms(samples):.1f} ms of its own CPU a unit")
    print(f"nothing changed: {rerun_s:.1f} s")


if __name__ == "__main__":
    main()
