"""Results of queries as text: a table for people, JSON lines for programs."""

import json
import math
from collections.abc import Iterator
from io import StringIO
from typing import Any

import numpy as np
import pyarrow as pa
from rich import box
from rich.console import Console
from rich.table import Table

MAX_LIST_ITEMS = 4
"""Elements of a list that a table shows; JSON has them all."""


def table_text(result: pa.RecordBatchReader, max_rows: int = 1000, width: int | None = None) -> str:
    """Lay out the result of a query as a table of text.

    Parameters
    ----------
    result
        What `run_query` returned; read up to `max_rows` rows and no further than the next batch.
    max_rows
        Rows shown; a last line says that there are more.
    width
        Columns of the terminal; None takes what the table needs.

    Returns
    -------
    text
        Ends in a newline. Integers are exact, null is empty.
    """
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for field in result.schema:
        table.add_column(field.name, justify="right" if _is_number(field.type) else "left", overflow="fold")
    num_rows = 0
    for row in _rows(result, max_rows + 1):
        num_rows += 1
        if num_rows <= max_rows:
            table.add_row(*(_cell(value) for value in row))
    out = StringIO()
    console = Console(file=out, width=width or 10_000, markup=False, highlight=False, emoji=False)
    console.print(table)
    more = f"... more rows than {max_rows}; add LIMIT, or use --json for all\n" if num_rows > max_rows else ""
    lines = [line.rstrip() for line in out.getvalue().splitlines()]
    return "\n".join(lines) + f"\n({min(num_rows, max_rows)} rows)\n" + more


def json_lines(result: pa.RecordBatchReader) -> Iterator[str]:
    """Write the result of a query as one JSON object a row.

    Integers are exact (a reader must not take them for doubles: TARGETID is above 2^53), NaN and infinity
    are null, float32 has the digits that it needs, what JSON has no type for is a string.
    """
    names = result.schema.names
    for row in _rows(result, None):
        yield json.dumps(dict(zip(names, row, strict=True)), allow_nan=False, ensure_ascii=False)


def _rows(result: pa.RecordBatchReader, limit: int | None) -> Iterator[tuple[Any, ...]]:
    count = 0
    for batch in result:
        columns = [_values(column) for column in batch.columns]
        for row in zip(*columns, strict=True):
            if count == limit:
                return
            count += 1
            yield row


def _values(array: pa.Array) -> list[Any]:
    return [_plain(value, _is_float32(array.type)) for value in array.to_pylist()]


def _is_float32(dtype: pa.DataType) -> bool:
    is_list = pa.types.is_list(dtype) or pa.types.is_fixed_size_list(dtype)
    return pa.types.is_float32(dtype.value_type if is_list else dtype)


def _plain(value: Any, is_float32: bool) -> Any:
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        return float(str(np.float32(value))) if is_float32 else value
    if isinstance(value, list):
        return [_plain(item, is_float32) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain(item, False) for key, item in value.items()}
    return value if isinstance(value, (int, str, bool)) or value is None else str(value)


def _is_number(dtype: pa.DataType) -> bool:
    return pa.types.is_integer(dtype) or pa.types.is_floating(dtype) or pa.types.is_decimal(dtype)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        shown = ", ".join(_cell(item) for item in value[:MAX_LIST_ITEMS])
        return f"[{shown}{f', ... {len(value)}' if len(value) > MAX_LIST_ITEMS else ''}]"
    return str(value)
