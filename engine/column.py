"""How a column is declared. No imports beyond the standard library, so that `models` may use it."""

from dataclasses import dataclass
from typing import Literal

DType = Literal["bool", "bits", "int16", "int32", "int64", "float32", "float64", "string"]


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table: what it is called, what it holds, in which unit.

    Parameters
    ----------
    name
        Lower-case name, spelled as in the DESI data model where that has one.
    dtype
        Type of a value, or of an element where `length` is set. "bits" are `length` booleans packed into bytes:
        masks of images, which as lists of booleans cost more to write than the images.
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
    """

    name: str
    dtype: DType
    description: str
    unit: str = ""
    length: int = 0
    nullable: bool = False
    ucd: str = ""
