"""Decode the data of one FITS HDU: images (also tiled ones) and columns of binary tables.

References
----------
FITS Standard 4.0 (IAU FITS Working Group, 2018): sections 5 (encodings), 7.3 (binary tables), 10.1
(tiled compression).
"""

import io
import math
import re
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.io.fits.hdu.compressed._compression import (
    CfitsioException,
)  # of all its names there is no public one
from astropy.io.fits.verify import VerifyError

from engine.errors import SourceError
from engine.fitscards import Cards

BLOCK = 2880
"""Unit of everything in FITS [bytes]."""

MAX_UNPACKED_BYTES = 4 << 30
"""Limit for what a compressed file or image may become."""

MAX_EXPANSION, FREE_UNPACKED_BYTES = 100, 256 << 20
"""Limit for unpacked / packed beyond so many bytes; masks shrink a thousandfold, whole files by 10 at most."""

DAMAGE = (
    VerifyError, CfitsioException, ValueError, TypeError, KeyError, IndexError, OverflowError, MemoryError, OSError,
    RuntimeError, EOFError, AttributeError, AssertionError, ArithmeticError, zlib.error,
)  # fmt: skip
"""What astropy, numpy, Arrow and the decompressors raise on damaged input."""

IMAGE_TYPES = {8: ">u1", 16: ">i2", 32: ">i4", 64: ">i8", -32: ">f4", -64: ">f8"}

COLUMN_TYPES = {
    "L": "u1", "B": "u1", "I": ">i2", "J": ">i4", "K": ">i8", "A": "S1",
    "E": ">f4", "D": ">f8", "C": ">c8", "M": ">c16",
}  # fmt: skip

SKIPPED_WIDTHS = {"P": 8, "Q": 16}
"""Descriptors of variable-length columns [bytes]; bits (X) are eight a byte."""


@dataclass(frozen=True, slots=True)
class Hdu:
    """A header and where its data lie; `data_size` is without filling [bytes]."""

    name: str
    where: str
    text: bytes
    cards: Cards
    data_start: int
    data_size: int


@contextmanager
def decoding(where: str) -> Iterator[None]:
    """Turn what is raised on values that make no sense into a `SourceError` of this file or HDU."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # astropy warns of odd headers; what matters raises
            yield
    except DAMAGE as error:
        raise unreadable(where, "cannot be decoded", f"{type(error).__name__}: {error}", "") from error


def is_table(cards: Cards) -> bool:
    """Tell whether the HDU is a binary table (a tiled image is one too)."""
    return str(cards.get("XTENSION", "")).strip() in ("BINTABLE", "A3DTABLE")


def decode_image(hdu: Hdu, data: memoryview) -> np.ndarray | None:
    """Decode an image as [NAXISn, ..., NAXIS1], in units of BUNIT, blank pixels NaN; None if there is none."""
    if is_table(hdu.cards):
        return _decode_tiled(hdu, data) if hdu.cards.get("ZIMAGE") is True else None
    shape = axes(hdu.cards, "NAXIS", hdu.where)
    if not shape or str(hdu.cards.get("XTENSION", "IMAGE")).strip() != "IMAGE":
        return None
    count = math.prod(shape)
    raw = np.frombuffer(data, IMAGE_TYPES[bits(hdu.cards, "BITPIX", hdu.where)], count).reshape(shape[::-1])
    scale, zero, blank = (hdu.cards.get(key) for key in ("BSCALE", "BZERO", "BLANK"))
    return _scaled(raw, 1 if scale is None else scale, zero or 0, blank)


def rows_of(hdu: Hdu, start: int, stop: int) -> Hdu | None:
    """Return rows of a plain image as an HDU of its own; None if it is not a plain image of two axes.

    The range is cut to what there is.
    """
    shape = axes(hdu.cards, "NAXIS", hdu.where)
    if is_table(hdu.cards) or len(shape) != 2 or str(hdu.cards.get("XTENSION", "IMAGE")).strip() != "IMAGE":
        return None
    row_bytes = shape[0] * abs(bits(hdu.cards, "BITPIX", hdu.where)) // 8
    stop = min(stop, shape[1])
    start = min(start, stop)
    cards = {**hdu.cards, "NAXIS2": stop - start}
    begin, size = hdu.data_start + start * row_bytes, (stop - start) * row_bytes
    return Hdu(hdu.name, hdu.where, hdu.text, cards, begin, size)


def _decode_tiled(hdu: Hdu, data: memoryview) -> np.ndarray:
    """Let astropy unpack a tile-compressed image out of a file in memory."""
    pixels = math.prod(axes(hdu.cards, "ZNAXIS", hdu.where))
    unpacked = pixels * abs(bits(hdu.cards, "ZBITPIX", hdu.where)) // 8
    if unpacked > min(MAX_UNPACKED_BYTES, most_unpacked(hdu.data_size)):
        raise unreadable(hdu.where, "unpacks to too much", f"{unpacked} bytes", f"from {hdu.data_size}")
    primary = fits.PrimaryHDU().header.tostring().encode("ascii")
    packed = io.BytesIO(b"".join([primary, hdu.text, data, bytes(padded(hdu.data_size) - hdu.data_size)]))
    with fits.open(packed) as file:
        image = np.asarray(file[1].data)  # pyright: ignore[reportAttributeAccessIssue] - astropy has no types
    return np.ascontiguousarray(image, image.dtype.newbyteorder("="))


def _scaled(raw: np.ndarray, scale: Any, zero: Any, blank: Any = None) -> np.ndarray:
    """Native copy of big-endian numbers with scale and zero applied; unsigned where zero says so."""
    native = raw.dtype.newbyteorder("=")
    if scale == 1 and zero == 0 and (blank is None or native.kind == "f"):
        return raw.astype(native)
    num_bits = 8 * native.itemsize
    if scale == 1 and native.kind == "i" and zero == 1 << (num_bits - 1):
        unsigned = raw.astype(native).view(f"u{native.itemsize}")
        unsigned ^= np.array(1 << (num_bits - 1), unsigned.dtype)  # adding 2**(num_bits-1) flips the top bit
        return unsigned
    if scale == 1 and native == np.uint8 and zero == -128:
        return (raw ^ np.uint8(128)).view(np.int8)
    wide = native if native.kind == "f" else np.dtype("f4" if num_bits <= 16 else "f8")
    values = raw.astype(wide) * wide.type(scale) + wide.type(zero)
    if blank is not None and native.kind in "iu":
        values[raw == blank] = np.nan
    return values


def decode_columns(hdu: Hdu, data: memoryview, wanted: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Decode the wanted columns that are there, [NAXIS2] or [NAXIS2, repeat] each, by name as wanted."""
    row_bytes, num_rows = axes(hdu.cards, "NAXIS", hdu.where)
    known = _columns(hdu, row_bytes)
    found = {name: known[name.upper()] for name in wanted if name.upper() in known}
    if not found or row_bytes == 0:
        return {}
    layout = np.dtype(
        {
            "names": list(found),
            "formats": [column.dtype for column in found.values()],
            "offsets": [column.offset for column in found.values()],
            "itemsize": row_bytes,
        }
    )
    rows = np.frombuffer(data, layout, num_rows)
    return {name: _decode_column(rows[name], column, hdu.cards) for name, column in found.items()}


@dataclass(frozen=True, slots=True)
class _Column:
    index: int
    code: str
    dtype: Any
    offset: int


def _columns(hdu: Hdu, row_bytes: int) -> dict[str, _Column]:
    """Columns by upper-case name; those that are not decoded are left out."""
    columns: dict[str, _Column] = {}
    offset = 0
    for index in range(1, integer(hdu.cards, "TFIELDS", hdu.where) + 1):
        form = str(hdu.cards.get(f"TFORM{index}")).strip()
        match = re.match(r"(\d*)([LXBIJKAEDCMPQ])", form)
        if match is None:
            raise unreadable(hdu.where, f"TFORM{index} is not valid", repr(form), "")
        repeat, code = int(match[1] or 1), match[2]
        name = str(hdu.cards.get(f"TTYPE{index}", f"COL{index}")).strip().upper()
        if code in COLUMN_TYPES and name not in columns:
            dtype = _column_dtype(code, repeat, hdu.cards.get(f"TDIM{index}"))
            columns[name] = _Column(index, code, dtype, offset)
        offset += _width(code, repeat)
    if offset > row_bytes:
        raise unreadable(hdu.where, "columns are wider than the rows", f"{offset} bytes", f"{row_bytes}")
    return columns


def _width(code: str, repeat: int) -> int:
    if code == "X":
        return -(-repeat // 8)
    return repeat * (SKIPPED_WIDTHS.get(code) or np.dtype(COLUMN_TYPES[code]).itemsize)


def _column_dtype(code: str, repeat: int, dims: Any) -> Any:
    """Type of one cell: FITS names the fastest axis first, numpy last; strings take it as length."""
    shape = [int(number) for number in re.findall(r"\d+", str(dims))] if dims else []
    if math.prod(shape) != repeat or not shape:
        shape = [repeat]
    if code == "A":
        length, shape = shape[0], shape[1:]
        return np.dtype((f"S{length}", tuple(shape[::-1])))
    return COLUMN_TYPES[code] if shape == [1] else np.dtype((COLUMN_TYPES[code], tuple(shape[::-1])))


def _decode_column(raw: np.ndarray, column: _Column, cards: Cards) -> np.ndarray:
    if column.code == "A":
        return np.strings.strip(np.strings.decode(np.ascontiguousarray(raw), "latin-1"))
    if column.code == "L":
        return raw == ord("T")
    return _scaled(raw, cards.get(f"TSCAL{column.index}", 1), cards.get(f"TZERO{column.index}", 0))


def axes(cards: Cards, key: str, where: str) -> list[int]:
    """Lengths NAXIS1, NAXIS2, ... (or ZNAXIS1, ...), fastest first."""
    num_axes = integer(cards, key, where)
    if not 0 <= num_axes <= 999:
        raise unreadable(where, f"{key} is not valid", str(num_axes), "0 to 999")
    return [integer(cards, f"{key}{axis + 1}", where) for axis in range(num_axes)]


def integer(cards: Cards, key: str, where: str, default: int | None = None) -> int:
    """Return a keyword that must be an integer, not negative."""
    value = cards.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise unreadable(where, f"{key} is not valid", repr(value), "an integer, not negative")
    return value


def bits(cards: Cards, key: str, where: str) -> int:
    """Return BITPIX or ZBITPIX."""
    value = cards.get(key)
    if not isinstance(value, int) or value not in IMAGE_TYPES:
        raise unreadable(where, f"{key} is not valid", repr(value), "8, 16, 32, 64, -32 or -64")
    return value


def most_unpacked(packed: int) -> int:
    """Return what so many packed bytes may become [bytes]: what expands to more is hostile."""
    return max(FREE_UNPACKED_BYTES, MAX_EXPANSION * packed)


def padded(size: int) -> int:
    """Round up to whole blocks [bytes]."""
    return -(-size // BLOCK) * BLOCK


def unreadable(where: str, what: str, got: str, expected: str) -> SourceError:
    """Make the error for an HDU that makes no sense."""
    return SourceError(what, where, got, expected, reason="unreadable_file")
