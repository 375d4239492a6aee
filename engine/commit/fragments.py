"""The sink: the rows of one unit become an immutable file, then a ledger record."""

import hashlib
import os
import secrets
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from engine.column import Column
from engine.commit import parquet
from engine.errors import CommitError
from engine.ledger import Ledger, LedgerRecord
from engine.partition import HEALPIX, healpix_29, pixel_counts, valid_position
from engine.rows import IDENTITY, SOURCE_ROW, SOURCE_URI
from engine.schema import arrow_schema, conform
from engine.stage import REJECTED, Rejection, UnitTable, rejected_table
from engine.storage import Storage, StorageOptions
from engine.units import Unit, given_up_id

SORT_BY = (HEALPIX.name, *(column.name for column in IDENTITY), SOURCE_URI.name, SOURCE_ROW.name)
"""Columns that rows of a fragment are sorted by, as far as the table has them."""


@dataclass(frozen=True)
class FragmentSink:
    """Writes units below a catalogue root. Picklable, safe to call twice for one unit.

    A file gets a name that only this attempt uses; the ledger record, created at most once, says which
    attempt counts. So a retried, killed or zombie worker leaves an orphan at most.

    Parameters
    ----------
    root
        URI of the catalogue.
    storage_options
        How to reach it.
    columns
        Columns to write; others are dropped. `_healpix_29` is computed where it is declared, and rows
        without a position are rejected then.
    """

    root: str
    storage_options: StorageOptions
    columns: tuple[Column, ...]

    def write(self, unit: Unit, table: UnitTable) -> LedgerRecord:
        """Write the rows and the rejections of a unit and record them.

        Returns
        -------
        LedgerRecord
            The record that counts: ours, or that of an earlier attempt.

        Raises
        ------
        CommitError
            If `rows_in` is not rows + rejected objects.
        SchemaError
            If the rows do not have the declared columns.
        """
        if not unit.id:
            raise ValueError(f"unit {unit.key} has no id")
        table = _reject_bad_positions(table) if self._has_index else table
        _check_counts(unit, table)
        rows = _with_index(table.rows) if self._has_index else table.rows
        rows = conform(rows, self.columns, f"unit {unit.key}")
        rejected = conform(table.rejected, REJECTED, f"rejected of {unit.key}")
        record = self._put_files(unit, table, rows, rejected)
        ledger = Ledger(self.root, self._storage)
        return record if ledger.record(record) else ledger.read(unit.id)

    def give_up(self, unit: Unit, detail: str) -> LedgerRecord:
        """Record that nothing will come of a unit in this run: its files are rejected as `worker_died`.

        The record has an id of its own (`given_up_id`): the unit has none, so that a later run tries it again.

        Returns
        -------
        LedgerRecord
            The unit's own, if it has one after all; else that of the rejection.
        """
        ledger = Ledger(self.root, self._storage)
        if self._storage.exists(ledger.uri(unit.id)):
            return ledger.read(unit.id)
        uris = [file.uri for file in unit.files if file.role == unit.files[0].role] or [unit.key]
        rejected = rejected_table(Rejection(uri, "worker_died", detail) for uri in uris)
        nothing = UnitTable(arrow_schema(self.columns).empty_table(), rejected, 0)
        return self.write(replace(unit, id=given_up_id(unit.id)), nothing)

    @property
    def _has_index(self) -> bool:
        return HEALPIX in self.columns

    def _put_files(self, unit: Unit, table: UnitTable, rows: pa.Table, rejected: pa.Table) -> LedgerRecord:
        """Write what there is under names of this attempt and describe it."""
        attempt = secrets.token_hex(6)
        fragment = self._put(f"{unit.id}-{attempt}.parquet", rows, SORT_BY)
        rejections = self._put(f"{unit.id}-{attempt}-rejected.parquet", rejected, _names(REJECTED))
        return LedgerRecord(
            unit_id=unit.id,
            unit_key=unit.key,
            attempt=attempt,
            fragment=fragment.path,
            rejected_fragment=rejections.path,
            rows_in=table.rows_in,
            rows=rows.num_rows,
            rejected=_counts(rejected["reason"]),
            rejected_files=rejected["row"].null_count,
            sha256=fragment.sha256,
            num_bytes=fragment.num_bytes,
            pixels=pixel_counts(rows[HEALPIX.name].to_numpy()) if self._has_index else {},
            stats={name: float(value) for name, value in table.stats.items()},
            unit=unit.to_json(),
        )

    @cached_property
    def _storage(self) -> Storage:
        return Storage(self.storage_options)

    def _put(self, name: str, rows: pa.Table, sort_by: tuple[str, ...]) -> "_File":
        """Write rows sorted, if there are any."""
        if not rows.num_rows:
            return _File("", "", 0)
        path = f"fragments/{name}"
        with self._storage.writing(Storage.join(self.root, path)) as local:
            parquet.write(rows, local, _order(rows, sort_by))
            with open(local, "rb") as file:
                return _File(path, hashlib.file_digest(file, "sha256").hexdigest(), file.seek(0, os.SEEK_END))


class _File(NamedTuple):
    path: str
    sha256: str
    num_bytes: int


def _reject_bad_positions(table: UnitTable) -> UnitTable:
    ra, dec = _positions(table.rows)
    return table.reject(~valid_position(ra, dec), "bad_position", "ra or dec is not on the sky")


def _positions(rows: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    missing = [name for name in ("ra", "dec") if name not in rows.column_names]
    if missing:
        raise CommitError("rows have no position", ", ".join(missing), expected="columns ra and dec [deg]")
    ra, dec = (pc.fill_null(rows[name].cast(pa.float64()), np.nan).to_numpy() for name in ("ra", "dec"))
    return ra, dec


def _with_index(rows: pa.Table) -> pa.Table:
    index = pa.array(healpix_29(*_positions(rows)))
    if HEALPIX.name in rows.column_names:
        rows = rows.drop_columns([HEALPIX.name])
    return rows.append_column(HEALPIX.name, index)


def _check_counts(unit: Unit, table: UnitTable) -> None:
    """Check that no object is lost or doubled; a rejected file, whose row is null, counts none."""
    objects = table.rejected.num_rows - table.rejected["row"].null_count
    if table.rows_in != table.rows.num_rows + objects:
        raise CommitError(
            "rows in are not rows out + rejected",
            f"unit {unit.key}",
            got=f"{table.rows.num_rows} rows + {objects} rejected objects",
            expected=f"{table.rows_in}",
        )


def _order(table: pa.Table, names: tuple[str, ...]) -> np.ndarray | None:
    """Find the order of rows by these columns, as far as there are any; None if it is theirs already."""
    keys = [(name, "ascending") for name in names if name in table.column_names]
    if not keys:
        return None
    order = pc.call_function("sort_indices", [table], pc.SortOptions(keys)).to_numpy()
    return order if (np.diff(order) != 1).any() else None


def _names(columns: tuple[Column, ...]) -> tuple[str, ...]:
    return tuple(column.name for column in columns)


def _counts(reasons: pa.ChunkedArray) -> dict[str, int]:
    pairs = reasons.value_counts().to_pylist()
    return {pair["values"]: pair["counts"] for pair in sorted(pairs, key=lambda pair: pair["values"])}
