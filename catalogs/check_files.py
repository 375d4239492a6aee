"""Checks of one file of a catalogue against its manifest, its declared columns and its place on the sky."""

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from catalogs.spec import CatalogSpec
from engine.column import Column
from engine.commit.manifest import DataFile
from engine.errors import StorageError
from engine.flags import REASONS
from engine.partition import HEALPIX, index_range
from engine.schema import arrow_schema, matrix
from engine.storage import Storage

Severity = Literal["error", "warning", "info"]

_PIXEL = re.compile(r"Norder=(\d+)/Dir=\d+/Npix=(\d+)\.parquet$")


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as it should be.

    Parameters
    ----------
    severity
        "error": the catalogue is not what its manifest says; "warning": it is, but look at it;
        "info": a check that was not made, and why.
    check
        Name of the check.
    where
        File or column.
    text
        What was found and what was expected.
    """

    severity: Severity
    check: str
    where: str
    text: str


def check_bytes(storage: Storage, uri: str, file: DataFile) -> tuple[bytes, list[Finding]]:
    """Read a file and check its size and checksum; no bytes where there is a finding."""
    try:
        size = storage.info(uri).size
    except StorageError as error:
        return b"", [Finding("error", "files", file.path, f"cannot be read: {error}")]
    if size != file.num_bytes:
        return b"", [Finding("error", "files", file.path, f"has {size} bytes, expected {file.num_bytes}")]
    data = storage.read(uri)
    digest = hashlib.sha256(data).hexdigest()
    if digest != file.sha256:
        return b"", [Finding("error", "files", file.path, f"has sha256 {digest}, expected {file.sha256}")]
    return data, []


def check_footer(metadata: pq.FileMetaData, file: DataFile, columns: Sequence[Column]) -> Iterator[Finding]:
    """Check number of rows, names, types, nullability, units and descriptions."""
    if metadata.num_rows != file.rows:
        yield Finding("error", "rows", file.path, f"has {metadata.num_rows} rows, expected {file.rows}")
    found, declared = metadata.schema.to_arrow_schema(), arrow_schema(columns)
    if found.names != declared.names:
        odd = set(found.names) ^ set(declared.names)
        what = f"differ in {', '.join(sorted(odd))}" if odd else "are in another order"
        yield Finding("error", "columns", file.path, f"columns {what} from those declared")
        return
    for got, wanted in zip(found, declared, strict=True):
        if got.type != wanted.type or got.nullable != wanted.nullable:
            text = f"{wanted.name} is {_type(got)}, declared {_type(wanted)}"
            yield Finding("error", "columns", file.path, text)
        metadata_got, metadata_wanted = got.metadata or {}, wanted.metadata or {}
        lost = [k.decode() for k, v in metadata_wanted.items() if metadata_got.get(k) != v]
        if lost:
            yield Finding("error", "columns", file.path, f"{wanted.name} has lost its {', '.join(lost)}")


def _type(field: pa.Field) -> str:
    return f"{field.type}{'' if field.nullable else ' not null'}"


def check_rows(
    table: pa.Table, file: DataFile, columns: Sequence[Column], spec: CatalogSpec | None
) -> Iterator[Finding]:
    """Check the values of one data file: order, sky, nulls, ranges."""
    if HEALPIX.name in table.column_names:
        yield from _check_place(table[HEALPIX.name], file)
    for column in columns:
        values = table[column.name]
        if values.null_count and not column.nullable:
            text = f"{column.name} holds {values.null_count} nulls, declared without"
            yield Finding("error", "values", file.path, text)
    if spec is not None:
        yield from _check_finite(table, file, spec)
        yield from _check_percentiles(table, file, spec)


def _check_place(index: pa.ChunkedArray, file: DataFile) -> Iterator[Finding]:
    if len(index) == 0:
        return
    values = index.to_numpy()
    if (values[1:] < values[:-1]).any():
        yield Finding("error", "order", file.path, f"rows are not sorted by {HEALPIX.name}")
    match = _PIXEL.search(file.path)
    if match:
        first, end = index_range(int(match[1]), int(match[2]))
        outside = int(((values < first) | (values >= end)).sum())
        if outside:
            yield Finding("error", "order", file.path, f"{outside} rows lie outside the file's HEALPix pixel")


def _check_finite(table: pa.Table, file: DataFile, spec: CatalogSpec) -> Iterator[Finding]:
    """Not-a-number is an error in a row without any flag, else a warning."""
    is_plain = table["flags"].to_numpy() == 0
    for name in (name for name in spec.finite if name in table.column_names):
        is_list = pa.types.is_fixed_size_list(table[name].type)
        values = matrix(table, name) if is_list else table[name].to_numpy()[:, None]
        bad = ~np.isfinite(values).all(1)
        if bad.any():
            unexplained = int((bad & is_plain).sum())
            text = f"{name} is not finite in {bad.sum()} rows, {unexplained} of them without a flag"
            yield Finding("error" if unexplained else "warning", "values", file.path, text)


def _check_percentiles(table: pa.Table, file: DataFile, spec: CatalogSpec) -> Iterator[Finding]:
    for name in table.column_names:
        if name.endswith(spec.percentile_suffix):
            values = table[name].to_numpy()
            num_outside = int(((values < 0) | (values > 100)).sum())
            if num_outside:
                text = f"{name} is outside 0-100 in {num_outside} rows"
                yield Finding("error", "values", file.path, text)


def check_rejected(table: pa.Table, file: DataFile) -> Iterator[Finding]:
    """Check that all reasons are known and have their kind."""
    pairs = {(row["reason"], row["kind"]) for row in table.select(["reason", "kind"]).to_pylist()}
    for code, kind in sorted(pairs):
        if code not in REASONS or REASONS[code].kind != kind:
            yield Finding("error", "values", file.path, f"reason '{code}' of kind '{kind}' is not registered")
