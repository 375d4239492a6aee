"""Parquet files, as bytes or streamed to a file: written the same way every time, read through `Storage`."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from engine.storage import Storage

ROW_GROUP_ROWS = 50_000
"""Rows of a row group: small enough for readers to skip most of a file, large enough to compress."""

ROW_GROUP_BYTES = 64 << 20
"""Where rows are images a group has fewer: who reads a part of a file holds whole groups."""

PAGE_BYTES = 4 << 20
"""Images of a page: by default pyarrow holds 1,024 rows at a time, however large they are."""


def to_bytes(table: pa.Table, row_group_rows: int = ROW_GROUP_ROWS) -> bytes:
    """Return what `write` writes."""
    sink = pa.BufferOutputStream()
    write(table, sink, row_group_rows=row_group_rows)
    return sink.getvalue().to_pybytes()


def write(
    table: pa.Table,
    sink: str | pa.NativeFile,
    order: np.ndarray | None = None,
    row_group_rows: int = ROW_GROUP_ROWS,
) -> None:
    """Write a table as Parquet, a row group at a time: equal tables give equal bytes.

    Zstandard; floats are split by byte (their exponents compress, their digits do not) and the rest is dictionary
    encoded. Packed columns are written as they are: noise does not compress. Field metadata of the schema is kept.

    Parameters
    ----------
    table
        Rows to write.
    sink
        Path of a local file, or a stream.
    order
        Indices of the rows in the order of the file, int64 [rows]; None: as they are. Without a sorted copy of the
        table in memory.
    row_group_rows
        Rows of a group, fewer where they are images.
    """
    group_rows = max(1, min(row_group_rows, ROW_GROUP_BYTES // _row_bytes(table)))
    with pq.ParquetWriter(sink, table.schema, **_encodings(table)) as writer:
        for start in range(0, max(table.num_rows, 1), group_rows):
            group = np.s_[start : start + group_rows]
            rows = table.slice(start, group_rows) if order is None else table.take(pa.array(order[group]))
            writer.write_table(rows, row_group_size=group_rows)


def chunks_to_bytes(tables: Iterable[pa.Table], schema: pa.Schema) -> bytes:
    """Return a file of tables of one schema without packed columns, a row group each: only one is held at a time."""
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, schema, **_encodings(schema.empty_table())) as writer:
        for table in tables:
            writer.write_table(table)
    return sink.getvalue().to_pybytes()


def _row_bytes(table: pa.Table) -> int:
    return table.nbytes // max(table.num_rows, 1) + 1


def _encodings(table: pa.Table) -> dict[str, Any]:
    packed = [field.name for field in table.schema if pa.types.is_fixed_size_binary(field.type)]
    leaves = _leaves(table.schema.field(name) for name in table.column_names if name not in packed)
    batch_rows = {"write_batch_size": max(1, PAGE_BYTES // _row_bytes(table))} if packed else {}
    return batch_rows | {
        "use_dictionary": [path for path, is_float in leaves if not is_float] or False,
        "use_byte_stream_split": [path for path, is_float in leaves if is_float] or False,
        "compression": {path: "zstd" for path, _ in leaves} | dict.fromkeys(packed, "none"),
        "write_statistics": [path for path, _ in leaves] if packed else True,
    }


def _leaves(fields: Iterable[pa.Field]) -> list[tuple[str, bool]]:
    """Paths of the leaf columns and whether they hold floats."""
    leaves = []
    for field in fields:
        is_list = pa.types.is_fixed_size_list(field.type) or pa.types.is_list(field.type)
        value = field.type.value_type if is_list else field.type
        leaves.append((f"{field.name}.list.element" if is_list else field.name, pa.types.is_floating(value)))
    return leaves


def from_bytes(data: bytes, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a table that `to_bytes` wrote, or some of its columns."""
    return pq.read_table(pa.BufferReader(data), columns=list(columns) if columns else None, use_threads=False)


def read(storage: Storage, uri: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a Parquet file, or some of its columns, fetching it as a whole."""
    return from_bytes(storage.read(uri), columns)


def footer(data: bytes) -> bytes:
    """Return the footer of a Parquet file as a file of its own without rows."""
    sink = pa.BufferOutputStream()
    pq.read_metadata(pa.BufferReader(data)).write_metadata_file(sink)
    return sink.getvalue().to_pybytes()
