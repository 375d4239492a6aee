"""A source and a stage without files, so that pipeline and commit are tested without spectra or models."""

import os
import resource
import signal
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from engine.column import Column
from engine.commit import CatalogConfig, FragmentSink, Manifest, publish
from engine.ledger import LedgerRecord
from engine.partition import HEALPIX
from engine.schema import arrow_schema, list_array
from engine.spectra.columns import SPECTRUM_COLUMNS
from engine.stage import (
    Rejection,
    Resources,
    UnitFunction,
    UnitTable,
    columns_by_name,
    rejected_table,
    run_local,
)
from engine.storage import Storage, StorageOptions
from engine.units import FileRef, Unit, with_ids

SOURCE_COLUMNS = columns_by_name(
    SPECTRUM_COLUMNS,
    "targetid", "survey", "program", "ra", "dec", "z", "tsnr2", "source_uri", "source_row", "flags",
)  # fmt: skip
SCORE = Column("score", "float32", "Sum of sky coordinates", "deg", ucd="stat.value")
LATENT = Column("latent", "float32", "Three numbers", length=3)
COLUMNS = (HEALPIX, *SOURCE_COLUMNS, SCORE, LATENT)
TOY_KEY = ("targetid", "survey", "program")
TOY_CATALOG = CatalogConfig(
    name="toy", key=TOY_KEY, prefer=("-tsnr2", "source_uri", "source_row"), max_rows_per_partition=25
)

POSITION = columns_by_name(SPECTRUM_COLUMNS, "ra", "dec")
ONE_CPU = Resources(num_cpus=1)

FIRST_ID = 39627733570388219  # beyond 2**53


@dataclass(frozen=True)
class ToySource:
    """`rows` rows a unit around one place of the sky; each fifth row of the first unit is in the second too.

    `sizes` overrides the number of rows by key; `kills` names a file whose creation kills the worker once, `deadly`
    a unit that kills each.
    """

    num_units: int = 4
    rows: int = 20
    sizes: dict[str, int] = field(default_factory=dict)
    broken: str = ""
    kills: str = ""
    deadly: str = ""

    @property
    def columns(self) -> tuple[Column, ...]:
        return SOURCE_COLUMNS

    def plan(self) -> Iterator[Unit]:
        for number in range(self.num_units):
            files = FileRef(f"toy://{number}", 1000, "f"), FileRef(f"toy://{number}/more", 10, "g", "redrock")
            yield Unit(f"toy-{number}", files)

    def read(self, unit: Unit) -> UnitTable:
        if unit.key == self.broken:
            raise RuntimeError("the reader is broken")
        if unit.key == self.deadly or (self.kills and _created(self.kills)):
            os.kill(os.getpid(), signal.SIGKILL)
        number = int(unit.key.removeprefix("toy-"))
        size = self.sizes.get(unit.key, self.rows)
        rejections = [
            Rejection(unit.files[0].uri, "sky_fibre", "SKY", size, FIRST_ID - number, "main", "dark")
        ]
        if number == 0:
            rejections.append(Rejection("toy://0/gone", "not_found", "no such file"))
        return UnitTable(
            _rows(number, size, unit), rejected_table(rejections), size + 1, {"bytes_fetched": 7.0}
        )


def _created(path: str) -> bool:
    try:
        Path(path).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def _rows(number: int, size: int, unit: Unit) -> pa.Table:
    home = number // 2  # two neighbouring units share a place of the sky, and a fifth of their targets
    ids = home * 1_000_000 + np.arange(size) + (number % 2) * size
    if number % 2:
        ids[::5] = home * 1_000_000 + np.arange(size)[::5]
    ra = (40.0 * home + 0.01 * (ids % 97)) % 360
    dec = -30.0 + 10 * home + 0.007 * (ids % 89)
    values = {
        "targetid": FIRST_ID + ids,
        "survey": ["main"] * size,
        "program": ["dark"] * size,
        "ra": ra,
        "dec": dec,
        "z": [None if i % 3 == 0 else i * 1e-6 for i in ids.tolist()],
        "tsnr2": ((ids * 7 + number) % 13).astype(np.float32),
        "source_uri": [unit.files[0].uri] * size,
        "source_row": np.arange(size, dtype=np.int32),
        "flags": np.zeros(size, np.int32),
    }
    return pa.table(values, schema=arrow_schema(SOURCE_COLUMNS))


@dataclass(frozen=True)
class ToyStage:
    """Adds a score and a latent vector.

    `deadly` kills each worker as it opens. `kills` and `starves` name a file whose creation, once, kills the worker as it opens, or leaves it without
    room on its disk or in its memory as it computes.
    """

    name: str = "toy"
    resources: Resources = ONE_CPU
    requires: tuple[Column, ...] = POSITION
    provides: tuple[Column, ...] = (SCORE, LATENT)
    broken: bool = False
    deadly: bool = False
    kills: str = ""
    starves: str = ""
    starves_of: str = "disk"

    def open(self) -> UnitFunction:
        if self.starves and _created(self.starves):
            return partial(_starved, self.starves_of)
        if self.deadly or (self.kills and _created(self.kills)):
            os.kill(os.getpid(), signal.SIGKILL)
        if self.broken:
            raise RuntimeError("weights are gone")
        return _score


@dataclass(frozen=True)
class Same:
    """Changes nothing, and may do something meanwhile."""

    name: str = "same"
    resources: Resources = ONE_CPU
    requires: tuple[Column, ...] = ()
    provides: tuple[Column, ...] = ()
    meanwhile: Callable[[], Any] | None = None

    def open(self) -> UnitFunction:
        return self._pass_on

    def _pass_on(self, table: UnitTable) -> UnitTable:
        if self.meanwhile:
            self.meanwhile()
        return table


def _starved(of: str, table: UnitTable) -> UnitTable:
    if of == "disk":
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
        return _score(table)
    reserved = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (reserved + (16 << 20), resource.RLIM_INFINITY))
    try:
        np.zeros(1 << 30)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    return _score(table)


def _score(table: UnitTable) -> UnitTable:
    ra, dec = table.rows["ra"].to_numpy(), table.rows["dec"].to_numpy()
    rows = table.rows.append_column(SCORE.name, pa.array((ra + dec).astype(np.float32)))
    latent = list_array(np.stack([ra, dec, ra - dec], 1).astype(np.float32))
    return table.with_rows(rows.append_column(LATENT.name, latent))


def toy_units(source: ToySource) -> list[Unit]:
    """Units of the source with ids."""
    return with_ids(source.plan(), {"checkpoint": "toy"})


def write_all(sink: FragmentSink, source: ToySource, units: Iterable[Unit]) -> list[LedgerRecord]:
    """Compute and write the units in this process."""
    return [sink.write(unit, run_local([ToyStage()], source.read(unit))) for unit in units]


class ToyCatalogue:
    """A catalogue of toy units below a local folder, all of them written, nothing published yet."""

    def __init__(self, root: Path, source: ToySource | None = None, reverse: bool = False) -> None:
        self.root, self.storage, self.source = str(root), Storage(), source or ToySource()
        self.units = toy_units(self.source)
        self.sink = FragmentSink(self.root, StorageOptions(), COLUMNS)
        write_all(self.sink, self.source, self.units[::-1] if reverse else self.units)

    @property
    def ids(self) -> list[str]:
        return [unit.id for unit in self.units]

    def publish(self, config: CatalogConfig = TOY_CATALOG, ids: list[str] | None = None, **facts) -> Manifest:
        return publish(self.root, self.storage, self.ids if ids is None else ids, COLUMNS, config, **facts)

    def table(self, manifest: Manifest, role: str = "data") -> pa.Table:
        return pa.concat_tables(
            pq.read_table(f"{self.root}/{p}", partitioning=None) for p in manifest.paths(role)
        )

    def unit_table(self, number: int) -> tuple[Unit, UnitTable]:
        unit = self.units[number]
        return unit, run_local([ToyStage()], self.source.read(unit))
