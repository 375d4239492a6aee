"""Parquet files as bytes: written the same way every time, read through `Storage`."""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from engine.storage import Storage

ROW_GROUP_ROWS = 50_000
"""Rows of a row group: small enough for readers to skip most of a file, large enough to compress."""


def to_bytes(table: pa.Table, row_group_rows: int = ROW_GROUP_ROWS) -> bytes:
    """Write a table as Parquet: equal tables give equal bytes.

    Zstandard throughout; floats are split by byte (their exponents compress, their digits do not) and
    the rest is dictionary encoded. Field metadata of the schema is kept.
    """
    sink = pa.BufferOutputStream()
    leaves = _leaves(table.schema)
    encodings: dict[str, Any] = {
        "use_dictionary": [path for path, is_float in leaves if not is_float] or False,
        "use_byte_stream_split": [path for path, is_float in leaves if is_float] or False,
    }
    pq.write_table(
        table,
        sink,
        row_group_size=row_group_rows,
        compression="zstd",
        **encodings,
    )
    return sink.getvalue().to_pybytes()


def _leaves(schema: pa.Schema) -> list[tuple[str, bool]]:
    """Paths of the leaf columns and whether they hold floats."""
    leaves = []
    for field in schema:
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
