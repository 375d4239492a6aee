"""The bytes of a FITS file by position, fetched as they are asked for; those of a gzipped one unpacked.

What a gzipped file may become is bounded (`engine.fitsdata.most_unpacked`), and no more of it is in memory than what
is asked for at once: a small file that unpacks to terabytes costs neither memory nor, much, time.
"""

import gzip
import io
import zlib
from collections.abc import Callable
from typing import Any

from engine.errors import SourceError
from engine.fitsdata import BLOCK, MAX_UNPACKED_BYTES, most_unpacked, unreadable
from engine.storage import Storage

HEADER_BYTES = 4 * BLOCK
"""First guess for the length of a header, and look-ahead behind data."""

PIECE_BYTES = 4 << 20
"""A gzipped file is fetched and unpacked in pieces of so many bytes."""


class Window:
    """The part of a file that was fetched last, and how to fetch another.

    Parameters
    ----------
    uri
        The file.
    size
        Its length [bytes]; of a gzipped one the most that it may unpack to.
    read
        Returns bytes from a position on, fewer where the file ends.
    """

    def __init__(self, uri: str, size: int, read: Callable[[int, int], bytes | bytearray]) -> None:
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

    def beyond(self, where: str, expected: int) -> SourceError:
        """Make the error for a header that says that the file is longer than it can be."""
        return truncated(where, f"{self.size} bytes", f"{expected} bytes by its header")

    def check_rest(self) -> None:
        """Read what is left where only that shows whether the file is sound: nothing here."""


class UnpackedWindow(Window):
    """A gzipped file, unpacked as a stream: to look back by more than `PIECE_BYTES` is to begin anew."""

    def __init__(self, packed: Window) -> None:
        super().__init__(packed.uri, most_unpacked(packed.size), self._unpack)
        file = io.BufferedReader(_Ranges(packed), PIECE_BYTES)
        self._stream = gzip.GzipFile(fileobj=file)  # pyright: ignore[reportArgumentType]
        self._end, self._tail = 0, bytearray()  # what was unpacked last, and where it ends

    def beyond(self, where: str, expected: int) -> SourceError:
        """Make the error for a header that says more than a file of this size should hold."""
        return _too_much(where, f"{expected} bytes by its header", self.size)

    def check_rest(self) -> None:
        """Unpack to the end, where the check sum is.

        Raises
        ------
        SourceError
            If the file is damaged, or goes on and on.
        """
        at = self._end
        while part := self._unpack(at, PIECE_BYTES):
            at += len(part)
            if at > self.size:
                raise _too_much(self.uri, f"> {self.size} bytes", self.size)

    def _unpack(self, start: int, length: int) -> bytearray:
        if length > MAX_UNPACKED_BYTES:
            raise _too_much(self.uri, f"{length} bytes at once", MAX_UNPACKED_BYTES)
        tail_start = self._end - len(self._tail)
        data = self._tail[start - tail_start :] if tail_start <= start < self._end else bytearray()
        try:
            at = start + len(data)
            if self._stream.seek(at) < at:
                raise truncated(self.uri, f"{self._stream.tell()} bytes unpacked", f"more than {start}")
            while len(data) < length and (part := self._stream.read(min(PIECE_BYTES, length - len(data)))):
                data += part
        except EOFError as error:
            raise truncated(self.uri, "an incomplete gzip stream", "") from error
        except (gzip.BadGzipFile, zlib.error) as error:
            raise unreadable(self.uri, "is not gzip although it begins so", str(error), "") from error
        self._end, self._tail = start + len(data), data[-PIECE_BYTES:]
        return data


class _Ranges(io.RawIOBase):
    """A file as Python's compressors want it; every read may be a request."""

    def __init__(self, window: Window) -> None:
        self._window, self._at = window, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._window.size}[whence]
        self._at = base + offset
        return self._at

    def readinto(self, buffer: Any) -> int:
        length = max(min(len(buffer), self._window.size - self._at), 0)
        buffer[:length] = self._window.get(self._at, length)
        self._at += length
        return length


def open_window(storage: Storage, uri: str, size: int, first: int = HEADER_BYTES) -> Window:
    """Open a file.

    Parameters
    ----------
    storage, uri
        Where it is.
    size
        Length as listed [bytes].
    first
        Bytes that are fetched at once, for a look at what it is.

    Raises
    ------
    SourceError
        If it is empty.
    """
    if size == 0:
        raise truncated(uri, "0 bytes", "a FITS file")
    window = Window(uri, size, lambda start, length: storage.read(uri, start, length))
    return UnpackedWindow(window) if bytes(window.get(0, first)[:2]) == b"\x1f\x8b" else window


def truncated(where: str, got: str, expected: str) -> SourceError:
    """Make the error for a file that ends too early."""
    return SourceError("is shorter than it should be", where, got, expected, reason="truncated_file")


def _too_much(where: str, got: str, allowed: int) -> SourceError:
    return unreadable(where, "unpacks to too much", got, f"at most {allowed} bytes from a file of its size")
