"""Two worker nodes against one, each held to one core.

    python -m benchmarks.two_nodes --folder .bench

Every node is a raylet of its own on this machine, and it and its workers may run on one core alone; the head, which
only coordinates, and the driver share both. The job is `reprocess` with the checkpoint that comes with the project,
a unit mix that the processor bounds. The rate is that of the units after the first two for each node, whichever node
finished these, by the times of their ledger records: start-up and publishing are left out, and told.
Needs two cores that nobody else uses.
"""

import argparse
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.end_to_end import CHECKPOINT, CONFIG, make_release
from benchmarks.faults.nodes import Nodes
from engine.ledger import Ledger
from engine.storage import Storage

WARM_UNITS = 2
"""Units for each node that do not count, the first of the whole run: workers have just imported everything."""


@dataclass(frozen=True)
class Run:
    """What so many nodes needed."""

    nodes: int
    rows: int
    seconds: float
    total_s: float

    @property
    def rate(self) -> float:
        """Spectra a second."""
        return self.rows / self.seconds


def main(argv: Sequence[str] | None = None) -> int:
    line = argparse.ArgumentParser("python -m benchmarks.two_nodes", description=__doc__)
    line.add_argument("--folder", type=Path, default=Path(".bench"))
    line.add_argument("--spectra", type=int, default=12_000)
    line.add_argument("--spectra-per-file", type=int, default=200)
    line.add_argument("--repeats", type=int, default=2, help="turns; the fastest run of each counts")
    arguments = line.parse_args(argv)
    folder = arguments.folder.resolve()
    release = make_release(folder, arguments.spectra, arguments.spectra_per_file)
    runs = [run(num, release, folder) for _ in range(arguments.repeats) for num in (1, 2)]
    best = {num: max((one for one in runs if one.nodes == num), key=lambda one: one.rate) for num in (1, 2)}
    print("\n| worker nodes of one core | spectra/s | compared with one | whole job, s |\n|---|---|---|---|")
    for num, one in best.items():
        print(f"| {num} | {one.rate:,.0f} | {one.rate / best[1].rate:.2f} | {one.total_s:.0f} |")
    return 0


def run(num: int, release: Path, folder: Path) -> Run:
    """Reprocess on so many nodes."""
    root = folder / f"nodes-{num}"
    shutil.rmtree(root, ignore_errors=True)
    with Nodes(num, cores=tuple(range(num))) as nodes:
        settings = {
            "release.uri": release,
            "output.uri": root,
            "checkpoint.uri": CHECKPOINT,
            "report.enabled": "false",
            "cluster.address": nodes.address,
        }
        options = [part for key, value in settings.items() for part in ("-o", f"{key}={value}")]
        began = time.monotonic()
        subprocess.run(
            [sys.executable, "-m", "jobs", "reprocess", CONFIG, *options], check=True, stdout=sys.stderr
        )
        total = time.monotonic() - began
    done = run_of(num, root, total)
    print(f"{num} nodes: {done.rate:,.0f} spectra/s, {done.seconds:.1f} s", flush=True)
    return done


def run_of(num: int, root: Path, total_s: float) -> Run:
    """Take the rate from the times at which the records of a catalogue were made."""
    ledger = Ledger(str(root), Storage())
    paths = sorted((root / "ledger").glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
    times = [path.stat().st_mtime_ns / 1e9 for path in paths]
    records = [ledger.read(path.stem) for path in paths]
    first = WARM_UNITS * num - 1
    rows = sum(record.rows_in for record in records[first + 1 :])
    return Run(num, rows, times[-1] - times[first], total_s)


if __name__ == "__main__":
    sys.exit(main())
