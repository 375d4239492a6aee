"""Read just the HDUs that are asked for, by byte ranges, from files that may be damaged.

The walk fetches a header, learns from it where the next one lies, and fetches data only of wanted HDUs;
80 % of a DESI coadd (RESOLUTION) is so never read. A fetch of data takes the next header along.
Headers are not believed: sizes are checked against the file before anything is fetched or allocated.

Mosaics are larger than memory: `read_rows` takes some rows of images, and `read_headers` nothing but headers.
A gzipped file is unpacked as a stream there, from its beginning each time.

Not here: ASCII tables, variable-length columns and bit columns (left out), writing.

References
----------
FITS Standard 4.0 (IAU FITS Working Group, 2018): sections 4.4.1 (sizes), 5 (encodings), 7 (extensions),
10.1 (tiled compression).
"""

import gzip
import io
import math
import warnings
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.io.fits.verify import VerifyError

from engine.errors import SourceError
from engine.fitscards import Cards, read_cards
from engine.fitsdata import (
    BLOCK,
    MAX_UNPACKED_BYTES,
    Hdu,
    axes,
    bits,
    decode_columns,
    decode_image,
    integer,
    is_table,
    padded,
    rows_of,
    unreadable,
)
from engine.storage import NotFoundError, ShortReadError, Storage

HEADER_BYTES = 4 * BLOCK
"""First guess for the length of a header, and look-ahead behind data."""

MAX_HEADER_BYTES = 1000 * BLOCK
"""Longer headers are taken for damage."""

WHOLE_FILE_BYTES = 512 * 1024
"""Files up to this size are read in one request."""

PIECE_BYTES = 4 << 20
"""A gzipped mosaic is fetched and unpacked in pieces of so many bytes."""

UNKNOWN_SIZE = 1 << 62

DAMAGE = (
    VerifyError, ValueError, TypeError, KeyError, IndexError, OverflowError, MemoryError, OSError,
    RuntimeError, EOFError, AttributeError, AssertionError, zlib.error,
)  # fmt: skip
"""What astropy, numpy and the decompressors raise on damaged input."""


@dataclass
class FitsContents:
    """What was asked for, as far as it was there.

    Attributes
    ----------
    images
        By EXTNAME in upper case; native byte order, BSCALE and BZERO applied (so MASK is unsigned).
    tables
        By EXTNAME, then by column name as asked for; strings without padding, logical as bool.
    hdus
        All HDUs seen, by EXTNAME ("PRIMARY" and "HDU<n>" where there is none).
    names
        EXTNAMEs in the order of the file, up to the last one wanted.
    bytes_used
        Size of the headers and wanted data [bytes]; compare with `Storage.bytes_fetched`.
    """

    images: dict[str, np.ndarray] = field(default_factory=dict)
    tables: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    hdus: dict[str, Hdu] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)
    bytes_used: int = 0

    def cards(self, name: str) -> Cards:
        """Keywords of an HDU; none if it was not seen."""
        return self.hdus[name].cards if name in self.hdus else {}

    def header(self, name: str) -> fits.Header:
        """Header of an HDU that was seen; its cards are parsed, and may fail, as they are asked for."""
        return fits.Header.fromstring(self.hdus[name].text)


def read_hdus(
    storage: Storage, uri: str, size: int, images: Collection[str], tables: Mapping[str, Sequence[str]]
) -> FitsContents:
    """Read images and columns by EXTNAME in one pass over the headers.

    Parameters
    ----------
    storage
        Where to read; its counters tell what was fetched.
    uri
        A FITS file, or a gzipped one (which is read as a whole).
    size
        Length as listed [bytes].
    images
        EXTNAMEs of the images wanted.
    tables
        EXTNAMEs of the binary tables wanted, with the columns wanted (matched without regard to case).

    Returns
    -------
    FitsContents
        HDUs and columns that are not in the file are not in it either. Of HDUs with equal names the
        first counts.

    Raises
    ------
    SourceError
        With reason `not_found`, `not_fits`, `truncated_file` or `unreadable_file`.
    StorageError
        If the storage itself fails (not reachable, not permitted): trying again may help.
    """
    wanted_images = {name.upper() for name in images}
    wanted_tables = {name.upper(): tuple(columns) for name, columns in tables.items()}
    with _explained(uri, size):
        return _walk(_open(storage, uri, size), wanted_images, wanted_tables)


def read_headers(storage: Storage, uri: str, size: int, wanted: Collection[str]) -> FitsContents:
    """Read headers up to the last HDU of those `wanted` by EXTNAME, and no data.

    Arguments and errors as for `read_hdus`.
    """
    with _explained(uri, size):
        return _walk(_open_stream(storage, uri, size), {name.upper() for name in wanted}, {}, (0, 0))


def read_rows(
    storage: Storage, uri: str, size: int, images: Collection[str], rows: tuple[int, int]
) -> FitsContents:
    """Read rows of images, [stop - start, NAXIS1] each or fewer where the image ends.

    Of an uncompressed file only their bytes are fetched; a gzipped one is fetched and unpacked up to the last of
    them, in pieces. A tile-compressed image is fetched whole.

    Parameters
    ----------
    storage, uri, size
        As for `read_hdus`.
    images
        EXTNAMEs of images with two axes; others are not in the result.
    rows
        First row and the one behind the last, counted from 0.

    Raises
    ------
    SourceError, StorageError
        As `read_hdus`.
    """
    with _explained(uri, size):
        return _walk(_open_stream(storage, uri, size), {name.upper() for name in images}, {}, rows)


@contextmanager
def _explained(uri: str, size: int) -> Iterator[None]:
    try:
        yield
    except NotFoundError as error:
        raise SourceError("listed file is not there", uri, reason="not_found") from error
    except ShortReadError as error:
        raise _truncated(uri, error.got, f"{size} bytes as listed") from error


class _Window:
    """The part of a file that was fetched last, and how to fetch another."""

    def __init__(self, uri: str, size: int, read: Callable[[int, int], bytes]) -> None:
        self.uri, self.size = uri, size
        self._read, self._start, self._data = read, 0, memoryview(b"")

    def held(self, start: int) -> int:
        """Bytes from `start` on that are here already."""
        stop = self._start + len(self._data)
        return stop - start if self._start <= start < stop else 0

    def get(self, start: int, length: int, extra: int = 0) -> memoryview:
        """Bytes from `start` on, cut at the end of the file; a fetch takes `extra` bytes along."""
        stop = min(start + length, self.size)
        if self.held(start) < stop - start:
            fetch_stop = min(stop + extra, self.size)
            self._data = memoryview(b"")  # free before the next one comes
            self._data, self._start = memoryview(self._read(start, fetch_stop - start)), start
        return self._data[start - self._start : stop - self._start]


def _open(storage: Storage, uri: str, size: int) -> _Window:
    if size == 0:
        raise _truncated(uri, "0 bytes", "a FITS file")
    window = _Window(uri, size, lambda start, length: storage.read(uri, start, length))
    begin = window.get(0, size if size <= WHOLE_FILE_BYTES else HEADER_BYTES)
    if bytes(begin[:2]) != b"\x1f\x8b":
        return window
    data = _gunzip(storage.read(uri, 0, size) if size > len(begin) else bytes(begin), uri)
    return _Window(uri, len(data), lambda start, length: data[start : start + length])


def _gunzip(packed: bytes, uri: str) -> bytes:
    parts, total = [], 0
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(packed)) as file:
            while part := file.read(16 << 20):
                parts.append(part)
                total += len(part)
                if total > MAX_UNPACKED_BYTES:
                    raise unreadable(uri, "unpacks to too much", f"> {MAX_UNPACKED_BYTES} bytes", "")
    except EOFError as error:
        raise _truncated(uri, "an incomplete gzip stream", "") from error
    except (OSError, zlib.error) as error:
        raise unreadable(uri, "is not gzip although it begins so", str(error), "") from error
    return b"".join(parts)


def _open_stream(storage: Storage, uri: str, size: int) -> _Window:
    """Open without taking small files whole; a gzipped file becomes a stream of unknown length."""
    if size == 0:
        raise _truncated(uri, "0 bytes", "a FITS file")
    window = _Window(uri, size, lambda start, length: storage.read(uri, start, length))
    if bytes(window.get(0, HEADER_BYTES)[:2]) != b"\x1f\x8b":
        return window
    file = io.BufferedReader(_Ranges(storage, uri, size), PIECE_BYTES)
    stream = io.BufferedReader(gzip.GzipFile(fileobj=file), PIECE_BYTES)  # pyright: ignore[reportArgumentType]

    def read(start: int, length: int) -> bytes:
        try:
            stream.seek(start)
            return stream.read(length)
        except EOFError as error:
            raise _truncated(uri, "an incomplete gzip stream", "") from error
        except (gzip.BadGzipFile, zlib.error) as error:
            raise unreadable(uri, "is not gzip although it begins so", str(error), "") from error

    return _Window(uri, UNKNOWN_SIZE, read)


class _Ranges(io.RawIOBase):
    """A file in storage as Python's compressors want it; every read is a request."""

    def __init__(self, storage: Storage, uri: str, size: int) -> None:
        self._storage, self._uri, self._size, self._at = storage, uri, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = base + offset
        return self._at

    def readinto(self, buffer: Any) -> int:
        length = min(len(buffer), max(self._size - self._at, 0))
        buffer[:length] = self._storage.read(self._uri, self._at, length)
        self._at += length
        return length


def _walk(
    window: _Window, images: set[str], tables: dict[str, tuple[str, ...]], rows: tuple[int, int] | None = None
) -> FitsContents:
    contents = FitsContents()
    missing = images | set(tables)
    position = 0
    while position < window.size and missing:
        hdu = _read_hdu(window, position, len(contents.names))
        if hdu is None:
            break
        contents.hdus.setdefault(hdu.name, hdu)
        contents.names.append(hdu.name)
        contents.bytes_used += hdu.data_start - position
        if hdu.name in missing:
            missing.remove(hdu.name)
            if rows is None:
                _take(window, hdu, hdu.name in images, tables.get(hdu.name), contents)
            elif rows[0] < rows[1]:
                _take_rows(window, hdu, rows, contents)
        position = hdu.data_start + padded(hdu.data_size)
    return contents


def _take_rows(window: _Window, hdu: Hdu, rows: tuple[int, int], contents: FitsContents) -> None:
    part = rows_of(hdu, *rows)
    if part is not None:
        _take(window, part, True, None, contents, ahead=0)
    elif is_table(hdu.cards):
        _take(window, hdu, True, None, contents)
        if (image := contents.images.pop(hdu.name, None)) is not None and image.ndim == 2:
            contents.images[hdu.name] = image[slice(*rows)]


def _take(
    window: _Window,
    hdu: Hdu,
    is_image: bool,
    columns: tuple[str, ...] | None,
    contents: FitsContents,
    ahead: int = HEADER_BYTES,
) -> None:
    padding = padded(hdu.data_size) - hdu.data_size
    data = window.get(hdu.data_start, hdu.data_size, padding + ahead if ahead else 0)
    if len(data) < hdu.data_size:
        raise _truncated(hdu.where, f"{len(data)} bytes of data", f"{hdu.data_size}")
    contents.bytes_used += hdu.data_size
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # astropy warns of odd headers; what matters raises
            if is_image and (image := decode_image(hdu, data)) is not None:
                contents.images[hdu.name] = image
            if columns is not None and is_table(hdu.cards):
                contents.tables[hdu.name] = decode_columns(hdu, data, columns)
    except DAMAGE as error:
        raise unreadable(hdu.where, "cannot be decoded", f"{type(error).__name__}: {error}", "") from error


def _read_hdu(window: _Window, position: int, index: int) -> Hdu | None:
    """Read the header at `position`; None if there are no more HDUs but only filling."""
    where = f"{window.uri}[HDU {index}]"
    text = _read_header(window, position, where)
    if text is None:
        return None
    cards = read_cards(text)
    default = f"HDU{index}" if index else "PRIMARY"
    name = str(cards.get("EXTNAME") or "").strip().upper() or default
    size = _data_size(cards, where)
    start = position + len(text)
    if start + size > window.size:
        raise _truncated(f"{where} {name}", f"{window.size} bytes", f"{start + size} bytes by its header")
    return Hdu(name, f"{window.uri}[{name}]", text, cards, start, size)


def _read_header(window: _Window, position: int, where: str) -> bytes | None:
    held = window.held(position) // BLOCK * BLOCK
    length = min(held, HEADER_BYTES) or HEADER_BYTES
    while True:
        text = bytes(window.get(position, length))
        if not text.startswith(b"SIMPLE  =" if position == 0 else b"XTENSION"):
            if position and not text.strip(b"\0 "):
                return None
            if position == 0:
                raise SourceError("is not FITS", window.uri, repr(text[:16]), "SIMPLE  =", reason="not_fits")
            raise unreadable(where, "no header where the HDU before ends", repr(text[:16]), "XTENSION")
        end = _find_end(text)
        if end is not None:
            return text[:end]
        if position + length >= window.size:
            raise _truncated(where, "end of file", "END of the header")
        if length >= MAX_HEADER_BYTES:
            raise unreadable(where, "header does not end", f"> {length} bytes", "")
        length = max(HEADER_BYTES, 4 * length)


def _find_end(text: bytes) -> int | None:
    """Length of the header including its filling, None if it goes on behind `text`."""
    card = b"END" + b" " * 77
    at = text.find(card)
    while at >= 0 and at % 80:
        at = text.find(card, at + 1)
    end = padded(at + 80)
    return end if at >= 0 and end <= len(text) else None


def _data_size(cards: Cards, where: str) -> int:
    """Bytes of data without filling (FITS 4.0, Eq. 1 and 2, and 6.1.1 for random groups)."""
    bitpix = bits(cards, "BITPIX", where)
    shape = axes(cards, "NAXIS", where)
    if not shape:
        return 0
    if shape[0] == 0 and cards.get("GROUPS") is True:
        shape = shape[1:]
    parameters = integer(cards, "PCOUNT", where, 0)
    groups = integer(cards, "GCOUNT", where, 1)
    return abs(bitpix) // 8 * groups * (parameters + math.prod(shape))


def _truncated(where: str, got: str, expected: str) -> SourceError:
    return SourceError("is shorter than it should be", where, got, expected, reason="truncated_file")
