"""Files and objects by URI: with `engine.s3files` the only module that knows storage SDKs.

`s3://bucket/key`, `file:///absolute/path` and plain local paths mean the same everywhere in the
project. Credentials come from the environment (`AWS_*`) alone and are never held here.

Not here: versions of objects, rights. Listing and reading go straight to the
server every time; nothing is cached.
"""

import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, TypeVar

import fsspec
from botocore.exceptions import (
    BotoCoreError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
)
from botocore.exceptions import ConnectionError as ConnectFailure
from s3fs.core import S3_RETRYABLE_ERRORS
from upath import UPath

from engine.errors import StorageError
from engine.localfiles import LocalFiles
from engine.locations import (
    FileInfo,
    NotFoundError,
    Page,
    ShortReadError,
    StorageOptions,
    canonical,
    is_object,
    join,
    web_address,
)
from engine.s3files import S3Files, pause

T = TypeVar("T")


class Storage:
    """Read, list and write files and objects. Picklable, cheap, safe to use after a fork.

    `bytes_fetched` and `num_requests` count what `read` got in this process through this object.

    Parameters
    ----------
    options
        How to reach object storage; has no meaning for local files.
    """

    def __init__(self, options: StorageOptions | None = None) -> None:
        self.options = options or StorageOptions()
        self.bytes_fetched = 0
        self.num_requests = 0
        self._local = LocalFiles()
        self._s3 = S3Files(self.options)

    def __getstate__(self) -> dict[str, Any]:
        return {"options": self.options}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["options"])

    def __repr__(self) -> str:
        return f"Storage({self.options!r})"

    def read(self, uri: str, start: int = 0, length: int | None = None) -> bytes:
        """Return `length` bytes from `start` on (all that is left if None).

        Raises
        ------
        NotFoundError
            If there is no such file or object.
        ShortReadError
            If it ends before `start + length`.
        StorageError
            If it cannot be read, after some attempts.
        """
        if start < 0 or (length is not None and length < 0):
            raise ValueError(f"start and length must not be negative (got {start}, {length})")
        if length == 0:
            return b""
        backend, path = self._backend(uri)
        return _retry(lambda: self._read_once(backend, path, start, length), self.options, uri, "read")

    def _read_once(self, backend: "LocalFiles | S3Files", path: str, start: int, length: int | None) -> bytes:
        self.num_requests += 1
        data = backend.read(path, start, length)
        self.bytes_fetched += len(data)
        if length is not None and len(data) != length:
            raise ShortReadError("ends too early", path, f"{len(data)} bytes from {start}", f"{length}")
        return data

    def info(self, uri: str) -> FileInfo:
        """Return size and fingerprint; `NotFoundError` if it does not exist."""
        backend, path = self._backend(uri)
        return _explained(lambda: backend.info(path), uri, "look at")

    def exists(self, uri: str) -> bool:
        """Tell whether there is a file or object of exactly this name (folders do not count)."""
        try:
            self.info(uri)
        except NotFoundError:
            return False
        return True

    def list(self, prefix: str, suffix: str = "") -> Iterator[FileInfo]:
        """Yield everything below a folder whose name ends with `suffix`, in order of its name.

        Lazy: a listing of a million objects is read in pages, and local folders one at a time. The
        order is that of the bytes of the names on every kind of storage. Empty where there is no such
        folder; a missing bucket is an error.
        """
        backend, path = self._backend(prefix, is_folder=True)
        files = _explained_pages(backend.list(path), prefix)
        yield from (file for file in files if file.uri.endswith(suffix))

    def unfinished(self, prefix: str) -> Iterator[FileInfo]:
        """Yield what lies below a local folder because its writer was killed, or has not ended yet; `list` leaves it out.

        Nothing on object storage: there a large upload that was cut off is no object, and a rule of the bucket removes it.
        """
        backend, path = self._backend(prefix, is_folder=True)
        yield from _explained_pages(backend.unfinished(path), prefix)

    def put(self, uri: str, data: bytes) -> None:
        """Write a file or object as a whole: readers see the old content or the new, nothing between."""
        backend, path = self._backend(uri)
        _explained(lambda: backend.put(path, data), uri, "write")

    @contextmanager
    def writing(self, uri: str) -> Iterator[str]:
        """Give a path of this machine to write to: what is there when the block ends becomes the file or object.

        As a whole, like `put`, and with no more memory than the writer needs; nothing is left of a block that fails.
        """
        backend, path = self._backend(uri)
        try:
            with backend.writing(path) as local:
                yield local
        except (OSError, BotoCoreError, *S3_RETRYABLE_ERRORS) as error:
            raise _explain(error, uri, "write") from error

    def put_if_absent(self, uri: str, data: bytes) -> bool:
        """Create a file or object unless there is one; of many callers at once one gets True.

        Where the answer got lost (timeout, broken connection, conflict) a token that goes with the
        object tells whether it is ours.
        """
        backend, path = self._backend(uri)
        return _explained(lambda: backend.create(path, data), uri, "create")

    def delete(self, uri: str) -> None:
        """Remove a file or object; no error if there is none."""
        backend, path = self._backend(uri)
        _explained(lambda: backend.delete(path), uri, "delete")

    def open_input(self, uri: str) -> BinaryIO:
        """Open for reading with seek, as pyarrow wants it. Not counted in `bytes_fetched`."""
        backend, path = self._backend(uri)
        return _explained(lambda: backend.open(path), uri, "open")

    def filesystem(self, uri: str) -> Any:
        """Return the fsspec file system of a URI, for libraries that want one (DuckDB, HATS)."""
        backend = self._backend(uri, is_folder=True)[0]
        return backend.filesystem() if isinstance(backend, S3Files) else fsspec.filesystem("file")

    def upath(self, uri: str) -> UPath:
        """Return the path object that HATS and LSDB want; beside our own URIs it may be https://, without a password."""
        if uri.startswith(("https://", "http://")):
            return UPath(web_address(uri))
        path = canonical(uri)
        if not is_object(path):
            return UPath(path)
        return UPath(path, **self.filesystem(path).storage_options)

    def check_readable(self, uri: str) -> None:
        """Check within seconds that there is something to read at a file or folder.

        Raises
        ------
        StorageError
            Saying which it is: no endpoint, no bucket, no permission, or nothing there.
        """
        backend, path = self._backend(uri, is_folder=True)
        if not _explained(lambda: backend.probe(path), uri, "list"):
            raise NotFoundError("there is nothing", uri, hint="Check the spelling.")

    def check_writable(self, root: str) -> None:
        """Check within seconds that a folder can be written, and that "create if absent" is kept.

        Some servers ignore `If-None-Match`; there two jobs could publish the same version.
        """
        uri = self.join(root, f".probe-{uuid.uuid4().hex}")
        _explained(lambda: self._backend(root, is_folder=True)[0].probe(canonical(root)), root, "list")
        is_new = self.put_if_absent(uri, b"first")
        try:
            kept = is_new and not self.put_if_absent(uri, b"second")
        finally:
            self.delete(uri)
        if not kept:
            raise StorageError(
                "storage overwrites where it should refuse",
                root,
                hint="It does not honour If-None-Match; use another server for the catalogue.",
            )

    def clock_s(self, root: str) -> float:
        """Return the time by the clock that `FileInfo.modified_s` is told by [s, Unix time], whatever that of this machine says.

        It takes writing below `root`: an object that is gone at once.
        """
        uri = self.join(root, f".clock-{uuid.uuid4().hex}")
        self.put(uri, b"")
        try:
            return self.info(uri).modified_s
        finally:
            self.delete(uri)

    def reader_clock_s(self, root: str) -> float:
        """Return the time as `clock_s` does, for who may only read [s, Unix time].

        From the answers of an S3 server, which carry a date. Of a folder in which nothing can be written it is the
        time of this machine: nothing else is known.
        """
        backend, path = self._backend(root, is_folder=True)
        if isinstance(backend, S3Files):
            return _explained(lambda: backend.clock_s(path), root, "list")
        try:
            return self.clock_s(root) if os.path.isdir(path) else time.time()  # noqa: PTH112 - a reader makes no folder
        except StorageError:
            return time.time()

    @staticmethod
    def join(uri: str, *parts: str) -> str:
        """Append parts to a URI; a part may hold slashes, but cannot lead out of the URI."""
        return join(uri, *parts)

    def _backend(self, uri: str, is_folder: bool = False) -> "tuple[LocalFiles | S3Files, str]":
        path = canonical(uri)
        if not is_object(path):
            return self._local, path
        if not is_folder and (path.count("/") < 3 or path.endswith("/")):
            raise StorageError("names a bucket or folder", uri, expected="s3://bucket/key")
        return self._s3, path


def _retry(call: Callable[[], T], options: StorageOptions, uri: str, verb: str) -> T:
    """Repeat a read whose body broke off; what botocore has tried itself is not tried again."""
    for attempt in range(options.max_attempts):
        try:
            return _explained(call, uri, verb)
        except StorageError as error:
            is_broken = isinstance(
                error.__cause__, (*S3_RETRYABLE_ERRORS, IncompleteReadError, ConnectionError)
            )
            is_short = isinstance(error, ShortReadError) and attempt == 0
            if attempt == options.max_attempts - 1 or not (is_broken or is_short):
                raise
        pause(attempt)
    raise AssertionError("not reached")


def _explained_pages(pages: Iterator[Page], prefix: str) -> Iterator[FileInfo]:
    while (page := _explained(lambda: next(pages, None), prefix, "list")) is not None:
        yield from page


def _explained(call: Callable[[], T], uri: str, verb: str) -> T:
    """Run `call`; turn errors of the operating system and the SDK into a `StorageError`."""
    try:
        return call()
    except (OSError, BotoCoreError, *S3_RETRYABLE_ERRORS) as error:
        raise _explain(error, uri, verb) from error


def _explain(error: BaseException, uri: str, verb: str) -> StorageError:
    text = str(error) or type(error).__name__
    if isinstance(error, FileNotFoundError):
        is_bucket = "NoSuchBucket" in str(error.__cause__)
        return NotFoundError("bucket does not exist" if is_bucket else "does not exist", uri)
    if isinstance(error, NoCredentialsError | PartialCredentialsError):
        hint = "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or anonymous = true for a public bucket."
        return StorageError("no credentials", uri, hint=hint)
    if isinstance(error, PermissionError):
        hint = "Check the permissions, and on S3 the keys (AWS_ACCESS_KEY_ID) and the region."
        return StorageError(f"not permitted to {verb}", uri, text, hint=hint)
    if isinstance(error, HTTPClientError | ConnectFailure | ConnectionError | TimeoutError):
        hint = "Check storage.endpoint_url (or AWS_ENDPOINT_URL) and the network."
        return StorageError("storage cannot be reached", uri, text, hint=hint)
    return StorageError(f"failed to {verb}", uri, text)
