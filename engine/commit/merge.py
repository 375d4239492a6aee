"""From fragments of units to partitions of the sky: pure functions, one partition a call.

A partition is read from the fragments that touch it, freed of duplicate keys, sorted along the sky and
written once. Memory is that of one partition and one fragment, whatever the catalogue's size. Calls
are independent and take picklable arguments, so that they can run anywhere.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar

import numpy as np
import pyarrow as pa
from pydantic import Field

from engine.column import Column
from engine.commit import duplicates, hats, parquet
from engine.commit.manifest import DataFile, Role
from engine.config import Config
from engine.errors import CommitError
from engine.ledger import LedgerRecord
from engine.partition import HEALPIX, adaptive_pixels, index_range, pixel_counts
from engine.schema import arrow_schema, conform
from engine.stage import REJECTED
from engine.storage import Storage

T = TypeVar("T")
R = TypeVar("R")

RunAll = Callable[[Callable[[Any], Any], Sequence[Any]], list[Any]]
"""How independent calls are run: `run_each` here, tasks on a cluster in `jobs.publish`."""


def run_each(function: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """Call a function on each item in this process, one after the other."""
    return [function(item) for item in items]


class CatalogConfig(Config):
    """How a catalogue is laid out."""

    name: str = Field(default="catalogue", pattern=r"^[A-Za-z0-9_.-]+$")
    """Name of the catalogue, in its HATS properties and its manifest."""
    kind: Literal["hats", "flat"] = "hats"
    """hats: merged into partitions of the sky; flat: the units' files as they are, for training."""
    max_rows_per_partition: int = Field(default=250_000, ge=1)
    """A partition with more rows is cut into four, down to HEALPix order 8. Bounds memory."""
    min_order: int = Field(default=0, ge=0, le=8)
    """Coarsest HEALPix order of a partition."""
    row_group_rows: int = Field(default=parquet.ROW_GROUP_ROWS, ge=1)
    """Rows of a Parquet row group; readers skip whole groups."""
    rejected_rows_per_file: int = Field(default=500_000, ge=1)
    """Files of rejected rows are merged up to about this many rows."""
    key: tuple[str, ...] = ()
    """Columns that name an object; of rows with an equal key one is kept. Empty: keep all."""
    prefer: tuple[str, ...] = ("source_uri", "source_row")
    """Which of them: the first by these columns, "-" for largest first, missing values last."""
    default_columns: tuple[str, ...] = ()
    """Columns that LSDB loads unless told otherwise; all if empty."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where and how partitions are written; the same for all calls of one publication.

    `path` is the version's folder relative to `root`.
    """

    root: str
    path: str
    storage: Storage
    columns: tuple[Column, ...]
    config: CatalogConfig


@dataclass(frozen=True, slots=True)
class PartitionTask:
    """One partition to write from `(path, sha256)` of the fragments that touch it.

    Rows whose key has a hash in `excluded` are kept elsewhere.
    """

    target: Target
    order: int
    pixel: int
    fragments: tuple[tuple[str, str], ...]
    excluded: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class RejectedTask:
    """One file of rejected rows to merge from fragments."""

    target: Target
    name: str
    fragments: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Written:
    """What a call wrote.

    Of a partition also: `footer`, that of the file; `pixels`, rows by pixel of order 8; `keys`, sorted
    hashes of the rows' keys.
    """

    files: tuple[DataFile, ...]
    order: int = 0
    pixel: int = 0
    footer: bytes = b""
    pixels: dict[str, int] = field(default_factory=dict)
    keys: np.ndarray = field(default_factory=lambda: np.empty(0, np.uint64))


def plan_partitions(records: Iterable[LedgerRecord], target: Target) -> list[PartitionTask]:
    """Cut the sky by the pixel counts of the ledger; the plan does not depend on the records' order."""
    counts: dict[int, int] = {}
    fragments: dict[int, list[tuple[str, str]]] = {}
    for record in sorted(records, key=lambda record: record.unit_id):
        for pixel, count in record.pixels.items():
            counts[int(pixel)] = counts.get(int(pixel), 0) + count
            fragments.setdefault(int(pixel), []).append((record.fragment, record.sha256))
    config = target.config
    pixels = adaptive_pixels(counts, config.max_rows_per_partition, config.min_order)
    return [
        PartitionTask(target, order, pixel, tuple(dict.fromkeys(f for fine in inside for f in fragments[fine])))
        for (order, pixel), inside in pixels.items()
    ]  # fmt: skip


def plan_rejected(records: Iterable[LedgerRecord], target: Target) -> list[RejectedTask]:
    """Group rejected fragments into files of about `rejected_rows_per_file`; at least one, maybe empty."""
    groups: list[list[str]] = [[]]
    rows = 0
    for record in sorted(records, key=lambda record: record.unit_id):
        if rows and rows + record.rejected_rows > target.config.rejected_rows_per_file:
            groups.append([])
            rows = 0
        if record.rejected_fragment:
            groups[-1].append(record.rejected_fragment)
            rows += record.rejected_rows
    return [RejectedTask(target, f"part-{i:06d}", tuple(group)) for i, group in enumerate(groups)]


def write_partition(task: PartitionTask) -> Written:
    """Write one partition, and its duplicates as rejected rows.

    Raises
    ------
    CommitError
        If a fragment is not the one that the ledger names.
    """
    target, config = task.target, task.target.config
    table = _read_partition(task)
    keep = duplicates.first_of_each(table, config.key, config.prefer)
    hashes = duplicates.key_hashes(table, config.key)
    keep &= ~np.isin(hashes, np.array(task.excluded, np.uint64))
    rows = _take_sorted(table, np.flatnonzero(keep), config)
    lost = duplicates.duplicate_rows(table.filter(pa.array(~keep)), config.key, config.prefer)
    del table

    data = parquet.to_bytes(rows.cast(hats.file_schema(target.columns, config.name)), config.row_group_rows)
    return Written(
        (*_put_partition(task, data, rows.num_rows), *_put_duplicates(task, lost)),
        task.order,
        task.pixel,
        parquet.footer(data) if rows.num_rows else b"",
        pixel_counts(rows[HEALPIX.name].to_numpy()),
        np.sort(hashes[keep]) if config.key else hashes[:0],
    )


def settle_duplicates(
    tasks: Sequence[PartitionTask], written: Sequence[Written], run_all: RunAll
) -> list[Written]:
    """Write those partitions anew that hold a key which another partition holds in a better row."""
    contested = duplicates.shared([part.keys for part in written])
    affected = [i for i, part in enumerate(written) if contested.size and np.isin(contested, part.keys).any()]
    rivals = run_all(read_rivals, [(tasks[i], contested) for i in affected])
    result = [replace(part, keys=part.keys[:0]) for part in written]
    for index, excluded in _losers(affected, rivals, tasks):
        (result[index],) = run_all(write_partition, [replace(tasks[index], excluded=excluded)])
    return result


def _losers(
    affected: Sequence[int], rivals: Sequence[pa.Table], tasks: Sequence[PartitionTask]
) -> list[tuple[int, tuple[int, ...]]]:
    """Partitions that hold a worse row of some key, with the hashes of these keys."""
    if not affected:
        return []
    config = tasks[affected[0]].target.config
    owner = np.repeat(affected, [part.num_rows for part in rivals])
    table = pa.concat_tables(rivals)
    lost = ~duplicates.first_of_each(table, config.key, config.prefer)
    hashes = duplicates.key_hashes(table, config.key)
    return [(i, tuple(hashes[lost & (owner == i)].tolist())) for i in sorted(set(owner[lost].tolist()))]


def read_rivals(task: tuple[PartitionTask, np.ndarray]) -> pa.Table:
    """Rows of a written partition whose key has one of some hashes: what decides which is kept."""
    partition, contested = task
    target, config = partition.target, partition.target.config
    path = f"{target.path}/{hats.partition_path(partition.order, partition.pixel)}"
    names = dict.fromkeys(name.removeprefix("-") for name in (*config.key, *config.prefer))
    table = parquet.read(target.storage, target.storage.join(target.root, path), tuple(names))
    return table.filter(pa.array(np.isin(duplicates.key_hashes(table, config.key), contested)))


def write_rejected(task: RejectedTask) -> Written:
    """Merge rejected rows of many units into one sorted file."""
    target = task.target
    parts = [parquet.read(target.storage, target.storage.join(target.root, path)) for path in task.fragments]
    table = pa.concat_tables([arrow_schema(REJECTED).empty_table(), *parts])
    table = conform(table, REJECTED, task.name).combine_chunks()
    table = table.sort_by([(column.name, "ascending") for column in REJECTED])
    data = parquet.to_bytes(table, target.config.row_group_rows)
    file = put_file(target, f"rejected/{task.name}.parquet", data, table.num_rows, "rejected")
    return Written((file,))


def put_file(target: Target, path: str, data: bytes, rows: int, role: Role) -> DataFile:
    """Write a file into the version's folder and describe it.

    Parameters
    ----------
    target
        The version.
    path
        Of the file, relative to the version's folder.
    data
        Its bytes.
    rows
        Rows of a table in it, 0 if it holds none.
    role
        What the file is for, see `DataFile`.
    """
    full = f"{target.path}/{path}"
    target.storage.put(target.storage.join(target.root, full), data)
    return DataFile(full, rows, len(data), hashlib.sha256(data).hexdigest(), role)


def _put_partition(task: PartitionTask, data: bytes, rows: int) -> tuple[DataFile, ...]:
    target, path = task.target, hats.partition_path(task.order, task.pixel)
    if rows:
        return (put_file(target, path, data, rows, "data"),)
    target.storage.delete(target.storage.join(target.root, target.path, path))  # all went elsewhere
    return ()


def _put_duplicates(task: PartitionTask, lost: pa.Table) -> tuple[DataFile, ...]:
    if not lost.num_rows:
        return ()
    name = f"rejected/part-duplicates-{task.order}-{task.pixel}.parquet"
    return (put_file(task.target, name, parquet.to_bytes(lost), lost.num_rows, "rejected"),)


def _read_partition(task: PartitionTask) -> pa.Table:
    lo, hi = index_range(task.order, task.pixel)
    return pa.concat_tables([_read_range(task.target, path, sum_, lo, hi) for path, sum_ in task.fragments])


def _read_range(target: Target, path: str, sha256: str, lo: int, hi: int) -> pa.Table:
    uri = target.storage.join(target.root, path)
    data = target.storage.read(uri)
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise CommitError("fragment is not the one that was recorded", uri, f"sha256 {found}", sha256)
    table = conform(parquet.from_bytes(data), target.columns, uri)
    index = table[HEALPIX.name].to_numpy()
    inside = (index >= lo) & (index < hi)
    # A copy, so that the rest of the fragment can be freed.
    return table if inside.all() else table.filter(pa.array(inside)).combine_chunks()


def _take_sorted(table: pa.Table, rows: np.ndarray, config: CatalogConfig) -> pa.Table:
    order = (HEALPIX.name, *config.key, *config.prefer)
    names = dict.fromkeys(name.removeprefix("-") for name in order)
    keys = table.select(list(names)).take(pa.array(rows))
    return table.take(pa.array(rows[duplicates.sort_indices(keys, order)])).combine_chunks()
