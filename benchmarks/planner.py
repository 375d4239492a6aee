"""What the driver needs for a release of a million units: time and memory of each step of planning.

    python -m benchmarks.planner [--units 1000000] [--rows-per-unit 30]

Storage is simulated: listings of the release (a coadd and a redrock file for each unit) and of the ledger are made up as
they are asked for, so that neither takes memory or waits for a server; what a server adds is said in `docs/scale.md`. The
table of units of the version before is a real Parquet file, and the records that are published are bytes on a disk. Of the release 1 in 100 units is new, 1 in 100 has changed and
1 in 200 is gone since that version; the ledger holds all that has not changed.
"""

import argparse
import gc
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np

from engine.commit import CatalogConfig, changes, publish_id
from engine.commit.manifest import DataFile, Manifest
from engine.commit.merge import Target, plan_partitions
from engine.commit.publish import units_file
from engine.ledger import Ledger, LedgerRecord
from engine.runs import packed
from engine.sources.desi_config import DesiConfig
from engine.sources.desi_layout import coadd_path
from engine.sources.desi_plan import plan_release
from engine.storage import FileInfo, Storage
from engine.units import Unit, Work, with_ids

T = TypeVar("T")

RELEASE = "s3://release/dr"
ROOT = "s3://output/catalogue"
FIRST = 1_000_000
"""Numbers of pixels have seven digits, so that their order is that of their names."""
SALT = {"source": "desi", "settings": DesiConfig().model_dump(mode="json"), "columns": "0" * 32,
        "checkpoints": ["1" * 32], "model": "spectral_vae", "precision": "float32"}  # fmt: skip


class Simulated(Storage):
    """Lists a release and a ledger that are nowhere; reads its records, and what else there is, from a local folder."""

    def __init__(self, folder: Path, num_units: int, generation: int) -> None:
        super().__init__()
        self.folder, self.num_units, self.generation = folder, num_units, generation
        self.ledger: np.ndarray | None = None
        """Ids in the ledger, sorted, bytes [units]: a file that is mapped, not memory."""

    def list(self, prefix: str, suffix: str = "") -> Iterator[FileInfo]:  # noqa: ARG002 - all fit
        if prefix.startswith(RELEASE):
            yield from release_files(self.num_units, self.generation)
        elif prefix.endswith("/ledger") and self.ledger is not None:
            for unit_id in self.ledger:
                yield FileInfo(f"{ROOT}/ledger/{unit_id.decode()}.json", 900, "etag", 1.0)

    def read(self, uri: str, start: int = 0, length: int | None = None) -> bytes:  # noqa: ARG002 - whole
        name = uri.removeprefix(f"{ROOT}/")
        if not name.startswith("ledger/"):
            return (self.folder / name).read_bytes()
        unit_id = name.removeprefix("ledger/").removesuffix(".json")
        row = int(np.searchsorted(self._ids, unit_id.encode()))
        first, end = self._offsets[row : row + 2].tolist()
        return os.pread(self._records.fileno(), end - first, first)

    @cached_property
    def _ids(self) -> np.ndarray:
        return np.load(self.folder / "ledger-now.npy", mmap_mode="r")

    @cached_property
    def _offsets(self) -> np.ndarray:
        return np.load(self.folder / "offsets.npy", mmap_mode="r")

    @cached_property
    def _records(self) -> BinaryIO:
        return (self.folder / "records.json").open("rb")

    def close(self) -> None:
        self._records.close()


def release_files(num_units: int, generation: int) -> Iterator[FileInfo]:
    """Files in the order of their names; generation 0 is the release as it was, 1 as it is now."""
    for number in range(num_units + num_units // 100):
        is_new, is_changed = number >= num_units, number % 100 == 3 and number < num_units
        is_gone = number % 200 == 7 and not is_new
        if (is_new and generation == 0) or (is_gone and generation == 1):
            continue
        etag = f"{number:030x}-{int(is_changed and generation == 1)}"
        path = coadd_path("healpix", "main", "dark", FIRST + number)
        folder, _, name = f"{RELEASE}/{path}".rpartition("/")
        yield FileInfo(f"{folder}/{name}", 220_000_000, etag)
        yield FileInfo(f"{folder}/{name.replace('coadd', 'redrock')}", 900_000, etag)


def planned(storage: Simulated) -> list[Unit]:
    config = DesiConfig(layout="healpix")
    return with_ids(plan_release(RELEASE, config, storage), SALT)


def prepare(folder: Path, num_units: int, rows_per_unit: int) -> None:
    """Write the table of units of the version before, the ids in its ledger, and all records of now: in a process of its own."""
    units = planned(Simulated(folder, num_units, 0))
    before = [replace(record, unit="") for record in records(units, rows_per_unit)]
    (folder / "units.parquet").write_bytes(units_file(before, {unit.id: unit for unit in units}))
    np.save(folder / "ledger-before.npy", np.sort([unit.id.encode() for unit in units]))
    units = sorted(planned(Simulated(folder, num_units, 1)), key=lambda unit: unit.id)
    offsets = [0]
    with (folder / "records.json").open("wb") as file:
        for record in records(units, rows_per_unit):
            offsets.append(offsets[-1] + file.write(record.to_json().encode()))
    np.save(folder / "offsets.npy", offsets)
    np.save(folder / "ledger-now.npy", [unit.id.encode() for unit in units])


@dataclass
class Measured:
    """Prints a row for each step: CPU seconds, and memory after it and at most in it [MB]."""

    num_units: int

    def step(self, name: str, call: Callable[[], T]) -> T:
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")  # the peak is that of now
        before, started = memory_mb("VmRSS"), time.process_time()
        result = call()
        seconds, peak = time.process_time() - started, memory_mb("VmHWM")
        gc.collect()
        after = memory_mb("VmRSS")
        print(f"| {name} | {seconds:.1f} | {1e6 * seconds / self.num_units:.1f} | {after - before:+.0f} "
              f"| {after:.0f} | {peak:.0f} |", flush=True)  # fmt: skip
        return result


def memory_mb(name: str) -> float:
    """Memory of this process [MB]: now (`VmRSS`), or at most (`VmHWM`)."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024 / 1e6


def manifest(num_units: int) -> Manifest:
    units = DataFile("units.parquet", num_units, 0, "", "units")
    return Manifest(
        "id",
        "toy",
        "hats",
        "data/x",
        "2026-01-01T00:00:00+00:00",
        (),
        num_units,
        (units,),
        0,
        0,
        {},
        0,
        version=1,
    )


def records(units: Sequence[Unit], rows_per_unit: int) -> Iterator[LedgerRecord]:
    """Ledger records; each unit lies on two pixels of order 8."""
    for number, unit in enumerate(units):
        pixel = (number * 7) % 786_432
        pixels = {str(pixel): rows_per_unit // 2, str(pixel + 1): rows_per_unit - rows_per_unit // 2}
        yield LedgerRecord(unit.id, unit.key, "a" * 12, f"fragments/{unit.id}-{'a' * 12}.parquet", "",
                           rows_per_unit, rows_per_unit, sha256=hashlib.sha256(unit.id.encode()).hexdigest(),
                           num_bytes=12_000, pixels=pixels, stats={"bytes_fetched": 4.8e7}, unit=unit.to_json())  # fmt: skip


def read_ledger(units: Sequence[Unit], storage: Storage) -> list[LedgerRecord]:
    """Read the records of all units, as a publication does."""
    return list(Ledger(ROOT, storage).done([unit.id for unit in units], with_units=False).values())


def measure(storage: Simulated, rows_per_unit: int) -> dict[str, Any]:
    folder, num_units = storage.folder, storage.num_units
    storage.ledger = np.load(folder / "ledger-before.npy", mmap_mode="r")
    print(f"{num_units} units, {num_units * rows_per_unit:.1g} rows; before: {memory_mb('VmRSS'):.0f} MB\n")
    print(
        "| step of the driver | CPU s | us a unit | MB more | MB in all | MB at most |\n|---|---|---|---|---|---|"
    )
    table = Measured(num_units)
    units = table.step("list the release, make units and their ids", lambda: planned(storage))
    done = table.step("list the ledger", lambda: Ledger(ROOT, storage).ids())
    pending = table.step("which are to do", lambda: [unit for unit in units if unit.id not in done])
    compared = table.step(
        "compare with the last version", lambda: changes(ROOT, storage, manifest(num_units), units)
    )
    told = table.step("what the run tells of itself", lambda: len(packed(units)))
    everything = table.step(
        "work for Ray, all of it to do", lambda: [Work(unit, (unit.id,)) for unit in units]
    )
    del everything
    table.step("identity of the version", lambda: publish_id((u.id for u in units), (), CatalogConfig()))
    storage.ledger = np.load(folder / "ledger-now.npy", mmap_mode="r")
    found = table.step("read the ledger (JSON to records)", lambda: read_ledger(units, storage))
    target = Target(ROOT, "data/x", storage, (), CatalogConfig())
    parts = table.step("plan the partitions", lambda: plan_partitions(found, target))
    size = table.step(
        "write the table of units", lambda: len(units_file(found, {unit.id: unit for unit in units}))
    )
    rows = sum(record.rows for record in found)
    return {"units": len(units), "pending": len(pending), "changes": str(compared), "rows": rows,
            "partitions": len(parts), "run_bytes": told, "units_bytes": size}  # fmt: skip


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    line = argparse.ArgumentParser("python -m benchmarks.planner", description=__doc__)
    line.add_argument("--units", type=int, default=1_000_000)
    line.add_argument("--rows-per-unit", type=int, default=30)
    line.add_argument("--folder", type=Path, help="keep the simulated version there for the next time")
    arguments = line.parse_args(argv)
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="trawl-planner-"))
    folder.mkdir(exist_ok=True)
    try:
        if not (folder / "ledger-now.npy").exists():
            apart(prepare, folder, arguments.units, arguments.rows_per_unit)
        with closing(Simulated(folder, arguments.units, 1)) as storage:
            told = measure(storage, arguments.rows_per_unit)
    finally:
        if not arguments.folder:
            shutil.rmtree(folder)
    print(f"\n{json.dumps(told)}")
    return told


def apart(call: Callable[..., None], *arguments: Any) -> None:
    """Call in a process of its own, whose memory is gone afterwards."""
    from multiprocessing import get_context

    process = get_context("spawn").Process(target=call, args=arguments)
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(f"{call.__name__} failed")


if __name__ == "__main__":
    main()
