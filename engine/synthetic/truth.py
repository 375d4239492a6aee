"""The truth table that lies beside a synthetic release."""

import io
from collections.abc import Iterable, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from engine.column import Column
from engine.schema import arrow_schema
from engine.storage import Storage

TRUTH_NAME = "truth.parquet"


def write_table(tables: Iterable[pa.Table], columns: Sequence[Column], uri: str, storage: Storage) -> str:
    """Write tables of these columns as `{uri}/truth.parquet`; return its URI.

    Each table is compressed as it comes; only the compressed bytes (some 40 a row) are held.
    """
    target = Storage.join(uri, TRUTH_NAME)
    buffer = io.BytesIO()
    with pq.ParquetWriter(buffer, arrow_schema(columns), compression="zstd") as writer:
        for table in tables:
            writer.write_table(table)
    storage.put(target, buffer.getvalue())
    return target
