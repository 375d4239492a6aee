"""Local files with the guarantees that `engine.storage` gives for objects: whole or not at all."""

import errno
import io
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from engine.locations import FileInfo, Page

COPY_BYTES = 4 << 20
"""Bytes that are held at once when a file is copied."""


class LocalFiles:
    """Files of this machine (or of a file system that all workers mount)."""

    def read(self, path: str, start: int, length: int | None) -> bytes:
        """Return `length` bytes from `start` on, fewer where the file ends."""
        with open(path, "rb", buffering=0 if length else -1) as file:
            file.seek(start)
            return file.read() if length is None else _read_fully(file.fileno(), start, length)

    def info(self, path: str) -> FileInfo:
        """Return size and fingerprint."""
        if Path(path).is_dir():
            raise IsADirectoryError(errno.EISDIR, "is a folder", path)
        return _file_info(path, Path(path).stat())

    def list(self, path: str) -> Iterator[Page]:
        """Yield the files below a folder in the order of their names, a page at a time."""
        return self._walk(path, lambda name: not _is_temporary(name))

    def unfinished(self, path: str) -> Iterator[Page]:
        """Yield the files below a folder that are still being written, or whose writer was killed."""
        return self._walk(path, _is_temporary)

    def _walk(self, path: str, is_wanted: Callable[[str], bool]) -> Iterator[Page]:
        try:
            with os.scandir(path) as entries:
                # A folder sorts with its slash, as its objects' keys would on S3.
                names = sorted(entry.name + "/" * entry.is_dir() for entry in entries)
        except (FileNotFoundError, NotADirectoryError):
            return
        for name in names:
            full = os.path.join(path, name)  # noqa: PTH118 - keeps the slash
            if not name.endswith("/"):
                yield _stat_if_there(full) if is_wanted(name) else []
            elif not _is_loop(full):
                yield from self._walk(full.rstrip("/"), is_wanted)

    def put(self, path: str, data: bytes) -> None:
        """Write a file and rename it into place."""
        _rename(_write_temporary(path, io.BytesIO(data)), path)

    @contextmanager
    def writing(self, path: str) -> Iterator[str]:
        """Give a path beside the target to write to; at the end of the block it is renamed into place."""
        temporary = _temporary(path)
        try:
            yield str(temporary)
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _rename(temporary, path)

    def create(self, path: str, data: bytes) -> bool:
        """Write a file and link it into place; False if there is one already."""
        temporary = _write_temporary(path, io.BytesIO(data))
        try:
            os.link(temporary, path)
            _sync_folder(path)
        except FileExistsError:
            # NFS may say so when only the answer to our own link got lost.
            return temporary.stat().st_nlink == 2
        finally:
            temporary.unlink(missing_ok=True)
        return True

    def delete(self, path: str) -> None:
        """Remove a file if there is one."""
        Path(path).unlink(missing_ok=True)

    def open(self, path: str) -> BinaryIO:
        """Open for reading."""
        return open(path, "rb")

    def probe(self, path: str) -> bool:
        """Tell whether there is a file, or a folder with something in it."""
        if not Path(path).is_dir():
            return Path(path).exists()
        with os.scandir(path) as entries:
            return any(entries)


def _read_fully(descriptor: int, start: int, length: int) -> bytes:
    parts = []
    while length > 0 and (part := os.pread(descriptor, length, start)):
        parts.append(part)
        start, length = start + len(part), length - len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _file_info(path: str, stat: os.stat_result) -> FileInfo:
    return FileInfo(path, stat.st_size, f"{stat.st_size}-{stat.st_mtime_ns}", stat.st_mtime)


def _stat_if_there(path: str) -> list[FileInfo]:
    try:
        return [_file_info(path, os.stat(path))]  # noqa: PTH116
    except FileNotFoundError:  # deleted since, or a dead link
        return []


def _is_loop(folder: str) -> bool:
    path = Path(folder)
    return path.is_symlink() and path.parent.resolve().is_relative_to(path.resolve())


def _rename(temporary: Path, path: str) -> None:
    try:
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path)


def _write_temporary(path: str, data: BinaryIO) -> Path:
    """Write beside the target, so that a rename or link is atomic."""
    temporary = _temporary(path)
    try:
        with open(temporary, "xb") as file:
            shutil.copyfileobj(data, file, COPY_BYTES)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def _temporary(path: str) -> Path:
    """Name beside the target, in a folder that is there. Not of `tempfile`: its mode is 0600."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    return target.with_name(f".{uuid.uuid4().hex}.tmp")


def _is_temporary(name: str) -> bool:
    return name.startswith(".") and name.endswith(".tmp")


def _sync_folder(path: str) -> None:
    descriptor = os.open(Path(path).parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
