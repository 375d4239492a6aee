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

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from astropy.io import fits

from engine.errors import SourceError
from engine.fitscards import CARD_BYTES, Cards, read_cards
from engine.fitsdata import (
    BLOCK,
    Hdu,
    axes,
    bits,
    decode_columns,
    decode_image,
    decoding,
    integer,
    is_table,
    padded,
    rows_of,
    unreadable,
)
from engine.fitsfile import HEADER_BYTES, Window, open_window, truncated
from engine.storage import NotFoundError, ShortReadError, Storage

MAX_HEADER_BYTES = 1000 * BLOCK
"""Longer headers are taken for damage."""

WHOLE_FILE_BYTES = 512 * 1024
"""Files up to this size are read in one request."""


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
        window = open_window(storage, uri, size, size if size <= WHOLE_FILE_BYTES else HEADER_BYTES)
        contents = _walk(window, wanted_images, wanted_tables)
        window.check_rest()
        return contents


def read_headers(storage: Storage, uri: str, size: int, wanted: Collection[str]) -> FitsContents:
    """Read headers up to the last HDU of those `wanted` by EXTNAME, and no data.

    Arguments and errors as for `read_hdus`.
    """
    with _explained(uri, size):
        return _walk(open_window(storage, uri, size), {name.upper() for name in wanted}, {}, (0, 0))


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
        return _walk(open_window(storage, uri, size), {name.upper() for name in images}, {}, rows)


@contextmanager
def _explained(uri: str, size: int) -> Iterator[None]:
    try:
        yield
    except NotFoundError as error:
        raise SourceError("listed file is not there", uri, reason="not_found") from error
    except ShortReadError as error:
        raise truncated(uri, error.got, f"{size} bytes as listed") from error


def _walk(
    window: Window, images: set[str], tables: dict[str, tuple[str, ...]], rows: tuple[int, int] | None = None
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
    if missing and position > window.size:
        raise truncated(window.uri, f"{window.size} bytes", f"{position}, to the end of a block")
    return contents


def _take_rows(window: Window, hdu: Hdu, rows: tuple[int, int], contents: FitsContents) -> None:
    part = rows_of(hdu, *rows)
    if part is not None:
        _take(window, part, True, None, contents, ahead=0)
    elif is_table(hdu.cards):
        _take(window, hdu, True, None, contents)
        if (image := contents.images.pop(hdu.name, None)) is not None and image.ndim == 2:
            contents.images[hdu.name] = image[slice(*rows)]


def _take(
    window: Window,
    hdu: Hdu,
    is_image: bool,
    columns: tuple[str, ...] | None,
    contents: FitsContents,
    ahead: int = HEADER_BYTES,
) -> None:
    padding = padded(hdu.data_size) - hdu.data_size
    data = window.get(hdu.data_start, hdu.data_size, padding + ahead if ahead else 0)
    if len(data) < hdu.data_size:
        raise truncated(hdu.where, f"{len(data)} bytes of data", f"{hdu.data_size}")
    contents.bytes_used += hdu.data_size
    with decoding(hdu.where):
        if is_image and (image := decode_image(hdu, data)) is not None:
            contents.images[hdu.name] = image
        if columns is not None and is_table(hdu.cards):
            contents.tables[hdu.name] = decode_columns(hdu, data, columns)


def _read_hdu(window: Window, position: int, index: int) -> Hdu | None:
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
        raise window.beyond(f"{where} {name}", start + size)
    return Hdu(name, f"{window.uri}[{name}]", text, cards, start, size)


def _read_header(window: Window, position: int, where: str) -> bytes | None:
    held = window.held(position) // BLOCK * BLOCK
    length = min(held, HEADER_BYTES) or HEADER_BYTES
    while True:
        text = bytes(window.get(position, length))
        if not text.startswith(b"SIMPLE  =" if position == 0 else b"XTENSION"):
            if position and not text.strip(b"\0 "):
                return None
            if position == 0:
                raise SourceError("is not FITS", window.uri, repr(text[:16]), "SIMPLE  =", reason="not_fits")
            if len(text) < CARD_BYTES:
                raise truncated(where, f"{len(text)} bytes", "a header")
            raise unreadable(where, "no header where the HDU before ends", repr(text[:16]), "XTENSION")
        end = _find_end(text)
        if end is not None:
            return text[:end]
        if len(text) < length:
            raise truncated(where, "end of file", "END of the header")
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
