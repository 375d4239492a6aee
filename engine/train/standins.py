"""Columns of another set as a model reads them: another column of it, or one value for all rows; images clipped."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from engine.column import Column
from engine.schema import column_array, conform, matrix


@dataclass(frozen=True)
class StandIns:
    """What takes the place of columns that a set lacks or calls otherwise.

    Parameters
    ----------
    columns
        Columns that the model reads.
    given
        Name of one of them -> a column of the set, or a value for all rows and, in a list, for all elements. The others are
        called as the model calls them.
    clip_below
        Least value of the first column, the image; None: any.
    """

    columns: tuple[Column, ...]
    given: Mapping[str, str | float]
    clip_below: float | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Names of what the model reads."""
        return tuple(column.name for column in self.columns)

    def reads(self) -> list[str]:
        """Columns of the set that are read."""
        found = (self.given.get(name, name) for name in self.names)
        return list(dict.fromkeys(name for name in found if isinstance(name, str)))

    def __call__(self, table: pa.Table, also: Iterable[str] = ()) -> pa.Table:
        """Return the columns that the model reads, and some as they are.

        Raises
        ------
        SchemaError
            If a column of the set cannot be cast to the one it stands in for without loss.
        """
        arrays = [self._array(table, column) for column in self.columns]
        made = conform(pa.table(arrays, names=self.names), self.columns)
        for name in also:
            made = made.append_column(table.schema.field(name), table[name])
        return made

    def _array(self, table: pa.Table, column: Column) -> pa.Array | pa.ChunkedArray:
        given = self.given.get(column.name, column.name)
        if isinstance(given, str):
            return self._clipped(table, given, column)
        shape = (table.num_rows, column.length) if column.length else (table.num_rows,)
        return column_array(column, np.full(shape, given, column.dtype))

    def _clipped(self, table: pa.Table, name: str, column: Column) -> pa.Array | pa.ChunkedArray:
        """Return a column of the set, without what is darker than allowed if it is the image; NaN stays."""
        if self.clip_below is None or column is not self.columns[0] or not column.length:
            return table[name]
        return column_array(column, np.maximum(matrix(table, name), np.float32(self.clip_below)))
