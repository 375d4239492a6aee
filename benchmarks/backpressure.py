"""Does the object store stay bounded where readers are faster than workers? More data than it holds, spilling counted.

    python -m benchmarks.backpressure [--units 40] [--unit-mb 30] [--store-mb 400]

Readers make blocks from nothing, workers take 0.2 s for each, and both are apart (`placement = "split"`), so that every block goes
through the object store. Exit code 1 if Ray spilled anything to disk.
"""

import argparse
import os
import re
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import ray

from engine.column import Column
from engine.commit import FragmentSink
from engine.ledger import LedgerRecord
from engine.pipeline import run_units
from engine.placement import PipelineConfig
from engine.stage import Resources, UnitFunction, UnitTable, rejected_table
from engine.storage import StorageOptions
from engine.units import FileRef, Unit, Work, with_ids
from engine.worker import Branch

NUMBER = Column("number", "float64", "A number")
LITTLE = Resources(num_cpus=0.5)


@dataclass(frozen=True)
class Flood:
    """Reads as many rows as are asked for, at once."""

    rows: int

    def read(self, unit: Unit) -> UnitTable:
        """Make random numbers, which do not compress."""
        values = np.random.default_rng(len(unit.key)).random(self.rows)
        return UnitTable(pa.table({NUMBER.name: values}), rejected_table([]), self.rows)


@dataclass(frozen=True)
class Slow:
    """Takes its time, and hands on few rows."""

    name: str = "slow"
    resources: Resources = LITTLE
    requires: tuple[Column, ...] = (NUMBER,)
    provides: tuple[Column, ...] = ()

    def open(self) -> UnitFunction:
        """Return the function."""
        return _slowly


def _slowly(table: UnitTable) -> UnitTable:
    time.sleep(0.2)
    return UnitTable(table.rows.slice(0, 10), table.rejected, 10, table.stats)


@dataclass
class Watcher:
    """Scrapes what Ray says of its object store."""

    port: int
    peak_bytes: float = 0.0
    spilled_bytes: float = 0.0

    def look(self) -> None:
        """Look once."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=30) as answer:
            text = answer.read().decode()
        used = re.findall(
            r'^ray_object_store_memory\{.*Location="(?:IN_MEMORY|MMAP_SHM|MMAP_DISK)".*\} (\S+)$',
            text,
            re.MULTILINE,
        )
        spilled = re.findall(
            r'^ray_spill_manager_objects_bytes\{.*State="Spilled".*\} (\S+)$', text, re.MULTILINE
        )
        self.peak_bytes = max(self.peak_bytes, sum(map(float, used)))
        self.spilled_bytes = max(self.spilled_bytes, sum(map(float, spilled)))

    def watch(self, stop: threading.Event) -> None:
        """Look every half second until it is over, and once more when the last numbers are out."""
        while not stop.wait(0.5):
            self.look()
        time.sleep(12)  # nodes export every ten seconds
        self.look()


def main(argv: Sequence[str] | None = None) -> int:
    line = argparse.ArgumentParser("python -m benchmarks.backpressure", description=__doc__)
    line.add_argument("--units", type=int, default=40)
    line.add_argument("--unit-mb", type=int, default=30)
    line.add_argument("--store-mb", type=int, default=400)
    arguments = line.parse_args(argv)
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    ray.init(
        address="local",
        num_cpus=4,
        include_dashboard=False,
        object_store_memory=arguments.store_mb << 20,
        log_to_driver=False,
    )
    watcher, stop = Watcher(ray.nodes()[0]["MetricsExportPort"]), threading.Event()
    thread = threading.Thread(target=watcher.watch, args=(stop,))
    thread.start()
    size = arguments.unit_mb << 20
    made = (Unit(f"unit-{n}", (FileRef(f"flood://{n}", size, "f"),)) for n in range(arguments.units))
    work = [Work(unit, (unit.id,)) for unit in with_ids(made, {})]
    records: list[LedgerRecord] = []
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="trawl-flood-") as root:
        branch = Branch((Slow(),), FragmentSink(root, StorageOptions(), (NUMBER,)))
        config = PipelineConfig(placement="split", workers=2)
        run_units(work, Flood(size // 8), [branch], config, lambda _, record: records.append(record))
    seconds = time.monotonic() - started
    stop.set()
    thread.join()
    ray.shutdown()
    print(f"{len(records)} blocks of {arguments.unit_mb} MB in {seconds:.0f} s through a store of {arguments.store_mb} MB: "
          f"at most {watcher.peak_bytes / 2**20:.0f} MB in it, {watcher.spilled_bytes / 2**20:.0f} MB spilled")  # fmt: skip
    return int(watcher.spilled_bytes > 0)


if __name__ == "__main__":
    sys.exit(main())
