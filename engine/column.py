"""How a column is declared. No imports beyond the standard library, so that `models` may use it."""

from dataclasses import dataclass
from typing import Literal

DType = Literal["bool", "int8", "int16", "int32", "int64", "float32", "float64", "string"]


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table: what it is called, what it holds, in which unit.

    Parameters
    ----------
    name
        Lower-case name, spelled as in the DESI data model where that has one.
    dtype
        Type of a value, or of an element where `length` is set.
    description
        One sentence for the person who reads the catalogue.
    unit
        VOUnit string, empty where the quantity has none.
    length
        0 for a scalar, n for a fixed-size list of n elements.
    nullable
        Whether null (not applicable) may occur. "Measured but undefined" is NaN with a flag bit.
    ucd
        IVOA unified content descriptor, empty where none fits.
    packed
        Whether the list is stored as the bytes of its elements (little-endian; booleans as bits, the first in
        the lowest): for images, which Parquet writes and reads five times faster so than as lists.
    """

    name: str
    dtype: DType
    description: str
    unit: str = ""
    length: int = 0
    nullable: bool = False
    ucd: str = ""
    packed: bool = False
