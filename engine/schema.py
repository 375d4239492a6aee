"""Arrow schemas from declared columns, and tables made to fit them exactly."""

from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa

from engine.column import Column
from engine.errors import SchemaError

Arrays = dict[str, np.ndarray]
"""Column name to values, all of one length."""

_ARROW = {
    "bool": pa.bool_(),
    "int8": pa.int8(),
    "int16": pa.int16(),
    "int32": pa.int32(),
    "int64": pa.int64(),
    "float32": pa.float32(),
    "float64": pa.float64(),
    "string": pa.string(),
}


def arrow_type(column: Column) -> pa.DataType:
    """Arrow type of a declared column; fixed-size list where `length` is set, bytes where it is packed."""
    if column.packed:
        bits = 1 if column.dtype == "bool" else 8 * np.dtype(column.dtype).itemsize
        return pa.binary(-(-column.length * bits // 8))
    value = _ARROW[column.dtype]
    return pa.list_(value, column.length) if column.length else value


def arrow_schema(columns: Iterable[Column]) -> pa.Schema:
    """Arrow schema with `unit`, `description` and `ucd` as field metadata, and what is packed."""
    return pa.schema([_field(column) for column in columns])


def _field(column: Column) -> pa.Field:
    facts = {"description": column.description, "unit": column.unit, "ucd": column.ucd}
    if column.packed:
        facts |= {"dtype": column.dtype, "length": str(column.length)}
    metadata = {key: value for key, value in facts.items() if value}
    return pa.field(column.name, arrow_type(column), column.nullable, metadata)


def conform(table: pa.Table, columns: Sequence[Column], where: str = "table") -> pa.Table:
    """Select and cast to exactly the declared columns, in order, with their metadata.

    Raises
    ------
    SchemaError
        If a column is missing, cannot be cast without loss, has another list length, or holds
        nulls where none may be.
    """
    missing = [c.name for c in columns if c.name not in table.column_names]
    if missing:
        raise SchemaError(
            f"column {', '.join(missing)} is missing",
            where,
            got=", ".join(table.column_names),
            expected=", ".join(c.name for c in columns),
        )
    arrays = [_conform_column(table[c.name], c, where) for c in columns]
    return pa.Table.from_arrays(arrays, schema=arrow_schema(columns))


def _conform_column(array: pa.ChunkedArray, column: Column, where: str) -> pa.ChunkedArray:
    if array.null_count and not column.nullable:
        raise SchemaError(
            f"column '{column.name}' holds {array.null_count} nulls",
            where,
            expected="none: the column is declared without nulls",
        )
    wanted = arrow_type(column)
    try:
        return array if array.type == wanted else array.cast(wanted)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
        raise SchemaError(
            f"column '{column.name}' cannot be cast ({error})",
            where,
            got=str(array.type),
            expected=str(wanted),
        ) from error


def set_column(table: pa.Table, column: Column, array: pa.Array | pa.ChunkedArray) -> pa.Table:
    """Replace the declared column in its place, or append it, with its type and metadata."""
    field, index = _field(column), table.schema.get_field_index(column.name)
    return table.append_column(field, array) if index < 0 else table.set_column(index, field, array)


def empty_table(columns: Sequence[Column]) -> pa.Table:
    """Return a table of no rows with the declared columns."""
    return arrow_schema(columns).empty_table()


def matrix(table: pa.Table, name: str) -> np.ndarray:
    """Column of lists as an array [rows, length], read-only, without a copy where whole (but packed booleans)."""
    column = table[name]
    if pa.types.is_fixed_size_binary(column.type):
        facts = table.schema.field(name).metadata
        return _unpacked(column, facts[b"dtype"].decode(), int(facts[b"length"]))
    length = column.type.list_size
    none = np.empty(0, column.type.value_type.to_pandas_dtype())
    return _joined([c.flatten().to_numpy(zero_copy_only=False) for c in column.chunks], none).reshape(
        -1, length
    )


def _unpacked(column: pa.ChunkedArray, dtype: str, length: int) -> np.ndarray:
    width, bits = column.type.byte_width, dtype == "bool"
    raw = np.dtype(np.uint8 if bits else dtype)
    parts = [
        np.frombuffer(chunk.buffers()[1], raw, len(chunk) * width // raw.itemsize, chunk.offset * width)
        for chunk in column.chunks
        if len(chunk)
    ]
    flat = _joined(parts, np.empty(0, raw))
    if not bits:
        return flat.reshape(-1, length)
    return np.unpackbits(flat.reshape(-1, width), axis=1, count=length, bitorder="little").view(bool)


def _joined(parts: Sequence[np.ndarray], none: np.ndarray) -> np.ndarray:
    """All parts as one array, as it is if there is but one; `none` is what no part at all gives."""
    return parts[0] if len(parts) == 1 else np.concatenate([none, *parts])


def packed_array(values: np.ndarray) -> pa.FixedSizeBinaryArray:
    """Array [rows, length] as a packed column, without a copy where contiguous; booleans become bits."""
    bits = values.dtype == bool
    flat = np.packbits(values, axis=1, bitorder="little") if bits else np.ascontiguousarray(values)
    kind = pa.binary(flat.shape[1] * flat.itemsize)
    return pa.FixedSizeBinaryArray.from_buffers(kind, len(flat), [None, pa.py_buffer(flat)])


def column_array(column: Column, values: np.ndarray) -> pa.Array:
    """Values [rows] or [rows, length] as a column is declared: packed, list or scalar."""
    if column.packed:
        return packed_array(values.astype(column.dtype, copy=False))
    array, wanted = list_array(values) if column.length else pa.array(values), arrow_type(column)
    return array if array.type == wanted else array.cast(wanted)


def list_array(values: np.ndarray) -> pa.FixedSizeListArray:
    """Array [rows, length] as a fixed-size list column, without a copy where contiguous."""
    flat = pa.array(np.ascontiguousarray(values).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, values.shape[1])


def to_arrays(table: pa.Table, columns: Sequence[str]) -> Arrays:
    """Columns as arrays: lists, packed or not, as [rows, length], strings as objects.

    Null becomes NaN in floats and None in strings and integers (which then are objects: an integer key
    never passes through a float). Views of the table where it lies in one piece: read-only.
    """
    return {name: _array(table, name) for name in columns}


def _array(table: pa.Table, name: str) -> np.ndarray:
    column = table[name]
    if pa.types.is_fixed_size_list(column.type) or pa.types.is_fixed_size_binary(column.type):
        return matrix(table, name)
    if column.null_count and pa.types.is_integer(column.type):
        return np.array(column.to_pylist(), dtype=object)
    return column.to_numpy()
