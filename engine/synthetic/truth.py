"""The truth table that lies beside a synthetic release."""

from collections.abc import Iterable, Iterator, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from engine.column import Column
from engine.schema import arrow_schema
from engine.storage import Storage

TRUTH_NAME = "truth.parquet"
GROUP_ROWS = 1 << 16
"""Rows of a row group: what is held in memory while a release of any size is written."""


def write_table(tables: Iterable[pa.Table], columns: Sequence[Column], uri: str, storage: Storage) -> str:
    """Write tables of these columns as `{uri}/truth.parquet`; return its URI.

    The rows are streamed to a file, so that memory does not grow with the release.
    """
    target, schema = Storage.join(uri, TRUTH_NAME), arrow_schema(columns)
    with storage.writing(target) as path, pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for group in _groups(tables):
            writer.write_table(group)
    return target


def _groups(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Join small tables to row groups."""
    waiting: list[pa.Table] = []
    for table in tables:
        waiting.append(table)
        if sum(part.num_rows for part in waiting) >= GROUP_ROWS:
            yield pa.concat_tables(waiting)
            waiting = []
    if waiting:
        yield pa.concat_tables(waiting)
