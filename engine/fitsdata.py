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
    VerifyError, CfitsioException, ValueError, TypeError, KeyError, IndexError, OverflowError, OSError,
    RuntimeError, EOFError, AttributeError, AssertionError, ArithmeticError, zlib.error,
)  # fmt: skip
"""What astropy, numpy, Arrow and the decompressors raise on damaged input.

Not MemoryError: a worker that runs out of memory must not reject files that are sound. What a header asks to be
allocated is bounded before."""

IMAGE_TYPES = {8: ">u1", 16: ">i2", 32: ">i4", 64: ">i8", -32: ">f4", -64: ">f8"}

COLUMN_TYPES = {
    "L": "u1", "B": "u1", "I": ">i2", "J": ">i4", "K": ">i8", "A": "S1",
    "E": ">f4", "D": ">f8", "C": ">c8", "M": ">c16",
}  # fmt: skip

MAX_COLUMNS = 999

TILE_CODECS = ("RICE_1", "RICE_ONE", "GZIP_1", "GZIP_2", "NOCOMPRESS")
"""Tile compressions that are read. Not HCOMPRESS_1 and PLIO_1: on damaged data their decoders in cfitsio, which astropy
uses (8.0), write beyond the image and take the process with them."""

CODEC_VALUES = {"BLOCKSIZE": (16, 32), "BYTEPIX": (1, 2, 4, 8)}
"""What parameters of codecs may be (FITS 4.0, 10.4.1)."""

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
    """Let astropy unpack a tile-compressed image out of a file in memory, once it is known to be harmless."""
    _check_tiles(hdu, data)
    primary = fits.PrimaryHDU().header.tostring().encode("ascii")
    packed = io.BytesIO(b"".join([primary, hdu.text, data, bytes(padded(hdu.data_size) - hdu.data_size)]))
    with fits.open(packed) as file:
        image = np.asarray(file[1].data)  # pyright: ignore[reportAttributeAccessIssue] - astropy has no types
    return np.ascontiguousarray(image, image.dtype.newbyteorder("="))


def _check_tiles(hdu: Hdu, data: memoryview) -> None:
    """Refuse what would make decoders write where they must not, loop, or fill the memory."""
    kind = str(hdu.cards.get("ZCMPTYPE", "")).strip()
    if kind not in TILE_CODECS:
        raise unreadable(hdu.where, "tile compression is not read", repr(kind), ", ".join(TILE_CODECS))
    shape = axes(hdu.cards, "ZNAXIS", hdu.where)
    default = [length if axis == 0 else 1 for axis, length in enumerate(shape)]
    tile = [integer(hdu.cards, f"ZTILE{axis + 1}", hdu.where, default[axis]) for axis in range(len(shape))]
    if any(not 1 <= part <= max(whole, 1) for part, whole in zip(tile, shape, strict=True)):
        raise unreadable(hdu.where, "ZTILE is not valid", str(tile), f"1 to {shape}")
    num_bytes = abs(bits(hdu.cards, "ZBITPIX", hdu.where)) // 8
    unpacked = math.prod(shape) * num_bytes
    if unpacked > min(MAX_UNPACKED_BYTES, most_unpacked(hdu.data_size)):
        raise unreadable(hdu.where, "unpacks to too much", f"{unpacked} bytes", f"from {hdu.data_size}")
    _check_codec(hdu)
    _check_gzip(hdu, data, "GZIP" in kind, 8 * math.prod(tile))


def _check_codec(hdu: Hdu) -> None:
    """Check the parameters ZNAMEn, ZVALn of a codec: the decoders believe them."""
    for number in range(1, MAX_COLUMNS + 1):
        name = hdu.cards.get(f"ZNAME{number}")
        if name is None:
            return
        value, allowed = hdu.cards.get(f"ZVAL{number}"), CODEC_VALUES.get(str(name).strip())
        if allowed and value not in allowed:
            raise unreadable(hdu.where, f"{name} is not valid", repr(value), " or ".join(map(str, allowed)))


def _check_gzip(hdu: Hdu, data: memoryview, all_tiles: bool, most: int) -> None:
    """Check that no gzipped tile unpacks to more than a tile can hold: a decoder unpacks all that is there."""
    row_bytes, num_rows = axes(hdu.cards, "NAXIS", hdu.where)
    heap = data[integer(hdu.cards, "THEAP", hdu.where, row_bytes * num_rows) :]
    names = ["GZIP_COMPRESSED_DATA", *(["COMPRESSED_DATA"] if all_tiles else [])]
    for offset, form in _descriptors(hdu, row_bytes, names):
        layout = np.dtype({"names": ["d"], "formats": [form], "offsets": [offset], "itemsize": row_bytes})
        for length, start in np.frombuffer(data, layout, num_rows)["d"].tolist():
            unpacker = zlib.decompressobj(wbits=47)  # gzip or zlib
            unpacked = unpacker.decompress(heap[start : start + length], most + 1) if length > 0 else b""
            if len(unpacked) > most or unpacker.unused_data:
                raise unreadable(hdu.where, "a tile unpacks to too much", f"> {most} bytes", "")


def _descriptors(hdu: Hdu, row_bytes: int, names: list[str]) -> list[tuple[int, str]]:
    """Offset and type [length, start] of the descriptors of variable-length columns."""
    found, offset = [], 0
    for index in range(1, _num_columns(hdu) + 1):
        repeat, code = _form(hdu, index)
        if str(hdu.cards.get(f"TTYPE{index}")).strip().upper() in names and code in SKIPPED_WIDTHS and repeat:
            found.append((offset, "(2,)>i4" if code == "P" else "(2,)>i8"))
        offset += _width(code, repeat)
    _check_width(hdu, offset, row_bytes)
    return found


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
    for index in range(1, _num_columns(hdu) + 1):
        repeat, code = _form(hdu, index)
        name = str(hdu.cards.get(f"TTYPE{index}", f"COL{index}")).strip().upper()
        if code in COLUMN_TYPES and name not in columns:
            dtype = _column_dtype(code, repeat, hdu.cards.get(f"TDIM{index}"))
            columns[name] = _Column(index, code, dtype, offset)
        offset += _width(code, repeat)
    _check_width(hdu, offset, row_bytes)
    return columns


def _num_columns(hdu: Hdu) -> int:
    number = integer(hdu.cards, "TFIELDS", hdu.where)
    if number > MAX_COLUMNS:
        raise unreadable(hdu.where, "TFIELDS is not valid", str(number), f"0 to {MAX_COLUMNS}")
    return number


def _form(hdu: Hdu, index: int) -> tuple[int, str]:
    """Repeat count and code of TFORMn."""
    form = str(hdu.cards.get(f"TFORM{index}")).strip()
    match = re.match(r"(\d*)([LXBIJKAEDCMPQ])", form)
    if match is None:
        raise unreadable(hdu.where, f"TFORM{index} is not valid", repr(form), "")
    return int(match[1] or 1), match[2]


def _check_width(hdu: Hdu, width: int, row_bytes: int) -> None:
    if width > row_bytes:
        raise unreadable(hdu.where, "columns are wider than the rows", f"{width} bytes", f"{row_bytes}")


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
