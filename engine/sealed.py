"""The table of one unit as a single row: a parcel that can be neither split nor mixed with another."""

import json

import numpy as np
import pyarrow as pa

from engine.stage import UnitTable
from engine.units import Work


def seal(table: UnitTable, work: Work) -> pa.Table:
    """Pack a unit's table into one row, with types and metadata as they are."""
    return pa.table(
        {
            "work": pa.array([work.to_json()], pa.large_string()),
            "rows": _binary(_to_ipc(table.rows)),
            "rejected": _binary(_to_ipc(table.rejected)),
            "rows_in": pa.array([table.rows_in], pa.int64()),
            "stats": pa.array([json.dumps(table.stats)], pa.large_string()),
        }
    )


def unseal(block: pa.Table) -> UnitTable:
    """Unpack what `seal` packed; the columns point into the block, nothing is copied.

    Raises
    ------
    ValueError
        If it is not the block of one unit.
    """
    if block.num_rows != 1:
        raise ValueError(f"a unit is one row, got {block.num_rows}")
    return UnitTable(
        rows=_from_ipc(_buffer(block["rows"])),
        rejected=_from_ipc(_buffer(block["rejected"])),
        rows_in=block["rows_in"][0].as_py(),
        stats=json.loads(block["stats"][0].as_py()),
    )


def _to_ipc(table: pa.Table) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def _binary(data: pa.Buffer) -> pa.Array:
    """One large_binary value around a buffer, without a copy."""
    offsets = pa.array([0, data.size], pa.int64()).buffers()[1]
    return pa.Array.from_buffers(pa.large_binary(), 1, [None, offsets, data])


def _buffer(column: pa.ChunkedArray) -> pa.Buffer:
    """Return the only value of a large_binary column without a copy, which `Scalar.as_buffer` makes."""
    array = next(chunk for chunk in column.chunks if len(chunk))
    _, offsets, data = array.buffers()
    start, stop = np.frombuffer(offsets, np.int64)[array.offset : array.offset + 2].tolist()
    return data.slice(start, stop - start)


def _from_ipc(data: pa.Buffer) -> pa.Table:
    return pa.ipc.open_stream(data).read_all()
